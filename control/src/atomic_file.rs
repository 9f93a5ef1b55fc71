//! Atomic replacement of a file's content.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes of this process that failed.
static FAILED: AtomicU64 = AtomicU64::new(0);

/// How many writes failed since the program started.
pub(crate) fn failed_writes() -> u64 {
    FAILED.load(Ordering::Relaxed)
}

/// [`write_with_mode`] with mode 0600.
///
/// # Errors
/// Those of it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_with_mode(path, bytes, 0o600)
}

/// Replaces the content of `path` by `bytes`, with this mode, and returns when both the file and
/// its directory entry are on disk (`rename(2)`, `fsync(2)`).
///
/// # Errors
/// When it can't be written; the former content stays, and no temporary file is left. It counts in
/// [`failed_writes`].
pub(crate) fn write_with_mode(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace(path, bytes, mode).inspect_err(|_| _ = FAILED.fetch_add(1, Ordering::Relaxed))
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary(path);
    let written = create(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // It may not exist; the first error is reported.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Where the new content is written first: beside the file, `NAME.new`.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

/// The path with `suffix` behind its last name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    name.into()
}

fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(path)?;
    // Whatever the umask, and the mode of one that a crash left.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_content_replaces_the_old_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        write(&path, b"a longer first content").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_keeps_the_old_content_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        // A directory that isn't empty can't be replaced by a file.
        fs::create_dir(&path).unwrap();
        fs::write(path.join("kept"), "").unwrap();
        let failed_before = failed_writes();
        assert!(write(&path, b"new").is_err());
        assert!(failed_writes() > failed_before);
        assert!(path.join("kept").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(write(&dir.path().join("no/such/dir"), b"new").is_err());
    }
}
