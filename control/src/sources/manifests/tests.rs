//! The reader of manifests, on real folders.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use podgate_policy::manifest;

use super::*;
use crate::sources::LAST_GOOD;

/// Longest wait for something that has to come.
const BOUND: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(1);

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {namespace: a, name: x}, \
                   status: {podIPs: [{ip: 10.0.0.1}]}}\n";

fn policy(name: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
         metadata: {{namespace: a, name: {name}}}, spec: {{podSelector: {{}}}}}}\n"
    )
}

fn names(store: &Store) -> Vec<String> {
    store.policies().map(|policy| policy.key.name.clone()).collect()
}

/// A directory of manifests, and a state directory.
struct Place {
    root: tempfile::TempDir,
    state: &'static str,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("manifests")).unwrap();
        Self { root, state: "state" }
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("manifests")
    }

    fn state(&self) -> PathBuf {
        self.root.path().join(self.state)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Writes in place.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn follow(&self) -> Followed {
        self.follow_at_most(manifest::DIRECTORY_MAX)
    }

    fn follow_at_most(&self, bytes_max: u64) -> Followed {
        let (sender, updates) = mpsc::channel(16);
        let settings = Settings { settle: SETTLE, bytes_max };
        let manifests = Manifests::follow(&self.dir(), &self.state(), settings, sender).unwrap();
        Followed { updates, manifests, store: Store::new(), seen: BTreeSet::new() }
    }

    /// Waits until the last good objects of `count` files are on disk.
    fn wait_for_last_good(&self, count: usize) {
        let begin = std::time::Instant::now();
        let dir = self.state().join(LAST_GOOD);
        let is_state = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().ends_with("json");
        while fs::read_dir(&dir).into_iter().flatten().flatten().filter(is_state).count() != count {
            assert!(begin.elapsed() < BOUND, "no last good objects");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What follows it, as the agent does.
struct Followed {
    updates: mpsc::Receiver<Update>,
    manifests: Manifests,
    store: Store,
    /// Each set of policies that was in force.
    seen: BTreeSet<Vec<String>>,
}

impl Followed {
    /// Takes updates until `done`.
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        while !done(self) {
            let next =
                runtime.block_on(async { tokio::time::timeout(BOUND, self.updates.recv()).await });
            let Ok(Some(Update::Manifests(event))) = next else {
                panic!("{what}: {:?} {:?}", names(&self.store), self.manifests.status());
            };
            self.manifests.apply(event, &mut self.store);
            self.seen.insert(names(&self.store));
        }
    }

    fn until_synced(&mut self) {
        self.until("synced", |followed| followed.manifests.status().synced);
    }

    /// Takes updates for more than the settle time: what is taken to be gone is deleted then.
    fn pass_settle_time(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let end = tokio::time::Instant::now() + 2 * SETTLE;
            while let Ok(update) = tokio::time::timeout_at(end, self.updates.recv()).await {
                let Some(Update::Manifests(event)) = update else { panic!("the reader ended") };
                self.manifests.apply(event, &mut self.store);
            }
        });
    }

    fn until_in_force(&mut self, wanted: &[&str]) {
        self.until(&format!("{wanted:?}"), |followed| names(&followed.store) == wanted);
    }

    fn until_problem(&mut self, wanted: &str) {
        self.until(wanted, |followed| followed.has_problem(wanted));
    }

    fn has_problem(&self, wanted: &str) -> bool {
        self.manifests.status().problems.iter().any(|problem| problem.contains(wanted))
    }

    fn until_no_problem(&mut self) {
        self.until("no problem", |followed| followed.manifests.status().problems.is_empty());
    }
}

#[test]
fn new_changed_and_removed_files_are_followed() {
    let place = Place::new();
    let mut followed = place.follow();
    followed.until_synced();
    place.write("pod.yaml", POD);
    place.write("p.yaml", &policy("one"));
    followed.until("both", |followed| {
        followed.store.pod("a", "x").is_some() && names(&followed.store) == ["one"]
    });
    place.write("p.yaml", &(policy("one") + &policy("two")));
    followed.until_in_force(&["one", "two"]);
    fs::rename(place.path("p.yaml"), place.path("q.yaml")).unwrap();
    place.write("q.yaml", &(policy("one") + &policy("two") + &policy("three")));
    followed.until_in_force(&["one", "three", "two"]);
    followed.until_no_problem();
    assert_eq!(followed.store.rejections().count(), 0);
    fs::remove_file(place.path("q.yaml")).unwrap();
    followed.until_in_force(&[]);
    assert!(followed.store.pod("a", "x").is_some());
}

