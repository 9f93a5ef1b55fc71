//! How long an idle worker looks for packets before it sleeps.
//!
//! Looking takes the core's time, which a pod might use. Being woken takes time, too: some 20 µs where an
//! idle core of a virtual machine has to be started, once on a request's way and once on its answer's.
//! Which is dearer depends on the machine and on who waits for whom, so workers try: every [`PERIOD`] one
//! looks for long, or no longer does, for [`TRIAL`]. If clearly more packets pass when it looks for long,
//! because one end waits for the other, it goes on like that. If they come at their own pace, or their
//! senders need the core, it does not.

use crate::types::Nanos;

/// How long a worker looks at least, in nanoseconds: about what falling asleep and waking costs it.
const SHORT: u64 = 10_000;
/// How long it looks where that pays, in nanoseconds. A request takes 40 to 60 µs from one pod to the
/// other if both pods and the worker have to be woken.
const LONG: u64 = 100_000;
/// How long a trial takes, in nanoseconds, and each of the times before and after it.
const TRIAL: u64 = 2_000_000;
/// Time between trials, in nanoseconds. So they take 3 % of the time.
const PERIOD: u64 = 60_000_000;
/// Packets in [`TRIAL`] with fewer of which nothing is tried and nobody looked for.
const ENOUGH: u32 = 16;

/// One worker's patience.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Whether looking for long has paid.
    long: bool,
    step: Step,
    /// When this step is over.
    until: Nanos,
    /// Packets since this step began.
    packets: u32,
    idle_since: Option<Nanos>,
}

/// What a worker is about. A trial is held against the time before it and the time after it, so that
/// traffic that grows or dwindles proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Usual,
    Before,
    Trial {
        before: u32,
    },
    After {
        before: u32,
        trial: u32,
    },
}

impl Patience {
    /// Notes that a round that began at `now` processed `packets`. Returns whether the worker has looked for
    /// long enough.
    pub(super) fn is_over(&mut self, now: Nanos, packets: usize) -> bool {
        if now >= self.until {
            self.next_step(now);
        }
        if packets > 0 {
            self.packets = self.packets.saturating_add(u32::try_from(packets).unwrap_or(u32::MAX));
            self.idle_since = None;
            return false;
        }
        let idle_since = *self.idle_since.get_or_insert(now);
        now.since(idle_since) >= if self.looks_long() { LONG } else { SHORT }
    }

    fn looks_long(&self) -> bool {
        self.long != matches!(self.step, Step::Trial { .. })
    }

    fn next_step(&mut self, now: Nanos) {
        let packets = std::mem::take(&mut self.packets);
        let overslept = now.since(self.until) > TRIAL / 8;
        self.step = match self.step {
            _ if overslept || packets < ENOUGH => {
                self.long = false;
                Step::Usual
            }
            Step::Usual => Step::Before,
            Step::Before => Step::Trial { before: packets },
            Step::Trial { before } => Step::After { before, trial: packets },
            Step::After { before, trial } => {
                let (long, short) = match self.long {
                    true => (before.min(packets), trial),
                    false => (trial, before.max(packets)),
                };
                self.long = u64::from(long) * 4 > u64::from(short) * 5;
                Step::Usual
            }
        };
        self.until = Nanos(now.0 + if self.step == Step::Usual { PERIOD } else { TRIAL });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a round takes, and how long it takes to wake the worker.
    const ROUND: u64 = 1_000;
    const WAKE: u64 = 20_000;

    /// A worker whose traffic says when the next packet comes, by when the last one was processed.
    #[derive(Default)]
    struct Simulated {
        patience: Patience,
        now: u64,
        passed: u64,
        looked: u64,
        /// Whether who sends gets nowhere while the worker looks.
        core_is_shared: bool,
    }

    impl Simulated {
        /// Lets traffic pass for `millis`; returns packets and the share of time that was looked for
        /// them, in percent.
        fn pass(&mut self, millis: u64, mut next: impl FnMut(u64) -> u64) -> (u64, u64) {
            let (begin, passed, looked) = (self.now, self.passed, self.looked);
            let mut arrives = next(self.now);
            while self.now < begin + millis * 1_000_000 {
                let packets = usize::from(arrives <= self.now);
                let sleeps = self.patience.is_over(Nanos(self.now), packets);
                self.now += ROUND;
                if packets > 0 {
                    self.passed += 1;
                    arrives = next(self.now);
                } else if sleeps {
                    self.now = self.now.max(arrives) + WAKE;
                } else {
                    self.looked += ROUND;
                    arrives += if self.core_is_shared { ROUND } else { 0 };
                }
            }
            let share = (self.looked - looked) * 100 / (self.now - begin);
            (self.passed - passed, share)
        }
    }

    /// Each packet answers the last one, 15 µs later.
    fn answers(processed: u64) -> u64 {
        processed + 15_000
    }

    #[test]
    fn who_waits_for_an_answer_is_looked_for() {
        let mut simulated = Simulated::default();
        simulated.pass(200, answers);
        let (passed, looked) = simulated.pass(1_000, answers);
        // 17 µs each, but for the trials; with a sleep each it would be 37.
        assert!(passed > 1_000_000 / 18, "{passed}");
        assert!(looked > 80, "{looked}");
    }

    #[test]
    fn packets_at_their_own_pace_are_slept_for() {
        let mut simulated = Simulated::default();
        let mut clock = 0;
        let mut paced = |_| {
            clock += 50_000;
            clock
        };
        simulated.pass(200, &mut paced);
        let (passed, looked) = simulated.pass(1_000, paced);
        assert!((19_000..=21_000).contains(&passed), "{passed}");
        assert!(looked < 30, "{looked}");
    }

    #[test]
    fn ends_that_need_the_core_get_it() {
        let mut simulated = Simulated { core_is_shared: true, ..Simulated::default() };
        let (passed, looked) = simulated.pass(1_000, answers);
        assert!(passed > 1_000_000 / 50, "{passed}");
        assert!(looked < 30, "{looked}");
    }

    #[test]
    fn nobody_is_looked_for_when_all_is_quiet() {
        let mut simulated = Simulated::default();
        simulated.pass(200, answers);
        assert!(simulated.patience.long);
        simulated.pass(200, |processed| processed + 1_000_000);
        let (_, looked) = simulated.pass(1_000, |processed| processed + 1_000_000);
        assert!(looked <= 1, "{looked}");
    }
}
