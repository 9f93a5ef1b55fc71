//! The state machine of a manifest file, on a clock of the tests.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SETTLE: Duration = Duration::from_secs(3);

type State = FileState<Vec<u128>>;

fn content(len: u64, inode: u64, objects: &[u128]) -> FileObservation<Vec<u128>> {
    let contents = u128::from(len * 1000 + inode);
    let digest = objects.iter().fold(contents, |all, object| all * 31 + object + 1);
    FileObservation::Content(Content {
        stamp: Stamp { digest, len, inode: (1, inode) },
        objects: objects.to_vec(),
        is_blank: len == 0,
        unknown_part: None,
        documents: objects.to_vec(),
    })
}

fn broken(objects: &[u128]) -> FileObservation<Vec<u128>> {
    let FileObservation::Content(content) = content(150, 1, objects) else { unreachable!() };
    FileObservation::Content(Content {
        unknown_part: Some(UnknownPart::Broken("no YAML".into())),
        ..content
    })
}

fn unreadable() -> FileObservation<Vec<u128>> {
    FileObservation::Unreadable { reason: "can't be read".into(), is_manifest: true }
}

/// A file that holds 1, 2 and 3 in 100 bytes.
fn whole(now: Instant) -> State {
    let mut state = State::new();
    let action = state.observe(now, SETTLE, content(100, 1, &[1, 2, 3]));
    assert_eq!(action, Action::Apply(vec![1, 2, 3], Missing::Delete));
    state
}

#[test]
fn what_a_file_adds_counts_at_once_and_what_it_lacks_when_it_was_still() {
    let now = Instant::now();
    let mut state = whole(now);
    let action = state.observe(now, SETTLE, content(120, 1, &[1, 2, 4]));
    assert_eq!(action, Action::Apply(vec![1, 2, 4], Missing::Keep));
    assert_eq!(state.in_force(), [1, 2, 3, 4]);
    assert_eq!(state.tick(now + SETTLE / 2), Action::Nothing);
    // The same content again, as after a touch(1), does not restart the settle time.
    assert_eq!(
        state.observe(now + SETTLE / 2, SETTLE, content(120, 1, &[1, 2, 4])),
        Action::Nothing
    );
    assert_eq!(state.tick(now + SETTLE), Action::DeleteMissing);
    assert_eq!(state.in_force(), [1, 2, 4]);
    assert_eq!(state.problem(), None);
}

#[test]
fn a_file_cut_in_place_counts_when_it_was_still_and_a_replaced_one_at_once() {
    let now = Instant::now();
    let mut state = whole(now);
    assert_eq!(state.observe(now, SETTLE, content(60, 1, &[1, 2, 3])), Action::Nothing);
    assert!(state.problem().unwrap().contains("cut short"));
    let action = state.tick(now + SETTLE);
    assert_eq!(action, Action::Apply(vec![1, 2, 3], Missing::Delete));
    let mut state = whole(now);
    let action = state.observe(now, SETTLE, content(60, 2, &[1, 2, 3]));
    assert_eq!(action, Action::Apply(vec![1, 2, 3], Missing::Delete));
}

#[test]
fn an_empty_or_unreadable_file_keeps_its_objects_for_good() {
    let now = Instant::now();
    let later = now + SETTLE * 1000;
    for seen in [content(0, 1, &[]), content(0, 2, &[]), unreadable(), broken(&[1])] {
        let mut state = whole(now);
        state.observe(now, SETTLE, seen);
        assert_eq!((state.due(), state.tick(later)), (None, Action::Nothing));
        assert_eq!(state.in_force(), [1, 2, 3]);
        assert!(state.problem().unwrap().contains("stay in force"), "{:?}", state.problem());
        assert!(!state.hides_objects());
        state.observe(later, SETTLE, content(100, 1, &[1, 2, 3]));
        assert_eq!(state.problem(), None);
    }
}

#[test]
fn a_removed_file_counts_when_it_was_gone_for_the_settle_time() {
    let now = Instant::now();
    let mut state = whole(now);
    assert_eq!(state.observe(now, SETTLE, FileObservation::Gone), Action::Nothing);
    assert_eq!(state.observe(now + SETTLE / 2, SETTLE, FileObservation::Gone), Action::Nothing);
    // Created again in time, it is a change.
    let action = state.observe(now + SETTLE / 2, SETTLE, content(10, 2, &[1, 2, 3]));
    assert_eq!(action, Action::Apply(vec![1, 2, 3], Missing::Delete));
    assert_eq!(state.tick(now + SETTLE * 2), Action::Nothing);
    assert_eq!(state.observe(now, SETTLE, FileObservation::Gone), Action::Nothing);
    assert_eq!(state.tick(now + SETTLE), Action::Remove);
}

#[test]
fn a_file_that_was_never_whole_hides_objects() {
    let now = Instant::now();
    for (seen, hides) in [(unreadable(), true), (broken(&[1]), true), (content(0, 1, &[]), true)] {
        let mut state = State::new();
        state.observe(now, SETTLE, seen);
        assert_eq!(state.hides_objects(), hides);
        state.observe(now, SETTLE, content(100, 1, &[1]));
        assert!(!state.hides_objects());
    }
    let mut state = State::new();
    let fifo = FileObservation::Unreadable { reason: "is a FIFO".into(), is_manifest: false };
    state.observe(now, SETTLE, fifo);
    assert!(!state.hides_objects() && state.problem().is_some());
}

