//! A hashed timer wheel (Varghese and Lauck, 1987): however many timers there are, only those that
//! are due are visited.
//!
//! A timer is named by a small number, a slot. Setting one takes constant time and, once the slot
//! was used, no memory. A timer that is moved to a later time stays where it is and is
//! visited once too early; so extending a deadline with each packet costs only a comparison.

use podgate_tables::time::Nanos;

/// Resolution, a power of two: 2.1 ms.
const TICK: u64 = 1 << 21;
/// Lists of timers. Later deadlines than they span (2.1 s) are visited once a turn.
const LISTS: usize = 1024;

/// End of a list.
const NONE: u32 = u32::MAX;

/// A timer's place in its list.
#[derive(Clone, Copy, Debug)]
struct Timer {
    next: u32,
    previous: u32,
    /// The tick at which it is visited. [`IDLE`] while it is in no list.
    visit: u64,
}

/// Of a timer in no list.
const IDLE: u64 = u64::MAX;

impl Timer {
    const UNSET: Self = Self { next: NONE, previous: NONE, visit: IDLE };
}

/// Timers by slot.
#[derive(Debug)]
pub(super) struct TimerWheel {
    timers: Vec<Timer>,
    /// First timer of each list.
    heads: Box<[u32; LISTS]>,
    /// Which lists have timers.
    occupied: [u64; LISTS / 64],
    /// The next tick to visit.
    tick: u64,
    /// Lists and timers that were visited.
    #[cfg(test)]
    visits: u64,
}

impl TimerWheel {
    pub(super) fn new() -> Self {
        Self {
            timers: Vec::new(),
            heads: Box::new([NONE; LISTS]),
            occupied: [0; LISTS / 64],
            tick: 0,
            #[cfg(test)]
            visits: 0,
        }
    }

    /// Sets the timer of `slot` to `deadline`, unless it is visited before anyway.
    pub(super) fn set(&mut self, slot: u32, deadline: Nanos) {
        let at = slot as usize;
        if self.timers.len() <= at {
            self.timers.resize(at + 1, Timer::UNSET);
        }
        let last = self.tick + LISTS as u64 - 1;
        let visit = deadline.0.div_ceil(TICK).clamp(self.tick, last);
        let before = self.timers[at].visit;
        if before <= visit {
            return;
        }
        self.unset(slot);
        let list = visit as usize % LISTS;
        let next = std::mem::replace(&mut self.heads[list], slot);
        if next != NONE {
            self.timers[next as usize].previous = slot;
        }
        self.timers[at] = Timer { next, previous: NONE, visit };
        self.occupied[list / 64] |= 1 << (list % 64);
    }

    /// Unsets the timer of `slot`.
    pub(super) fn unset(&mut self, slot: u32) {
        let Some(timer) = self.timers.get_mut(slot as usize) else { return };
        let Timer { next, previous, visit } = std::mem::replace(timer, Timer::UNSET);
        if visit == IDLE {
            return;
        }
        let list = visit as usize % LISTS;
        if next != NONE {
            self.timers[next as usize].previous = previous;
        }
        if previous != NONE {
            self.timers[previous as usize].next = next;
            return;
        }
        self.heads[list] = next;
        if next == NONE {
            self.occupied[list / 64] &= !(1 << (list % 64));
        }
    }

    /// A slot whose timer is to be visited, which is unset; `None` if there is none until
    /// [`Self::next_visit`].
    pub(super) fn pop(&mut self, now: Nanos) -> Option<u32> {
        let tick = now.0 / TICK;
        while self.tick <= tick {
            #[cfg(test)]
            {
                self.visits += 1;
            }
            let head = self.heads[self.tick as usize % LISTS];
            if head != NONE {
                self.unset(head);
                return Some(head);
            }
            // After a long pause, searching the lists is as fast as going through the remaining
            // ticks.
            self.tick = match self.next_occupied() {
                Some(next) => next.min(tick + 1),
                None => tick + 1,
            };
        }
        None
    }

    /// When the next timer is to be visited; `None` if none is set.
    pub(super) fn next_visit(&self) -> Option<Nanos> {
        Some(Nanos(self.next_occupied()? * TICK))
    }

