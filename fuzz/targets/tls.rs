//! Runs [`podgate_fuzz::tls`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::tls(data));
