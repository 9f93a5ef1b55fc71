//! The read-only control socket: for the members of a group.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nix::unistd::Group;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::server::{Call, ClientCounts, Server};

/// A socket for a group, whose members may only read. Bound while the process may still give files
/// to a group; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct GroupSocket {
    listener: StdUnixListener,
    path: PathBuf,
}

impl Drop for GroupSocket {
    fn drop(&mut self) {
        // Fails if the file is gone already.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a socket that an agent left at `path`.
///
/// # Errors
/// When another agent serves it, or it can't be removed.
pub(super) fn remove_unserved(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            ensure!(UnixStream::connect(path).is_err(), "another agent serves it");
            Ok(fs::remove_file(path)?)
        }
        _ => Ok(()),
    }
}

impl GroupSocket {
    /// Binds the socket at `path`, in place of one that was left there, for `group`.
    ///
    /// # Errors
    /// When there is no such group, or the path can't be bound.
    pub(crate) fn bind(path: &Path, group: &str) -> Result<Self> {
        let known = Group::from_name(group)?;
        let known = known.with_context(|| format!("--socket-group: there is no group {group}"))?;
        let at_path = || format!("--read-socket: can't bind {}", path.display());
        remove_unserved(path).with_context(at_path)?;
        // With the usual umask nobody else may connect before the mode is set.
        let listener = StdUnixListener::bind(path).with_context(at_path)?;
        let this = Self { listener, path: path.to_owned() };
        chown(path, None, Some(known.gid.as_raw())).with_context(at_path)?;
        let mode = fs::Permissions::from_mode(0o660);
        fs::set_permissions(path, mode).with_context(at_path)?;
        this.listener.set_nonblocking(true).with_context(at_path)?;
        Ok(this)
    }

    /// Serves clients; their requests go to `calls`. They have places of their own, so that they
    /// never take those of the admin's socket.
    ///
    /// # Errors
    /// When the socket can't be polled.
    pub(crate) fn serve(
        &self,
        calls: mpsc::Sender<Call>,
        counts: Arc<ClientCounts>,
    ) -> io::Result<()> {
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let path = self.path.clone();
        let server = Server::read_only(listener, path, counts);
        tokio::spawn(server.serve(calls));
        Ok(())
    }
}
