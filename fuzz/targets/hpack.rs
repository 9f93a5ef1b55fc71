//! Runs [`podgate_fuzz::hpack`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::hpack(data));
