//! How long an idle worker looks for packets before it sleeps.
//!
//! Looking takes the core's time, which a pod might use. Being woken takes time, too, in which the
//! packet waits: some 20 µs where an idle core of a virtual machine has to be started, on a
//! request's way and on its answer's. Which is dearer depends on the machine and on who waits for
//! whom, so workers try: now and then one looks for long, or no longer does, for [`TRIAL`]. If
//! clearly more packets come when it looks for long, because one end waits for the other, it goes
//! on like that. If they come at their own pace, or their senders need the core, it does not. Nor
//! does it once it has had to share the core with somebody else.

use podgate_tables::time::Nanos;

/// How long a worker looks in any case, in nanoseconds. With twice as much, bulk streams whose ends
/// share the core lose, and requests gain nothing.
const SHORT: u64 = 10_000;
/// How long it looks where that pays, in nanoseconds: longer than an answer takes that wakes two
/// pods.
const LONG: u64 = 100_000;
/// How long a trial takes, in nanoseconds, and each of the times before and after it.
const TRIAL: u64 = 2_000_000;
/// Time between trials, in nanoseconds.
const PERIOD: u64 = 60_000_000;
/// The same while looking for long pays: so seldom that fewer than one request in a hundred is
/// slower for the trials.
const PERIOD_LONG: u64 = 4 * PERIOD;
/// Packets per second with fewer of which nothing is tried: they would be far apart.
const ENOUGH: u64 = 8_000;
/// A worker that looks, but does not get to look again for so many nanoseconds, is not alone on its
/// core: that is less than a turn of the kernel's scheduler, and more than what interrupts take.
const ABSENT: u64 = 500_000;

/// One worker's patience.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Whether looking for long has paid.
    long: bool,
    step: Step,
    /// When this step began, and when it is over.
    begun: Nanos,
    until: Nanos,
    /// Packets since it began.
    packets: u64,
    /// Since when there has been nothing.
    idle_since: Option<Nanos>,
    /// When it looked last, if it neither found anything nor slept since.
    looked: Option<Nanos>,
}

/// What a worker is about. A trial is held against the time before it and the time after it, so
/// that traffic that grows or dwindles proves nothing. The numbers are packets per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Usual,
    Before,
    Trial {
        before: u64,
    },
    After {
        before: u64,
        trial: u64,
    },
}

impl Patience {
    /// Whether it is time to sleep, after a round that began at `now` and processed `packets`.
    pub(super) fn is_over(&mut self, now: Nanos, packets: usize) -> bool {
        if self.looked.take().is_some_and(|looked| now.since(looked) > ABSENT) {
            self.long = false;
            self.begin(now, Step::Usual, PERIOD);
        }
        if now >= self.until {
            self.next_step(now);
        }
        if packets > 0 {
            self.packets += packets as u64;
            self.idle_since = None;
            return false;
        }
        let idle_since = *self.idle_since.get_or_insert(now);
        let is_over = now.since(idle_since) >= if self.looks_long() { LONG } else { SHORT };
        self.looked = (!is_over).then_some(now);
        is_over
    }

    /// Whether it looks for long now.
    pub(super) fn looks_long(&self) -> bool {
        self.long != matches!(self.step, Step::Trial { .. })
    }

    fn next_step(&mut self, now: Nanos) {
        let rate = self.packets * 1_000_000_000 / now.since(self.begun).max(1);
        match self.step {
            _ if rate < ENOUGH => {
                self.long = false;
                self.begin(now, Step::Usual, TRIAL);
            }
            Step::Usual => self.begin(now, Step::Before, TRIAL),
            Step::Before => self.begin(now, Step::Trial { before: rate }, TRIAL),
            Step::Trial { before } => {
                self.begin(now, Step::After { before, trial: rate }, TRIAL);
            }
            Step::After { before, trial } => {
                self.long = pays(self.long, [before, trial, rate]);
                self.begin(now, Step::Usual, if self.long { PERIOD_LONG } else { PERIOD });
            }
        }
    }

    fn begin(&mut self, now: Nanos, step: Step, length: u64) {
        self.step = step;
        self.packets = 0;
        (self.begun, self.until) = (now, Nanos(now.0 + length));
    }
}

