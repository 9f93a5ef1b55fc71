//! Flows over a restart: written when the agent stops, given to the workers when it starts again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use podgate_dataplane::policy::Snapshot;
use podgate_dataplane::types::LinkId;
use tracing::{error, info, warn};

use super::Agent;
use super::endpoint::Endpoint;
use super::flows_file::{FlowsFile, Moment, NamedLink};
use super::links::HOST_SLOT;
use super::state::StateDir;
use crate::protocol::FlowsTakenOver;

/// What is known of the flows of the agent before.
#[derive(Debug, Default)]
pub(super) struct EarlierFlows {
    /// Those that wait for the first publication.
    waiting: Option<FlowsFile>,
    /// What became of them.
    pub(super) outcome: FlowsTakenOver,
}

impl EarlierFlows {
    /// Reads what the agent before wrote, once.
    pub(super) fn read(state: &StateDir) -> Self {
        match FlowsFile::take(&state.flows(), &state.bad_flows()) {
            Ok(waiting) => Self { waiting, outcome: FlowsTakenOver::default() },
            Err(reason) => {
                let reason = format!("{} is not used: {reason}", state.flows().display());
                warn!("connections from before the start are reset: {reason}");
                let outcome = FlowsTakenOver { problem: Some(reason), ..FlowsTakenOver::default() };
                Self { waiting: None, outcome }
            }
        }
    }
}

impl Agent {
    /// Stops the workers, and writes down their flows for the next agent.
    pub(super) fn stop(&mut self) {
        let flows = self.links.stop();
        let slots = attached(&self.endpoints).map(|(name, slot)| (slot, name));
        let path = self.state.flows();
        let written = Moment::now().and_then(|now| {
            let own = FlowsFile::new(now, flows, HOST_SLOT, slots);
            // Those that never came to the workers, if nothing was published.
            let file = self.earlier_flows.waiting.take().unwrap_or(own);
            file.write(&path).map(|()| file.flows.len())
        });
        match written {
            Ok(count) => info!("{count} flows are written to {}", path.display()),
            Err(error) => error!(
                "can't write {}: {error}; connections are reset when podgate runs again",
                path.display()
            ),
        }
    }

    /// Gives the workers the flows of the agent before, judged by the first tables, which are to be
    /// published next.
    pub(super) fn take_over_flows(&mut self, snapshot: &Arc<Snapshot>) {
        let Some(file) = self.earlier_flows.waiting.take() else { return };
        let all = file.flows.len();
        let slots: HashMap<_, _> = attached(&self.endpoints).collect();
        let taken = Moment::now()
            .map_err(Into::into)
            .and_then(|now| file.flows_now(now, HOST_SLOT, &slots))
            .map_err(|error| error.to_string())
            .and_then(|flows| {
                let dataplane = self.links.dataplane();
                dataplane.take_over(snapshot, flows).map_err(|error| error.to_string())
            });
        let outcome = &mut self.earlier_flows.outcome;
        match taken {
            Ok(taken) => {
                (outcome.taken, outcome.left_out) = (taken, all - taken);
                info!("{taken} of {all} flows of the agent before go on");
            }
            Err(reason) => {
                warn!("flows of the agent before are not taken over: {reason}");
                (outcome.left_out, outcome.problem) = (all, Some(reason));
            }
        }
    }
}

/// Names and slots of the endpoints whose links are served.
fn attached(endpoints: &BTreeMap<String, Endpoint>) -> impl Iterator<Item = (NamedLink, LinkId)> {
    endpoints.values().filter_map(|Endpoint { spec, link, .. }| {
        let name = NamedLink { link: spec.link.clone(), pod: spec.pod.to_string() };
        Some((name, link.as_ref().ok()?.slot))
    })
}
