//! The addresses and ports that a worker translates to: a number for each in use, which flows
//! store in two bytes.
//!
//! The numbers are shared as other resources are ([`crate::share`]): flows of a link get a new one
//! only while more are free than the link uses. A number that is in use already is available to
//! every link. It counts for every link that has flows with it, and for none that has not, so what
//! a link may take depends on no other link's choice of services.

use std::hash::RandomState;

use hashbrown::HashMap;
use podgate_tables::ids::LinkId;
use podgate_tables::service::L4Addr;

use crate::flow::Flow;

/// Distinct addresses and ports in use, at most: the number after the last one means none.
const TARGETS_MAX: usize = u16::MAX as usize;

/// One worker's targets, with the number of links whose flows refer to each.
#[derive(Debug)]
pub(super) struct Targets {
    slots: Vec<(L4Addr, u32)>,
    free: Vec<u16>,
    /// With a keyed hash: pods choose the services that they send to.
    index: HashMap<L4Addr, u16, RandomState>,
    /// Flows of a link that refer to a target.
    flows: HashMap<(LinkId, u16), u32, RandomState>,
    /// By the number of the link: the targets that its flows refer to.
    of_link: Vec<usize>,
}

impl Targets {
    pub(super) fn new() -> Self {
        let (index, flows) = Default::default();
        Self { slots: Vec::new(), free: Vec::new(), index, flows, of_link: Vec::new() }
    }

    /// The number of a target, for one more flow whose opener is at `link`. `None` if it would be a
    /// new one and the link has used up its share of them.
    pub(super) fn acquire(&mut self, link: LinkId, target: L4Addr) -> Option<u16> {
        let number = match self.index.get(&target) {
            Some(number) => *number,
            None => {
                let unused = TARGETS_MAX - self.index.len();
                if self.of_link.get(link.index()).copied().unwrap_or_default() >= unused {
                    return None;
                }
                self.add(target)
            }
        };
        self.refer(link, number);
        Some(number)
    }

    /// Gives a target a number, which nothing refers to yet. One must be unused.
    fn add(&mut self, target: L4Addr) -> u16 {
        let number = self.free.pop().unwrap_or(self.slots.len() as u16);
        match self.slots.get_mut(usize::from(number)) {
            Some(slot) => *slot = (target, 0),
            None => self.slots.push((target, 0)),
        }
        self.index.insert(target, number);
        number
    }

    fn refer(&mut self, link: LinkId, number: u16) {
        let flows = self.flows.entry((link, number)).or_default();
        *flows += 1;
        if *flows > 1 {
            return;
        }
        self.slots[usize::from(number)].1 += 1;
        if self.of_link.len() <= link.index() {
            self.of_link.resize(link.index() + 1, 0);
        }
        self.of_link[link.index()] += 1;
    }

    /// One flow less of `link` refers to a target.
    pub(super) fn release(&mut self, link: LinkId, number: u16) {
        let Some(flows) = self.flows.get_mut(&(link, number)) else {
            debug_assert!(false, "a flow refers to its target by its link");
            return;
        };
        *flows -= 1;
        if *flows > 0 {
            return;
        }
        self.flows.remove(&(link, number));
        self.of_link[link.index()] -= 1;
        let (target, links) = &mut self.slots[usize::from(number)];
        *links -= 1;
        if *links == 0 {
            self.index.remove(target);
            self.free.push(number);
        }
    }

    /// A flow's opener is at another link now. That link's share is not checked.
    pub(super) fn transfer(&mut self, from: LinkId, to: LinkId, number: u16) {
        self.refer(to, number);
        self.release(from, number);
    }

    /// The address and port of [`Flow::target`].
    pub(super) fn of(&self, flow: &Flow) -> Option<L4Addr> {
        flow.target().map(|number| self.slots[usize::from(number)].0)
    }

    /// The service's address and port that the opener of a translated flow sends to; `None` for
    /// other flows and for translations.
    pub(super) fn frontend_of(&self, flow: &Flow) -> Option<L4Addr> {
        if flow.is_translation() { None } else { self.of(flow) }
    }

