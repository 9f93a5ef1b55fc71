//! `podgate cleanup`: letting go of everything that a stopped agent left in place.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, umount2};

use crate::agent::{HOST, PIN_PREFIX, StateDir, XSK, require_root};
use crate::netlink::Netlink;
use crate::output::print;

/// Detaches the pinned programs, removes `pg-host` and `pg-xsk` with the routes through them, and
/// the state directory; says what there was to do.
///
/// # Errors
/// When an agent still runs, or the kernel refuses; what was done before stays done.
pub(crate) fn run(state_dir: &Path) -> Result<()> {
    require_root("cleanup", "detaches XDP programs and deletes links")?;
    let mut detached = 0;
    if state_dir.exists() {
        let state = StateDir::open(state_dir)?;
        detached = unpin_all(&state.bpf())?;
        for file in [state.endpoints(), state.flows(), state.bad_flows(), state.socket()] {
            remove_if_there(&file)?;
        }
        state.remove();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let links = if runtime.block_on(delete_host_link())? { "removed" } else { "not there" };
    let dir = state_dir.display();
    print(&format!("XDP programs of {dir} detached: {detached}; {HOST} and {XSK}: {links}\n"))?;
    Ok(())
}

/// Detaches all programs that an agent pinned in `dir`, and returns how many they were.
fn unpin_all(dir: &Path) -> Result<usize> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", dir.display())),
    };
    let mut detached = 0;
    for entry in entries {
        let entry = entry?;
        // A new bpffs has files of the kernel's own, and one that was there before may have others'.
        if entry.file_name().to_string_lossy().starts_with(PIN_PREFIX) {
            podgate_xdp_redirect::unpin(&entry.path())?;
            detached += 1;
        }
    }
    match umount2(dir, MntFlags::empty()) {
        // EINVAL: it is no mount.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("can't unmount {}", dir.display()));
        }
    }
    fs::remove_dir(dir).with_context(|| format!("can't remove {}", dir.display()))?;
    Ok(detached)
}

fn remove_if_there(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Deletes the host link, and returns whether it was there.
async fn delete_host_link() -> Result<bool> {
    let netlink = Netlink::connect()?;
    // Deleting one end deletes the other, and the routes through it. A lone link of the other name
    // is not ours.
    if let (Some(host), Some(xsk)) = (netlink.link(HOST).await?, netlink.link(XSK).await?)
        && host.peer == Some(xsk.index)
    {
        ensure!(
            !netlink.has_xdp(&xsk).await?,
            "link {XSK} belongs to an agent with another state directory; name that by --state-dir"
        );
        netlink.delete_link(&host).await?;
        return Ok(true);
    }
    Ok(false)
}