#[test]
fn a_volume_of_the_kubelet_is_followed_whatever_its_links_do() {
    let place = Place::new();
    for name in ["one", "two"] {
        fs::create_dir(place.path(name)).unwrap();
    }
    place.write("one/p.yaml", &policy("one"));
    place.write("two/p.yaml", &(policy("one") + &policy("two")));
    symlink("one", place.path("..data")).unwrap();
    symlink("..data/p.yaml", place.path("p.yaml")).unwrap();
    let mut followed = place.follow();
    followed.until_synced();
    followed.until_in_force(&["one"]);
    symlink("two", place.path("..new")).unwrap();
    fs::rename(place.path("..new"), place.path("..data")).unwrap();
    followed.until_in_force(&["one", "two"]);
    // A link to nothing, then to a directory.
    fs::remove_file(place.path("..data")).unwrap();
    followed.until_problem("is a link to nothing");
    fs::create_dir_all(place.path("three/p.yaml")).unwrap();
    symlink("three", place.path("..data")).unwrap();
    followed.until_problem("is a directory");
    assert_eq!(names(&followed.store), ["one", "two"]);
}

#[test]
fn a_file_emptied_or_cut_or_broken_in_place_keeps_its_objects() {
    let place = Place::new();
    let whole = policy("one") + &policy("two");
    place.write("p.yaml", &whole);
    let mut followed = place.follow();
    followed.until_synced();
    for (short, problem) in [
        (String::new(), "is empty"),
        ("# nothing\n---\n".to_owned(), "is empty"),
        (policy("one"), "cut short"),
        (whole.clone() + "---\nkind: [\n", "line 6"),
        (whole.clone() + "---\nkidn: NetworkPolicy\n", "line 6"),
    ] {
        place.write("p.yaml", &short);
        followed.until_problem(problem);
        place.write("p.yaml", &whole);
        followed.until_no_problem();
    }
    let always = [vec!["one".to_owned(), "two".to_owned()]];
    assert_eq!(
        followed.seen.iter().filter(|seen| !seen.is_empty()).collect::<Vec<_>>(),
        always.iter().collect::<Vec<_>>()
    );
    // Still for the settle time, it counts.
    place.write("p.yaml", &policy("two"));
    followed.until_in_force(&["two"]);
}

#[test]
fn a_file_that_is_being_written_counts_when_it_is_closed() {
    use std::io::Write;
    let place = Place::new();
    let whole = policy("one") + &policy("two");
    place.write("p.yaml", &whole);
    let mut followed = place.follow();
    followed.until_synced();
    let mut file = fs::File::create(place.path("p.yaml")).unwrap();
    file.write_all(policy("three").as_bytes()).unwrap();
    place.write("q.yaml", &policy("other"));
    followed.until_in_force(&["one", "other", "two"]);
    file.write_all(whole.as_bytes()).unwrap();
    drop(file);
    followed.until_in_force(&["one", "other", "three", "two"]);
}

#[test]
fn a_file_that_stays_open_for_writing_is_told_of_and_counts_when_it_is_closed() {
    use std::io::Write;
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    let mut followed = place.follow();
    followed.until_synced();
    let mut files = ["p.yaml", "new.yaml"].map(|name| fs::File::create(place.path(name)).unwrap());
    for file in &mut files {
        file.write_all(policy("half").as_bytes()).unwrap();
    }
    let open = "is open for writing, and is read when it is closed";
    followed.until_problem(&format!("p.yaml {open}; the objects read from it before stay"));
    followed.until_problem(&format!("new.yaml {open}"));
    // Whatever else has files read doesn't have these read.
    followed.manifests.reload();
    place.write("q.yaml", &policy("other"));
    followed.until_in_force(&["one", "other"]);
    for mut file in files {
        file.write_all(policy("rest").as_bytes()).unwrap();
    }
    followed.until("both", |followed| names(&followed.store).contains(&"half".to_owned()));
    followed.until_no_problem();
    followed.until_in_force(&["half", "other", "rest"]);
    let half = |seen: &&Vec<String>| {
        seen.contains(&"half".to_owned()) && !seen.contains(&"rest".to_owned())
    };
    assert_eq!(followed.seen.iter().find(half), None);
}

