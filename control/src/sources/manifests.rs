//! Reading objects from the files of a directory, and again when they change.
//!
//! The directory is looked at twice a second. That costs a stat of each file, and needs no rules
//! for how editors, `git checkout` or a mounted ConfigMap replace files.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use podgate_policy::manifest::{self, Document};
use podgate_policy::{Refusal, Store};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::{Update, log_refusals};
use crate::protocol::SourceStatus;

/// How often the directory is looked at.
const PERIOD: Duration = Duration::from_millis(500);

/// Change times of files may be this coarse: two changes within it can look like one.
const CHANGE_TIME_STEP: Duration = Duration::from_millis(20);

/// What tells one state of a directory from another, without reading files.
#[derive(PartialEq, Eq, Debug, Default)]
struct Fingerprint {
    files: BTreeMap<PathBuf, Stamp>,
}

/// What tells one state of a file from another.
#[derive(PartialEq, Eq, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds since 1970.
    changed: (i64, i64),
}

impl Fingerprint {
    /// Of all files in `dir`, symbolic links followed. What can't be read has no part in it:
    /// reading it will say so.
    fn of(dir: &Path) -> Self {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(metadata) = std::fs::metadata(entry.path()) else { continue };
            let stamp = Stamp {
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.size(),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            };
            files.insert(entry.path(), stamp);
        }
        Self { files }
    }

    /// Whether any later change is sure to be seen: not if a file changed just before `now`.
    fn is_settled(&self, now: SystemTime) -> bool {
        let limit = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let limit = limit.saturating_sub(CHANGE_TIME_STEP);
        let limit = (limit.as_secs().cast_signed(), limit.subsec_nanos().into());
        self.files.values().all(|stamp| stamp.changed < limit)
    }
}

/// Sends the content of `dir` to `updates` now and after each change, until its receiver is gone.
pub(crate) async fn watch(dir: PathBuf, updates: mpsc::Sender<Update>) {
    let dir: Arc<Path> = dir.into();
    let mut last = None;
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Fingerprint::of(&dir);
        if last.as_ref() == Some(&now) {
            continue;
        }
        // A file that is written while we read it, or later, has another change time than the
        // fingerprint, which was taken first: the next look finds it changed.
        let settled = now.is_settled(SystemTime::now());
        let documents = {
            let dir = Arc::clone(&dir);
            tokio::task::spawn_blocking(move || manifest::load(&dir)).await
        };
        let Ok(documents) = documents else { return };
        if updates.send(Update::Manifests(documents)).await.is_err() {
            return;
        }
        last = settled.then_some(now);
    }
}

/// What is known of the directory.
#[derive(Debug)]
pub(crate) struct Manifests {
    dir: PathBuf,
    synced: bool,
    refusals: Vec<Refusal>,
}