    /// The first tick from [`Self::tick`] on whose list has timers.
    fn next_occupied(&self) -> Option<u64> {
        let first = self.tick as usize % LISTS;
        let words = self.occupied.len();
        for turn in 0..=words {
            let index = (first / 64 + turn) % words;
            let mut word = self.occupied[index];
            if turn == 0 {
                word &= u64::MAX << (first % 64);
            } else if turn == words {
                word &= !(u64::MAX << (first % 64));
            }
            if word != 0 {
                let list = index * 64 + word.trailing_zeros() as usize;
                return Some(self.tick + ((list + LISTS - first) % LISTS) as u64);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const MILLI: u64 = 1_000_000;

    fn due(wheel: &mut TimerWheel, now: u64) -> Vec<u32> {
        let mut slots: Vec<u32> = std::iter::from_fn(|| wheel.pop(Nanos(now))).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn a_timer_is_visited_within_a_tick_of_its_deadline_and_once() {
        let mut wheel = TimerWheel::new();
        wheel.set(7, Nanos(20 * MILLI));
        assert!(due(&mut wheel, 20 * MILLI - 1).is_empty());
        let visit = wheel.next_visit().unwrap();
        assert!((20 * MILLI..20 * MILLI + TICK).contains(&visit.0));
        assert_eq!(due(&mut wheel, visit.0), [7]);
        assert_eq!((due(&mut wheel, visit.0 + 1), wheel.next_visit()), (vec![], None));
    }

    #[test]
    fn an_earlier_deadline_moves_a_timer_and_a_later_one_does_not() {
        let mut wheel = TimerWheel::new();
        wheel.set(1, Nanos(500 * MILLI));
        wheel.set(1, Nanos(100 * MILLI));
        wheel.set(1, Nanos(900 * MILLI));
        assert_eq!(due(&mut wheel, 110 * MILLI), [1]);
        assert_eq!(wheel.next_visit(), None);
    }

    #[test]
    fn a_late_deadline_is_visited_once_a_turn() {
        let mut wheel = TimerWheel::new();
        wheel.set(3, Nanos(30_000 * MILLI));
        assert_eq!(wheel.next_visit(), Some(Nanos((LISTS as u64 - 1) * TICK)));
        assert_eq!(due(&mut wheel, 3_000 * MILLI), [3]);
    }

    #[test]
    fn a_timer_of_the_past_is_due_at_once_and_a_long_pause_loses_none() {
        let mut wheel = TimerWheel::new();
        assert!(due(&mut wheel, 5_000 * MILLI).is_empty());
        wheel.set(1, Nanos(0));
        wheel.set(2, Nanos(5_100 * MILLI));
        assert_eq!(due(&mut wheel, 5_000 * MILLI + TICK), [1]);
        assert_eq!(due(&mut wheel, 90_000 * MILLI), [2]);
    }

    /// Visits in a second of rounds, one each millisecond, in which one timer is due every 20 ms,
    /// besides `idle` flows whose timers were visited before.
    fn visits_in_a_second(idle: u32) -> u64 {
        let mut wheel = TimerWheel::new();
        for slot in 1..=idle {
            wheel.set(slot, Nanos(u64::from(slot % 1_000) * MILLI));
        }
        let begin = 5_000 * MILLI;
        assert_eq!(due(&mut wheel, begin).len(), idle as usize);
        let before = wheel.visits;
        wheel.set(0, Nanos(begin + 20 * MILLI));
        for round in 1..=1_000 {
            let now = begin + round * MILLI;
            for slot in due(&mut wheel, now) {
                wheel.set(slot, Nanos(now + 20 * MILLI));
            }
        }
        wheel.visits - before
    }

    #[test]
    fn the_work_of_a_round_does_not_grow_with_idle_flows() {
        let alone = visits_in_a_second(0);
        assert!(alone <= 1_000, "{alone} visits in 1,000 rounds");
        assert_eq!(visits_in_a_second(100_000), alone);
    }

    proptest! {
        /// The model: a map of deadlines.
        #[test]
        fn no_timer_is_late_or_lost(
            steps in prop::collection::vec((0u32..20, 0u64..4_000, any::<bool>(), 0u64..1_500), 1..60),
        ) {
            let mut wheel = TimerWheel::new();
            let (mut model, mut now) = (HashMap::new(), 0);
            for (slot, after, unset, pause) in steps {
                if unset {
                    wheel.unset(slot);
                    model.remove(&slot);
                } else {
                    let deadline = now + after * MILLI;
                    wheel.set(slot, Nanos(deadline));
                    let earliest = model.entry(slot).or_insert(deadline);
                    *earliest = deadline.min(*earliest);
                }
                now += pause * MILLI;
                let visited = due(&mut wheel, now);
                for slot in &visited {
                    prop_assert!(model.contains_key(slot), "{slot} is not set");
                    let deadline = model[slot];
                    if deadline > now {
                        // Too early, but only beyond a turn: it is set again.
                        wheel.set(*slot, Nanos(deadline));
                    } else {
                        model.remove(slot);
                    }
                }
                let late = model.values().any(|deadline| deadline + TICK <= now);
                prop_assert!(!late, "{model:?} at {now}");
                prop_assert_eq!(model.is_empty(), wheel.next_visit().is_none());
            }
        }
    }
}
