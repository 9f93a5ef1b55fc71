//! The committed corpora, through the same functions that are fuzzed.
#![allow(clippy::unwrap_used, reason = "a test may fail here")]

use std::fs;
use std::path::Path;

use podgate_fuzz::TARGETS;

#[test]
fn committed_corpora_pass() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, body) in TARGETS {
        let files: Vec<_> = fs::read_dir(corpus.join(target)).unwrap().collect();
        assert!(!files.is_empty(), "no corpus for {target}");
        for file in files {
            let path = file.unwrap().path();
            // Names the input when its target panics.
            println!("{}", path.display());
            body(&fs::read(&path).unwrap());
        }
    }
}

#[test]
fn targets_take_an_empty_input() {
    for (_, body) in TARGETS {
        body(b"");
    }
}

#[test]
fn corpora_stay_small() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let size = |target: &str| -> u64 {
        let files = fs::read_dir(corpus.join(target)).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    let total: u64 = TARGETS.iter().map(|(target, _)| size(target)).sum();
    assert!(total < 2 << 20, "{total} bytes of corpora; minimise them (scripts/fuzz --help)");
}
