//! `podgate cleanup`: detaching and removing everything that a stopped agent left.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use podgate_hostnet::Netlink;

use crate::agent::{
    HOST, PIN_PREFIX, StateDir, StateError, XSK, lock_pins, netns_threads, require_root,
    restore_offload,
};
use crate::damaged_file::remove_set_aside;
use crate::error::describe;
use crate::output::{escape, print};

/// What was detached and removed, and what could not be.
#[derive(Debug, Default)]
struct CleanupReport {
    /// Programs detached.
    detached: usize,
    /// Pods whose TX checksum offload was restored.
    offloads: usize,
    /// Whether the host link was deleted.
    host_link: bool,
    /// What remains, one line each.
    remaining: Vec<String>,
    /// What can't be determined any more, one line each.
    unknown: Vec<String>,
}

/// Detaches the pinned programs, restores pods' TX checksum offload, removes `pg-host` and `pg-xsk`
/// with the routes through them, and the state directory; prints what was done. Failures are listed
/// at the end, with exit code 1. If the state directory is gone, it also prints what was lost with
/// it.
///
/// # Errors
/// When an agent still runs, or nothing can be done at all.
pub(crate) fn run(state_dir: &Path, bpffs: Option<&Path>) -> Result<ExitCode> {
    require_root("cleanup", "detaches XDP programs and deletes links")?;
    let mut report = CleanupReport::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if state_dir.exists() {
        let mut state = StateDir::open(state_dir, bpffs)?;
        state.lock_pins()?;
        let _mounter = bpffs.map(|pins| lock_mounter(pins, state_dir)).transpose()?;
        report.unpin_all(&state.bpf());
        runtime.block_on(report.restore_offloads(&state));
        report.remove_pins(&state.bpf(), state.mounts_bpffs());
        for file in state.files() {
            report.remove(&file, fs::remove_file);
        }
        for aside in state.set_aside() {
            report.remove(&aside, remove_set_aside);
        }
        report.remove(&state.last_good(), fs::remove_dir_all);
        if !state.remove() {
            report.add_remaining(&format!(
                "{} is not empty, or can't be removed",
                state_dir.display()
            ));
        }
    } else if let Some(pins) = bpffs {
        // Without the directory there is no lock that says whether an agent runs.
        if has_af_xdp_sockets(&fs::read_to_string(PROTOCOLS)?) {
            bail!(
                "{} doesn't exist, and programs in this network namespace use AF_XDP; if one of them \
                 is an agent, stop it, or name its state directory by --state-dir",
                state_dir.display()
            );
        }
        let _locks = (lock_pins(pins)?, lock_mounter(pins, state_dir)?);
        report.unpin_all(pins);
        report.remove_pins(pins, false);
        if report.detached > 0 {
            let dir = state_dir.display();
            report.unknown.push(format!(
                "{dir} is gone, and with it the list of pods; their TX checksum offload may be off"
            ));
        }
    }
    match runtime.block_on(delete_host_link()) {
        Ok(deleted) => report.host_link = deleted,
        Err(error) => report.add_remaining(&describe(error.as_ref())),
    }
    report.print(state_dir)
}

/// Locks the directory in which the bpffs `pins` is mounted: it is the state directory of an agent
/// that mounted it. Pins deeper in a bpffs have a lock of their own.
fn lock_mounter(pins: &Path, state_dir: &Path) -> Result<Option<File>, StateError> {
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    let Some(parent) = canonical(pins).and_then(|pins| Some(pins.parent()?.to_owned())) else {
        return Ok(None);
    };
    let is_bpffs = |path: &Path| statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if is_bpffs(&parent) || canonical(state_dir).as_ref() == Some(&parent) {
        return Ok(None);
    }
    lock_pins(&parent).map_err(|error| match error {
        StateError::PinsHeld(path) => StateError::Held(path),
        other => other,
    })
}

impl CleanupReport {
    fn add_remaining(&mut self, what: &str) {
        self.remaining.push(what.to_owned());
    }

    fn print(&self, state_dir: &Path) -> Result<ExitCode> {
        let links = if self.host_link { "removed" } else { "not there" };
        print(&format!(
            "XDP programs of {} detached: {}; TX checksum offload of pods restored: {}; {HOST} and \
             {XSK}: {links}\n",
            state_dir.display(),
            self.detached,
            self.offloads
        ))?;
        for what in &self.unknown {
            eprintln!("podgate: {}", escape(what));
        }
        for what in &self.remaining {
            eprintln!("podgate: left in place: {}", escape(what));
        }
        Ok(self.exit_code())
    }

