//! The capabilities and system calls that a running agent has given up. All other tests run the
//! agent with this in force.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Lab};
use podgate_tests::scenario::MANIFESTS;

/// `CAP_DAC_READ_SEARCH`, `CAP_NET_BROADCAST`, `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_IPC_LOCK`,
/// `CAP_SYS_PTRACE`, `CAP_SYS_ADMIN` and `CAP_BPF` (`linux/capability.h`).
const KEPT: [u32; 8] = [2, 11, 12, 13, 14, 19, 21, 39];

/// The value of `field` in a `/proc/PID/status`.
fn field<'a>(status: &'a str, field: &str) -> Result<&'a str> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    value.with_context(|| format!("no {field} in {status}"))
}

fn capabilities(status: &str, set: &str) -> Result<u64> {
    Ok(u64::from_str_radix(field(status, set)?, 16)?)
}

#[test]
fn every_thread_of_a_running_agent_is_confined() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let agent = Agent::start(&lab, 2)?;
    // Entering a pod's namespace starts threads after the filter is in force.
    let pod = lab.host("admin/adminapp")?;
    lab.podgate(&["endpoint", "remove", "--link", &pod.link])?;
    lab.add_endpoint(pod)?;
    lab.wait_for_endpoint(pod, "ready")?;

    let kept = KEPT.iter().fold(0, |set, bit| set | 1_u64 << bit);
    let own = capabilities(&fs::read_to_string("/proc/self/status")?, "CapPrm")?;
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", agent.pid()))? {
        let status = match fs::read_to_string(thread?.path().join("status")) {
            Ok(status) => status,
            // The thread exited meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        ensure!(field(&status, "Seccomp")? == "2", "{status}");
        ensure!(field(&status, "NoNewPrivs")? == "1", "{status}");
        for set in ["CapEff", "CapPrm"] {
            ensure!(capabilities(&status, set)? == kept & own, "{set}: {status}");
        }
        ensure!(capabilities(&status, "CapBnd")? & !kept == 0, "{status}");
        ensure!(capabilities(&status, "CapInh")? == 0, "{status}");
        threads += 1;
    }
    // The control thread, the signal thread and two workers.
    ensure!(threads >= 4, "{threads} threads");

    let namespace = |process: &str| fs::read_link(Path::new("/proc").join(process).join("ns/mnt"));
    ensure!(namespace(&agent.pid().to_string())? == namespace("self")?);
    Ok(())
}
