//! Runs [`podgate_fuzz::manifests`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podgate_fuzz::manifests(data));