    /// Success if everything that is known of was removed.
    fn exit_code(&self) -> ExitCode {
        if self.remaining.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// Detaches all programs that an agent pinned in `dir`.
    fn unpin_all(&mut self, dir: &Path) {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                return self.add_remaining(&format!("can't read {}: {error}", dir.display()));
            }
        };
        for entry in entries {
            match entry {
                Ok(entry) if is_pin(&entry) => match podgate_xdp_redirect::unpin(&entry.path()) {
                    Ok(()) => self.detached += 1,
                    Err(error) => self.add_remaining(&error.to_string()),
                },
                Ok(_) => {}
                Err(error) => {
                    return self.add_remaining(&format!("can't read {}: {error}", dir.display()));
                }
            }
        }
    }

    /// Restores pods' TX checksum offload.
    async fn restore_offloads(&mut self, state: &StateDir) {
        let loaded = state.load();
        for problem in loaded.problems {
            self.add_remaining(&format!("{problem}; TX checksum offload of its pods may be off"));
        }
        let netlink = match Netlink::connect() {
            Ok(netlink) => netlink,
            Err(error) => return self.add_remaining(&error.to_string()),
        };
        let threads = netns_threads();
        for endpoint in loaded.endpoints.iter().filter(|endpoint| endpoint.offload.is_turned_off())
        {
            match restore_offload(&netlink, &threads, &endpoint.spec).await {
                Ok(given) => self.offloads += usize::from(given),
                Err(error) => self.add_remaining(&format!(
                    "TX checksum offload of pod {} stays off: {}",
                    endpoint.spec.pod,
                    describe(error.as_ref())
                )),
            }
        }
    }

    /// Removes the directory of pins, if nothing is left in it, and its bpffs, if it is the
    /// agent's.
    fn remove_pins(&mut self, dir: &Path, mounted_by_agent: bool) {
        if !dir.exists() {
            return;
        }
        // A new bpffs has files of the kernel (`*.debug`); an older one may have other programs'.
        let is_others = |name: &str| !name.ends_with(".debug");
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let others: Vec<_> = names.filter(|name| is_others(name)).collect();
        if !others.is_empty() {
            return self.add_remaining(&format!("{} holds {}", dir.display(), others.join(", ")));
        }
        let is_mounted = statfs(dir).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
        if mounted_by_agent
            && is_mounted
            && let Err(error) = umount2(dir, MntFlags::empty())
        {
            return self.add_remaining(&format!("can't unmount {}: {error}", dir.display()));
        }
        if let Err(error) = fs::remove_dir(dir) {
            self.add_remaining(&format!("can't remove {}: {error}", dir.display()));
        }
    }

    /// Removes what is at `path`, if anything is.
    fn remove<'a>(&mut self, path: &'a Path, by: impl FnOnce(&'a Path) -> io::Result<()>) {
        match by(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.add_remaining(&format!("can't remove {}: {error}", path.display()));
            }
            _ => {}
        }
    }
}

/// Sockets of the calling process's network namespace, by protocol: a table with a row for each, of
/// its name, the size of a socket, their number, and more.
const PROTOCOLS: &str = "/proc/self/net/protocols";

/// Whether there are AF_XDP sockets.
fn has_af_xdp_sockets(protocols: &str) -> bool {
    protocols.lines().any(|line| {
        let mut columns = line.split_ascii_whitespace();
        columns.next() == Some("XDP")
            && columns.nth(1).and_then(|count| count.parse().ok()) != Some(0_u64)
    })
}

fn is_pin(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().starts_with(PIN_PREFIX)
}

/// Deletes the host link, and returns whether it was there.
async fn delete_host_link() -> Result<bool> {
    let netlink = Netlink::connect()?;
    let (host, xsk) = match (netlink.link(HOST).await?, netlink.link(XSK).await?) {
        (Some(host), Some(xsk)) if host.peer == Some(xsk.index) => (host, xsk),
        (None, None) => return Ok(false),
        // They belong to another program.
        _ => bail!("links {HOST} and {XSK} are not the two ends of one veth pair"),
    };
    if netlink.has_xdp(&xsk).await? {
        bail!(
            "link {XSK} belongs to an agent with another state directory; name that by --state-dir"
        );
    }
    // Deleting one end deletes the other, and the routes through it.
    netlink.delete_link(&host).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn af_xdp_sockets_are_seen() {
        let protocols = |count: &str| {
            format!(
                "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de\n\
                 XDP        960  {count:>5}      -1   NI       0   no   kernel      n  n  n  n  n  n\n\
                 UNIX      1024     98      -1   NI       0   yes  kernel      y  n  n  n  n  n\n"
            )
        };
        assert!(!has_af_xdp_sockets(&protocols("0")));
        assert!(has_af_xdp_sockets(&protocols("2")));
        // With an unknown format, an agent may run.
        assert!(has_af_xdp_sockets(&protocols("x")));
        assert!(!has_af_xdp_sockets(""));
    }

    #[test]
    fn a_state_directory_whose_bpffs_is_named_by_another_one_is_held_by_its_agent() {
        let dir = tempfile::tempdir().unwrap();
        let [agents, other] = ["agents", "other"].map(|name| dir.path().join(name));
        let agent = StateDir::open(&agents, None).unwrap();
        fs::create_dir(agent.bpf()).unwrap();
        let held = lock_mounter(&agent.bpf(), &other);
        assert!(matches!(held, Err(StateError::Held(path)) if path == agents));
        // The same state directory is locked already.
        assert!(lock_mounter(&agent.bpf(), &agents).unwrap().is_none());
        let bpf = agent.bpf();
        drop(agent);
        assert!(lock_mounter(&bpf, &other).unwrap().is_some());
        assert!(lock_mounter(&dir.path().join("none"), &other).unwrap().is_none());
    }

    #[test]
    fn pins_are_listed_without_a_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let pins = dir.path().join("pins");
        fs::create_dir(&pins).unwrap();
        let mut report = CleanupReport::default();
        report.unpin_all(&pins);
        report.remove_pins(&pins, false);
        assert!(report.remaining.is_empty() && !pins.exists());
    }
}
