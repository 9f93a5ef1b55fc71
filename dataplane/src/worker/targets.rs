//! The addresses and ports that a worker translates to: a number for each in use, which flows
//! store in two bytes.

use std::hash::RandomState;

use hashbrown::HashMap;
use podgate_tables::service::L4Addr;

use crate::flow::Flow;

/// Distinct addresses and ports in use, at most: the number after the last one stands for none.
const TARGETS_MAX: usize = u16::MAX as usize;

/// One worker's targets, with the number of flows that refer to each.
#[derive(Debug)]
pub(super) struct Targets {
    slots: Vec<(L4Addr, u32)>,
    free: Vec<u16>,
    /// With a keyed hash: pods choose the services that they send to.
    index: HashMap<L4Addr, u16, RandomState>,
}

impl Targets {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), index: HashMap::default() }
    }

    /// The number of a target, for one more flow. `None` if there are too many.
    pub(super) fn acquire(&mut self, target: L4Addr) -> Option<u16> {
        if let Some(number) = self.index.get(&target) {
            self.slots[usize::from(*number)].1 += 1;
            return Some(*number);
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[usize::from(number)] = (target, 1);
                number
            }
            None if self.slots.len() < TARGETS_MAX => {
                self.slots.push((target, 1));
                self.slots.len() as u16 - 1
            }
            None => return None,
        };
        self.index.insert(target, number);
        Some(number)
    }

    /// One flow less refers to a target.
    pub(super) fn release(&mut self, number: u16) {
        let (target, flows) = &mut self.slots[usize::from(number)];
        *flows -= 1;
        if *flows == 0 {
            self.index.remove(target);
            self.free.push(number);
        }
    }

    /// What [`Flow::target`] stands for.
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

    proptest! {
        #[test]
        fn a_target_has_a_number_as_long_as_a_flow_refers_to_it(
            steps in prop::collection::vec((any::<bool>(), 0..8_u32), 0..200),
        ) {
            let mut targets = Targets::new();
            let mut model: HashMap<u32, (u16, u32)> = HashMap::new();
            for (add, number) in steps {
                if add {
                    let at = targets.acquire(target(number)).unwrap();
                    let known = model.entry(number).or_insert((at, 0));
                    prop_assert_eq!(known.0, at);
                    known.1 += 1;
                } else if let Some((at, flows)) = model.get_mut(&number) {
                    targets.release(*at);
                    *flows -= 1;
                    if *flows == 0 {
                        model.remove(&number);
                    }
                }
                prop_assert_eq!(targets.len(), model.len());
                for (number, (at, _)) in &model {
                    prop_assert_eq!(targets.slots[usize::from(*at)].0, target(*number));
                }
            }
        }
    }

    #[test]
    fn there_are_as_many_targets_as_numbers() {
        let mut targets = Targets::new();
        let numbers: Vec<_> = (0..TARGETS_MAX as u32)
            .map(|number| targets.acquire(target(number)).unwrap())
            .collect();
        assert!(!numbers.contains(&u16::MAX));
        assert_eq!(targets.acquire(target(1 << 20)), None);
        assert_eq!(targets.acquire(target(5)), Some(numbers[5]));
        targets.release(numbers[9]);
        assert_eq!(targets.acquire(target(1 << 20)), Some(numbers[9]));
    }
}