#[test]
fn a_file_without_objects_hides_none_unless_it_may_have_lost_some() {
    let now = Instant::now();
    let comment = || {
        let FileObservation::Content(content) = content(20, 1, &[]) else { unreachable!() };
        FileObservation::Content(Content { is_blank: true, ..content })
    };
    let fifo = || FileObservation::Unreadable { reason: "is a FIFO".into(), is_manifest: false };
    for seen in [comment, fifo] {
        for (mut state, hides) in [(State::new(), false), (State::with_lost_objects(), true)] {
            state.observe(now, SETTLE, seen());
            assert_eq!(state.hides_objects(), hides);
            state.observe(now, SETTLE, content(100, 1, &[1]));
            assert!(!state.hides_objects());
        }
    }
}

#[test]
fn a_start_goes_on_from_the_last_good_state() {
    let now = Instant::now();
    let stamp = Stamp { digest: 7, len: 100, inode: (1, 1) };
    let start = || State::from_last_good(stamp, vec![1, 2]);
    for seen in [FileObservation::Gone, unreadable(), content(0, 1, &[]), content(40, 1, &[1])] {
        let mut state = start();
        assert!(state.needs_last_good());
        assert_eq!(state.observe(now, SETTLE, seen), Action::ApplyLastGood);
        assert_eq!(state.in_force(), [1, 2]);
        assert!(!state.hides_objects() && !state.needs_last_good());
    }
    let mut state = start();
    let action = state.observe(now, SETTLE, content(100, 9, &[1]));
    assert_eq!(action, Action::Apply(vec![1], Missing::Keep));
    assert_eq!(state.in_force(), [1, 2]);
}

#[derive(Clone, Debug)]
enum Step {
    See(FileObservation<Vec<u128>>),
    Wait(Duration),
}

fn step() -> impl Strategy<Value = Step> {
    let objects = proptest::collection::btree_set(0..4u128, 0..4)
        .prop_map(|set| set.into_iter().collect::<Vec<_>>());
    let content = (0..4u64, 0..3u64, objects.clone()).prop_map(|(len, inode, objects)| {
        let objects = if len == 0 { Vec::new() } else { objects };
        content(len, inode, &objects)
    });
    prop_oneof![
        4 => content.prop_map(Step::See),
        1 => objects.prop_map(|objects| Step::See(broken(&objects))),
        1 => Just(Step::See(FileObservation::Gone)),
        1 => Just(Step::See(unreadable())),
        4 => (0..5000u64).prop_map(|ms| Step::Wait(Duration::from_millis(ms))),
    ]
}

/// The objects in force, as the store would have them.
fn act(store: &mut BTreeSet<u128>, action: Action<Vec<u128>>, state: &State) {
    match action {
        Action::Nothing | Action::ApplyLastGood => {}
        Action::Apply(objects, Missing::Keep) => store.extend(objects),
        Action::Apply(objects, Missing::Delete) => *store = objects.into_iter().collect(),
        Action::DeleteMissing => store.retain(|object| state.in_force().contains(object)),
        Action::Remove => store.clear(),
    }
}

proptest! {
    /// An object is deleted only after the file, readable and not empty, lacked it or was gone for
    /// the whole settle time; and what a whole file contains is in force once it was unchanged for
    /// that long.
    #[test]
    fn objects_leave_only_after_the_settle_time(steps in vec(step(), 1..40)) {
        let mut now = Instant::now();
        let mut state = State::new();
        let mut store: BTreeSet<u128> = BTreeSet::new();
        let mut lacking: BTreeMap<u128, Instant> = BTreeMap::new();
        let mut last = None;
        for step in steps {
            let before = store.clone();
            let action = match step {
                Step::Wait(time) => {
                    now += time;
                    state.tick(now)
                }
                Step::See(seen) => {
                    let lacks = |object: &u128| match &seen {
                        FileObservation::Gone => true,
                        FileObservation::Unreadable { .. } => false,
                        FileObservation::Content(content) => {
                            let whole = content.unknown_part.is_none() && !content.is_blank;
                            whole && !content.objects.contains(object)
                        }
                    };
                    for object in 0..4 {
                        if lacks(&object) {
                            lacking.entry(object).or_insert(now);
                        } else {
                            lacking.remove(&object);
                        }
                    }
                    last = Some((now, seen.clone()));
                    state.observe(now, SETTLE, seen)
                }
            };
            act(&mut store, action, &state);
            prop_assert_eq!(&store, &state.in_force().iter().copied().collect());
            for object in before.difference(&store) {
                let since = lacking.get(object);
                prop_assert!(since.is_some_and(|since| now - *since >= SETTLE), "{object}");
            }
        }
        if let Some((_, FileObservation::Content(content))) = last {
            act(&mut store, state.tick(now + SETTLE), &state);
            let is_subset = content.objects.iter().all(|object| store.contains(object));
            prop_assert!(is_subset);
            if content.unknown_part.is_none() && !content.is_blank {
                prop_assert_eq!(store, content.objects.into_iter().collect());
            }
        }
    }
}
