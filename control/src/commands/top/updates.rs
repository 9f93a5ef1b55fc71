//! Threads that read counters from the control socket, and flows from Hubble's API.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use podgate_api::{Client as ControlClient, Family, Request, Status};
use podgate_hubble::client::{Client, ClientError};
use podgate_hubble::proto::observer::{GetFlowsRequest, GetFlowsResponse};

use crate::cli::ObserveSource;
use crate::error::describe;

/// Updates that may wait. The server loses flows, and counts them, when a reader is too slow.
const UPDATES_MAX: usize = 1024;

/// How long to wait before a server is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Something that was read.
pub(super) enum Update {
    /// Counters.
    Sample(Box<Sample>),
    /// A flow, or events that were lost.
    Flow(Box<GetFlowsResponse>),
    /// Why nothing can be read at the moment, one line.
    Problem(String),
}

/// Counters at one time.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) status: Status,
    /// Times that each worker went to sleep.
    pub(super) sleeps: Vec<u64>,
    pub(super) rules: Vec<RuleCounts>,
}

/// The counters of a rule, or of the default deny in a direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RuleCounts {
    /// The labels that name it: policy, rule and verdict.
    pub(super) name: [String; 3],
    pub(super) hits: u64,
    pub(super) bytes: u64,
}

/// The receiver of updates is gone.
struct Closed;

/// Starts the threads; they end with the program.
///
/// # Errors
/// When the agent can't be reached.
pub(super) fn start(source: &ObserveSource, interval: Duration) -> Result<Receiver<Update>> {
    let (to, updates) = sync_channel(UPDATES_MAX);
    // Fails here rather than on the screen if there is no agent.
    ControlClient::connect(&source.socket.socket)?;
    let flows_to = to.clone();
    let flow_source = source.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("top-flows".to_owned()).spawn(move || {
        runtime.block_on(read_flows(&flow_source, &flows_to));
    })?;
    let socket = source.socket.socket.clone();
    thread::Builder::new().name("top-counters".to_owned()).spawn(move || {
        loop {
            let update = match sample(&socket) {
                Ok(sample) => Update::Sample(Box::new(sample)),
                Err(error) => Update::Problem(describe(error.as_ref())),
            };
            if to.send(update).is_err() {
                return;
            }
            thread::sleep(interval);
        }
    })?;
    Ok(updates)
}

fn sample(socket: &std::path::Path) -> Result<Sample> {
    let mut client = ControlClient::connect(socket)?;
    let status = client.call(&Request::Status {})?;
    let families: Vec<Family> = client.call(&Request::Metrics {})?;
    let sleeps = samples_of(&families, "podgate_worker_sleeps_total");
    let sleeps = sleeps.map(|sample| sample.value.whole()).collect();
    Ok(Sample { at: Instant::now(), status, sleeps, rules: rules(&families) })
}

/// The samples of a metric.
fn samples_of<'a>(
    families: &'a [Family],
    name: &'a str,
) -> impl Iterator<Item = &'a podgate_api::Sample> {
    families.iter().filter(move |family| family.name == name).flat_map(|family| &family.samples)
}

/// What was counted by rule.
pub(super) fn rules(families: &[Family]) -> Vec<RuleCounts> {
    let label = |sample: &podgate_api::Sample, name: &str| {
        sample.labels.get(name).cloned().unwrap_or_default()
    };
    let of_rule = |sample: &_| ["policy", "rule", "verdict"].map(|name| label(sample, name));
    let of_direction = |sample: &_| {
        let rule = format!("(default deny, {})", label(sample, "direction"));
        ["(all policies)".to_owned(), rule, "denied".to_owned()]
    };
    let mut rules = Vec::new();
    let mut add = |[hits, bytes]: [&str; 2], name: &dyn Fn(&_) -> [String; 3]| {
        let bytes: HashMap<_, _> = samples_of(families, bytes)
            .map(|sample| (&sample.labels, sample.value.whole()))
            .collect();
        rules.extend(samples_of(families, hits).map(|sample| RuleCounts {
            name: name(sample),
            hits: sample.value.whole(),
            bytes: bytes.get(&sample.labels).copied().unwrap_or(0),
        }));
    };
    add(["podgate_rule_hits_total", "podgate_rule_bytes_total"], &of_rule);
    add(["podgate_default_deny_packets_total", "podgate_default_deny_bytes_total"], &of_direction);
    rules
}

/// Reads new flows, and connects again when that fails.
async fn read_flows(source: &ObserveSource, to: &SyncSender<Update>) {
    loop {
        let problem = match follow(source, to).await {
            Ok(Closed) => return,
            Err(error) => Update::Problem(format!("flows: {}", describe(&error))),
        };
        if to.send(problem).is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(source: &ObserveSource, to: &SyncSender<Update>) -> Result<Closed, ClientError> {
    let mut client = Client::connect(&source.address(), source.client_tls().as_ref()).await?;
    let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
    let mut flows = client.flows(request).await?;
    while let Some(response) = flows.next().await? {
        if to.send(Update::Flow(Box::new(response))).is_err() {
            return Ok(Closed);
        }
    }
    Err(ClientError::Server("the server ended the stream of flows".to_owned()))
}
