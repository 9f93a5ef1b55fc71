//! The demo, interrupted. (`scripts/test` runs it to its end.)

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use podgate_tests::lab::{Daemon, program};

/// Timeout for each step.
const BOUND: Duration = Duration::from_secs(120);

#[test]
fn an_interrupted_demo_leaves_nothing_behind() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.env("PODGATE_BIN", program()?).env("TMPDIR", folder.path());
    let mut demo = Daemon::start("demo", command, folder.path().join("log"))?;
    demo.wait_until("the first rows", BOUND, |demo| {
        Ok(demo.log().contains("/secret").then_some(()))
    })?;
    let namespaces = format!("pglab-{}-", demo.pid());
    assert!(names_in("/run/netns")?.iter().any(|name| name.starts_with(&namespaces)));

    demo.signal(Signal::SIGINT)?;
    assert_eq!(demo.wait_exit(BOUND)?.code(), Some(130), "{}", demo.log());
    assert!(!names_in("/run/netns")?.iter().any(|name| name.starts_with(&namespaces)));
    assert_eq!(names_in(&folder.path().to_string_lossy())?, ["log"]);
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    assert!(!mounts.contains(&*folder.path().to_string_lossy()), "{mounts}");
    Ok(())
}

fn names_in(folder: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
