//! Every truth table in `tests/truth`.

use std::path::{Path, PathBuf};

use podgate_policy::truth;

use crate::runner::run;

fn tables() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/truth");
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

#[test]
fn all_executors_agree_with_every_row() {
    let (mut rows, mut by_packets) = (0, 0);
    let mut failures = Vec::new();
    for file in tables() {
        let shown = file.file_name().unwrap().display().to_string();
        let outcome = truth::load(&file).and_then(run);
        let outcome = outcome.unwrap_or_else(|error| panic!("{shown}: {error}"));
        rows += outcome.rows;
        by_packets += outcome.by_packets;
        failures.extend(outcome.failures.iter().map(|failure| format!("{shown}: {failure}")));
    }
    assert!(rows > 100, "only {rows} rows found");
    assert!(by_packets * 10 > rows * 9, "only {by_packets} of {rows} rows by packets");
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
}
