//! Runs [`podgate_fuzz::editor`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::editor(data));
