//! The lab without podgate: what the scenario expects to be denied passes without podgate, and a
//! dropped lab leaves nothing behind.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use podgate_tests::lab::{Capture, CorpusFrame, Family, Get, Lab, Netns, Outcome};
use podgate_tests::scenario::{Expected, MANIFESTS, ROWS, Row};

#[test]
fn without_podgate_every_row_of_the_scenario_passes() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.add_kernel_routes()?;
    for row in ROWS {
        let row = Row { expected: Expected::Passes, ..*row };
        for family in Family::BOTH {
            let seen = row.run(&lab, family)?;
            assert!(row.is_met_by(&seen), "{row} over {family}: {seen:?}");
        }
    }
    Ok(())
}

#[test]
fn no_answer_is_distinguished_from_an_answer() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let (admin, nginx) = (lab.host("admin/adminapp")?, lab.host("backend/nginx")?);
    lab.node().netns.ip(&format!(
        "route add blackhole {}\nroute add blackhole {}\n",
        nginx.addresses.v4, nginx.addresses.v6
    ))?;
    assert_eq!(Get::path("/docs").fetch(admin, nginx, Family::V4)?, Outcome::NoAnswer);
    assert_eq!(admin.ping(nginx, Family::V6)?, Outcome::NoAnswer);
    Ok(())
}

#[test]
fn an_injected_frame_arrives_on_the_node_unchanged() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let pod = lab.host("other/stranger")?;
    let capture = Capture::start_on(&lab, lab.node(), &pod.link)?;
    let frame = [&[0xff; 6][..], &pod.mac("eth0")?, &[0x88, 0xb5], b"hello from the pod"].concat();
    let frames = pod.inject([&frame[..]].into_iter())?;
    assert_eq!((frames.sent, frames.rejected), (1, 0));
    // The echo reply shows that the capture is past the frame.
    lab.add_kernel_routes()?;
    assert!(matches!(lab.node().ping(pod, Family::V4)?, Outcome::Echo(_)));
    let captured = capture.stop()?;
    assert_eq!(captured.packets("ether proto 0x88b5")?.len(), 1);
    let bytes = fs::read(captured.path())?;
    assert!(bytes.windows(frame.len()).any(|window| window == frame));
    Ok(())
}

#[test]
fn every_corpus_frame_can_be_parsed() -> Result<()> {
    let frames = CorpusFrame::all()?;
    assert!(!frames.is_empty());
    for frame in frames {
        assert!(!frame.bytes.is_empty(), "{} is empty", frame.name);
    }
    Ok(())
}

#[test]
fn a_dropped_lab_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let folder = lab.manifests().parent().context("a folder")?.to_owned();
    let namespaces: Vec<_> =
        lab.hosts().iter().chain([lab.node()]).map(|host| host.netns.path()).collect();
    let inodes =
        namespaces.iter().map(|path| Ok(fs::metadata(path)?)).collect::<Result<Vec<_>>>()?;
    let inodes: Vec<_> = inodes.iter().map(std::os::unix::fs::MetadataExt::ino).collect();
    assert!(processes_in(&inodes)? > 0, "nginx runs");
    drop(lab);
    assert_eq!(processes_in(&inodes)?, 0);
    assert!(!namespaces.iter().any(|path| path.exists()));
    assert!(!folder.exists());
    Ok(())
}

#[test]
fn leftovers_of_a_dead_process_are_removed_by_the_next_lab() -> Result<()> {
    let mut child = Command::new("true").spawn()?;
    let dead = child.id();
    child.wait()?;
    let name = format!("pglab-{dead}-node");
    assert!(Command::new("ip").args(["netns", "add", &name]).status()?.success());
    let folder = std::env::temp_dir().join(format!("pglab-{dead}-x"));
    fs::create_dir(&folder)?;
    let own = Netns::create("bystander")?;
    drop(Lab::new(MANIFESTS.as_ref())?);
    assert!(!Path::new("/run/netns").join(name).exists());
    assert!(!folder.exists());
    assert!(own.path().exists());
    Ok(())
}

/// Number of processes in one of the namespaces with these inode numbers.
fn processes_in(inodes: &[u64]) -> Result<usize> {
    let mut found = 0;
    for entry in fs::read_dir("/proc")? {
        let namespace = entry?.path().join("ns/net");
        // Not every entry is a process, and processes exit.
        if let Ok(metadata) = fs::metadata(namespace) {
            found += usize::from(inodes.contains(&std::os::unix::fs::MetadataExt::ino(&metadata)));
        }
    }
    Ok(found)
}
