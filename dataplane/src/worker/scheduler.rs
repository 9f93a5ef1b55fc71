//! Fair scheduling of links by the time that their packets take: a deficit round robin (Shreedhar
//! and Varghese, 1995).
//!
//! A link has credit, in nanoseconds of the worker's time. Charged to it are the worker's time for
//! its packets, and the kernel's time to transmit packets that were received from it, which is the
//! larger part. A link without credit waits while another one with credit has packets; then all
//! links get the same credit. So links that always have packets get equal time, whatever their
//! packets cost, and what one link doesn't use is available to the others.
//!
//! The kernel's time for a link's packets is known only after the round. So packets are first
//! charged at the average cost of earlier ones, and corrected after the round.

use podgate_tables::ids::LinkId;

use super::BATCH;

/// Credit that a link gets at a time, nanoseconds: a batch of plain packets, or a few new flows
/// ([`NEW_FLOW`]).
const QUANTUM: i64 = 50_000;

/// Largest debt of a link, nanoseconds. Rounds are bounded by packets, and may take longer than
/// expected.
const DEBT_MAX: i64 = 20 * QUANTUM;

/// Smallest batch of a link with credit, packets: amortizes the cost of system calls.
const BATCH_MIN: usize = 8;

/// Initial estimate of a packet's cost, nanoseconds.
const FIRST_ESTIMATE: i64 = 500;

/// Weight of older rounds in the average cost: the latest round has 1/8.
const AVERAGED: i64 = 8;

/// Additional charge for each flow that a link's packet opens, nanoseconds. So a flood of new flows
/// yields to established ones: while another link always has packets, a link opens fewer than
/// 100,000 flows per second.
pub(super) const NEW_FLOW: u64 = 10_000;

#[derive(Clone, Copy, Debug)]
struct Account {
    credit: i64,
    /// Average cost of a packet.
    per_packet: i64,
    /// Of this round: packets, estimated and actual cost.
    packets: i64,
    charged: i64,
    taken: i64,
}

/// All links' accounts.
#[derive(Debug, Default)]
pub(super) struct LinkScheduler {
    /// By the number of the link.
    accounts: Vec<Account>,
}

impl LinkScheduler {
    /// Adds a link, or replaces the one of that number.
    pub(super) fn add(&mut self, link: LinkId) {
        let new = Account {
            credit: QUANTUM,
            per_packet: FIRST_ESTIMATE,
            packets: 0,
            charged: 0,
            taken: 0,
        };
        if self.accounts.len() <= link.index() {
            self.accounts.resize(link.index() + 1, new);
        }
        self.accounts[link.index()] = new;
    }

    /// Packets of `link` that may be processed now; `None` if it has no credit.
    pub(super) fn batch_size(&self, link: LinkId) -> Option<usize> {
        let Account { credit, per_packet, .. } = self.accounts.get(link.index())?;
        let packets = usize::try_from(credit / (*per_packet).max(1)).ok()?;
        (*credit > 0).then_some(packets.clamp(BATCH_MIN, BATCH))
    }

    /// Charges the estimated cost of packets that are about to be processed.
    pub(super) fn charge(&mut self, link: LinkId, packets: usize) {
        let Some(account) = self.accounts.get_mut(link.index()) else { return };
        let cost = packets as i64 * account.per_packet;
        account.credit -= cost;
        account.charged += cost;
        account.packets += packets as i64;
    }

    /// Records time that the worker, or the kernel on its behalf, took for packets of `link`.
    pub(super) fn record_time(&mut self, link: LinkId, nanos: u64) {
        if let Some(account) = self.accounts.get_mut(link.index()) {
            account.taken += nanos as i64;
        }
    }

    /// Ends a round: replaces estimated costs by actual ones. A link without packets of its own in
    /// this round may have taken time, too: for packets that other workers handed off.
    pub(super) fn end_round(&mut self) {
        let busy = |account: &&mut Account| account.packets > 0 || account.taken > 0;
        for account in self.accounts.iter_mut().filter(busy) {
            account.credit = (account.credit + account.charged - account.taken).max(-DEBT_MAX);
            if let Some(per_packet) = account.taken.checked_div(account.packets) {
                account.per_packet += (per_packet - account.per_packet) / AVERAGED;
            }
            (account.packets, account.charged, account.taken) = (0, 0, 0);
        }
    }

