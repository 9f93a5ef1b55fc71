//! The state directory, and the list of endpoints that it keeps over a restart.
//!
//! The list is in `endpoints.json`, with a checksum, and in `endpoints.copy.json`, which is written
//! after it. If the list is damaged or of another version, the copy is read; without a copy, the
//! pinned programs show which links are cut off (`endpoints/unknown.rs`).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use podgate_api::EndpointSpec;
use serde::{Deserialize, Serialize};

use super::state_json;
use crate::cli::{HUBBLE_SOCKET_NAME, SOCKET_NAME};
use crate::sources::LAST_GOOD;
use crate::{atomic_file, damaged_file};

const LIST: &str = "endpoints.json";
const COPY: &str = "endpoints.copy.json";

/// The state directory, locked by one agent (or one cleanup) at a time.
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// Directory of pins elsewhere, on a bpffs that others mount.
    pins: Option<PathBuf>,
    lock: File,
    /// The lock of `pins`.
    pins_lock: Option<File>,
    /// Directories that this created, innermost first.
    made: Vec<PathBuf>,
    /// Whether the directory's mode is still to be set.
    mode_due: bool,
}

/// Why the state directory can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Another agent has the lock.
    #[error("an agent is running with the state directory {0}; stop it first")]
    Held(PathBuf),
    /// Another agent has the lock of the directory of pins.
    #[error("an agent with another state directory has its programs pinned in {0}; stop it first")]
    PinsHeld(PathBuf),
    /// A file or directory can't be read or written.
    #[error("can't use {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system call's error.
        source: io::Error,
    },
}

/// TX checksum offload of a pod's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChecksumOffload {
    /// As it was found.
    Untouched,
    /// It was on, and podgate turned it off; it is restored when the endpoint is removed.
    TurnedOff,
}

impl ChecksumOffload {
    /// Whether podgate turned it off, as a state.
    pub(crate) fn turned_off_if(turned_off: bool) -> Self {
        if turned_off { Self::TurnedOff } else { Self::Untouched }
    }

    /// The state after `earlier`, when podgate looked again.
    pub(crate) fn after(self, earlier: Self) -> Self {
        if earlier == Self::TurnedOff { earlier } else { self }
    }

    /// Whether it has to be restored.
    pub(crate) fn is_turned_off(self) -> bool {
        self == Self::TurnedOff
    }
}

/// An endpoint in the list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SavedEndpoint {
    /// The request.
    pub(crate) spec: EndpointSpec,
    /// TX checksum offload of the pod's end.
    pub(crate) offload: ChecksumOffload,
}

/// The list as it was read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Loaded {
    /// The endpoints.
    pub(crate) endpoints: Vec<SavedEndpoint>,
    /// What was wrong with the lists, one line each.
    pub(crate) problems: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct SavedEndpoints {
    endpoints: Vec<EndpointSpec>,
    /// Links of those endpoints whose pod's end had TX checksum offload on.
    #[serde(default)]
    offload_was_on: Vec<String>,
}

impl state_json::Content for SavedEndpoints {
    const VERSION: u32 = 1;
    /// Some thousand for each possible endpoint.
    const MAX: usize = 16 << 20;
    const MAY_LACK_CHECKSUM: bool = true;

    fn checksum(&self) -> io::Result<u32> {
        state_json::checksum(&(Self::VERSION, &self.endpoints, &self.offload_was_on))
    }
}

impl SavedEndpoints {
    fn into_remembered(self) -> Vec<SavedEndpoint> {
        let was_on = self.offload_was_on;
        let remembered = |spec: EndpointSpec| {
            let offload = ChecksumOffload::turned_off_if(was_on.contains(&spec.link));
            SavedEndpoint { spec, offload }
        };
        self.endpoints.into_iter().map(remembered).collect()
    }
}

