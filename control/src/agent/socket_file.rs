//! Files of unix sockets: which ones the agent may remove.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use podgate_api::client;

/// Device and inode of a file.
pub(super) type FileId = (u64, u64);

/// Device and inode of the file at `path`.
///
/// # Errors
/// When there is none.
pub(super) fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The file of a socket that this agent bound. It is removed when this is dropped, unless another
/// file is in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl SocketFile {
    /// Of the socket that was just bound at `path`.
    ///
    /// # Errors
    /// When its file is gone already.
    pub(super) fn of_bound(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: file_id(path)? })
    }

    /// Which file it is.
    pub(super) const fn id(&self) -> FileId {
        self.id
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if file_id(&self.path).is_ok_and(|found| found == self.id) {
            // Nothing can be done about a file that stays; the next bind replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that an agent left at `path`, so that a socket for `purpose` can be bound.
///
/// # Errors
/// When the path has another file, or a socket that is served.
pub(super) fn make_room(path: &Path, purpose: &str) -> Result<()> {
    remove_unserved(path).with_context(|| format!("can't use {} for {purpose}", path.display()))
}

fn remove_unserved(path: &Path) -> Result<()> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(()) };
    ensure!(found.file_type().is_socket(), "another file is there, which is no socket; remove it");
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
        refused("another file is there, which is no socket; remove it");
    }

    #[test]
    fn the_file_goes_with_the_socket_unless_another_one_took_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        for replaced in [false, true] {
            let _listener = UnixListener::bind(&path).unwrap();
            let file = SocketFile::of_bound(&path).unwrap();
            if replaced {
                // Before the other is removed, so that it has another inode.
                fs::write(dir.path().join("other"), "another program's").unwrap();
                fs::rename(dir.path().join("other"), &path).unwrap();
            }
            drop(file);
            assert_eq!(path.exists(), replaced);
        }
    }
}
