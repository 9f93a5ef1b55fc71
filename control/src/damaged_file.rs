//! Setting a damaged file of the state directory aside: it is renamed to `NAME.bad-TIME`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::atomic_file::with_suffix;

/// Suffix of a file that was set aside; the time follows, seconds.
pub(crate) const BAD: &str = ".bad-";
/// Most files of one name that were set aside.
pub(crate) const BAD_MAX: usize = 8;

/// Renames a damaged file, or what is in its place, and removes the oldest of those before. Returns
/// its new path.
///
/// # Errors
/// When it can't be renamed.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let before = set_aside_before(path);
    for oldest in before.iter().take((before.len() + 1).saturating_sub(BAD_MAX)) {
        // If that fails there is one more, which does no harm.
        let _ = remove_set_aside(oldest);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut names = (now..).map(|time| with_suffix(path, &format!("{BAD}{time}")));
    // A directory can't replace a file, nor a file a directory.
    let aside = names.find(|name| fs::symlink_metadata(name).is_err());
    let aside = aside.ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(path, &aside)?;
    Ok(aside)
}

/// [`set_aside`] with a line about it.
pub(crate) fn set_aside_line(path: &Path, reason: &str) -> String {
    let what = format!("{} is not usable: {reason}", path.display());
    match set_aside(path) {
        Ok(aside) => format!("{what}; it was set aside as {}", aside.display()),
        Err(error) => format!("{what}; it can't be set aside: {error}"),
    }
}

/// Removes what was set aside: a file, a symbolic link, or a directory with all that is in it.
///
/// # Errors
/// When it can't be removed.
pub(crate) fn remove_set_aside(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// What was set aside of the files of this name, and is still there, oldest first.
pub(crate) fn set_aside_before(path: &Path) -> Vec<PathBuf> {
    let entries = path.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten();
    let prefix = with_suffix(path, BAD);
    let prefix = prefix.as_os_str().as_encoded_bytes();
    let paths = entries.map(|entry| entry.path());
    let is_aside = |path: &PathBuf| {
        let time = path.as_os_str().as_encoded_bytes().strip_prefix(prefix);
        time.is_some_and(|time| !time.is_empty() && time.iter().all(u8::is_ascii_digit))
    };
    let mut found: Vec<_> = paths.filter(is_aside).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_files_of_one_name_are_set_aside_beside_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows.state");
        fs::write(&path, "damaged").unwrap();
        let file = set_aside(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let directory = set_aside(&path).unwrap();
        assert!(file.is_file() && directory.is_dir() && !path.exists());
        fs::create_dir(dir.path().join("flows.state.bad-mine")).unwrap();
        assert_eq!(set_aside_before(&path), [file, directory]);
        let line = set_aside_line(&path, "it is gone");
        assert!(line.contains("it can't be set aside: No such file"), "{line}");
        for _ in 0..2 * BAD_MAX {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "").unwrap();
            set_aside(&path).unwrap();
        }
        assert_eq!(set_aside_before(&path).len(), BAD_MAX);
    }
}
