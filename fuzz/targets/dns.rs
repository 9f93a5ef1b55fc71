//! Runs [`podgate_fuzz::dns`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::dns(data));
