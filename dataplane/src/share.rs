//! Fair sharing of a bounded resource.
//!
//! # Links
//! A link may take more only while more is free than it has taken already: one greedy link leaves
//! half of the resource free, two leave a third.
//!
//! # Sources outside of the node
//! All of them come by one link. Where they have shares of their own (flows, and what inspected
//! flows hold), a group of sources ([`SOURCES`]) may take more in two cases.
//! - More is free than it and all sources from outside have taken together. One greedy source
//!   leaves two thirds free, two leave five ninths, and any number of them half.
//! - It has less than an equal part of half of what is free. So each group gets something, however
//!   many are greedy, also if pods have left less than the sources from outside use. With these
//!   parts, all from outside leave three tenths. Of a resource of less than 512 units there are no
//!   such parts.

use podgate_tables::ids::LinkId;

use crate::flow::{Opener, SOURCES};

/// What was taken of a resource already by those who want more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) by_link: usize,
    /// By the group of sources, if the link is that to everything outside of the node and its
    /// sources have shares of their own.
    pub(crate) by_group: Option<usize>,
}

impl Taken {
    /// Whether the share is used up when `free` units are free.
    #[inline]
    pub(crate) const fn is_all_of_share(self, free: usize) -> bool {
        match self.by_group {
            None => self.by_link >= free,
            Some(own) => self.by_link + own >= free && own >= free / (2 * SOURCES),
        }
    }

    /// Whether the share allows taking `units` of `free` units one after the other.
    const fn allows(self, units: usize, free: usize) -> bool {
        // Each unit before the last one adds to what was taken, and subtracts from what is free.
        let before = units.saturating_sub(1);
        let by_group = match self.by_group {
            None => None,
            Some(own) => Some(own + before),
        };
        let then = Self { by_link: self.by_link + before, by_group };
        !then.is_all_of_share(free.saturating_sub(before))
    }
}

/// Fair shares of a store that is drained as a whole: counts what each link took since the store
/// was last empty.
#[derive(Debug, Default)]
pub struct FairShare {
    /// By the number of the link: what it took, and in which period.
    taken: Vec<TakenInPeriod>,
    /// Number of times that the store was empty.
    period: u32,
}

#[derive(Clone, Copy, Debug)]
struct TakenInPeriod {
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
            self.taken.resize(link.index() + 1, TakenInPeriod { period, entries: 0 });
        }
        let taken = &mut self.taken[link.index()];
        if taken.period != period {
            *taken = TakenInPeriod { period, entries: 0 };
        }
        let by_link = taken.entries as usize;
        let allowed = Taken { by_link, by_group: None }.allows(entries, free);
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

/// Who takes of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Taker {
    link: LinkId,
    /// The group of sources, if it has a share of its own; less than [`SOURCES`].
    group: Option<usize>,
}

impl From<LinkId> for Taker {
    fn from(link: LinkId) -> Self {
        Self { link, group: None }
    }
}

impl From<Opener> for Taker {
    fn from(opener: Opener) -> Self {
        Self { link: opener.link(), group: opener.source_group() }
    }
}

/// Fair shares of a resource whose units are released one by one.
#[derive(Debug)]
pub(crate) struct Quota {
    limit: usize,
    used: usize,
    /// By the number of the link.
    by_link: Vec<usize>,
    by_group: Box<[usize; SOURCES]>,
}