    /// Gives all links credit. For when no link with credit has packets.
    pub(super) fn replenish(&mut self) {
        for account in &mut self.accounts {
            account.credit = (account.credit + QUANTUM).min(QUANTUM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Schedules links that always have packets, which take `costs` nanoseconds, for a second.
    /// Returns each link's share of the time.
    fn shares(costs: &[u64]) -> Vec<f64> {
        let links: Vec<_> = (0..costs.len() as u16).map(LinkId).collect();
        let mut scheduler = LinkScheduler::default();
        links.iter().for_each(|link| scheduler.add(*link));
        let mut taken = vec![0; costs.len()];
        while taken.iter().sum::<u64>() < 1_000_000_000 {
            let mut of_round = 0;
            while of_round < super::super::ROUND {
                let mut served = false;
                for link in &links {
                    let Some(packets) = scheduler.batch_size(*link) else { continue };
                    scheduler.charge(*link, packets);
                    let nanos = packets as u64 * costs[link.index()];
                    scheduler.record_time(*link, nanos);
                    taken[link.index()] += nanos;
                    (served, of_round) = (true, of_round + packets);
                }
                if !served {
                    scheduler.replenish();
                }
            }
            scheduler.end_round();
        }
        let all = taken.iter().sum::<u64>() as f64;
        taken.iter().map(|taken| *taken as f64 / all).collect()
    }

    #[test]
    fn busy_links_get_equal_time_whatever_their_packets_cost() {
        for costs in [&[100, 100][..], &[100, 5_000], &[40_000, 300, 5_000], &[20, 80, 9, 70_000]] {
            let shares = shares(costs);
            let fair = 1.0 / costs.len() as f64;
            assert!(shares.iter().all(|share| *share > 0.5 * fair), "{costs:?}: {shares:?}");
        }
    }

    #[test]
    fn a_flood_of_new_flows_leaves_a_stream_more_than_half_of_the_time() {
        let (stream, flood) = (LinkId(0), LinkId(1));
        let mut scheduler = LinkScheduler::default();
        [stream, flood].iter().for_each(|link| scheduler.add(*link));
        let mut taken = [0, 0];
        for _ in 0..10_000 {
            for (link, nanos, charged) in [(stream, 2_000, 0), (flood, 2_500, NEW_FLOW)] {
                let Some(packets) = scheduler.batch_size(link) else { continue };
                scheduler.charge(link, packets);
                taken[link.index()] += packets as u64 * nanos;
                scheduler.record_time(link, packets as u64 * (nanos + charged));
            }
            scheduler.end_round();
            if scheduler.batch_size(stream).is_none() && scheduler.batch_size(flood).is_none() {
                scheduler.replenish();
            }
        }
        assert!(taken[0] > 3 * taken[1], "{taken:?}");
    }

    #[test]
    fn time_for_handed_off_packets_is_settled_in_its_round() {
        let (mut scheduler, link) = (LinkScheduler::default(), LinkId(0));
        scheduler.add(link);
        for _ in 0..1_000 {
            scheduler.record_time(link, 40_000);
            scheduler.end_round();
            if scheduler.batch_size(link).is_none() {
                scheduler.replenish();
            }
        }
        scheduler.charge(link, 10);
        scheduler.record_time(link, 5_000);
        scheduler.end_round();
        scheduler.replenish();
        scheduler.replenish();
        assert_eq!(scheduler.batch_size(link), Some(BATCH));
    }

    #[test]
    fn a_link_without_credit_waits_until_credit_is_replenished() {
        let (mut scheduler, link) = (LinkScheduler::default(), LinkId(3));
        scheduler.add(link);
        assert_eq!(scheduler.batch_size(link), Some(BATCH));
        scheduler.charge(link, 10);
        scheduler.record_time(link, 3 * QUANTUM as u64);
        scheduler.end_round();
        assert_eq!(scheduler.batch_size(link), None);
        scheduler.replenish();
        assert_eq!(scheduler.batch_size(link), None, "its debt is larger");
        scheduler.replenish();
        scheduler.replenish();
        assert_eq!(scheduler.batch_size(link), Some(BATCH_MIN.max(QUANTUM as usize / 2_312)));
        assert_eq!(scheduler.batch_size(LinkId(7)), None, "no such link");
    }
}
