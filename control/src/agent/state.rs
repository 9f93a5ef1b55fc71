//! What the agent remembers over a restart: the endpoints, in `endpoints.json`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::SOCKET_NAME;
use crate::protocol::EndpointSpec;

const VERSION: u32 = 1;

/// The state directory, held by one agent (or one cleanup) at a time.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Why the state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Another agent holds it.
    #[error("an agent is running with the state directory {0}; stop it first")]
    Held(PathBuf),
    /// A file or directory can't be read or written.
    #[error("can't use {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The endpoint list makes no sense.
    #[error("can't understand {path}: {reason}; remove the file to start without endpoints")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct EndpointFile {
    version: u32,
    endpoints: Vec<EndpointSpec>,
}

impl StateDir {
    /// Creates the directory, with mode 0700, unless it is there, and takes hold of it.
    ///
    /// # Errors
    /// When it can't be created, or another agent holds it.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { path, source }
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(io_error(path))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(io_error(path))?;
        let lock = File::open(path).map_err(io_error(path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(StateError::Held(path.to_owned())),
            Err(fs::TryLockError::Error(source)) => Err(io_error(path)(source)),
        }
    }

    /// Removes the directory, if it is empty.
    pub(crate) fn remove(self) {
        // Somebody else's files are no fault.
        let _ = fs::remove_dir(&self.path);
    }

    /// The control socket.
    #[must_use]
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }

    /// Where the bpffs with the pinned programs is mounted.
    #[must_use]
    pub(crate) fn bpf(&self) -> PathBuf {
        self.path.join("bpf")
    }

    /// The list of endpoints.
    #[must_use]
    pub(crate) fn endpoints(&self) -> PathBuf {
        self.path.join("endpoints.json")
    }

    /// The flows that a clean stop left for the next start.
    #[must_use]
    pub(crate) fn flows(&self) -> PathBuf {
        self.path.join("flows.state")
    }

    /// Where a damaged file of flows is set aside.
    #[must_use]
    pub(crate) fn bad_flows(&self) -> PathBuf {
        self.path.join("flows.bad")
    }

    /// Reads the endpoints; none if there is no list.
    ///
    /// # Errors
    /// When the list can't be read.
    pub(crate) fn load(&self) -> Result<Vec<EndpointSpec>, StateError> {
        let path = self.endpoints();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StateError::Io { path, source }),
        };
        let corrupt = |reason: String| StateError::Corrupt { path: path.clone(), reason };
        let file: EndpointFile =
            serde_json::from_slice(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if file.version != VERSION {
            return Err(corrupt(format!("its version is {}, not {VERSION}", file.version)));
        }
        Ok(file.endpoints)
    }

    /// Writes the endpoints: the old list or the new one is there at any time, whole.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn save(&self, endpoints: Vec<EndpointSpec>) -> Result<(), StateError> {
        let path = self.endpoints();
        let write = || -> io::Result<()> {
            let temporary = self.path.join("endpoints.json.new");
            let mut file = File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut file, &EndpointFile { version: VERSION, endpoints })?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| StateError::Io { path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(link: &str) -> EndpointSpec {
        EndpointSpec {
            link: link.into(),
            pod: "a/b".parse().unwrap(),
            netns: Some("/run/netns/b".into()),
            mac: None,
            mtu: Some(65000.try_into().unwrap()),
        }
    }

    #[test]
    fn endpoints_are_there_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(state.load().unwrap(), []);
        state.save(vec![spec("veth0"), spec("veth1")]).unwrap();
        state.save(vec![spec("veth1")]).unwrap();
        drop(state);
        assert_eq!(StateDir::open(dir.path()).unwrap().load().unwrap(), [spec("veth1")]);
    }

    #[test]
    fn one_agent_holds_the_directory_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        assert!(matches!(StateDir::open(dir.path()), Err(StateError::Held(_))));
        drop(first);
        assert!(StateDir::open(dir.path()).is_ok());
    }

    #[test]
    fn a_broken_list_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        for broken in ["", "{", r#"{"version":2,"endpoints":[]}"#, r#"{"version":1}"#] {
            fs::write(state.endpoints(), broken).unwrap();
            let error = state.load().unwrap_err().to_string();
            assert!(error.contains("endpoints.json"), "{error}");
        }
    }
}
