//! How long an idle worker busy-polls before it sleeps.
//!
//! Busy polling takes CPU time that a pod might use. A wakeup takes time, too, during which the
//! packet waits: some 20 µs where an idle core of a virtual machine has to be started, for a
//! request and again for its response. Which costs more depends on the machine and on the traffic,
//! so workers measure it: from time to time a worker extends its busy polling, or stops extending
//! it, for a trial ([`TRIAL`]). If it processes clearly more packets while extended, because one
//! end waits for the other, it stays extended. If packets arrive at their own pace, or their
//! senders need the core, it does not. It does not stay extended either if it had to share the core
//! with another thread.

use podgate_tables::time::Nanos;

/// Shortest busy polling time, nanoseconds. Twice as much slows down bulk streams whose ends share
/// the core, and requests gain nothing.
const SHORT: u64 = 10_000;
/// Extended busy polling time, nanoseconds: longer than a response that wakes two pods.
const EXTENDED: u64 = 100_000;
/// Duration of a trial, nanoseconds, and of the measurements before and after it.
const TRIAL: u64 = 2_000_000;
/// Time between trials, nanoseconds.
const PERIOD: u64 = 60_000_000;
/// The same while extended, nanoseconds: trials then slow down less than one in a hundred requests.
const PERIOD_EXTENDED: u64 = 4 * PERIOD;
/// Lowest packet rate for a trial, packets per second: below, packets are too far apart.
const RATE_MIN: u64 = 8_000;
/// A busy-polling worker that doesn't run for this long was preempted, nanoseconds: less than a
/// time slice of the kernel's scheduler, and more than interrupts take.
const PREEMPTED: u64 = 500_000;

/// One worker's busy polling.
#[derive(Debug, Default)]
pub(super) struct AdaptivePoll {
    /// Whether the last trial showed that extended busy polling pays.
    extended: bool,
    step: Step,
    /// When this step began, and when it ends.
    begun: Nanos,
    until: Nanos,
    /// Packets since it began.
    packets: u64,
    /// Since when there have been no packets.
    idle_since: Option<Nanos>,
    /// Time of the last poll, if it found nothing and the worker didn't sleep.
    last_poll: Option<Nanos>,
}

/// Steps of a trial. Its rate is compared with those before and after it, so that growing or
/// shrinking traffic proves nothing. Rates are packets per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    NoTrial,
    Before,
    Trial {
        before: u64,
    },
    After {
        before: u64,
        trial: u64,
    },
}

impl AdaptivePoll {
    /// Whether to sleep after a round that began at `now` and processed `packets`.
    pub(super) fn should_sleep(&mut self, now: Nanos, packets: usize) -> bool {
        if self.last_poll.take().is_some_and(|last| now.since(last) > PREEMPTED) {
            self.extended = false;
            self.begin(now, Step::NoTrial, PERIOD);
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
        let sleep = now.since(idle_since) >= if self.is_extended() { EXTENDED } else { SHORT };
        self.last_poll = (!sleep).then_some(now);
        sleep
    }

    /// Whether busy polling is currently extended.
    pub(super) fn is_extended(&self) -> bool {
        self.extended != matches!(self.step, Step::Trial { .. })
    }

    fn next_step(&mut self, now: Nanos) {
        let rate = self.packets * 1_000_000_000 / now.since(self.begun).max(1);
        match self.step {
            _ if rate < RATE_MIN => {
                self.extended = false;
                self.begin(now, Step::NoTrial, TRIAL);
            }
            Step::NoTrial => self.begin(now, Step::Before, TRIAL),
            Step::Before => self.begin(now, Step::Trial { before: rate }, TRIAL),
            Step::Trial { before } => {
                self.begin(now, Step::After { before, trial: rate }, TRIAL);
            }
            Step::After { before, trial } => {
                let rates = Rates { before, trial, after: rate };
                self.extended =
                    if self.extended { rates.keep_extended() } else { rates.start_extended() };
                let period = if self.extended { PERIOD_EXTENDED } else { PERIOD };
                self.begin(now, Step::NoTrial, period);
            }
        }
    }

    fn begin(&mut self, now: Nanos, step: Step, length: u64) {
        self.step = step;
        self.packets = 0;
        (self.begun, self.until) = (now, Nanos(now.0 + length));
    }
}

/// Packets per second before, during and after a trial.
#[derive(Clone, Copy, Debug)]
struct Rates {
    before: u64,
    trial: u64,
    after: u64,
}

impl Rates {
    /// Whether to extend busy polling after a trial of that. Takes a larger difference than
    /// [`Self::keep_extended`].
    const fn start_extended(self) -> bool {
        let max = if self.before > self.after { self.before } else { self.after };
        self.trial * 4 > max * 5
    }

