//! The addresses of patterns of DNS names, followed name by name.
//!
//! A change of one name costs as much as the patterns that match it: an index finds them by the end
//! of the name, and each pattern counts how many names give it an address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use podgate_tables::l7::NamePattern;
use podgate_tables::policy::{AddressScope, AddressSet};

use crate::store::Store;

/// The patterns of rules, and their addresses.
#[derive(Debug, Default)]
pub(super) struct FqdnPatterns {
    patterns: HashMap<u32, PatternState>,
    /// Numbers of patterns by [`NamePattern::suffix`].
    by_suffix: HashMap<Box<str>, Vec<u32>>,
    /// The addresses of each name that the patterns' counts contain.
    learned: BTreeMap<Arc<str>, Arc<[IpAddr]>>,
}

#[derive(Debug)]
struct PatternState {
    pattern: NamePattern,
    /// Addresses, each with the number of names that have it.
    addresses: BTreeMap<IpAddr, u32>,
}

impl PatternState {
    fn add(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            *self.addresses.entry(*address).or_default() += 1;
        }
    }

    fn remove(&mut self, addresses: &[IpAddr]) {
        for address in addresses {
            if let Some(names) = self.addresses.get_mut(address) {
                *names -= 1;
                if *names == 0 {
                    self.addresses.remove(address);
                }
            }
        }
    }

    fn address_set(&self) -> AddressSet {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in self.addresses.keys() {
            match address {
                IpAddr::V4(v) => v4.push((v.to_bits(), v.to_bits())),
                IpAddr::V6(v) => v6.push((v.to_bits(), v.to_bits())),
            }
        }
        AddressSet::new(AddressScope::World, v4, v6)
    }
}

impl FqdnPatterns {
    /// Adds a pattern. Returns its addresses.
    pub(super) fn add_pattern(&mut self, number: u32, pattern: &NamePattern) -> AddressSet {
        let mut state = PatternState { pattern: pattern.clone(), addresses: BTreeMap::new() };
        for (name, addresses) in &self.learned {
            if pattern.matches(name.as_bytes()) {
                state.add(addresses);
            }
        }
        let set = state.address_set();
        self.by_suffix.entry(pattern.suffix().into()).or_default().push(number);
        self.patterns.insert(number, state);
        set
    }

    /// Removes a pattern.
    pub(super) fn remove_pattern(&mut self, number: u32) {
        let Some(state) = self.patterns.remove(&number) else { return };
        let suffix = state.pattern.suffix();
        if let Some(numbers) = self.by_suffix.get_mut(suffix) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.by_suffix.remove(suffix);
            }
        }
    }

    /// Whether a pattern matches the name, which is in lower case without a dot at its end.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        self.matching(name).next().is_some()
    }

    /// Numbers of the patterns that match a name.
    fn matching(&self, name: &str) -> impl Iterator<Item = u32> {
        let starts = name.match_indices('.').map(|(dot, _)| dot + 1);
        // The whole name, what follows each of its dots, and what patterns without suffix have.
        let suffixes = [0].into_iter().chain(starts).map(|start| &name[start..]);
        let suffixes = suffixes.filter(|suffix| !suffix.is_empty()).chain([""]);
        let candidates = suffixes.filter_map(|suffix| self.by_suffix.get(suffix)).flatten();
        candidates.copied().filter(|number| {
            let state = self.patterns.get(number);
            state.is_some_and(|state| state.pattern.matches(name.as_bytes()))
        })
    }

    /// Takes over what the store knows of `names`; of all names, if that is `None`. Returns the
    /// numbers of the patterns whose addresses changed, each with its addresses.
    pub(super) fn update(
        &mut self,
        names: Option<BTreeSet<Arc<str>>>,
        store: &Store,
    ) -> Vec<(u32, AddressSet)> {
        let all = || self.learned.keys().chain(store.learned().map(|(name, _)| name)).cloned();
        let names = names.unwrap_or_else(|| all().collect());
        let mut changed = HashSet::new();
        for name in names {
            let now = store.addresses_of(&name).cloned();
            let former = match &now {
                Some(now) => self.learned.insert(Arc::clone(&name), Arc::clone(now)),
                None => self.learned.remove(&name),
            };
            if former == now {
                continue;
            }
            let numbers: Vec<u32> = self.matching(&name).collect();
            for number in numbers {
                let Some(state) = self.patterns.get_mut(&number) else { continue };
                state.add(now.as_deref().unwrap_or_default());
                state.remove(former.as_deref().unwrap_or_default());
                changed.insert(number);
            }
        }
        let set_of = |number| Some((number, self.patterns.get(&number)?.address_set()));
        changed.into_iter().filter_map(set_of).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_index_finds_the_patterns_that_match(
            patterns in vec(r"[ab*]{1,2}(\.[ab*]{1,2}){0,2}|\*|\.", 1..12),
            removed in vec(any::<prop::sample::Index>(), 0..6),
            name in r"([ab]{1,2}(\.[ab]{1,2}){0,3})?|a b\.\.a",
        ) {
            let mut names = FqdnPatterns::default();
            let parse = |text: &String| NamePattern::dns(text).ok();
            let mut parsed: Vec<_> = patterns.iter().filter_map(parse).map(Some).collect();
            for (number, pattern) in parsed.iter().flatten().enumerate() {
                names.add_pattern(number as u32, pattern);
            }
            let count = parsed.len();
            for index in removed.iter().filter(|_| count > 0) {
                let number = index.index(count);
                names.remove_pattern(number as u32);
                parsed[number] = None;
            }
            let matches = |pattern: &Option<NamePattern>| {
                pattern.as_ref().is_some_and(|pattern| pattern.matches(name.as_bytes()))
            };
            let expected: BTreeSet<u32> =
                (0..).zip(&parsed).filter(|(_, p)| matches(p)).map(|(number, _)| number).collect();
            let found: Vec<u32> = names.matching(&name).collect();
            prop_assert_eq!(found.len(), expected.len());
            prop_assert_eq!(BTreeSet::from_iter(found), expected);
        }
    }
}
