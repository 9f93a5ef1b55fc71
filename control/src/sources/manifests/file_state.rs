//! Which objects of a file are in force, given the file's observed contents and their times.
//!
//! Policies isolate, so a policy that is missing for a moment allows traffic for that moment. So
//! added and changed objects apply at once, and missing objects are deleted only when the file was
//! unchanged, or gone, for the settle time. The objects of a file that is empty or unreadable stay
//! until it can be read, or is removed; an empty file of which nothing is known may have lost some.
//! Time is an argument.

use std::time::{Duration, Instant};

use podgate_policy::Missing;

/// What distinguishes contents of a file, and where it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp {
    /// Hash of the content.
    pub(crate) digest: u128,
    /// Bytes.
    pub(crate) len: u64,
    /// Device and inode: another one, if the file was replaced and not written in place.
    pub(crate) inode: (u64, u64),
}

/// An observation of a file. `D` is its content.
#[derive(Clone, Debug)]
pub(super) enum FileObservation<D> {
    /// There is no such name.
    Gone,
    /// It can't be read.
    Unreadable {
        reason: String,
        /// Whether this may be a manifest at all: a FIFO can't.
        is_manifest: bool,
    },
    /// It could be read.
    Content(Content<D>),
}

/// A content.
#[derive(Clone, Debug)]
pub(super) struct Content<D> {
    pub(super) stamp: Stamp,
    /// Digests of the names of the objects in it, sorted.
    pub(super) objects: Vec<u128>,
    /// Neither an object nor anything else is in it.
    pub(super) is_blank: bool,
    /// Why some part of it could not be recognised as an object.
    pub(super) unknown_part: Option<UnknownPart>,
    pub(super) documents: D,
}

/// A part of a content that can't be recognised as an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum UnknownPart {
    /// The part can't be read as YAML or JSON.
    Broken(String),
    /// It can be read, and is rejected for its kind or its names.
    Rejected(String),
}

/// What is to be done with the objects in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action<D> {
    Nothing,
    /// Take what is in the documents.
    Apply(D, Missing),
    /// Take what was read before the start: nothing better is known.
    ApplyLastGood,
    /// Delete what the present content lacks.
    DeleteMissing,
    /// Delete all objects, and the file's state.
    Remove,
}

/// One file.
#[derive(Debug)]
pub(super) struct FileState<D> {
    /// Digests of the names of the objects in force, sorted.
    in_force: Vec<u128>,
    /// The last content that was whole and counted.
    accepted: Option<Stamp>,
    /// Whether this file was whole at any time, in this run or as far as the last good state knows.
    was_whole: bool,
    /// Whether it may have held objects before the start that are no longer known.
    has_lost_objects: bool,
    /// Whether the objects in force were passed on in this run.
    applied: bool,
    /// Digest of the content that was seen last, if one was.
    seen: Option<u128>,
    phase: Phase<D>,
}

#[derive(Debug)]
enum Phase<D> {
    /// What is in force is what the file says.
    Whole,
    /// It lacks objects, which stay in force until `due`; these are in it.
    Lacking { due: Instant, objects: Vec<u128> },
    /// It was cut short in place, and is not accepted until `due`.
    Shorter { due: Instant, content: Content<D> },
    /// It can't be read, or not all of it.
    Broken { reason: String, is_manifest: bool, unread: bool },
    /// There is no such name; the objects are deleted at `due`.
    Gone { due: Instant },
}

impl<D> FileState<D> {
    /// A file of which nothing is known.
    pub(super) const fn new() -> Self {
        Self {
            in_force: Vec::new(),
            accepted: None,
            was_whole: false,
            has_lost_objects: false,
            applied: true,
            seen: None,
            phase: Phase::Whole,
        }
    }

    /// A file that may have held objects when the agent stopped, which can't be read any more.
    pub(super) fn with_lost_objects() -> Self {
        Self { has_lost_objects: true, ..Self::new() }
    }

