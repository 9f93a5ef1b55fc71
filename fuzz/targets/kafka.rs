//! Runs [`podgate_fuzz::kafka`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::kafka(data));
