//! The change log: what changed, and when. Each reader has a cursor of its own, so that several
//! compilers can follow one store, each at its own pace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::PodName;
use crate::directory::Name;
use crate::key::ObjectKey;

/// The log keeps at least this many changes, whatever the size of the store.
pub(super) const LOG_MIN: usize = 4096;

/// A position in the log of one store. The default is before the first change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cursor(u64);

/// One change of the store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Change {
    Pod(PodName),
    /// The labels of a namespace.
    Namespace(Arc<str>),
    Policy(Arc<ObjectKey>),
    /// A service, or an EndpointSlice of it.
    Service(Name),
    /// The addresses of a DNS name.
    DomainName(Arc<str>),
    /// Addresses of nodes, or of this one.
    Nodes,
    /// The enforcement mode.
    Mode,
}

/// What changed since a cursor. Sorted, so that the same changes are followed in the same order.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) pods: BTreeSet<PodName>,
    /// Namespaces whose labels changed.
    pub(crate) namespaces: BTreeSet<Arc<str>>,
    pub(crate) policies: BTreeSet<Arc<ObjectKey>>,
    /// Services that changed, or that have an EndpointSlice that did.
    pub(crate) services: BTreeSet<Name>,
    /// DNS names whose addresses changed; they have a log of their own.
    pub(crate) domain_names: BTreeSet<Arc<str>>,
    /// Addresses of nodes, or of this one.
    pub(crate) nodes: bool,
    /// The enforcement mode.
    pub(crate) mode: bool,
}

impl Changes {
    fn add(&mut self, change: &Change) {
        match change {
            Change::Pod(name) => drop(self.pods.insert(name.clone())),
            Change::Namespace(name) => drop(self.namespaces.insert(Arc::clone(name))),
            Change::Policy(key) => drop(self.policies.insert(Arc::clone(key))),
            Change::Service(name) => drop(self.services.insert(name.clone())),
            Change::DomainName(name) => drop(self.domain_names.insert(Arc::clone(name))),
            Change::Nodes => self.nodes = true,
            Change::Mode => self.mode = true,
        }
    }
}

/// A bounded log. Of the changes of one thing it keeps only the last.
#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    /// By sequence number.
    changes: BTreeMap<u64, Change>,
    /// Sequence number of the last change of each thing.
    last: HashMap<Change, u64>,
    /// Sequence number of the next change.
    next: u64,
    /// No change with this sequence number or a later one was evicted.
    complete_from: u64,
}

impl ChangeLog {
    /// Adds a change, and evicts the oldest ones until at most `limit` are left.
    pub(super) fn add(&mut self, change: Change, limit: usize) {
        let number = self.next;
        self.next += 1;
        if let Some(former) = self.last.insert(change.clone(), number) {
            self.changes.remove(&former);
        }
        self.changes.insert(number, change);
        while self.changes.len() > limit {
            let Some((oldest, change)) = self.changes.pop_first() else { return };
            self.last.remove(&change);
            self.complete_from = oldest + 1;
        }
    }

    /// The position after the last change.
    pub(super) const fn end(&self) -> Cursor {
        Cursor(self.next)
    }

    /// What changed since `cursor`; `None` if some of it was evicted.
    pub(super) fn since(&self, cursor: Cursor) -> Option<Changes> {
        if cursor.0 < self.complete_from {
            return None;
        }
        let mut changes = Changes::default();
        for change in self.changes.range(cursor.0..).map(|(_, change)| change) {
            changes.add(change);
        }
        Some(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Change {
        Change::DomainName(name.into())
    }

    fn since(log: &ChangeLog, cursor: Cursor) -> Option<Vec<String>> {
        let names = log.since(cursor)?.domain_names;
        Some(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn each_cursor_sees_what_changed_after_it() {
        let mut log = ChangeLog::default();
        let start = Cursor::default();
        assert_eq!(since(&log, start).unwrap(), [""; 0]);
        log.add(name("a"), 8);
        let after_a = log.end();
        log.add(name("b"), 8);
        log.add(name("a"), 8);
        log.add(name("c"), 8);
        assert_eq!(since(&log, start).unwrap(), ["a", "b", "c"]);
        assert_eq!(since(&log, after_a).unwrap(), ["a", "b", "c"]);
        assert_eq!(since(&log, log.end()).unwrap(), [""; 0]);
    }

    #[test]
    fn a_cursor_older_than_the_log_is_rejected() {
        let mut log = ChangeLog::default();
        let start = log.end();
        log.add(name("a"), 2);
        let after_a = log.end();
        // Repeated changes of one thing take one place.
        for _ in 0..9 {
            log.add(name("b"), 2);
        }
        assert_eq!(since(&log, start).unwrap(), ["a", "b"]);
        log.add(name("c"), 2);
        assert_eq!(since(&log, start), None);
        assert_eq!(since(&log, after_a).unwrap(), ["b", "c"]);
        assert_eq!((log.changes.len(), log.last.len()), (2, 2));
    }
}
