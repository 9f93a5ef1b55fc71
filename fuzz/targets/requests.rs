//! Runs [`podgate_fuzz::requests`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::requests(data));