impl StateDir {
    /// Opens and locks the directory, which may be on a read-only file system; a missing one is
    /// created with mode 0700. Programs are pinned in `pins`, or else on a bpffs in the directory.
    ///
    /// # Errors
    /// When it can't be created, or another agent has the lock.
    pub(crate) fn open(path: &Path, pins: Option<&Path>) -> Result<Self, StateError> {
        let io_error = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { path, source }
        };
        let missing = path.ancestors().take_while(|dir| !dir.as_os_str().is_empty());
        let made = missing.take_while(|dir| !dir.exists()).map(Path::to_owned).collect();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(path).map_err(io_error(path))?;
        let lock = lock(path).map_err(io_error(path))?;
        let lock = lock.ok_or_else(|| StateError::Held(path.to_owned()))?;
        let pins = pins.map(Path::to_owned);
        let (path, pins_lock) = (path.to_owned(), None);
        let mut state = Self { path, pins, lock, pins_lock, made, mode_due: true };
        match state.set_mode() {
            // It may be written to later; the files in it have modes of their own.
            Err(StateError::Io { source, .. })
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            result => result?,
        }
        Ok(state)
    }

    /// Locks the directory of pins that was given, unless it is locked or doesn't exist: an agent
    /// with another state directory may have its programs there. A bpffs in the state directory
    /// needs no lock of its own, which would keep it from being unmounted.
    ///
    /// # Errors
    /// [`StateError::PinsHeld`], or when it can't be opened.
    pub(crate) fn lock_pins(&mut self) -> Result<(), StateError> {
        let Some(pins) = &self.pins else { return Ok(()) };
        if !self.pins_lock.as_ref().is_some_and(|lock| is_at(lock, pins)) {
            self.pins_lock = lock_pins(pins)?;
        }
        Ok(())
    }

    /// Sets the mode of the directory, unless that was done.
    ///
    /// # Errors
    /// When it can't be set, as on a read-only file system.
    pub(crate) fn set_mode(&mut self) -> Result<(), StateError> {
        if self.mode_due {
            let set = self.lock.set_permissions(fs::Permissions::from_mode(0o700));
            set.map_err(|source| StateError::Io { path: self.path.clone(), source })?;
            self.mode_due = false;
        }
        Ok(())
    }

    /// Removes the directory, if it is empty. Returns whether it is gone.
    pub(crate) fn remove(self) -> bool {
        // Other programs' files stay.
        fs::remove_dir(&self.path).is_ok()
    }

    /// The directory.
    #[must_use]
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directories that were created for this one, itself included, innermost first.
    #[must_use]
    pub(crate) fn made(&self) -> &[PathBuf] {
        &self.made
    }

    /// Whether the locked directory is still the one at its path.
    #[must_use]
    pub(crate) fn is_there(&self) -> bool {
        is_at(&self.lock, &self.path)
    }

    /// The control socket, unless another one is given.
    #[must_use]
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }

    /// The directory of the pinned programs, on a bpffs.
    #[must_use]
    pub(crate) fn bpf(&self) -> PathBuf {
        self.pins.clone().unwrap_or_else(|| self.path.join("bpf"))
    }

    /// Whether the agent mounts the bpffs itself.
    #[must_use]
    pub(crate) fn mounts_bpffs(&self) -> bool {
        self.pins.is_none()
    }

    /// The list of endpoints.
    #[must_use]
    pub(crate) fn endpoints(&self) -> PathBuf {
        self.path.join(LIST)
    }

    /// The file of flows that a clean stop writes.
    #[must_use]
    pub(crate) fn flows(&self) -> PathBuf {
        self.path.join("flows.state")
    }

    /// The file of DNS names.
    #[must_use]
    pub(crate) fn names(&self) -> PathBuf {
        self.path.join("names.json")
    }

    /// The saved objects of manifests.
    #[must_use]
    pub(crate) fn last_good(&self) -> PathBuf {
        self.path.join(LAST_GOOD)
    }

    /// All files that may exist: of endpoints, flows and DNS names, and unfinished ones; the
    /// sockets.
    #[must_use]
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.socket(), self.path.join(HUBBLE_SOCKET_NAME)];
        for path in self.written() {
            files.extend([atomic_file::temporary(&path), path]);
        }
        files
    }

    /// What was set aside: damaged files, and what was in their places.
    #[must_use]
    pub(crate) fn set_aside(&self) -> Vec<PathBuf> {
        let paths = self.written().into_iter().chain([self.last_good()]);
        paths.flat_map(|path| damaged_file::set_aside_before(&path)).collect()
    }

    /// The files of endpoints, flows and DNS names.
    fn written(&self) -> [PathBuf; 4] {
        [self.endpoints(), self.path.join(COPY), self.flows(), self.names()]
    }

    /// Reads the list; without one there are no endpoints. A damaged list is set aside.
    pub(crate) fn load(&self) -> Loaded {
        let mut problems = Vec::new();
        for name in [LIST, COPY] {
            let path = self.path.join(name);
            match state_json::read::<SavedEndpoints>(&path) {
                Ok(Some(file)) => {
                    if name == COPY {
                        problems.push(format!("the endpoints were read from {}", path.display()));
                    }
                    return Loaded { endpoints: file.into_remembered(), problems };
                }
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        Loaded { endpoints: Vec::new(), problems }
    }

    /// Writes the list and its copy, each atomically.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn save(&self, endpoints: Vec<SavedEndpoint>) -> Result<(), StateError> {
        let on = endpoints.iter().filter(|endpoint| endpoint.offload.is_turned_off());
        let offload_was_on = on.map(|endpoint| endpoint.spec.link.clone()).collect();
        let endpoints = endpoints.into_iter().map(|endpoint| endpoint.spec).collect();
        let file = SavedEndpoints { endpoints, offload_was_on };
        let failed = |path: &Path, source| StateError::Io { path: path.to_owned(), source };
        let bytes =
            state_json::to_bytes(&file).map_err(|source| failed(&self.endpoints(), source))?;
        for name in [LIST, COPY] {
            let path = self.path.join(name);
            atomic_file::write(&path, &bytes).map_err(|source| failed(&path, source))?;
        }
        Ok(())
    }
}

