//! Paths of unix sockets that the agent is to bind.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use podgate_api::client;

/// Removes a socket that an agent left at `path`, so that a socket for `purpose` can be bound.
///
/// # Errors
/// When the path has another file, or a socket that is served.
pub(super) fn make_room(path: &Path, purpose: &str) -> Result<()> {
    remove_unserved(path).with_context(|| format!("can't use {} for {purpose}", path.display()))
}

fn remove_unserved(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    ensure!(
        found.file_type().is_socket(),
        "another file is there, which is not a socket; remove it"
    );
    // One whose backlog is full is served, and would keep a blocking connect waiting.
    match client::open(path, Duration::ZERO) {
        Ok(_) | Err(Errno::EAGAIN) => bail!("a program serves it"),
        Err(Errno::ECONNREFUSED) => Ok(fs::remove_file(path)?),
        // A datagram socket, for example.
        Err(error) => bail!("it is a socket of another program: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn only_a_socket_that_nobody_serves_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hubble.sock");
        let make_room = || make_room(&path, "Hubble's API (--hubble-socket names another path)");
        let refused = |why: &str| {
            let error = format!("{:#}", make_room().unwrap_err());
            assert!(error.contains("hubble.sock for Hubble's API (--hubble-socket"), "{error}");
            assert!(error.contains(why) && path.exists(), "{error}");
        };
        make_room().unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        refused("a program serves it");
        drop(listener);
        make_room().unwrap();
        assert!(!path.exists());
        let datagrams = UnixDatagram::bind(&path).unwrap();
        refused("it is a socket of another program: ");
        drop(datagrams);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another program's").unwrap();
        refused("another file is there, which is not a socket; remove it");
    }
}
