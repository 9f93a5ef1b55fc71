//! The way into another network namespace.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::Error;

/// Runs `work` inside the network namespace that `path` names (`/run/netns/NAME`,
/// `/proc/PID/ns/net`), on a thread of its own, and returns what it returns.
///
/// # Errors
/// [`Error::Netns`] if the namespace can't be opened or entered.
///
/// # Panics
/// Only if `work` does.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let failed = |cause| Error::Netns { path: path.into(), cause };
    let namespace = File::open(path).map_err(failed)?;
    // A thread that entered another namespace must not serve anyone else: it ends here.
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, move || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })
            .map_err(failed)?
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic))
            .map_err(failed)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::inside;
    use crate::Error;

    #[test]
    fn a_namespace_that_is_gone_is_an_error_with_its_path() {
        let path = Path::new("/run/netns/pg-never-existed");
        let error = inside(path, || unreachable!("there is no such namespace")).unwrap_err();
        assert!(matches!(&error, Error::Netns { .. }));
        assert!(error.to_string().contains("pg-never-existed"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_namespace_is_an_error() {
        assert!(matches!(inside(Path::new("/dev/null"), || ()), Err(Error::Netns { .. })));
    }
}