    /// A file that held these objects when the agent stopped; the digests are sorted.
    pub(super) fn from_last_good(stamp: Stamp, objects: Vec<u128>) -> Self {
        let known = Self { was_whole: true, accepted: Some(stamp), ..Self::new() };
        Self { applied: objects.is_empty(), in_force: objects, ..known }
    }

    /// Whether the objects of the last good state are still to be passed on.
    pub(super) const fn needs_last_good(&self) -> bool {
        !self.applied
    }

    /// Digests of the names of the objects in force, sorted.
    pub(super) fn in_force(&self) -> &[u128] {
        &self.in_force
    }

    /// The last content that was whole and counted.
    pub(super) const fn accepted(&self) -> Option<Stamp> {
        self.accepted
    }

    /// Digest of the content that was seen last; `None` if the file was not readable or was gone.
    pub(super) const fn seen(&self) -> Option<u128> {
        self.seen
    }

    /// What the file held can't be read any more.
    pub(super) fn forget_last_good(&mut self) {
        *self = Self::with_lost_objects();
    }

    /// Whether it was whole at any time.
    pub(super) const fn is_known(&self) -> bool {
        self.was_whole
    }

    /// Whether it can't be read, or not all of it.
    pub(super) const fn is_broken(&self) -> bool {
        matches!(self.phase, Phase::Broken { .. })
    }

    /// Whether it is there, and the whole of it was read.
    pub(super) const fn is_read(&self) -> bool {
        self.seen.is_some() && !matches!(self.phase, Phase::Broken { .. } | Phase::Gone { .. })
    }

    /// Whether nothing of it can be read.
    pub(super) const fn is_unread(&self) -> bool {
        matches!(self.phase, Phase::Broken { unread: true, .. })
    }

