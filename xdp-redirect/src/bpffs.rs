//! The BPF file system on which links are pinned.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use crate::Error;

/// Mounts a bpffs that only root can enter on `dir`, unless it is one already. Creates the
/// directory. Returns whether it was mounted now.
///
/// The mount, and with it every link pinned there, lasts as long as the mount namespace of the
/// caller: a process under `ip netns exec` has one of its own, which ends with it.
///
/// # Errors
/// [`Error::Bpffs`] if the directory can't be created or the mount fails.
pub fn ensure_mounted(dir: &Path) -> Result<bool, Error> {
    let failed = |cause| Error::Bpffs { dir: dir.into(), cause };
    fs::create_dir_all(dir).map_err(failed)?;
    if statfs(dir).map_err(|errno| failed(errno.into()))?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(false);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), dir, Some("bpf"), flags, Some("mode=0700"))
        .map(|()| true)
        .map_err(|errno| failed(errno.into()))
}

/// Creates `dir`, which must be on a bpffs that is mounted already.
///
/// # Errors
/// [`Error::Bpffs`] if it can't be created, or is on another file system.
pub fn require(dir: &Path) -> Result<(), Error> {
    let failed = |cause| Error::Bpffs { dir: dir.into(), cause };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    if statfs(dir).map_err(|errno| failed(errno.into()))?.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    // Removes a directory that was just created; rmdir(2) fails if it has files.
    let _ = fs::remove_dir(dir);
    Err(failed(io::Error::other("none is mounted there")))
}

#[cfg(test)]
mod tests {
    use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

    use super::{ensure_mounted, require};
    use crate::test_netns;

    #[test]
    fn mounts_once_and_keeps_what_is_there() {
        test_netns::in_new_namespaces(|| {
            let parent = tempfile::tempdir().unwrap();
            let dir = parent.path().join("state/bpf");
            assert!(ensure_mounted(&dir).unwrap());
            assert_eq!(statfs(&dir).unwrap().filesystem_type(), BPF_FS_MAGIC);
            std::fs::create_dir(dir.join("kept")).unwrap();
            assert!(!ensure_mounted(&dir).unwrap());
            assert!(dir.join("kept").is_dir());
            require(&dir.join("podgate")).unwrap();
            assert!(dir.join("podgate").is_dir());
            nix::mount::umount(&dir).unwrap();
            assert!(require(&dir.join("podgate")).is_err());
            assert!(!dir.join("podgate").exists());
        });
    }
}