/// Whether looking for long pays, by the rates before, in and after a trial: of looking for long if
/// that is not what the worker does, or else of no longer doing so. It takes more to begin than to
/// go on.
fn pays(is_long: bool, [before, trial, after]: [u64; 3]) -> bool {
    if is_long { before.min(after) * 8 > trial * 9 } else { trial * 4 > before.max(after) * 5 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long a round takes, and how long it takes to wake the worker.
    const ROUND: u64 = 1_000;
    const WAKE: u64 = 20_000;
    /// Enough for any trial to be over.
    const SETTLED: u64 = 600;

    /// A worker whose traffic says when the next packets come, by when the last ones were
    /// processed.
    struct Simulated {
        patience: Patience,
        now: u64,
        arrives: u64,
        /// Packets that come at one time.
        burst: usize,
        /// Whether who sends gets nowhere while the worker looks.
        sender_waits: bool,
        /// Whether the worker loses the core for 3 ms after each 3 ms that it kept it.
        core_is_shared: bool,
        slept: u64,
        trials: u32,
    }

    impl Simulated {
        /// An impatient one.
        fn new() -> Self {
            Self {
                patience: Patience::default(),
                now: 0,
                arrives: 0,
                burst: 1,
                sender_waits: false,
                core_is_shared: false,
                slept: 0,
                trials: 0,
            }
        }

        /// The same, after requests and answers that made it patient.
        fn patient() -> Self {
            let mut this = Self::new();
            this.pass(20, answers(15_000));
            assert!(this.is_patient());
            this
        }

        /// Lets traffic pass for `millis`; returns packets and the share of time that was looked
        /// for them, in percent.
        fn pass(&mut self, millis: u64, mut next: impl FnMut(u64) -> u64) -> (u64, u64) {
            let begin = self.now;
            let (mut passed, mut looked) = (0, 0);
            while self.now < begin + millis * 1_000_000 {
                let packets = if self.arrives <= self.now { self.burst } else { 0 };
                let step = self.patience.step;
                let sleeps = self.patience.is_over(Nanos(self.now), packets);
                let ended = self.patience.step == Step::Usual;
                self.trials += u32::from(matches!(step, Step::After { .. }) && ended);
                self.now += ROUND;
                if packets > 0 {
                    passed += packets as u64;
                    self.arrives = next(self.now);
                } else if sleeps {
                    self.now = self.now.max(self.arrives) + WAKE;
                    self.slept = self.now;
                } else {
                    looked += ROUND;
                    self.arrives += if self.sender_waits { ROUND } else { 0 };
                }
                if self.core_is_shared && self.now - self.slept > 3_000_000 {
                    self.now += 3_000_000;
                    self.slept = self.now;
                }
            }
            (passed, looked * 100 / (self.now - begin))
        }

        fn is_patient(&self) -> bool {
            self.patience.long
        }
    }

    /// The next packet answers the last one, `after` nanoseconds later.
    fn answers(after: u64) -> impl Fn(u64) -> u64 {
        move |processed| processed + after
    }

    /// The next packets come each `gap` nanoseconds, whatever happens.
    fn paced(mut clock: u64, gap: u64) -> impl FnMut(u64) -> u64 {
        move |_| {
            clock += gap;
            clock
        }
    }

    #[test]
    fn who_waits_for_an_answer_is_looked_for() {
        let mut simulated = Simulated::new();
        simulated.pass(20, answers(15_000));
        assert!(simulated.is_patient(), "soon after the first request");
        let (passed, looked) = simulated.pass(1_000, answers(15_000));
        // 16 µs each, but for the trials; with a sleep each it would be 37.
        assert!(passed > 1_000_000 / 17, "{passed}");
        assert!(looked > 80, "{looked}");
    }

    #[test]
    fn answers_within_the_time_it_looks_are_looked_for_and_later_ones_are_not() {
        for (after, is_patient) in [(60_000, true), (120_000, false)] {
            let mut simulated = Simulated::new();
            simulated.pass(SETTLED, answers(after));
            assert_eq!(simulated.is_patient(), is_patient, "{after}");
        }
    }

    #[test]
    fn packets_at_their_own_pace_are_slept_for() {
        let mut simulated = Simulated::patient();
        simulated.pass(SETTLED, paced(simulated.now, 50_000));
        assert!(!simulated.is_patient() && simulated.trials > 2, "{}", simulated.trials);
        let (passed, looked) = simulated.pass(1_000, paced(simulated.now, 50_000));
        assert!((19_000..=21_000).contains(&passed), "{passed}");
        assert!(looked < 30, "{looked}");
    }

    #[test]
    fn senders_that_need_the_core_get_it() {
        let mut simulated = Simulated::new();
        (simulated.burst, simulated.sender_waits) = (8, true);
        let (_, looked) = simulated.pass(1_000, answers(15_000));
        assert!(!simulated.is_patient() && simulated.trials > 5, "{}", simulated.trials);
        assert!(looked < 30, "{looked}");
    }

    #[test]
    fn others_who_need_the_core_get_it() {
        let mut simulated = Simulated::patient();
        simulated.core_is_shared = true;
        simulated.pass(10, answers(15_000));
        assert!(!simulated.is_patient(), "it looked, and was away for 3 ms");
    }

    #[test]
    fn nobody_is_looked_for_when_there_is_little() {
        let mut simulated = Simulated::patient();
        simulated.pass(300, answers(180_000));
        assert!(!simulated.is_patient());
        let trials = simulated.trials;
        let (_, looked) = simulated.pass(1_000, answers(180_000));
        assert!(looked < 8, "{looked}");
        assert_eq!(simulated.trials, trials, "5,000 packets/s are no reason to try");
    }

    #[test]
    fn what_grows_or_dwindles_proves_nothing() {
        for (is_long, rates, expected) in [
            (false, [100, 126, 100], true),
            (false, [100, 125, 100], false),
            (false, [100, 130, 169], false),
            (false, [169, 130, 100], false),
            (true, [113, 100, 113], true),
            (true, [112, 100, 112], false),
            (true, [169, 130, 100], false),
            (true, [100, 130, 169], false),
        ] {
            assert_eq!(pays(is_long, rates), expected, "{is_long} {rates:?}");
        }
    }
}
