//! How many frames a link's fill ring is kept filled with: few while the link is idle, more once
//! a burst has used half of them.
//!
//! Frames can't be taken out of a fill ring. A level that falls only means that used frames are
//! not replaced.

/// Factor by which a level grows: from a few packets of 64 KiB to a whole ring in two steps.
const GROWTH: u32 = 8;
/// A link may have one frame beyond its idle level for each this many spare frames.
const SHARE: u32 = 2;
/// Time over which the largest use is measured before a level falls, in thousands of refills by all
/// workers ([`FramePool::refill_time`]): some seconds of a stream at full speed, during which a
/// worker is likely to be preempted once. While little is sent, time hardly passes: then frames
/// aren't needed elsewhere.
///
/// [`FramePool::refill_time`]: crate::mem::FramePool::refill_time
const WINDOW: u32 = 64;

/// The level of one fill ring, in frames.
#[derive(Debug)]
pub(super) struct FillLevel {
    idle: u32,
    max: u32,
    /// The level that the link's use requires.
    level: u32,
    /// The level that it gets: less than `level` if few frames are spare.
    target: u32,
    /// Frames in the ring after the last refill.
    filled: u32,
    /// Begin of this window, and the largest use between two refills in it.
    since: u32,
    peak: u32,
}

impl FillLevel {
    /// Levels from `idle` to `max`; always `max` if `idle` is not less.
    pub(super) const fn new(idle: u32, max: u32) -> Self {
        let idle = if idle < max { idle } else { max };
        Self { idle, max, level: idle, target: idle, filled: 0, since: 0, peak: 0 }
    }

    /// The number of frames to add at `now` to a ring that still has `in_ring`. `spare` is called
    /// for the number of spare frames if that matters.
    #[inline]
    pub(super) fn missing(&mut self, in_ring: u32, now: u32, spare: impl FnOnce() -> u32) -> u32 {
        let used = self.filled.saturating_sub(in_ring);
        if used > 0 && self.idle < self.max {
            self.adapt(used, now);
            self.target = self.idle;
            if self.level > self.idle {
                self.target = self.level.min(self.idle.saturating_add(spare() / SHARE));
            }
        }
        self.target.saturating_sub(in_ring)
    }

    /// Records the number of frames in the ring after a refill.
    #[inline]
    pub(super) const fn refilled(&mut self, in_ring: u32) {
        self.filled = in_ring;
    }

    fn adapt(&mut self, used: u32, now: u32) {
        self.peak = self.peak.max(used);
        let windows = now.wrapping_sub(self.since) / WINDOW;
        if used.saturating_mul(2) >= self.filled {
            let grown = self.filled.max(self.idle).saturating_mul(GROWTH);
            self.level = self.level.max(grown).min(self.max);
        } else if windows > 0 {
            if self.peak.saturating_mul(GROWTH) < self.level {
                self.level = self.level.checked_shr(windows).unwrap_or(0).max(self.idle);
            }
        } else {
            return;
        }
        (self.peak, self.since) = (0, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring with enough spare frames, or few.
    struct Ring {
        level: FillLevel,
        held: u32,
        spare: u32,
        now: u32,
    }

    impl Ring {
        fn new(idle: u32, max: u32, spare: u32) -> Self {
            let mut ring = Self { level: FillLevel::new(idle, max), held: 0, spare, now: 0 };
            ring.receive(0);
            ring
        }

        /// A ring whose level has grown to 2048.
        fn grown() -> Self {
            let mut ring = Self::new(32, 2048, 100_000);
            ring.receive(32);
            assert_eq!(ring.receive(256), 2048);
            ring
        }

        /// The kernel uses `used` frames, which become free at once; returns what the ring then
        /// holds.
        fn receive(&mut self, used: u32) -> u32 {
            let used = used.min(self.held);
            self.held -= used;
            self.spare += used;
            let spare = self.spare;
            let add = self.level.missing(self.held, self.now, || spare).min(self.spare);
            self.held += add;
            self.spare -= add;
            self.level.refilled(self.held);
            self.held
        }

        /// The kernel uses single frames, 3000 of them in the next `windows`.
        fn idle(&mut self, windows: u32) -> u32 {
            self.now = self.now.wrapping_add(windows * WINDOW);
            for _ in 0..3000 {
                self.receive(1);
            }
            self.held
        }
    }

    #[test]
    fn a_level_grows_in_bursts_only() {
        let mut ring = Ring::new(32, 2048, 100_000);
        for _ in 0..100 {
            assert_eq!(ring.receive(15), 32);
        }
        assert_eq!(ring.receive(0), 32);
        assert_eq!(ring.receive(16), 256);
        assert_eq!(ring.receive(100), 256);
        assert_eq!(ring.receive(256), 2048);
        assert_eq!(ring.receive(2048), 2048);
    }

    #[test]
    fn after_the_first_packets_of_64_kib_a_burst_of_14_of_them_passes() {
        // The first flight of a connection is one of them: the peer's first window is 64 KiB.
        let mut ring = Ring::new(32, 2048, 100_000);
        for flight in [18, 2 * 18, 4 * 18, 14 * 18, 14 * 18, 100 * 18] {
            assert!(ring.held >= flight, "{} frames for {flight}", ring.held);
            ring.receive(flight);
        }
    }

    #[test]
    fn a_level_falls_by_half_in_each_window_of_little_use() {
        let mut ring = Ring::grown();
        let held = [0; 8].map(|_| ring.idle(1));
        assert_eq!(held, [1024, 512, 256, 128, 64, 32, 32, 32]);
        assert_eq!(ring.spare, 100_000 - 32);
    }

    #[test]
    fn a_level_falls_as_frames_are_used_however_long_the_link_was_silent() {
        let mut ring = Ring::grown();
        ring.now = u32::MAX;
        assert_eq!(ring.receive(0), 2048);
        assert_eq!([1, 2, 3].map(|used| ring.receive(used)), [2047, 2045, 2042]);
        assert_eq!(ring.receive(0), 2042);
        assert_eq!(ring.receive(2030), 2048, "a burst makes it grow again");
    }

    #[test]
    fn one_large_use_in_a_window_keeps_the_level() {
        let mut ring = Ring::grown();
        for _ in 0..3 {
            ring.receive(300);
            assert_eq!(ring.idle(1), 2048);
        }
    }

    #[test]
    fn beyond_the_idle_level_a_link_leaves_half_of_what_is_spare() {
        let mut ring = Ring::new(32, 2048, 1000);
        for _ in 0..100 {
            ring.receive(u32::MAX);
        }
        assert!((ring.held - 32) * 2 <= 1000, "{}", ring.held);
        assert!(ring.held > 300, "{}", ring.held);
        // Others need them: what it uses is not replaced beyond its share.
        ring.spare = 0;
        let before = ring.held;
        assert_eq!(ring.receive(40), before - 40);
    }

    #[test]
    fn a_ring_without_an_idle_level_is_always_full() {
        let mut ring = Ring::new(64, 64, 1000);
        for used in [0, 1, 40, 64, 3] {
            assert_eq!(ring.receive(used), 64);
        }
        assert_eq!(Ring::new(100, 64, 1000).held, 64);
    }
}