    /// Whether to stay extended after a trial without extension.
    const fn keep_extended(self) -> bool {
        let min = if self.before < self.after { self.before } else { self.after };
        min * 8 > self.trial * 9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Duration of a round and of a wakeup, nanoseconds.
    const ROUND: u64 = 1_000;
    const WAKE: u64 = 20_000;
    /// Longer than any trial, milliseconds.
    const SETTLED: u64 = 600;

    /// A worker with simulated traffic: the arrival of the next packets depends on when the last
    /// ones were processed.
    struct Simulated {
        poll: AdaptivePoll,
        now: u64,
        arrives: u64,
        /// Packets that arrive at the same time.
        burst: usize,
        /// Whether the sender makes no progress while the worker polls.
        sender_waits: bool,
        /// Whether the worker is preempted for 3 ms after each 3 ms of running.
        core_is_shared: bool,
        slept: u64,
        trials: u32,
    }

    impl Simulated {
        /// Not extended.
        fn new() -> Self {
            Self {
                poll: AdaptivePoll::default(),
                now: 0,
                arrives: 0,
                burst: 1,
                sender_waits: false,
                core_is_shared: false,
                slept: 0,
                trials: 0,
            }
        }

        /// After requests and responses that made it extended.
        fn extended() -> Self {
            let mut this = Self::new();
            this.run(20, response(15_000));
            assert!(this.is_extended());
            this
        }

        /// Runs for `millis`; returns packets and the share of time spent busy polling, percent.
        fn run(&mut self, millis: u64, mut next: impl FnMut(u64) -> u64) -> (u64, u64) {
            let begin = self.now;
            let (mut passed, mut polled) = (0, 0);
            while self.now < begin + millis * 1_000_000 {
                let packets = if self.arrives <= self.now { self.burst } else { 0 };
                let step = self.poll.step;
                let sleeps = self.poll.should_sleep(Nanos(self.now), packets);
                let ended = self.poll.step == Step::NoTrial;
                self.trials += u32::from(matches!(step, Step::After { .. }) && ended);
                self.now += ROUND;
                if packets > 0 {
                    passed += packets as u64;
                    self.arrives = next(self.now);
                } else if sleeps {
                    self.now = self.now.max(self.arrives) + WAKE;
                    self.slept = self.now;
                } else {
                    polled += ROUND;
                    self.arrives += if self.sender_waits { ROUND } else { 0 };
                }
                if self.core_is_shared && self.now - self.slept > 3_000_000 {
                    self.now += 3_000_000;
                    self.slept = self.now;
                }
            }
            (passed, polled * 100 / (self.now - begin))
        }

        fn is_extended(&self) -> bool {
            self.poll.extended
        }
    }

    /// The next packet is a response to the last one, `after` nanoseconds later.
    fn response(after: u64) -> impl Fn(u64) -> u64 {
        move |processed| processed + after
    }

    /// Packets arrive every `gap` nanoseconds.
    fn paced(mut clock: u64, gap: u64) -> impl FnMut(u64) -> u64 {
        move |_| {
            clock += gap;
            clock
        }
    }

    #[test]
    fn request_response_enables_busy_poll() {
        let mut simulated = Simulated::new();
        simulated.run(20, response(15_000));
        assert!(simulated.is_extended(), "soon after the first request");
        let (passed, polled) = simulated.run(1_000, response(15_000));
        // 16 µs each, except for trials; with a sleep each it would be 37 µs.
        assert!(passed > 1_000_000 / 17, "{passed}");
        assert!(polled > 80, "{polled}");
    }

    #[test]
    fn only_responses_within_the_extended_time_enable_busy_poll() {
        for (after, is_extended) in [(60_000, true), (120_000, false)] {
            let mut simulated = Simulated::new();
            simulated.run(SETTLED, response(after));
            assert_eq!(simulated.is_extended(), is_extended, "{after}");
        }
    }

    #[test]
    fn paced_packets_disable_busy_poll() {
        let mut simulated = Simulated::extended();
        simulated.run(SETTLED, paced(simulated.now, 50_000));
        assert!(!simulated.is_extended() && simulated.trials > 2, "{}", simulated.trials);
        let (passed, polled) = simulated.run(1_000, paced(simulated.now, 50_000));
        assert!((19_000..=21_000).contains(&passed), "{passed}");
        assert!(polled < 30, "{polled}");
    }

    #[test]
    fn senders_that_need_the_core_disable_busy_poll() {
        let mut simulated = Simulated::new();
        (simulated.burst, simulated.sender_waits) = (8, true);
        let (_, polled) = simulated.run(1_000, response(15_000));
        assert!(!simulated.is_extended() && simulated.trials > 5, "{}", simulated.trials);
        assert!(polled < 30, "{polled}");
    }

    #[test]
    fn preemption_disables_busy_poll() {
        let mut simulated = Simulated::extended();
        simulated.core_is_shared = true;
        simulated.run(10, response(15_000));
        assert!(!simulated.is_extended(), "it polled, and was preempted for 3 ms");
    }

    #[test]
    fn low_rates_disable_busy_poll() {
        let mut simulated = Simulated::extended();
        simulated.run(300, response(180_000));
        assert!(!simulated.is_extended());
        let trials = simulated.trials;
        let (_, polled) = simulated.run(1_000, response(180_000));
        assert!(polled < 8, "{polled}");
        assert_eq!(simulated.trials, trials, "5,000 packets/s are no reason to try");
    }

    #[test]
    fn growing_or_shrinking_traffic_proves_nothing() {
        for (is_extended, rates, expected) in [
            (false, [100, 126, 100], true),
            (false, [100, 125, 100], false),
            (false, [100, 130, 169], false),
            (false, [169, 130, 100], false),
            (true, [113, 100, 113], true),
            (true, [112, 100, 112], false),
            (true, [169, 130, 100], false),
            (true, [100, 130, 169], false),
        ] {
            let [before, trial, after] = rates;
            let rates = Rates { before, trial, after };
            let extended = if is_extended { rates.keep_extended() } else { rates.start_extended() };
            assert_eq!(extended, expected, "{is_extended} {rates:?}");
        }
    }
}