/// Whether the open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let id = |found: io::Result<fs::Metadata>| found.ok().map(|m| (m.dev(), m.ino()));
    let held = id(file.metadata());
    held.is_some() && id(fs::metadata(path)) == held
}

/// Locks a directory, as long as the file is open; `None` if another process has the lock
/// (flock(2), which a bpffs has, too).
fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = File::open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Locks a directory of pins; `None` if it doesn't exist.
///
/// # Errors
/// [`StateError::PinsHeld`], or when it can't be opened.
pub(crate) fn lock_pins(pins: &Path) -> Result<Option<File>, StateError> {
    match lock(pins) {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => Err(StateError::PinsHeld(pins.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StateError::Io { path: pins.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;

    use super::*;
    use crate::damaged_file::{BAD, BAD_MAX};

    fn remembered(link: &str) -> SavedEndpoint {
        let spec = EndpointSpec {
            link: link.into(),
            pod: "a/b".parse().unwrap(),
            netns: Some("/run/netns/b".into()),
            mac: None,
            mtu: Some(65000.try_into().unwrap()),
            assigned: Vec::new(),
        };
        let offload = match link {
            "veth1" => ChecksumOffload::TurnedOff,
            _ => ChecksumOffload::Untouched,
        };
        SavedEndpoint { spec, offload }
    }

    fn names_in(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        entries.map(|name| name.into_string().unwrap()).collect()
    }

    #[test]
    fn endpoints_are_there_again_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        assert_eq!(state.load(), Loaded::default());
        state.save(vec![remembered("veth0"), remembered("veth1")]).unwrap();
        state.save(vec![remembered("veth1")]).unwrap();
        drop(state);
        let loaded = StateDir::open(dir.path(), None).unwrap().load();
        assert_eq!(loaded, Loaded { endpoints: vec![remembered("veth1")], problems: Vec::new() });
    }

    #[test]
    fn a_list_of_a_version_before_checksums_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        let list = r#"{"version":1,"endpoints":[{"link":"veth0","pod":"a/b",
                       "netns":"/run/netns/b","mtu":65000}]}"#;
        fs::write(state.endpoints(), list).unwrap();
        let loaded = state.load();
        assert_eq!((loaded.endpoints, loaded.problems), (vec![remembered("veth0")], vec![]));
    }

    #[test]
    fn one_agent_holds_the_directory_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path(), None).unwrap();
        assert!(matches!(StateDir::open(dir.path(), None), Err(StateError::Held(_))));
        drop(first);
        assert!(StateDir::open(dir.path(), None).is_ok());
    }

    #[test]
    fn pins_are_those_of_one_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        let pins = path("pins");
        let open = |name| StateDir::open(&path(name), Some(&pins)).unwrap();
        let (mut first, mut second) = (open("1"), open("2"));
        // There is nothing yet that may be locked.
        first.lock_pins().unwrap();
        fs::create_dir(&pins).unwrap();
        first.lock_pins().unwrap();
        first.lock_pins().unwrap();
        assert!(matches!(second.lock_pins(), Err(StateError::PinsHeld(held)) if held == pins));
        assert!(matches!(lock_pins(&pins), Err(StateError::PinsHeld(_))));
        // Another directory in its place is locked, too.
        fs::remove_dir(&pins).unwrap();
        fs::create_dir(&pins).unwrap();
        first.lock_pins().unwrap();
        assert!(second.lock_pins().is_err());
        drop(first);
        second.lock_pins().unwrap();
        // Pins in the state directory are locked with it.
        let mut own = StateDir::open(&path("3"), None).unwrap();
        fs::create_dir(own.bpf()).unwrap();
        own.lock_pins().unwrap();
        assert!(lock_pins(&own.bpf()).unwrap().is_some());
    }

    #[test]
    fn a_damaged_list_is_set_aside_and_its_copy_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        state.save(vec![remembered("veth1")]).unwrap();
        let good = fs::read_to_string(state.endpoints()).unwrap();
        let other_pod = good.replace("a/b", "a/c");
        for broken in ["", "{", r#"{"version":2,"endpoints":[]}"#, r#"{"version":1}"#, &other_pod] {
            fs::write(state.endpoints(), broken).unwrap();
            let loaded = state.load();
            assert_eq!(loaded.endpoints, [remembered("veth1")], "{broken}");
            let [aside, copy] = loaded.problems.as_slice() else { panic!("{loaded:?}") };
            assert!(aside.contains("endpoints.json.bad-"), "{aside}");
            assert!(copy.contains("endpoints.copy.json"), "{copy}");
            assert!(!state.endpoints().exists());
        }
    }

    #[test]
    fn without_a_good_list_there_are_no_endpoints_and_what_was_set_aside_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        for number in 0..20 {
            for name in [LIST, COPY] {
                fs::write(dir.path().join(format!("{name}{BAD}{number:02}")), "").unwrap();
            }
        }
        for name in [LIST, COPY] {
            fs::write(dir.path().join(name), "damaged").unwrap();
        }
        let loaded = state.load();
        assert_eq!((loaded.endpoints.len(), loaded.problems.len()), (0, 2));
        assert_eq!(names_in(dir.path()).len(), 2 * BAD_MAX);
        let files = [state.files(), state.set_aside()].concat();
        files.iter().for_each(|file| _ = fs::remove_file(file));
        assert!(state.remove(), "{:?}", names_in(dir.path()));
    }

    #[test]
    fn a_folder_in_the_lists_place_is_set_aside_too() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        state.save(vec![remembered("veth1")]).unwrap();
        fs::remove_file(state.endpoints()).unwrap();
        fs::create_dir(state.endpoints()).unwrap();
        assert_eq!(state.load().endpoints, [remembered("veth1")]);
        state.save(Vec::new()).unwrap();
    }

    #[test]
    fn a_fifo_in_the_lists_place_is_set_aside_and_nobody_waits_for_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        state.save(vec![remembered("veth1")]).unwrap();
        fs::remove_file(state.endpoints()).unwrap();
        nix::unistd::mkfifo(&state.endpoints(), Mode::S_IRWXU).unwrap();
        let loaded = state.load();
        assert_eq!(loaded.endpoints, [remembered("veth1")]);
        assert!(loaded.problems[0].contains("is a FIFO"), "{:?}", loaded.problems);
        state.save(Vec::new()).unwrap();
    }

    #[test]
    fn it_notices_that_the_directory_is_gone_or_another_one() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/state");
        let state = StateDir::open(&path, None).unwrap();
        assert_eq!(state.made(), [path.clone(), parent.path().join("a")]);
        assert!(state.is_there());
        fs::remove_dir(&path).unwrap();
        assert!(!state.is_there());
        let reopened = StateDir::open(&path, None).unwrap();
        assert!(reopened.is_there() && !state.is_there());
        assert_eq!(reopened.made(), [path]);
    }
}
