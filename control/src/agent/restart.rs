//! Flows over a restart: written when the agent stops, given to the workers when it starts again.

use std::collections::HashMap;
use std::sync::Arc;

use podgate_api::FlowsTakenOver;
use podgate_dataplane::flow::SavedFlow;
use podgate_dataplane::worker::Dataplane;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::Snapshot;
use tracing::{info, warn};

use super::endpoints::Endpoints;
use super::flows_file::{FlowsFile, Moment, NamedLink};
use super::host_network::HOST_SLOT;
use super::state::StateDir;

/// Flows of the previous agent.
#[derive(Debug, Default)]
pub(super) struct EarlierFlows {
    /// Until the first publication.
    waiting: Option<FlowsFile>,
    outcome: FlowsTakenOver,
}

impl EarlierFlows {
    /// Reads the file that the previous agent wrote, once.
    pub(super) fn read(state: &StateDir) -> Self {
        match FlowsFile::take(&state.flows()) {
            Ok(waiting) => Self { waiting, outcome: FlowsTakenOver::default() },
            Err(reason) => {
                let reason = format!("{} is not used: {reason}", state.flows().display());
                warn!("connections from before the start are reset: {reason}");
                let outcome = FlowsTakenOver { problem: Some(reason), ..FlowsTakenOver::default() };
                Self { waiting: None, outcome }
            }
        }
    }

    /// The result of taking them over.
    pub(super) fn outcome(&self) -> &FlowsTakenOver {
        &self.outcome
    }

    /// Writes the flows of the stopped workers for the next agent.
    ///
    /// # Errors
    /// When they can't be written: one line that names the file.
    pub(super) fn save(
        &mut self,
        flows: Vec<SavedFlow>,
        endpoints: &Endpoints,
        state: &StateDir,
    ) -> Result<(), String> {
        let slots = attached(endpoints).map(|(name, slot)| (slot, name));
        let path = state.flows();
        let written = Moment::now().and_then(|now| {
            let own = FlowsFile::new(now, flows, HOST_SLOT, slots);
            // Without a publication the flows of the previous agent never came to the workers.
            let file = self.waiting.take().unwrap_or(own);
            file.write(&path).map(|()| file.flows.len())
        });
        let path = path.display();
        let count = written.map_err(|error| {
            format!("can't write {path}: {error}; connections are reset when podgate runs again")
        })?;
        info!("{count} flows are written to {path}");
        Ok(())
    }

    /// Gives the workers the saved flows that the first tables allow; these are published next.
    pub(super) fn take_over(
        &mut self,
        snapshot: &Arc<Snapshot>,
        endpoints: &Endpoints,
        dataplane: &Dataplane,
    ) {
        let Some(file) = self.waiting.take() else { return };
        let all = file.flows.len();
        let slots: HashMap<_, _> = attached(endpoints).collect();
        let taken = Moment::now()
            .map_err(Into::into)
            .and_then(|now| file.flows_now(now, HOST_SLOT, &slots))
            .map_err(|error| error.to_string())
            .and_then(|flows| {
                dataplane.restore_flows(snapshot, flows).map_err(|error| error.to_string())
            });
        let outcome = &mut self.outcome;
        match taken {
            Ok(taken) => {
                (outcome.taken, outcome.left_out) = (taken, all - taken);
                info!("{taken} of {all} flows of the previous agent continue");
            }
            Err(reason) => {
                warn!("flows of the previous agent are not taken over: {reason}");
                (outcome.left_out, outcome.problem) = (all, Some(reason));
            }
        }
    }
}

/// Names and slots of the attached links.
fn attached(endpoints: &Endpoints) -> impl Iterator<Item = (NamedLink, LinkId)> {
    endpoints.iter().filter_map(|(_, endpoint)| {
        let name =
            NamedLink { link: endpoint.spec.link.clone(), pod: endpoint.spec.pod.to_string() };
        Some((name, endpoint.link.as_ref().ok()?.slot))
    })
}
