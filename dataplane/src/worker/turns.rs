//! Whose turn it is: links take turns by the time that their packets take, as in a deficit round
//! robin (Shreedhar and Varghese, 1995).
//!
//! A link has credit, in nanoseconds of the worker. What its packets take is taken off: the
//! worker's own work, and the kernel's while it is told of what was transmitted for the link, which
//! is most of it. A link without credit waits while another one that has some has packets; then all
//! get the same credit. So of links that always have packets each gets the same time, whatever its
//! packets cost, and what one doesn't need is the others'.
//!
//! What a link's packets take in the kernel is known only after the round. So its packets are
//! charged what those before them took on average, and the difference is settled afterwards.

use podgate_tables::ids::LinkId;

use super::BATCH;

/// Credit that a link gets at a time, nanoseconds: a batch of plain packets, or some dozen new
/// flows.
const QUANTUM: i64 = 50_000;

/// The most that a link can owe. A round is bounded by packets, and may take longer than expected.
const DEBT_MAX: i64 = 20 * QUANTUM;

/// Packets that a link with credit may have processed at least, so that calls don't outweigh them.
const BATCH_MIN: usize = 8;

/// What a link's packet is taken to cost before any was measured, nanoseconds.
const FIRST_GUESS: i64 = 500;

/// One in so many parts of the average is the latest round's.
const AVERAGED: i64 = 8;

/// Charged for each flow that a link's packet opens, beside the time that it takes, nanoseconds. So
/// a flood of new flows yields to established ones: while all of the worker is wanted, a link opens
/// at most some 50,000 flows a second.
pub(super) const NEW_FLOW: u64 = 10_000;

#[derive(Clone, Copy, Debug)]
struct Account {
    credit: i64,
    /// What a packet took on average.
    per_packet: i64,
    /// Of this round.
    packets: i64,
    charged: i64,
    taken: i64,
}

/// All links' accounts.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// By the number of the link.
    accounts: Vec<Account>,
}

impl Turns {
    /// A new link, or one in place of another.
    pub(super) fn add(&mut self, link: LinkId) {
        let new =
            Account { credit: QUANTUM, per_packet: FIRST_GUESS, packets: 0, charged: 0, taken: 0 };
        if self.accounts.len() <= link.index() {
            self.accounts.resize(link.index() + 1, new);
        }
        self.accounts[link.index()] = new;
    }

    /// How many packets of `link` may be processed now; `None` if it has to wait.
    pub(super) fn batch(&self, link: LinkId) -> Option<usize> {
        let Account { credit, per_packet, .. } = self.accounts.get(link.index())?;
        let packets = usize::try_from(credit / (*per_packet).max(1)).ok()?;
        (*credit > 0).then_some(packets.clamp(BATCH_MIN, BATCH))
    }

    /// Charges `link` for packets that are about to be processed.
    pub(super) fn charge(&mut self, link: LinkId, packets: usize) {
        let Some(account) = self.accounts.get_mut(link.index()) else { return };
        let cost = packets as i64 * account.per_packet;
        account.credit -= cost;
        account.charged += cost;
        account.packets += packets as i64;
    }

    /// Notes time that the worker, or the kernel on its behalf, took for packets of `link`.
    pub(super) fn note_time(&mut self, link: LinkId, nanos: u64) {
        if let Some(account) = self.accounts.get_mut(link.index()) {
            account.taken += nanos as i64;
        }
    }

    /// Ends a round: what packets took is taken off in place of what was expected.
    pub(super) fn settle(&mut self) {
        for account in self.accounts.iter_mut().filter(|account| account.packets > 0) {
            account.credit = (account.credit + account.charged - account.taken).max(-DEBT_MAX);
            account.per_packet += (account.taken / account.packets - account.per_packet) / AVERAGED;
            (account.packets, account.charged, account.taken) = (0, 0, 0);
        }
    }

    /// Gives all links credit. To be called when only such have packets that have none.
    pub(super) fn renew(&mut self) {
        for account in &mut self.accounts {
            account.credit = (account.credit + QUANTUM).min(QUANTUM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets links whose packets take so many nanoseconds, and are always there, have turns as a
    /// worker gives them, for a second; how much of it each had.
    fn shares(costs: &[u64]) -> Vec<f64> {
        let links: Vec<_> = (0..costs.len() as u16).map(LinkId).collect();
        let mut turns = Turns::default();
        links.iter().for_each(|link| turns.add(*link));
        let mut taken = vec![0; costs.len()];
        while taken.iter().sum::<u64>() < 1_000_000_000 {
            let mut of_round = 0;
            while of_round < super::super::ROUND {
                let mut served = false;
                for link in &links {
                    let Some(packets) = turns.batch(*link) else { continue };
                    turns.charge(*link, packets);
                    let nanos = packets as u64 * costs[link.index()];
                    turns.note_time(*link, nanos);
                    taken[link.index()] += nanos;
                    (served, of_round) = (true, of_round + packets);
                }
                if !served {
                    turns.renew();
                }
            }
            turns.settle();
        }
        let all = taken.iter().sum::<u64>() as f64;
        taken.iter().map(|taken| *taken as f64 / all).collect()
    }

    #[test]
    fn each_of_n_busy_links_has_its_nth_of_the_time_whatever_its_packets_cost() {
        for costs in [&[100, 100][..], &[100, 5_000], &[40_000, 300, 5_000], &[20, 80, 9, 70_000]] {
            let shares = shares(costs);
            let fair = 1.0 / costs.len() as f64;
            assert!(shares.iter().all(|share| *share > 0.5 * fair), "{costs:?}: {shares:?}");
        }
    }

    #[test]
    fn a_flood_of_new_flows_leaves_a_stream_more_than_the_half() {
        let (stream, flood) = (LinkId(0), LinkId(1));
        let mut turns = Turns::default();
        [stream, flood].iter().for_each(|link| turns.add(*link));
        let mut taken = [0, 0];
        for _ in 0..10_000 {
            for (link, nanos, charged) in [(stream, 2_000, 0), (flood, 2_500, NEW_FLOW)] {
                let Some(packets) = turns.batch(link) else { continue };
                turns.charge(link, packets);
                taken[link.index()] += packets as u64 * nanos;
                turns.note_time(link, packets as u64 * (nanos + charged));
            }
            turns.settle();
            if turns.batch(stream).is_none() && turns.batch(flood).is_none() {
                turns.renew();
            }
        }
        assert!(taken[0] > 3 * taken[1], "{taken:?}");
    }

    #[test]
    fn a_link_without_credit_waits_until_all_get_some() {
        let (mut turns, link) = (Turns::default(), LinkId(3));
        turns.add(link);
        assert_eq!(turns.batch(link), Some(BATCH));
        turns.charge(link, 10);
        turns.note_time(link, 3 * QUANTUM as u64);
        turns.settle();
        assert_eq!(turns.batch(link), None);
        turns.renew();
        assert_eq!(turns.batch(link), None, "it owes more than that");
        turns.renew();
        turns.renew();
        assert_eq!(turns.batch(link), Some(BATCH_MIN.max(QUANTUM as usize / 2_312)));
        assert_eq!(turns.batch(LinkId(7)), None, "no such link");
    }
}