    /// Why it can't be read.
    pub(super) fn reason(&self) -> Option<&str> {
        match &self.phase {
            Phase::Broken { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// Whether what is in force is what the file says.
    pub(super) const fn is_whole(&self) -> bool {
        matches!(self.phase, Phase::Whole)
    }

    /// Applies an observation of time `now`.
    pub(super) fn observe(
        &mut self,
        now: Instant,
        settle: Duration,
        seen: FileObservation<D>,
    ) -> Action<D> {
        let digest = match &seen {
            FileObservation::Content(content) => Some(content.stamp.digest),
            FileObservation::Gone | FileObservation::Unreadable { .. } => None,
        };
        let again = digest.is_some() && digest == self.seen && self.applied;
        self.seen = digest;
        match seen {
            // The content is unchanged, so what was decided on it holds.
            FileObservation::Content(_) if again => Action::Nothing,
            FileObservation::Content(content) if self.is_emptied(&content) => {
                let reason = match self.in_force.is_empty() {
                    true => "is empty; write objects into it, or remove it",
                    false => "is empty; write its objects again, or remove it to remove them",
                };
                let reason = reason.to_owned();
                self.phase = Phase::Broken { reason, is_manifest: true, unread: true };
                self.apply_last_good()
            }
            FileObservation::Content(content) if self.is_cut(&content) => {
                self.phase = Phase::Shorter { due: now + settle, content };
                self.apply_last_good()
            }
            FileObservation::Content(content) => self.accept(Some(now + settle), content),
            FileObservation::Unreadable { reason, is_manifest } => {
                let is_manifest = is_manifest || self.has_lost_objects;
                self.phase = Phase::Broken { reason, is_manifest, unread: true };
                self.apply_last_good()
            }
            FileObservation::Gone if self.in_force.is_empty() => Action::Remove,
            FileObservation::Gone => {
                if !matches!(self.phase, Phase::Gone { .. }) {
                    self.phase = Phase::Gone { due: now + settle };
                }
                self.apply_last_good()
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(super) const fn due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Lacking { due, .. } | Phase::Shorter { due, .. } | Phase::Gone { due } => {
                Some(*due)
            }
            Phase::Whole | Phase::Broken { .. } => None,
        }
    }

    /// Applies what is due at `now`.
    pub(super) fn tick(&mut self, now: Instant) -> Action<D> {
        if self.due().is_none_or(|due| now < due) {
            return Action::Nothing;
        }
        match std::mem::replace(&mut self.phase, Phase::Whole) {
            Phase::Lacking { objects, .. } => {
                self.in_force = objects;
                Action::DeleteMissing
            }
            Phase::Shorter { content, .. } => self.accept(None, content),
            Phase::Gone { .. } => {
                *self = Self::new();
                Action::Remove
            }
            phase @ (Phase::Whole | Phase::Broken { .. }) => {
                self.phase = phase;
                Action::Nothing
            }
        }
    }

    /// Restarts the settle time, because the observation may be an error of the directory.
    pub(super) fn postpone(&mut self, until: Instant) {
        match &mut self.phase {
            Phase::Lacking { due, .. } | Phase::Shorter { due, .. } | Phase::Gone { due } => {
                *due = until;
            }
            Phase::Whole | Phase::Broken { .. } => {}
        }
    }

    /// Whether a file that was never whole may hold objects that are not known.
    pub(super) const fn hides_objects(&self) -> bool {
        matches!(self.phase, Phase::Broken { is_manifest: true, .. }) && !self.was_whole
    }

    /// What is wrong with the file, for people.
    pub(super) fn problem(&self) -> Option<String> {
        let kept = self.in_force.len();
        let stays = match kept {
            0 => "",
            _ => "; the objects read from it before stay in force",
        };
        match &self.phase {
            Phase::Whole => None,
            Phase::Broken { reason, .. } => Some(format!("{reason}{stays}")),
            Phase::Lacking { .. } => Some(format!("lacks objects that it held{stays} for now")),
            Phase::Shorter { .. } => Some(format!("was cut short{stays} for now")),
            Phase::Gone { .. } => Some(format!("is gone{stays} for now")),
        }
    }

    /// Whether nothing is in the content though the file held objects, or may have: a program that
    /// writes a file truncates it first, and a crash or a full disk leaves it like that.
    fn is_emptied(&self, content: &Content<D>) -> bool {
        let is_doubtful = !self.was_whole && (content.stamp.len == 0 || self.has_lost_objects);
        content.is_blank && (is_doubtful || !self.in_force.is_empty())
    }

    /// Whether the content was written over a longer one in place: then it may be half-written.
    fn is_cut(&self, content: &Content<D>) -> bool {
        let stamp = content.stamp;
        let shorter = |was: Stamp| was.inode == stamp.inode && stamp.len < was.len;
        self.accepted.is_some_and(shorter) && !self.in_force.is_empty()
    }

    fn apply_last_good(&mut self) -> Action<D> {
        if std::mem::replace(&mut self.applied, true) {
            Action::Nothing
        } else {
            Action::ApplyLastGood
        }
    }

    /// Accepts a content. Objects that it lacks stay until `due`; without it, they are deleted now.
    fn accept(&mut self, due: Option<Instant>, content: Content<D>) -> Action<D> {
        self.applied = true;
        let Content { stamp, objects, unknown_part, documents, .. } = content;
        let union = union(&self.in_force, &objects);
        if let Some(unknown_part) = unknown_part {
            self.in_force = union;
            let (reason, is_manifest) = match unknown_part {
                UnknownPart::Broken(reason) => (reason, true),
                UnknownPart::Rejected(reason) => (reason, false),
            };
            self.phase = Phase::Broken { reason, is_manifest, unread: false };
            return Action::Apply(documents, Missing::Keep);
        }
        (self.was_whole, self.has_lost_objects) = (true, false);
        self.accepted = Some(stamp);
        match due {
            Some(due) if union.len() > objects.len() => {
                self.in_force = union;
                self.phase = Phase::Lacking { due, objects };
                Action::Apply(documents, Missing::Keep)
            }
            _ => {
                self.in_force = objects;
                self.phase = Phase::Whole;
                Action::Apply(documents, Missing::Delete)
            }
        }
    }
}

/// Everything in two sorted lists, sorted.
fn union(one: &[u128], other: &[u128]) -> Vec<u128> {
    let mut all = [one, other].concat();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
#[path = "file_state_tests.rs"]
mod tests;