impl Quota {
    /// An unused resource of `limit` units.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: 0, by_link: Vec::new(), by_group: Box::new([0; SOURCES]) }
    }

    /// Units that are used.
    pub(crate) const fn total(&self) -> usize {
        self.used
    }

    /// Whether nobody uses any.
    pub(crate) fn is_unused(&self) -> bool {
        self.used == 0 && self.by_link.iter().chain(&*self.by_group).all(|units| *units == 0)
    }

    /// Takes `units`, if the taker's share allows. Returns whether it did.
    pub(crate) fn take(&mut self, taker: impl Into<Taker>, units: usize) -> bool {
        let taker = taker.into();
        let free = self.limit.saturating_sub(self.used);
        let by_link = self.by_link.get(taker.link.index()).copied().unwrap_or_default();
        let taken = Taken { by_link, by_group: taker.group.map(|group| self.by_group[group]) };
        let allowed = taken.allows(units, free);
        if allowed {
            self.charge(taker, units);
        }
        allowed
    }

    /// Releases `units` of a taker.
    pub(crate) fn release(&mut self, taker: impl Into<Taker>, units: usize) {
        self.used -= units;
        self.counts_of(taker.into()).for_each(|count| *count -= units);
    }

    /// Charges `units` of one taker to another one, even beyond the share of the latter.
    pub(crate) fn transfer(&mut self, from: impl Into<Taker>, to: impl Into<Taker>, units: usize) {
        self.release(from, units);
        self.charge(to.into(), units);
    }

    fn charge(&mut self, taker: Taker, units: usize) {
        self.used += units;
        self.counts_of(taker).for_each(|count| *count += units);
    }

    /// What a taker's link uses, and its group, if it has one.
    fn counts_of(&mut self, Taker { link, group }: Taker) -> impl Iterator<Item = &mut usize> {
        if self.by_link.len() <= link.index() {
            self.by_link.resize(link.index() + 1, 0);
        }
        let of_group = group.map(|group| &mut self.by_group[group]);
        std::iter::once(&mut self.by_link[link.index()]).chain(of_group)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OUTSIDE: LinkId = LinkId(0);

    fn source(group: usize) -> Taker {
        Taker { link: OUTSIDE, group: Some(group % SOURCES) }
    }

    /// Takes by `units` while the share allows. Returns how much.
    fn take_all(quota: &mut Quota, taker: impl Into<Taker>, units: usize) -> usize {
        let taker = taker.into();
        std::iter::from_fn(|| quota.take(taker, units).then_some(units)).sum()
    }

    /// One of three links of pods, or a group of sources.
    fn any_taker() -> impl Strategy<Value = Taker> {
        prop_oneof![
            (1..4_u16).prop_map(|link| LinkId(link).into()),
            (0..SOURCES).prop_map(source),
            (0..3_usize).prop_map(source),
        ]
    }

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

    #[test]
    fn a_greedy_source_leaves_two_thirds_and_others_get_something() {
        let mut quota = Quota::new(90_000);
        assert_eq!(take_all(&mut quota, source(1), 1), 30_000);
        assert_eq!(take_all(&mut quota, source(2), 1), 10_000);
        for group in 3..SOURCES {
            take_all(&mut quota, source(group), 1);
        }
        let free = 90_000 - quota.total();
        assert!(free >= 27_000, "all of them leave three tenths: {free}");
        assert!(take_all(&mut quota, source(0), 1) + 1 >= free / 2 / SOURCES);
        let of_pods = [1, 2].map(|link| take_all(&mut quota, LinkId(link), 1));
        assert!(of_pods[0] >= 13_000 && of_pods[1] >= 6_500, "{of_pods:?}");
        // What outside sources use is more than what is free now; one that has none gets some.
        let of_first = quota.by_group[0];
        quota.release(source(0), of_first);
        assert!(take_all(&mut quota, source(0), 1) > 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Sources take in any order, and release some of it now and then.
        #[test]
        fn however_many_sources_are_greedy_each_gets_its_part_and_a_quarter_is_left(
            limit in 1..60_000_usize,
            takes in prop::collection::vec((0..SOURCES, 1..900_usize, 0..4_u8), 0..300),
            late in 0..SOURCES,
        ) {
            let mut quota = Quota::new(limit);
            for (group, units, then) in takes {
                match then {
                    0 => quota.release(source(group), quota.by_group[group]),
                    1 => { take_all(&mut quota, source(group), units); }
                    _ => { quota.take(source(group), units); }
                }
                prop_assert!(3 * quota.by_group[group] <= limit + 2);
            }
            for group in (0..SOURCES).filter(|group| *group != late) {
                take_all(&mut quota, source(group), 1);
            }
            take_all(&mut quota, source(late), 1);
            let free = limit - quota.total();
            for group in 0..SOURCES {
                prop_assert!(quota.by_group[group] >= free / 2 / SOURCES);
            }
            // Half, and then its part of the other half for each group.
            let most = limit / 2 + 1 + SOURCES * (limit / 2 / 2 / SOURCES);
            prop_assert!(quota.total() <= most, "{} of {limit}", quota.total());
            let of_pod = take_all(&mut quota, LinkId(1), 1);
            prop_assert!(of_pod + 1 >= free / 2, "{of_pod} of {limit}");
        }

        #[test]
        fn units_are_taken_as_if_one_by_one_and_sums_are_right(
            limit in 0..400_usize,
            steps in prop::collection::vec((any_taker(), any_taker(), 0..40_usize, 0..4_u8), 0..100),
        ) {
            let [mut at_once, mut one_by_one] = [Quota::new(limit), Quota::new(limit)];
            let mut held: Vec<(Taker, usize)> = Vec::new();
            for (taker, other, units, step) in steps {
                match (step, held.is_empty()) {
                    (0, false) => {
                        let (holder, units) = held.swap_remove(units % held.len());
                        at_once.release(holder, units);
                        one_by_one.release(holder, units);
                    }
                    (1, false) => {
                        let index = units % held.len();
                        let (holder, units) = &mut held[index];
                        at_once.transfer(*holder, other, *units);
                        one_by_one.transfer(*holder, other, *units);
                        *holder = other;
                    }
                    _ if units > 0 => {
                        let taken = (0..units).filter(|_| one_by_one.take(taker, 1)).count();
                        prop_assert_eq!(at_once.take(taker, units), taken == units);
                        match taken == units {
                            true => held.push((taker, units)),
                            false => one_by_one.release(taker, taken),
                        }
                    }
                    _ => {}
                }
                let sum: usize = held.iter().map(|(_, units)| units).sum();
                prop_assert!(sum == at_once.total() && sum <= limit);
                prop_assert_eq!(&at_once.by_group, &one_by_one.by_group);
                prop_assert_eq!(at_once.by_group.iter().sum::<usize>(), at_once.by_link.first().copied().unwrap_or_default());
            }
            for (holder, units) in held {
                prop_assert!(units == 0 || !at_once.is_unused());
                at_once.release(holder, units);
            }
            prop_assert!(at_once.is_unused());
        }
    }
}
