//! The list of suites.

use anyhow::Result;

use crate::context::Context;
use crate::measure::Measurement;
use crate::memory::established::{self, ALLOCS, IMIX, SERVICE_64, SIZE_64};
use crate::memory::flow_table::{self, BYTES, LOOKUP};
use crate::memory::inspector;
use crate::memory::instructions::{self, INSTRUCTIONS, SERVICE_INSTRUCTIONS};
use crate::memory::new_flow::{self, NEW_FLOW};
use crate::memory::release::{self, RELEASE};
use crate::node::{self, ATTACH, IDLE};
use crate::{fairness, l7, node_memory, observe, restart, scale, service, tcp, udp64};

/// A group of measurements that run together.
pub struct Suite {
    /// Ids of its measurements. [`Context::wants`] selects among them.
    pub ids: &'static [&'static str],
    /// Measures the wanted ids.
    pub run: fn(&Context) -> Result<Vec<Measurement>>,
}

/// All suites, in the order in which they run.
pub const SUITES: &[Suite] = &[
    Suite { ids: &[SIZE_64, ALLOCS, IMIX], run: established::measure },
    Suite { ids: &[SERVICE_64], run: established::measure_services },
    Suite { ids: &[INSTRUCTIONS, SERVICE_INSTRUCTIONS], run: instructions::measure },
    Suite { ids: &[NEW_FLOW], run: new_flow::measure },
    Suite { ids: &[RELEASE], run: release::measure },
    Suite { ids: &[BYTES], run: flow_table::bytes },
    Suite { ids: &[LOOKUP], run: flow_table::lookup },
    Suite { ids: &[IDLE, ATTACH], run: node::measure },
    Suite { ids: restart::IDS, run: restart::measure },
    Suite { ids: node_memory::IDS, run: node_memory::measure },
    Suite { ids: scale::AGENT_IDS, run: scale::measure_agent },
    Suite { ids: scale::MANIFESTS_IDS, run: scale::measure_manifests },
    Suite { ids: udp64::IDS, run: udp64::measure },
    Suite { ids: tcp::IDS, run: tcp::measure },
    Suite { ids: service::IDS, run: service::measure },
    Suite { ids: &[fairness::VICTIM], run: fairness::measure },
    Suite { ids: &[observe::OVERHEAD], run: observe::measure },
    Suite { ids: l7::IDS, run: l7::measure },
    Suite { ids: l7::grpc::IDS, run: l7::grpc::measure },
    Suite { ids: l7::dns::IDS, run: l7::dns::measure },
    Suite { ids: l7::kafka::IDS, run: l7::kafka::measure },
    Suite { ids: l7::tls::IDS, run: l7::tls::measure },
    Suite { ids: inspector::IDS, run: inspector::measure },
];

/// All ids.
pub(crate) fn ids() -> impl Iterator<Item = &'static str> {
    SUITES.iter().flat_map(|suite| suite.ids).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Constants that have the form of an id.
    const NO_IDS: &[&str] = &["www.bench.test"];

    /// Adds the values of constants in the sources of `folder` that have the form of an id: words
    /// with dots in between.
    fn add_ids_of_sources(folder: &Path, ids: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add_ids_of_sources(&path, ids);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            let constants = text.lines().filter(|line| line.contains("const "));
            let values =
                constants.filter_map(|line| line.split_once(": &str = \"")?.1.strip_suffix("\";"));
            let is_id = |value: &&str| {
                let is_word = |word: &str| {
                    !word.is_empty()
                        && word
                            .bytes()
                            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                };
                value.contains('.') && value.split('.').all(is_word) && !NO_IDS.contains(value)
            };
            ids.extend(values.filter(is_id).map(ToOwned::to_owned));
        }
    }

    /// One that is measured and not listed could not be selected, and would not run alone.
    #[test]
    fn all_ids_of_the_sources_are_listed() {
        let mut defined = BTreeSet::new();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        add_ids_of_sources(&sources, &mut defined);
        let listed: BTreeSet<_> = ids().map(ToOwned::to_owned).collect();
        assert_eq!(defined, listed);
    }

    #[test]
    fn ids_are_unique() {
        let mut seen = HashSet::new();
        for id in ids() {
            assert!(seen.insert(id), "{id} twice");
        }
    }
}