    /// Targets in use.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.index.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use podgate_tables::address::Address;
    use proptest::prelude::*;

    use super::*;

    fn target(number: u32) -> L4Addr {
        L4Addr { address: Address::v4(number.to_be_bytes()), port: 80 }
    }

    const LINK: LinkId = LinkId(3);

    proptest! {
        #[test]
        fn a_target_has_a_number_as_long_as_a_flow_refers_to_it(
            steps in prop::collection::vec((0..3_u8, 0..3_u16, 0..8_u32), 0..300),
        ) {
            let mut targets = Targets::new();
            // By target: its number, and the links of its flows.
            let mut model: HashMap<u32, (u16, Vec<LinkId>)> = HashMap::new();
            for (step, link, number) in steps {
                let link = LinkId(link);
                if step == 0 {
                    let at = targets.acquire(link, target(number)).unwrap();
                    let known = model.entry(number).or_insert((at, Vec::new()));
                    prop_assert_eq!(known.0, at);
                    known.1.push(link);
                } else if let Some((at, flows)) = model.get_mut(&number) {
                    let of = flows.pop().unwrap();
                    if step == 1 {
                        targets.transfer(of, link, *at);
                        flows.insert(0, link);
                    } else {
                        targets.release(of, *at);
                    }
                    if flows.is_empty() {
                        model.remove(&number);
                    }
                }
                prop_assert_eq!(targets.len(), model.len());
                for (number, (at, _)) in &model {
                    prop_assert_eq!(targets.slots[usize::from(*at)].0, target(*number));
                }
                for link in 0..3 {
                    let own = model.values().filter(|(_, flows)| flows.contains(&LinkId(link)));
                    let counted = targets.of_link.get(usize::from(link)).copied();
                    prop_assert_eq!(counted.unwrap_or_default(), own.count());
                }
            }
        }
    }

    /// Numbers of as many new targets as `link` gets.
    fn fill(
        targets: &mut Targets,
        link: LinkId,
        fresh: &mut impl Iterator<Item = u32>,
    ) -> Vec<u16> {
        std::iter::from_fn(|| targets.acquire(link, target(fresh.next()?))).collect()
    }

    #[test]
    fn one_greedy_link_leaves_half_of_the_numbers_and_all_links_together_use_each_once() {
        let (mut targets, mut fresh) = (Targets::new(), 0..);
        let numbers = fill(&mut targets, LINK, &mut fresh);
        assert_eq!(numbers.len(), TARGETS_MAX.div_ceil(2));
        assert_eq!(targets.acquire(LINK, target(5)), Some(numbers[5]), "a known one");
        assert_eq!(fill(&mut targets, LinkId(4), &mut fresh).len(), TARGETS_MAX / 4 + 1);
        let mut all: Vec<_> = targets.index.values().copied().collect();
        for link in 5..100 {
            all.extend(fill(&mut targets, LinkId(link), &mut fresh));
        }
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..u16::MAX), "all but the one that stands for none");
        targets.release(LINK, numbers[9]);
        assert_eq!(targets.acquire(LinkId(100), target(u32::MAX)), Some(numbers[9]));
    }

    /// What others send to, or keep in use, is not charged to a link.
    #[test]
    fn a_link_pays_for_what_its_own_flows_refer_to() {
        let (mut targets, mut fresh) = (Targets::new(), 0..);
        let [own, other] = [LINK, LinkId(4)];
        let first = fill(&mut targets, own, &mut fresh);
        for number in 0..first.len() as u32 {
            assert_eq!(targets.acquire(other, target(number)), Some(first[number as usize]));
        }
        first.iter().for_each(|number| targets.release(own, *number));
        assert_eq!(targets.len(), first.len(), "the other link has flows with them");
        assert_eq!(targets.acquire(other, target(u32::MAX)), None);
        assert_eq!(fill(&mut targets, own, &mut fresh).len(), TARGETS_MAX / 4 + 1);
    }
}
