//! Files of unix sockets, which a server removes only if they are its own.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device and inode of a file.
pub type FileId = (u64, u64);

/// Device and inode of the file at `path`.
///
/// # Errors
/// When there is none.
pub fn file_id(path: &Path) -> io::Result<FileId> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The file of a socket that this process bound. It is removed when this is dropped, unless another
/// file is in its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    id: FileId,
}

impl SocketFile {
    /// Of the socket that was just bound at `path`.
    ///
    /// # Errors
    /// When its file is gone already.
    pub fn of_bound(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), id: file_id(path)? })
    }

    /// Which file it is.
    #[must_use]
    pub const fn id(&self) -> FileId {
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

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
