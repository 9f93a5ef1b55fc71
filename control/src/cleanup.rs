//! `podgate cleanup`: letting go of everything that a stopped agent left in place.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use crate::agent::{HOST, StateDir, XSK};
use crate::netlink::Netlink;

/// Detaches the pinned programs, removes `pg-host` and `pg-xsk` with the routes through them, and
/// the state directory.
///
/// # Errors
/// When an agent still runs, or the kernel refuses; what was done before stays done.
pub(crate) fn run(state_dir: &Path) -> Result<()> {
    if state_dir.exists() {
        let state = StateDir::open(state_dir)?;
        unpin_all(&state.bpf())?;
        for file in [state.endpoints(), state.socket()] {
            remove_if_there(&file)?;
        }
        state.remove();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(delete_host_link())
}

fn unpin_all(dir: &Path) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", dir.display())),
    };
    for entry in entries {
        podgate_xdp_redirect::unpin(&entry?.path())?;
    }
    match umount2(dir, MntFlags::empty()) {
        // EINVAL: it is no mount.
        Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("can't unmount {}", dir.display()));
        }
    }
    fs::remove_dir(dir).with_context(|| format!("can't remove {}", dir.display()))
}

fn remove_if_there(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("can't remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

async fn delete_host_link() -> Result<()> {
    let netlink = Netlink::connect()?;
    // Deleting one end deletes the other, and the routes through it. A lone link of the other name
    // is not ours.
    if let (Some(host), Some(xsk)) = (netlink.link(HOST).await?, netlink.link(XSK).await?)
        && host.peer == Some(xsk.index)
    {
        netlink.delete_link(&host).await?;
    }
    Ok(())
}
