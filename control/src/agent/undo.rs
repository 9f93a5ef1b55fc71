//! Undoing a start that failed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use podgate_hostnet::Netlink;
use tracing::warn;

use super::endpoints::{pinned_indices, unpin_in};
use super::host_network::{self, HostLink};
use super::state::StateDir;
use crate::error::describe;
use crate::sources::LAST_GOOD;

/// What this start has changed so far. What existed before stays: pinned programs still cut their
/// pods off.
#[derive(Debug, Default)]
pub(super) struct Undo {
    /// Directories that were created, innermost first.
    dirs: Vec<PathBuf>,
    /// A directory of pins on another's bpffs that this start creates, if there is a bpffs.
    pins_dir: Option<PathBuf>,
    /// Directory of last good objects, if it was created.
    last_good: Option<PathBuf>,
    /// Directory of pins, and who mounted its bpffs.
    bpf: Option<(PathBuf, Creator)>,
    /// Links whose programs were pinned before.
    pinned_before: BTreeSet<u32>,
    host_link: Option<Creator>,
}

/// Who created something on the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Creator {
    ThisStart,
    /// It existed before this start.
    Earlier,
}

impl Creator {
    /// Of something that this start creates unless it `exists`.
    pub(super) const fn unless(exists: bool) -> Self {
        if exists { Self::Earlier } else { Self::ThisStart }
    }
}

/// How many times, and at which interval, a directory is removed: the thread that reads manifests
/// may be writing there.
const TRIES_MAX: u32 = 20;
const TRY_GAP: Duration = Duration::from_millis(10);

impl Undo {
    /// The state directory was opened.
    pub(super) fn record_state(&mut self, state: &StateDir) {
        let bpf = state.bpf();
        let last_good = state.path().join(LAST_GOOD);
        self.last_good = (!last_good.exists()).then_some(last_good);
        self.dirs = state.made().to_vec();
        let made = (!bpf.exists()).then_some(bpf);
        if state.mounts_bpffs() {
            self.dirs.splice(..0, made);
        } else {
            self.pins_dir = made;
        }
    }

    /// The directory of pins is on a bpffs.
    pub(super) fn record_bpf(&mut self, bpf: PathBuf, creator: Creator) {
        self.dirs.splice(..0, self.pins_dir.take());
        self.pinned_before = pinned_indices(&bpf).unwrap_or_default();
        self.bpf = Some((bpf, creator));
    }

    /// The host link exists, or is about to be created.
    pub(super) fn record_host_link(&mut self, creator: Creator) {
        self.host_link = Some(creator);
    }

    /// Undoes everything; errors are logged.
    pub(super) async fn run(self) {
        let warn = |result: Result<(), String>| {
            if let Err(reason) = result {
                warn!("the start failed and can't be undone completely: {reason}");
            }
        };
        if let Some((bpf, creator)) = self.bpf {
            let now = pinned_indices(&bpf).unwrap_or_default();
            for index in now.difference(&self.pinned_before) {
                unpin_in(&bpf, *index).into_iter().for_each(|reason| warn(Err(reason)));
            }
            if creator == Creator::ThisStart {
                let unmounted = umount2(&bpf, MntFlags::empty());
                warn(unmounted.map_err(|error| format!("{}: {error}", bpf.display())));
            }
        }
        if self.host_link == Some(Creator::ThisStart) {
            warn(delete_host_link().await);
        }
        let mut dirs = self.dirs.iter();
        let mut tries = 0..TRIES_MAX;
        while let Some(dir) = dirs.as_slice().first() {
            if let Some(last_good) = &self.last_good {
                // If this fails, removing its directory fails, too, and is reported.
                let _ = fs::remove_dir_all(last_good);
            }
            match fs::remove_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => _ = dirs.next(),
                Err(_) if tries.next().is_some() => tokio::time::sleep(TRY_GAP).await,
                result => {
                    warn(result.map_err(|error| format!("{}: {error}", dir.display())));
                    dirs.next();
                }
            }
        }
        if let Some(last_good) = self.last_good.filter(|path| path.exists()) {
            warn(fs::remove_dir_all(&last_good).map_err(|error| error.to_string()));
        }
    }
}

async fn delete_host_link() -> Result<(), String> {
    let netlink = Netlink::connect().map_err(|error| error.to_string())?;
    match host_network::find(&netlink).await {
        Ok(Some(HostLink { host, .. })) => {
            netlink.delete_link(&host).await.map_err(|error| error.to_string())
        }
        Ok(None) => Ok(()),
        Err(error) => Err(describe(error.as_ref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_not_created_is_not_removed() {
        let parent = tempfile::tempdir().unwrap();
        let (dir, pins) = (parent.path().join("state"), parent.path().join("pins"));
        for is_there in [false, true] {
            let state = StateDir::open(&dir, Some(&pins)).unwrap();
            let mut undo = Undo::default();
            undo.record_state(&state);
            if is_there {
                fs::create_dir(&pins).unwrap();
                undo.record_bpf(pins.clone(), Creator::Earlier);
            }
            let expected = is_there.then(|| pins.clone()).into_iter().chain([dir.clone()]);
            assert_eq!(undo.dirs, Vec::from_iter(expected));
            undo.run().await;
            assert!(!dir.exists() && !pins.exists());
        }
    }
}
