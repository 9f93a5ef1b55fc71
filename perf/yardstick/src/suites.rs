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
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_unique() {
        let mut seen = HashSet::new();
        for id in ids() {
            assert!(seen.insert(id), "{id} twice");
        }
    }
}
