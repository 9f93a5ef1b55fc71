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

/// [`write()`] for many files of the directory `dir`, whose entries are written to disk once for
/// all files. Returns the result of each. All files are open at the same time.
pub(crate) fn write_all(dir: &Path, files: &[(&Path, &[u8])]) -> Vec<io::Result<()>> {
    // All are created before the first is on disk, so that the file system may combine the writes.
    let created: Vec<_> = files.iter().map(|(path, bytes)| create(path, bytes, 0o600)).collect();
    let both = files.iter().zip(created);
    let mut written: Vec<_> = both.map(|((path, _), created)| finish(path, created)).collect();
    if let Err(error) = sync_directory(dir) {
        let failed = written.iter_mut().filter(|result| result.is_ok());
        failed.for_each(|result| *result = Err(io::Error::new(error.kind(), error.to_string())));
    }
    count_failed(written.iter().filter(|result| result.is_err()).count());
    written
}

/// Counts writes that were not possible.
pub(crate) fn count_failed(count: usize) {
    FAILED.fetch_add(count as u64, Ordering::Relaxed);
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    finish(path, create(path, bytes, mode))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => Ok(()),
    }
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Puts the file that [`create`] made in the place of `path`, or removes it.
fn finish(path: &Path, created: io::Result<File>) -> io::Result<()> {
    let temporary = temporary(path);
    let synced = created.and_then(|file| file.sync_all());
    synced.and_then(|()| fs::rename(&temporary, path)).inspect_err(|_| {
        // It may not exist; the first error is reported.
        let _ = fs::remove_file(&temporary);
    })
}

/// Where the new content is written first: beside the file, `NAME.new`.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

/// The path with `suffix` after its last name.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    name.into()
}

/// Writes the new content of `path` to its [`temporary`] file, which may not be on disk yet.
fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(temporary(path))?;
    // Regardless of the umask, and of the mode of a file that a crash left.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    Ok(file)
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

    #[test]
    fn one_of_many_files_that_can_not_be_written_fails_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("b/kept"), "").unwrap();
        let failed_before = failed_writes();
        let paths = ["a", "b", "c"].map(|name| dir.path().join(name));
        let files = paths.each_ref().map(|path| (&**path, &b"content"[..]));
        let written = write_all(dir.path(), &files);
        let written: Vec<_> = written.iter().map(Result::is_ok).collect();
        assert_eq!(written, [true, false, true]);
        assert!(failed_writes() > failed_before);
        assert_eq!(fs::read(dir.path().join("c")).unwrap(), b"content");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