impl Manifests {
    /// Nothing is known yet of the objects in `dir`.
    #[must_use]
    pub(crate) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), synced: false, refusals: Vec::new() }
    }

    /// Brings the store up to date with the directory's content, and says in the log what is
    /// refused that was not refused before.
    pub(crate) fn take(&mut self, documents: &[Document], store: &mut Store) {
        store.sync(documents);
        self.synced = true;
        let refusals: Vec<_> = store.refusals().cloned().collect();
        let new = refusals.iter().filter(|refusal| !self.refusals.contains(refusal));
        log_refusals(new);
        self.refusals = refusals;
    }

    /// Whether the directory was read once, and whether it is there; what can't be read in it is
    /// among the store's refusals.
    #[must_use]
    pub(crate) fn status(&self) -> SourceStatus {
        let dir = self.dir.display();
        let gone = !self.dir.is_dir();
        let problem = gone.then(|| format!("{dir} is gone; what was read last stays in force"));
        SourceStatus {
            name: format!("manifests {dir}"),
            synced: self.synced,
            problems: problem.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {namespace: a, name: x}, \
                       status: {podIPs: [{ip: 10.0.0.1}]}}\n";

    fn policy(name: &str) -> String {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
             metadata: {{namespace: a, name: {name}}}, spec: {{podSelector: {{}}}}}}\n"
        )
    }

    /// A watched directory, and the store that follows it.
    struct Watched {
        dir: tempfile::TempDir,
        updates: mpsc::Receiver<Update>,
        manifests: Manifests,
        store: Store,
    }

    impl Watched {
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (sender, updates) = mpsc::channel(1);
            tokio::spawn(watch(dir.path().to_owned(), sender));
            let manifests = Manifests::new(dir.path());
            Self { dir, updates, manifests, store: Store::new() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        /// Follows the directory until `done`.
        async fn until(&mut self, done: impl Fn(&Store) -> bool) {
            while !done(&self.store) {
                let Some(Update::Manifests(documents)) = self.updates.recv().await else {
                    panic!("the watch ended");
                };
                self.manifests.take(&documents, &mut self.store);
            }
        }
    }

    fn policies(store: &Store) -> Vec<String> {
        store.policies().map(|policy| policy.key.name.clone()).collect()
    }

    /// Time passes at once when every task waits for it.
    fn run(test: impl Future<Output = ()>) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap().block_on(test);
    }

    #[test]
    fn new_changed_and_removed_files_are_followed() {
        run(async {
            let mut watched = Watched::start();
            watched.write("pod.yaml", POD);
            watched.write("p.yaml", &policy("one"));
            watched
                .until(|store| store.pod("a", "x").is_some() && policies(store) == ["one"])
                .await;
            watched.write("p.yaml", &policy("two"));
            watched.until(|store| policies(store) == ["two"]).await;
            fs::remove_file(watched.path("p.yaml")).unwrap();
            watched.until(|store| policies(store).is_empty()).await;
            assert!(watched.store.pod("a", "x").is_some());
        });
    }

    #[test]
    fn a_file_replaced_by_renaming_is_followed() {
        run(async {
            let mut watched = Watched::start();
            watched.write("p.yaml", &policy("one"));
            watched.until(|store| policies(store) == ["one"]).await;
            watched.write(".p.yaml.swp", &policy("two"));
            fs::rename(watched.path(".p.yaml.swp"), watched.path("p.yaml")).unwrap();
            watched.until(|store| policies(store) == ["two"]).await;
        });
    }

    #[test]
    fn a_symbolic_link_turned_to_another_directory_is_followed() {
        run(async {
            let mut watched = Watched::start();
            for name in ["one", "two"] {
                fs::create_dir(watched.path(name)).unwrap();
                watched.write(&format!("{name}/p.yaml"), &policy(name));
            }
            // How the kubelet updates a mounted ConfigMap.
            std::os::unix::fs::symlink("one", watched.path("..data")).unwrap();
            std::os::unix::fs::symlink("..data/p.yaml", watched.path("p.yaml")).unwrap();
            watched.until(|store| policies(store) == ["one"]).await;
            std::os::unix::fs::symlink("two", watched.path("..new")).unwrap();
            fs::rename(watched.path("..new"), watched.path("..data")).unwrap();
            watched.until(|store| policies(store) == ["two"]).await;
        });
    }

    #[test]
    fn a_broken_file_keeps_its_objects_and_says_where_it_is_broken() {
        run(async {
            let mut watched = Watched::start();
            watched.write("pod.yaml", POD);
            watched.write("p.yaml", &policy("one"));
            watched.until(|store| policies(store) == ["one"]).await;
            watched.write("p.yaml", "spec: [\n  broken: {\n");
            watched.until(|store| store.refusals().next().is_some()).await;
            assert_eq!(policies(&watched.store), ["one"]);
            let refusal = watched.store.refusals().next().unwrap().to_string();
            assert!(refusal.contains("p.yaml:"), "{refusal}");
            watched.write("p.yaml", &policy("two"));
            watched.until(|store| policies(store) == ["two"]).await;
            assert!(watched.store.refusals().next().is_none());
        });
    }
}
