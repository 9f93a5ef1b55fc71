//! Fair sharing of a bounded resource between links.
//!
//! A link may take more only while more is free than it has taken already: one greedy link leaves
//! half of the resource free, two leave a third. (New flows follow the same rule.)

use podgate_tables::ids::LinkId;

/// Fair shares of a store that is drained as a whole: counts what each link took since the store
/// was last empty.
#[derive(Debug, Default)]
pub struct FairShare {
    /// By the number of the link: what it took, and in which period.
    taken: Vec<Taken>,
    /// Number of times that the store was empty.
    period: u32,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    period: u32,
    entries: u32,
}

impl FairShare {
    /// Starts a new period: the store is empty.
    pub fn reset(&mut self) {
        self.period = self.period.wrapping_add(1);
    }

    /// Takes one of `free` entries for `link`, if its share allows. Returns whether it did.
    pub fn take(&mut self, link: LinkId, free: usize) -> bool {
        self.take_all(link, free, 1)
    }

    /// Takes `entries` of `free` entries, if the share allows taking them one after the other.
    fn take_all(&mut self, link: LinkId, free: usize, entries: usize) -> bool {
        let period = self.period;
        if self.taken.len() <= link.index() {
            self.taken.resize(link.index() + 1, Taken { period, entries: 0 });
        }
        let taken = &mut self.taken[link.index()];
        if taken.period != period {
            *taken = Taken { period, entries: 0 };
        }
        // Each entry before the last one adds to what the link has taken, and subtracts from what
        // is free.
        let allowed = taken.entries as usize + 2 * (entries.max(1) - 1) < free;
        if allowed {
            taken.entries += entries as u32;
        }
        allowed
    }

    /// Takes `entries` of a ring with `free` entries, in which `waiting` entries wait for its
    /// reader.
    pub(crate) fn take_in_ring(
        &mut self,
        link: LinkId,
        (waiting, free): (usize, usize),
        entries: usize,
    ) -> bool {
        if waiting == 0 {
            self.reset();
        }
        self.take_all(link, free, entries)
    }
}

/// Fair shares of a resource whose units are released one by one.
#[derive(Debug)]
pub struct Quota {
    limit: usize,
    used: usize,
    /// By the number of the link.
    by_link: Vec<usize>,
}

impl Quota {
    /// An unused resource of `limit` units.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, used: 0, by_link: Vec::new() }
    }

    /// Units that all links use.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.used
    }

    /// Takes `units` for `link`, if it then uses no more than remains free. Returns whether it did.
    pub fn take(&mut self, link: LinkId, units: usize) -> bool {
        let free = self.limit.saturating_sub(self.used);
        let of_link = self.of(link);
        let allowed = *of_link + 2 * units <= free;
        if allowed {
            *of_link += units;
            self.used += units;
        }
        allowed
    }

    /// Releases `units` of `link`.
    pub fn release(&mut self, link: LinkId, units: usize) {
        *self.of(link) -= units;
        self.used -= units;
    }

    /// Charges `units` of link `from` to link `to`, even beyond the share of `to`.
    pub fn transfer(&mut self, from: LinkId, to: LinkId, units: usize) {
        *self.of(from) -= units;
        *self.of(to) += units;
    }

    fn of(&mut self, link: LinkId) -> &mut usize {
        if self.by_link.len() <= link.index() {
            self.by_link.resize(link.index() + 1, 0);
        }
        &mut self.by_link[link.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_greedy_link_leaves_half_and_two_leave_a_third() {
        let mut shares = FairShare::default();
        let mut take = |free: &mut usize, links: &[u16], times| {
            let mut taken = 0;
            for link in links.iter().cycle().take(times) {
                if shares.take(LinkId(*link), *free) {
                    *free -= 1;
                    taken += 1;
                }
            }
            shares.reset();
            taken
        };
        assert_eq!(take(&mut 90, &[1], 1000), 45);
        assert_eq!(take(&mut 90, &[1, 2], 1000), 60);
        let mut free = 90;
        // A link that comes late still gets entries.
        assert_eq!(take(&mut free, &[7], 1000), 45);
        assert!(take(&mut free, &[8], 10) == 10);
        assert_eq!(take(&mut 0, &[1], 10), 0);
    }

    #[test]
    fn several_entries_are_taken_at_once_if_they_could_be_one_by_one() {
        let link = LinkId(1);
        for (capacity, before, entries) in (0..12).flat_map(|capacity| {
            (0..=capacity).flat_map(move |before| (1..6).map(move |n| (capacity, before, n)))
        }) {
            let [mut at_once, mut one_by_one] = [FairShare::default(), FairShare::default()];
            let taken = (0..before).filter(|taken| at_once.take(link, capacity - taken)).count();
            let free = capacity - taken;
            (0..taken).for_each(|taken| assert!(one_by_one.take(link, capacity - taken)));
            let expected = (0..entries).all(|n| n < free && one_by_one.take(link, free - n));
            assert_eq!(at_once.take_in_ring(link, (1, free), entries), expected);
        }
    }

    #[test]
    fn a_quota_is_shared_alike_and_released() {
        let [greedy, late] = [LinkId(1), LinkId(7)];
        let mut quota = Quota::new(90);
        let take = |quota: &mut Quota, link| {
            std::iter::from_fn(|| quota.take(link, 5).then_some(5)).sum::<usize>()
        };
        assert_eq!(take(&mut quota, greedy), 45);
        assert_eq!(take(&mut quota, late), 20);
        assert_eq!(quota.total(), 65);
        quota.transfer(greedy, late, 45);
        assert!(!quota.take(late, 1), "all of it is charged to the other link now");
        assert!(quota.take(greedy, 10));
        quota.release(late, 65);
        quota.release(greedy, 10);
        assert_eq!((quota.total(), take(&mut quota, late)), (0, 45));
    }
}