/// A name that a writer has removed, or a file that it has renamed over, is another file.
#[test]
fn a_file_replaced_while_a_program_writes_to_the_former_one_counts() {
    use std::io::Write;
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    let mut followed = place.follow();
    followed.until_synced();
    let mut former = fs::File::create(place.path("p.yaml")).unwrap();
    former.write_all(policy("half").as_bytes()).unwrap();
    place.write(".new", &policy("two"));
    fs::rename(place.path(".new"), place.path("p.yaml")).unwrap();
    former.write_all(policy("half").as_bytes()).unwrap();
    followed.until_in_force(&["two"]);
    followed.until_no_problem();
}

#[test]
fn an_answer_of_an_api_server_in_place_of_policies_keeps_them_and_a_start_waits() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    let mut followed = place.follow();
    followed.until_synced();
    let error = "{kind: Status, apiVersion: v1, status: Failure, code: 401, message: Unauthorized}";
    let resources = "{kind: APIResourceList, apiVersion: v1, groupVersion: v1, resources: []}";
    for (answer, problem) in [
        (error, "p.yaml line 1: is an error answer of an API server: Unauthorized; the objects"),
        (
            resources,
            "p.yaml line 1: is an answer of an API server without objects: APIResourceList",
        ),
    ] {
        place.write("new", answer);
        fs::rename(place.path("new"), place.path("p.yaml")).unwrap();
        followed.until_problem(problem);
        assert_eq!(names(&followed.store), ["one"]);
    }
    // A start of which nothing is known.
    let place = Place { state: "other-state", ..place };
    let mut followed = place.follow();
    followed.until_problem("pods stay cut off until it can be read or is removed");
    assert!(!followed.manifests.status().synced);
}

#[test]
fn a_directory_that_was_a_file_for_a_moment_is_followed_as_before() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    fs::rename(place.dir(), place.root.path().join("away")).unwrap();
    fs::write(place.root.path().join("file"), policy("two")).unwrap();
    let link_to = |name: &str| {
        symlink(name, place.root.path().join("link")).unwrap();
        fs::rename(place.root.path().join("link"), place.dir()).unwrap();
    };
    link_to("away");
    let mut followed = place.follow();
    followed.until_synced();
    link_to("file");
    followed.until_in_force(&["one", "two"]);
    link_to("away");
    followed.until_in_force(&["one"]);
    followed.until_no_problem();
    place.write("p.yaml", &policy("three"));
    followed.until_in_force(&["three"]);
}

#[test]
fn a_directory_that_is_emptied_replaced_or_gone_keeps_everything() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    let mut followed = place.follow();
    followed.until_synced();
    fs::rename(place.dir(), place.root.path().join("away")).unwrap();
    followed.until_problem("can't be read");
    fs::create_dir(place.dir()).unwrap();
    followed.until_problem("was replaced by an empty directory");
    assert_eq!(names(&followed.store), ["one"]);
    // With a file in it, it counts; what it lacks after the settle time.
    place.write("q.yaml", &policy("two"));
    followed.until_in_force(&["one", "two"]);
    followed.until_in_force(&["two"]);
    followed.until_no_problem();
}

/// At a start it isn't known whether the directory is the one that it was.
#[test]
fn a_start_with_an_unchanged_directory_tells_of_no_problem() {
    let place = Place::new();
    for name in ["one", "two"] {
        place.write(&format!("{name}.yaml"), &policy(name));
    }
    place.follow().until_synced();
    place.wait_for_last_good(2);
    for _ in 0..5 {
        let mut followed = place.follow();
        followed.until("both in force", |followed| {
            let status = followed.manifests.status();
            assert_eq!(status.problems, [""; 0]);
            status.synced && names(&followed.store) == ["one", "two"]
        });
    }
}

