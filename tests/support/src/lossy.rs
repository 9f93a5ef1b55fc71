//! A network that loses, duplicates, reorders, delays and corrupts packets.

use std::collections::BTreeMap;

use crate::random::Random;

/// What happens to packets: percentages, and a maximum.
#[derive(Clone, Copy, Debug)]
pub struct Impairment {
    /// Packets that are lost, percent.
    pub lost: usize,
    /// Packets that are duplicated, percent.
    pub repeated: usize,
    /// Packets of which one bit is inverted, percent.
    pub corrupted: usize,
    /// The longest delay, milliseconds; packets with different delays are reordered.
    pub delay_ms: usize,
}

/// One hop, in one direction.
#[derive(Debug, Default)]
pub struct Hop {
    /// By time of arrival, ms, and number.
    in_flight: BTreeMap<(u64, u64), Vec<u8>>,
    count: u64,
}

impl Hop {
    /// Sends an IPv4 frame at `now`, milliseconds.
    pub fn send(
        &mut self,
        now: u64,
        mut frame: Vec<u8>,
        impairment: Impairment,
        random: &mut Random,
    ) {
        if random.percent(impairment.lost) {
            return;
        }
        if random.percent(impairment.corrupted) {
            let at = 34 + random.below(frame.len() - 34);
            frame[at] ^= 1 << random.below(8);
        }
        let copies = 1 + usize::from(random.percent(impairment.repeated));
        for _ in 0..copies {
            self.count += 1;
            let arrives = now + random.below(impairment.delay_ms + 1) as u64;
            self.in_flight.insert((arrives, self.count), frame.clone());
        }
    }

    /// The frames that have arrived by `now`, milliseconds.
    #[must_use]
    pub fn arrived(&mut self, now: u64) -> Vec<Vec<u8>> {
        let later = self.in_flight.split_off(&(now + 1, 0));
        std::mem::replace(&mut self.in_flight, later).into_values().collect()
    }
}
