//! Runs [`podgate_fuzz::captures`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::captures(data));