/// As when something else is mounted in its place.
#[test]
fn a_directory_that_is_replaced_by_one_without_a_readable_manifest_keeps_everything() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    let mut followed = place.follow();
    followed.until_synced();
    place.wait_for_last_good(1);
    let other = place.root.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("q.yaml"), "kind: [").unwrap();
    fs::rename(place.dir(), place.root.path().join("away")).unwrap();
    fs::rename(&other, place.dir()).unwrap();
    followed.until_problem("in which no manifest can be read");
    followed.pass_settle_time();
    assert_eq!(names(&followed.store), ["one"]);
    drop(followed);
    // The same over a restart.
    let mut followed = place.follow();
    followed.until_problem("in which no manifest can be read");
    followed.pass_settle_time();
    assert_eq!(names(&followed.store), ["one"]);
    place.write("q.yaml", "{apiVersion: v1, kind: List, items: []}");
    followed.until_in_force(&[]);
    followed.until_no_problem();
}

#[test]
fn a_fifo_or_a_directory_holds_up_no_other_file() {
    let place = Place::new();
    mkfifo(&place.path("f.yaml"), Mode::S_IRWXU).unwrap();
    fs::create_dir(place.path("d.yaml")).unwrap();
    place.write("p.yaml", &policy("one"));
    let mut followed = place.follow();
    followed.until_synced();
    assert!(followed.has_problem("is a FIFO") && followed.has_problem("is a directory"));
    place.write("q.yaml", &policy("two"));
    followed.until_in_force(&["one", "two"]);
    // In the place of a file.
    fs::remove_file(place.path("q.yaml")).unwrap();
    mkfifo(&place.path("q.yaml"), Mode::S_IRWXU).unwrap();
    followed.until("q.yaml", |followed| {
        followed.has_problem(
            "q.yaml is a FIFO, not a regular file; the objects read from it before stay",
        )
    });
    assert_eq!(names(&followed.store), ["one", "two"]);
}

#[test]
fn a_start_with_a_broken_file_goes_on_from_the_last_good_objects() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    place.write("q.yaml", &policy("two"));
    place.write("r.yaml", &policy("three"));
    place.follow().until_synced();
    place.wait_for_last_good(3);
    place.write("p.yaml", "kind: [");
    place.write("q.yaml", "");
    fs::remove_file(place.path("r.yaml")).unwrap();
    let mut followed = place.follow();
    followed.until_synced();
    assert_eq!(names(&followed.store), ["one", "three", "two"]);
    assert!(followed.has_problem("q.yaml is empty"));
    followed.until_problem("p.yaml line 1");
    // Gone while no agent ran: it counts after the settle time.
    followed.until_in_force(&["one", "two"]);
    place.write("p.yaml", &policy("one"));
    place.write("q.yaml", &policy("two"));
    followed.until_no_problem();
    place.wait_for_last_good(2);
    drop(followed);
    // An empty directory, as before a file system is mounted.
    fs::remove_dir_all(place.dir()).unwrap();
    fs::create_dir(place.dir()).unwrap();
    let mut followed = place.follow();
    followed.until_synced();
    assert_eq!(names(&followed.store), ["one", "two"]);
    assert!(followed.has_problem("was replaced by an empty directory"));
    fs::remove_dir(place.dir()).unwrap();
    let mut followed = place.follow();
    followed.until_synced();
    assert_eq!(names(&followed.store), ["one", "two"]);
    assert!(followed.has_problem("can't be read"));
}

#[test]
fn a_version_that_is_rejected_leaves_the_former_in_force_over_a_restart() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    place.follow().until_synced();
    place.wait_for_last_good(1);
    place.write(
        "p.yaml",
        &policy("one").replace("podSelector: {}", "podSelector: {matchLabel: {}}"),
    );
    for _ in 0..2 {
        let mut followed = place.follow();
        followed.until_synced();
        let states: Vec<_> = followed.store.policies().map(|policy| policy.state).collect();
        assert_eq!(states, [podgate_policy::PolicyState::Outdated]);
    }
}

