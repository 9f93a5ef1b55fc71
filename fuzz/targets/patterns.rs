//! Runs [`podgate_fuzz::patterns`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::patterns(data));
