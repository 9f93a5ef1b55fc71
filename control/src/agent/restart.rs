//! Flows over a restart: written when the agent stops, given to the workers when it starts again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Result;
use podgate_tables::ids::LinkId;
use podgate_tables::policy::Snapshot;
use tracing::{error, info, warn};

use super::Agent;
use super::endpoint::{Attached, Endpoint, PodEnd, prepare_pod_end};
use super::flows_file::{FlowsFile, Moment, NamedLink};
use super::links::HOST_SLOT;
use super::state::{Remembered, StateDir};
use crate::error::describe;
use crate::netlink::Link;
use crate::protocol::{EndpointSpec, FlowsTakenOver, PodMtu};

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

impl Agent {
    /// Attaches what was attached when the last agent stopped, all of it together: pods' ends are
    /// looked at on several threads, and the workers get all links at one time. A link that can't
    /// be had is an endpoint that is gone.
    ///
    /// # Errors
    /// When links can't be listed, or the workers don't take them.
    pub(super) async fn attach_remembered(&mut self, remembered: Vec<Remembered>) -> Result<()> {
        let links = self.netlink.links().await?;
        let mut by_name: HashMap<_, _> =
            links.into_iter().map(|link| (link.name.clone(), link)).collect();
        let ends: Vec<_> = remembered
            .into_iter()
            .map(|remembered| {
                let spec = &remembered.spec;
                let link = self.link_of(spec, by_name.remove(&spec.link));
                let mtu = self.mtu_of(spec);
                (remembered, mtu, link)
            })
            .collect();
        for (remembered, link) in prepare_all(ends, self.leaves_checksums()) {
            let Remembered { spec, mut offload_was_on } = remembered;
            let link = match link {
                Ok(prepared) => {
                    offload_was_on |= prepared.pod_end.offload_was_on;
                    self.open_prepared(prepared).await
                }
                Err(error) => Err(error),
            };
            let link = link.map_err(|error| {
                let reason = describe(error.as_ref());
                warn!("endpoint {} on link {}: {reason}", spec.pod, spec.link);
                reason
            });
            self.endpoints.insert(spec.link.clone(), Endpoint { spec, link, offload_was_on });
        }
        self.links.serve_all()
    }

    async fn open_prepared(&mut self, prepared: Prepared) -> Result<Attached> {
        let Prepared { mut link, mtu, pod_end } = prepared;
        if let Some(mtu) = mtu.map(u32::from).filter(|mtu| *mtu != link.mtu) {
            link.mtu = mtu;
            self.netlink.set_mtu(&link, mtu).await?;
        }
        let slot = self.links.free_slot()?;
        self.links.open_unserved(&link, slot)?;
        Ok(Attached { slot, link, pod_end: Ok(pod_end.hardware) })
    }
}

/// An endpoint's link whose other end was looked at.
struct Prepared {
    link: Link,
    mtu: Option<PodMtu>,
    pod_end: PodEnd,
}

/// Threads that enter pods' namespaces at one time.
const PREPARING_THREADS: usize = 8;

/// Looks at the pods' ends of links, and prepares them ([`prepare_pod_end`]); in no order.
fn prepare_all(
    ends: Vec<(Remembered, Option<PodMtu>, Result<Link>)>,
    leaves_checksums: bool,
) -> Vec<(Remembered, Result<Prepared>)> {
    let prepare = |spec: &EndpointSpec, mtu, link: Result<Link>| {
        let link = link?;
        let pod_end = prepare_pod_end(spec, &link, mtu, leaves_checksums)?;
        Ok(Prepared { link, mtu, pod_end })
    };
    let threads = ends.len().min(PREPARING_THREADS);
    let (waiting, done) = (Mutex::new(ends.into_iter()), Mutex::new(Vec::new()));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((remembered, mtu, link)) = next() {
            let prepared = prepare(&remembered.spec, mtu, link);
            done.lock().unwrap_or_else(PoisonError::into_inner).push((remembered, prepared));
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // Without a thread it only takes longer.
            let _ = thread::Builder::new().name("pg-prepare".into()).spawn_scoped(scope, work);
        }
        work();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Names and slots of the endpoints whose links are served.
fn attached(endpoints: &BTreeMap<String, Endpoint>) -> impl Iterator<Item = (NamedLink, LinkId)> {
    endpoints.values().filter_map(|Endpoint { spec, link, .. }| {
        let name = NamedLink { link: spec.link.clone(), pod: spec.pod.to_string() };
        Some((name, link.as_ref().ok()?.slot))
    })
}
