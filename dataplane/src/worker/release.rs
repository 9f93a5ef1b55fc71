//! When the DNS answers that the control thread has released may be forwarded.
//!
//! The client may open a connection through another worker, and that worker may be in the middle of
//! a round whose tables are older than those that admit the addresses. So an answer waits until
//! each worker that was in a round at the time of the release has finished it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::l7::dns::learned::AnswerRing;

/// A worker's rounds: an odd number while it is in one.
#[derive(Debug, Default)]
pub(super) struct Rounds(AtomicU64);

impl Rounds {
    /// A round begins; the tables that it uses must be loaded after this.
    pub(super) fn begin(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        // Orders this before the load of the tables. With the fence in `Releases::advance`, either
        // the releasing thread sees the round, or the round uses the tables that were published
        // before.
        fence(Ordering::SeqCst);
    }

    /// A number that grows with each round.
    pub(super) fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// A round ends.
    pub(super) fn end(&self) {
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Release);
    }
}

/// The release that a worker makes effective.
#[derive(Debug)]
pub(super) struct Releases {
    ring: Arc<AnswerRing>,
    ticket: u64,
    /// Other workers that have not finished their round yet, each with the number of the round.
    busy: Vec<(usize, u64)>,
}

impl Releases {
    pub(super) fn new(ring: &Arc<AnswerRing>, workers: u16) -> Self {
        let busy = Vec::with_capacity(usize::from(workers));
        Self { ring: Arc::clone(ring), ticket: 0, busy }
    }

    /// Whether there is a release that is not effective yet.
    pub(super) fn is_pending(&self) -> bool {
        self.ring.released() > self.ring.in_force()
    }

    /// Makes a release effective if it can be. Returns whether it did.
    pub(super) fn advance<'r>(
        &mut self,
        rounds: &(impl Iterator<Item = &'r Rounds> + Clone),
    ) -> bool {
        if !self.is_pending() {
            return false;
        }
        let number = |rounds: &Rounds| rounds.0.load(Ordering::Acquire);
        if self.ticket == self.ring.in_force() {
            self.ticket = self.ring.released();
            fence(Ordering::SeqCst);
            let numbers = rounds.clone().map(number).enumerate();
            self.busy.extend(numbers.filter(|(_, number)| number % 2 == 1));
        }
        let finished = |(worker, round): &(usize, u64)| {
            rounds.clone().nth(*worker).is_none_or(|rounds| number(rounds) != *round)
        };
        self.busy.retain(|busy| !finished(busy));
        if !self.busy.is_empty() {
            return false;
        }
        self.ring.set_in_force(self.ticket);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l7::dns::learned::Answers;

    #[test]
    fn a_release_waits_for_the_rounds_that_began_before_it() {
        let (answers, rounds) = (Answers::new(1, 2), [Rounds::default(), Rounds::default()]);
        let ring = answers.ring(0);
        let mut releases = Releases::new(ring, 3);
        assert!(!releases.advance(&rounds.iter()) && !releases.is_pending());
        rounds[1].begin();
        answers.release(0, 4);
        assert!(!releases.advance(&rounds.iter()) && releases.is_pending());
        rounds[0].begin();
        answers.release(0, 5);
        assert!(!releases.advance(&rounds.iter()));
        rounds[1].end();
        assert!(releases.advance(&rounds.iter()), "rounds that began later use newer tables");
        assert_eq!((ring.in_force(), releases.is_pending()), (4, true));
        rounds[1].begin();
        assert!(!releases.advance(&rounds.iter()));
        rounds.iter().for_each(Rounds::end);
        assert!(releases.advance(&rounds.iter()));
        assert_eq!((ring.in_force(), releases.is_pending()), (5, false));
    }
}
