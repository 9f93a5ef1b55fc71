//! Interning of pods into identities.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::labels::{Facts, Labels};
use crate::store::Store;

/// One identity.
pub(super) struct Identity {
    pub(super) number: u32,
    pub(super) facts: Facts,
}

/// All identities.
pub(super) struct Identities {
    /// The reserved ones at the indices that the tables fix, then those of pods, sorted.
    pub(super) rows: Vec<Identity>,
    /// Index of each pod's identity, in the store's order of pods; `None` for pods that have no
    /// address of their own.
    pub(super) of_pods: Vec<Option<u32>>,
}

/// Labels and numbers of what is no pod, in the order of `PolicyTables::WORLD_V4` and its
/// neighbours. Cilium's numbers (cilium `pkg/identity/numericidentity.go`).
const RESERVED: [(u32, &[&str]); 4] = [
    (9, &["world", "world-ipv4"]),
    (10, &["world", "world-ipv6"]),
    (1, &["host"]),
    (6, &["remote-node"]),
];

/// First number of a pod's identity; those below are reserved (cilium
/// `pkg/identity/numericidentity.go`, `MinimalAllocationIdentity`).
const NUMBER_MIN: u32 = 256;
/// One more than the last number: 24 bits, beyond which Cilium's local scopes begin.
const NUMBER_END: u32 = 1 << 24;

impl Identities {
    pub(super) fn collect(store: &Store) -> Self {
        let mut namespaces: HashMap<&str, Arc<Labels>> = HashMap::new();
        let mut distinct: HashMap<Facts, u32> = HashMap::new();
        let mut facts_of_pods = Vec::new();
        for (name, pod) in store.pods() {
            if pod.addresses().is_empty() {
                facts_of_pods.push(None);
                continue;
            }
            let namespace_labels = namespaces
                .entry(&name.namespace)
                .or_insert_with(|| Arc::new(store.namespace_labels(&name.namespace)));
            let facts = Facts::Pod {
                namespace: Arc::clone(&name.namespace),
                service_account: Arc::clone(&pod.service_account),
                labels: Arc::clone(&pod.labels),
                namespace_labels: Arc::clone(namespace_labels),
            };
            let next = distinct.len() as u32;
            facts_of_pods.push(Some(*distinct.entry(facts).or_insert(next)));
        }
        let mut sorted: Vec<(Facts, u32)> = distinct.into_iter().collect();
        sorted.sort_unstable();
        let mut places = vec![0; sorted.len()];
        let mut numbers = Numbers::default();
        let reserved = RESERVED.iter();
        let mut rows: Vec<Identity> = reserved
            .map(|(number, names)| Identity { number: *number, facts: Facts::Reserved(names) })
            .collect();
        for (facts, found) in sorted {
            places[found as usize] = rows.len() as u32;
            rows.push(Identity { number: numbers.number_of(&facts), facts });
        }
        let place = |found: Option<u32>| found.map(|found| places[found as usize]);
        Self { rows, of_pods: facts_of_pods.into_iter().map(place).collect() }
    }
}

/// Gives each label set a number that depends on its labels and, but for rare collisions, on
/// nothing else: the same pods keep their numbers when others come and go, and after a restart.
#[derive(Default)]
struct Numbers {
    taken: HashSet<u32>,
}

impl Numbers {
    fn number_of(&mut self, facts: &Facts) -> u32 {
        let hash = facts.to_labels().iter().fold(FNV_OFFSET, |hash, label| {
            label
                .bytes()
                .chain([0])
                .fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME))
        });
        let mut number = NUMBER_MIN + (hash % u64::from(NUMBER_END - NUMBER_MIN)) as u32;
        while !self.taken.insert(number) {
            number = if number + 1 == NUMBER_END { NUMBER_MIN } else { number + 1 };
        }
        number
    }
}

/// FNV-1a, 64 bits (RFC 9923): short, and the same on every machine and in every release.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
