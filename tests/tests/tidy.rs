//! Rules that no compiler checks, over every file that git tracks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest line of a comment, in characters.
const LINE_MAX: usize = 100;
/// How a comment line begins in Rust, C and shell.
const COMMENT: [&str; 2] = ["//", "# "];

/// Folders in which `unsafe` is allowed (ARCHITECTURE.md).
const UNSAFE_ALLOWED: [&str; 4] =
    ["xdp-redirect/", "dataplane/src/mem/", "dataplane/src/xsk/", "perf/yardstick/src/traffic/"];

/// The workspace's crates that each crate may be linked with directly, by the folder of each: those
/// of ARCHITECTURE.md that it needs, and no more. Its tests may use others.
const DEPENDENCIES: [(&str, &[&str]); 18] = [
    (
        "control",
        &[
            "control/api",
            "control/hostnet",
            "control/hubble",
            "control/ui",
            "dataplane",
            "dataplane/tables",
            "perf/replay",
            "policy",
            "xdp-redirect",
        ],
    ),
    ("control/api", &["control/socket", "policy"]),
    // It runs for each pod that starts: policy and dataplane are not in it.
    ("control/cni", &["control/hostnet", "control/socket"]),
    ("control/hostnet", &[]),
    ("control/hubble", &["control/api", "dataplane/tables", "policy"]),
    ("control/socket", &["policy/names"]),
    ("control/ui", &["control/api", "control/hubble", "policy"]),
    ("dataplane", &["dataplane/sync", "dataplane/tables", "xdp-redirect"]),
    ("dataplane/sync", &[]),
    ("dataplane/tables", &[]),
    (
        "fuzz",
        &["control/api", "dataplane", "dataplane/tables", "perf/replay", "policy", "tests/support"],
    ),
    ("perf/replay", &["dataplane", "dataplane/tables", "policy"]),
    (
        "perf/yardstick",
        &["dataplane", "dataplane/tables", "perf/replay", "policy", "tests", "xdp-redirect"],
    ),
    ("policy", &["dataplane/tables", "policy/names"]),
    ("policy/names", &[]),
    ("tests", &["policy"]),
    ("tests/support", &["dataplane", "dataplane/tables"]),
    ("xdp-redirect", &["dataplane/tables"]),
];

/// Every tracked text file with one of these endings, and its content.
fn files(endings: &[&str]) -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let listed = Command::new("git").arg("-C").arg(&root).args(["ls-files", "-z"]).output();
    let listed = listed.expect("git is installed, and this is a checkout");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let wanted = |name: &&str| endings.iter().any(|ending| name.ends_with(ending));
    let read =
        |name: &str| Some((PathBuf::from(name), std::fs::read_to_string(root.join(name)).ok()?));
    let files: BTreeMap<_, _> = names.split('\0').filter(wanted).filter_map(read).collect();
    assert!(!files.is_empty(), "no file ends in one of {endings:?}");
    files
}

/// Fails with one line for each finding.
fn none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n{}", findings.join("\n"));
}

#[test]
fn comment_lines_are_at_most_100_characters_long() {
    let mut long = Vec::new();
    for (path, text) in files(&[".rs", ".c", ".h", "scripts/test", "scripts/lib.sh"]) {
        for (number, line) in (1..).zip(text.lines()) {
            let length = line.chars().count();
            // rustfmt checks code, except for long strings.
            let is_comment = COMMENT.iter().any(|begin| line.trim_start().starts_with(begin));
            if length > LINE_MAX && is_comment {
                long.push(format!("{}:{number}: {length} characters", path.display()));
            }
        }
    }
    none(&format!("comments have lines of at most {LINE_MAX} characters"), &long);
}

#[test]
fn every_module_begins_with_its_documentation() {
    let silent: Vec<_> = files(&[".rs"])
        .iter()
        .filter(|(_, text)| !text.trim_start().starts_with("//!"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    none("a module begins with a line of `//!`", &silent);
}

#[test]
fn no_comment_marks_unfinished_work() {
    // Written in two parts, so that this file has no match.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let mut found = Vec::new();
    for (path, text) in files(&[".rs", ".c", ".md", "scripts/test", "scripts/lib.sh"]) {
        for (number, line) in (1..).zip(text.lines()) {
            if marks.iter().any(|mark| line.contains(mark)) {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    none("unfinished work is an issue, not a comment", &found);
}

#[test]
fn unsafe_code_is_only_in_the_folders_that_allow_it() {
    let allow = concat!("allow(unsafe", "_code)");
    let mut found = Vec::new();
    for (path, text) in files(&[".rs"]) {
        let name = path.display().to_string();
        let allowed = UNSAFE_ALLOWED.iter().any(|folder| name.starts_with(folder));
        if text.contains(allow) && !allowed {
            found.push(name);
        }
    }
    none("unsafe code is only in the folders of UNSAFE_ALLOWED", &found);
}

#[test]
fn crates_depend_on_no_others_than_these() {
    let manifests = files(&["Cargo.toml"]);
    let workspace = &manifests[Path::new("Cargo.toml")];
    let mut found = Vec::new();
    for (path, text) in &manifests {
        let Some(name) = path.parent().filter(|folder| *folder != Path::new("")) else { continue };
        let name = name.to_str().expect("folders have names in ASCII");
        let allowed = DEPENDENCIES.iter().find(|(known, _)| *known == name).map(|(_, of)| *of);
        let Some(allowed) = allowed else {
            found.push(format!("{name} is not in DEPENDENCIES"));
            continue;
        };
        let after = |heading| text.split_once(heading).map_or("", |(_, after)| after);
        let section = after("\n[dependencies]\n");
        let section = section.split_once("\n[").map_or(section, |(section, _)| section);
        for line in section.lines().filter(|line| line.starts_with("podgate-")) {
            let krate = line.split(['.', ' ']).next().unwrap_or_default();
            let folder = workspace.split_once(&format!("\n{krate} = {{ path = \""));
            let folder = folder.and_then(|(_, after)| after.split('"').next()).unwrap_or(krate);
            if !allowed.contains(&folder) {
                found.push(format!("{name} depends on {folder}"));
            }
        }
    }
    none("a crate depends on the crates that DEPENDENCIES allows", &found);
}