#[test]
fn what_is_said_of_a_file_that_can_not_be_read_names_the_remedy() {
    let place = Place::new();
    place.write("empty.yaml", "");
    symlink("nothing", place.path("link.yaml")).unwrap();
    place.write("was.yaml", &policy("one"));
    let mut followed = place.follow();
    followed.until_in_force(&["one"]);
    place.write("was.yaml", "");
    let reasons = [
        ("empty.yaml", "is empty; write objects into it, or remove it"),
        ("link.yaml", "is a link to nothing; create the file that it points to, or remove it"),
        ("was.yaml", "is empty; write its objects again, or remove it to remove them"),
    ];
    for (name, reason) in reasons {
        followed.until_problem(&format!("{name} {reason}"));
        // `podgate policy list` shows these.
        let is_told = followed
            .store
            .rejections()
            .any(|rejection| rejection.reason == reason && rejection.to_string().contains(name));
        assert!(is_told, "{name}: {:?}", followed.store.rejections().collect::<Vec<_>>());
    }
}

#[test]
fn a_start_with_a_broken_file_that_was_never_good_waits() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    place.write("q.yaml", "kind: [");
    symlink("nothing", place.path("r.yaml")).unwrap();
    let large = fs::File::create(place.path("s.yaml")).unwrap();
    large.set_len(manifest::FILE_MAX + 1).unwrap();
    let mut followed = place.follow();
    for problem in ["q.yaml line 1", "r.yaml is a link to nothing", "s.yaml is larger than"] {
        followed.until_problem(problem);
    }
    assert!(!followed.manifests.status().synced);
    fs::remove_file(place.path("r.yaml")).unwrap();
    fs::remove_file(place.path("s.yaml")).unwrap();
    place.write("q.yaml", &policy("two"));
    followed.until_synced();
    assert_eq!(names(&followed.store), ["one", "two"]);
    drop(followed);
    // No directory at all, and no last good objects.
    let nowhere = Place::new();
    fs::remove_dir(nowhere.dir()).unwrap();
    let mut followed = nowhere.follow();
    followed.until_problem("can't be read: No such file");
    assert!(!followed.manifests.status().synced);
    fs::create_dir(nowhere.dir()).unwrap();
    followed.until_synced();
}

#[test]
fn a_start_waits_for_an_empty_file_of_which_nothing_is_known() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    place.write("q.yaml", "");
    let mut followed = place.follow();
    followed.until_problem(
        "q.yaml is empty; write objects into it, or remove it; pods stay cut off until it can be \
         read or is removed",
    );
    assert!(!followed.manifests.status().synced);
    place.write("q.yaml", "# no policies yet\n");
    followed.until_synced();
    followed.until_no_problem();
}

#[test]
fn a_start_with_damaged_last_good_objects_waits_for_files_that_lost_theirs() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    place.follow().until_synced();
    place.wait_for_last_good(1);
    for entry in fs::read_dir(place.state().join(LAST_GOOD)).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("podgate-last-good 2", "podgate-last-good 3", 1)).unwrap();
    }
    place.write("p.yaml", "# all gone\n");
    let mut followed = place.follow();
    followed.until_problem("saved objects can't be used");
    followed.until_problem("p.yaml is empty");
    assert!(!followed.manifests.status().synced);
    place.write("p.yaml", &policy("two"));
    followed.until_synced();
    followed.until_no_problem();
    assert_eq!(names(&followed.store), ["two"]);
}

#[test]
fn more_files_than_can_be_read_are_told_of_and_a_start_waits() {
    let place = Place::new();
    let max = manifest::FILES_MAX;
    place.write("z.yaml", &policy("one"));
    for number in 0..max - 1 {
        place.write(&format!("{number:05}.yaml"), "#");
    }
    let mut followed = place.follow();
    followed.until_synced();
    // What was read already stays; the new file is the one too many.
    place.write("a.yaml", &policy("two"));
    followed.until_problem("has 1 files more than the 10000 that are read: ");
    assert!(followed.has_problem("a.yaml"));
    assert_eq!(names(&followed.store), ["one"]);
    drop(followed);
    // A start of which nothing is known.
    let place = Place { state: "other-state", ..place };
    let mut followed = place.follow();
    followed.until_problem("has 1 files more");
    assert!(!followed.manifests.status().synced);
    fs::remove_file(place.path("00000.yaml")).unwrap();
    followed.until_synced();
}

