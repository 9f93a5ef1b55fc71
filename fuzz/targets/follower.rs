//! Runs [`podgate_fuzz::follower`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::follower(data));
