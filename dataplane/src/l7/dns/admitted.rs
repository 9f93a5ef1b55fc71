//! Answers whose addresses the tables in use are known to admit.
//!
//! An answer that was released under these tables needs no other release while they are in use: a
//! change of the addresses of names is a publication, which has an epoch of its own. So clients
//! that ask for the same names again and again don't wait for the control thread. It has to see an
//! answer once in [`FRESH_MS`] nevertheless, because it extends the TTL of the addresses.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};

use podgate_tables::ids::{Epoch, LinkId};
use podgate_tables::time::Nanos;

use super::Answered;

/// Time for which an answer counts as admitted, milliseconds. An address whose TTL ends meanwhile
/// stays in the tables for minutes (`docs/decisions/0046-dns-names.md`).
pub const FRESH_MS: u64 = 1_000;

/// Answers that are remembered, at most: 96 KiB. An answer whose slot is occupied replaces the one
/// in it.
const SLOTS: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: AnswerKey,
    epoch: Epoch,
    since: Nanos,
}

/// Keyed hash of an answer's name and addresses, and of the link of the client: the control thread
/// has to know who asked. Without the key of the hash, a server can't find another answer with the
/// same hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnswerKey(u64);

/// The answers of one worker.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Allocated with the first answer.
    slots: Vec<Option<Slot>>,
    hasher: RandomState,
}

impl Admitted {
    /// The key of an answer to a client of link `client`.
    #[must_use]
    pub fn key(&self, answered: &Answered<'_>, client: LinkId) -> AnswerKey {
        let mut hasher = self.hasher.build_hasher();
        client.hash(&mut hasher);
        answered.name().hash(&mut hasher);
        answered.addresses().for_each(|(address, _)| address.hash(&mut hasher));
        AnswerKey(hasher.finish())
    }

    /// Whether the tables of this epoch admit the addresses of an answer, and the control thread
    /// has seen it lately.
    #[must_use]
    pub fn has(&self, key: AnswerKey, epoch: Epoch, now: Nanos) -> bool {
        self.slots.get(slot_of(key)).copied().flatten().is_some_and(|slot| {
            (slot.key, slot.epoch) == (key, epoch) && now < slot.since.plus_millis(FRESH_MS)
        })
    }

    /// An answer that the control thread was given at `since` is forwarded under the tables of this
    /// epoch.
    pub fn add(&mut self, key: AnswerKey, epoch: Epoch, since: Nanos) {
        if self.slots.is_empty() {
            self.slots = vec![None; SLOTS];
        }
        self.slots[slot_of(key)] = Some(Slot { key, epoch, since });
    }
}

fn slot_of(key: AnswerKey) -> usize {
    key.0 as usize % SLOTS
}