#[test]
fn a_directory_with_too_many_bytes_keeps_its_objects_and_a_start_waits() {
    let place = Place::new();
    let bytes_max = 3 * policy("one").len() as u64;
    place.write("p.yaml", &policy("one"));
    place.write("q.yaml", &policy("two"));
    let mut followed = place.follow_at_most(bytes_max);
    followed.until_synced();
    place.write("q.yaml", &(policy("two") + &policy("new") + &policy("few")));
    followed.until_problem("q.yaml is not read: with it, the files of the directory have more");
    assert_eq!(names(&followed.store), ["one", "two"]);
    // It is read once another one has become smaller.
    place.write("p.yaml", "");
    fs::remove_file(place.path("p.yaml")).unwrap();
    followed.until_in_force(&["few", "new", "two"]);
    followed.until_no_problem();
    drop(followed);
    // A start of which nothing is known.
    place.write("r.yaml", &policy("one"));
    let place = Place { state: "other-state", ..place };
    let mut followed = place.follow_at_most(bytes_max);
    followed.until_problem("have more than");
    assert!(!followed.manifests.status().synced);
    fs::remove_file(place.path("q.yaml")).unwrap();
    followed.until_in_force(&["one"]);
    followed.until_synced();
}

/// `kubectl get -o yaml` writes such a list when the API server has no objects.
#[test]
fn a_list_without_items_in_a_file_that_held_objects_deletes_them_after_the_settle_time() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    let mut followed = place.follow();
    followed.until_synced();
    place.write("p.yaml", "{apiVersion: v1, kind: List, items: []}\n");
    followed.until_in_force(&[]);
    followed.until_no_problem();
    assert_eq!(followed.seen, BTreeSet::from([vec!["one".to_owned()], Vec::new()]));
    assert_eq!(followed.store.rejections().count(), 0);
}

#[test]
fn a_rescan_reads_everything_and_the_state_directory_is_made_again() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    let mut followed = place.follow();
    followed.until_synced();
    place.wait_for_last_good(1);
    fs::remove_dir_all(place.state()).unwrap();
    place.wait_for_last_good(1);
    fs::remove_dir_all(place.state()).unwrap();
    fs::write(place.state(), "no directory").unwrap();
    place.write("q.yaml", &policy("two"));
    followed.until_problem("last good objects");
    followed.manifests.reload();
    fs::remove_file(place.state()).unwrap();
    followed.until_no_problem();
    place.wait_for_last_good(2);
}

#[test]
fn one_file_of_the_last_good_objects_that_is_removed_is_written_again() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    place.write("q.yaml", &policy("two"));
    place.follow().until_synced();
    let mut followed = place.follow();
    followed.until_synced();
    place.wait_for_last_good(2);
    let saved = fs::read_dir(place.state().join(LAST_GOOD)).unwrap();
    fs::remove_file(saved.map(|entry| entry.unwrap().path()).min().unwrap()).unwrap();
    place.wait_for_last_good(2);
}

#[test]
fn a_manifest_that_can_not_be_read_after_its_saved_objects_were_removed_counts_as_unsaved() {
    let place = Place::new();
    place.write("p.yaml", &policy("one"));
    place.write("q.yaml", &policy("two"));
    let mut followed = place.follow();
    followed.until_synced();
    place.wait_for_last_good(2);
    let lost = "last good objects of p.yaml are not on disk";
    for broken in ["", "kind: ["] {
        place.write("p.yaml", broken);
        followed.until_problem("p.yaml");
        fs::remove_dir_all(place.state()).unwrap();
        place.wait_for_last_good(1);
        followed.until_problem(lost);
        followed.until("unsaved", |followed| followed.manifests.status().unsaved == 1);
        assert_eq!(names(&followed.store), ["one", "two"]);
        place.write("p.yaml", &policy("one"));
        followed.until_no_problem();
        followed.until("saved", |followed| followed.manifests.status().unsaved == 0);
        place.wait_for_last_good(2);
    }
    // Nothing is left to be saved of one that is removed.
    place.write("p.yaml", "");
    followed.until_problem("p.yaml");
    fs::remove_dir_all(place.state()).unwrap();
    followed.until_problem(lost);
    fs::remove_file(place.path("p.yaml")).unwrap();
    followed.until_no_problem();
    followed.until("saved", |followed| followed.manifests.status().unsaved == 0);
}
