//! Runs [`podgate_fuzz::packets`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::packets(data));
