//! The read-only control socket: for the members of a group.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::unistd::Group;
use podgate_api::socket_file::SocketFile;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::server::{Call, ClientCounts, Server};
use super::socket_path::make_room;

/// A socket for a group, whose members may only read. Bound while the process may still give files
/// to a group; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct GroupSocket {
    listener: StdUnixListener,
    /// Removed with it.
    _file: SocketFile,
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
        make_room(path, "the read-only control socket (--read-socket names another path)")?;
        // With the usual umask no other user may connect before the mode is set.
        let listener = StdUnixListener::bind(path).with_context(at_path)?;
        let file = SocketFile::of_bound(path).with_context(at_path)?;
        chown(path, None, Some(known.gid.as_raw())).with_context(at_path)?;
        let mode = fs::Permissions::from_mode(0o660);
        fs::set_permissions(path, mode).with_context(at_path)?;
        listener.set_nonblocking(true).with_context(at_path)?;
        Ok(Self { listener, _file: file })
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
        tokio::spawn(Server::read_only(listener, counts).serve(calls));
        Ok(())
    }
}
