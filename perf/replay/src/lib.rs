//! Replays captures through the dataplane: what `podgate replay` runs, without privileges.
//!
//! The capture is read (`capture`), each packet is assigned the link that it arrives on (`plan`),
//! and a worker on memory links processes the packets one by one, with their timestamps as its
//! clock (`verdicts`): flow table, policy, inspection and forwarding are the agent's code. Then the
//! same worker processes them again, in batches and timed (`timing`). The result is one
//! [`ReplayReport`], which is printed as a table (`table`) or as JSON.
//!
//! # What a replay can't know
//! - Which pods are on this node: all pods in the manifests are assumed to be. So policy is
//!   evaluated at both ends of a flow between pods, even if another node would evaluate one of
//!   them.
//! - Which node this is, if the capture has pods of several nodes and no node is given: then all
//!   nodes are assumed to be remote. Policy then applies to what a node sends to its own pods,
//!   which a live run always allows. The addresses of a node are those of its Node object
//!   (InternalIP) and of its pods (`status.hostIPs`).
//! - Whether a pod sent from a spoofed address (see `plan`).
//! - The server's response to a request that the live run denied and these manifests allow: it is
//!   not in the capture.
//!
//! The benchmarks build on this crate's [`rig`], [`latency`] and [`progress`].

#![forbid(unsafe_code)]

mod capture;
pub mod latency;
mod plan;
pub mod progress;
mod report;
pub mod rig;
mod steer;
mod table;
mod timing;
mod verdicts;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args as ClapArgs, ValueEnum};
use podgate_dataplane::packet::HostFrame;
use podgate_policy::terminal::escape_json;
use podgate_policy::{Compiler, Store, Translation, UnknownNode, manifest};
use podgate_tables::ids::Epoch;
use podgate_tables::policy::Snapshot;
use serde::Serialize;

pub use capture::{Broken, CaptureError, FILE_MAX, Format};
pub use plan::{PlanError, Skipped};
pub use report::{
    CaptureInfo, Flow, PacketCount, Performance, REQUESTS_MAX, ReplayReport, RequestGroup, Summary,
    Verdicts,
};

use crate::rig::Rig;
use capture::Capture;
use plan::{HOST, Plan};

const AFTER_HELP: &str = "\
Examples:
  ip netns exec cart tcpdump -i eth0 -s0 -w /tmp/cart.pcap
  podgate replay /tmp/cart.pcap --manifests ./policies
  podgate replay /tmp/cart.pcap --manifests ./dump --node worker-1
  podgate replay /tmp/cart.pcap --manifests ./candidate --repeat 0 -o json | jq '.flows[]'

Capture inside of pods, on their own interface: at the host's end of the veth, podgate takes packets
before tcpdump sees them. Join captures of several pods with mergecap; a packet that is in more than
one of them counts once. Truncated packets (capture with -s0) and packets of interfaces whose link
type is not ETHERNET are skipped and counted.
Pods and their addresses come from the manifests (status.podIPs).

Exit codes:
  0  the whole capture was replayed
  1  it was not; one line on stderr says why
  2  the command line is wrong";

/// Arguments of `podgate replay`.
#[derive(ClapArgs, Clone, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// A pcap or pcapng file with Ethernet frames, of 1 GiB at most.
    #[arg(value_name = "CAPTURE")]
    pub capture: PathBuf,
    /// The policies and other objects: a directory of YAML and JSON files, or one file.
    #[arg(long, value_name = "DIR")]
    pub manifests: PathBuf,
    /// This node's name in the manifests [default: the node of the pods in the capture, if they all
    /// run on one (spec.nodeName), else the only node].
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Number of timed repetitions; 0 for verdicts only [default: as many as take about a second].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub repeat: Option<u32>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Calls `each` for every frame of a capture in memory, in the order of replay, with its time in
/// nanoseconds since the epoch.
///
/// # Errors
/// When nothing of the capture can be replayed.
pub fn read_frames(file: Vec<u8>, mut each: impl FnMut(u64, &[u8])) -> Result<(), CaptureError> {
    let capture = Capture::parse(Path::new("memory"), file)?;
    for packet in &capture.records.packets {
        each(packet.time, capture.frame(packet));
    }
    Ok(())
}

/// Output format.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Output {
    /// A table for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

impl Output {
    /// Writes a report; `table` writes the table.
    ///
    /// # Errors
    /// When writing to `out` fails.
    pub fn write<R: Serialize, W: Write>(
        self,
        report: &R,
        table: impl Fn(&R, &mut W) -> io::Result<()>,
        out: &mut W,
    ) -> io::Result<()> {
        match self {
            Self::Table => table(report, out),
            Self::Json => {
                let json = serde_json::to_string_pretty(report)?;
                writeln!(out, "{}", escape_json(&json))
            }
        }
    }
}

/// Why a capture was not replayed, or not completely.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The capture can't be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// There are no manifests.
    #[error("there are no manifests at {}", .0.display())]
    NoManifests(PathBuf),
    /// The node is not in the manifests.
    #[error(transparent)]
    Node(#[from] UnknownNode),
    /// The packets can't be assigned to links.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No memory for packet buffers.
    #[error("no memory for packets")]
    Memory(#[source] io::Error),
    /// The report can't be written.
    #[error("can't write the report")]
    Output(#[source] io::Error),
    /// The report was written, but the file is damaged.
    #[error(
        "{} is damaged at byte {}: {}; the packets before that were replayed",
        path.display(), broken.offset, broken.reason
    )]
    Broken {
        /// The capture.
        path: PathBuf,
        /// The damage.
        broken: Broken,
    },
}

/// Replays as `args` say and prints the report to `out`.
///
/// # Errors
/// When not everything was replayed. With [`Error::Broken`] the report of the rest was printed.
pub fn run(args: &Args, out: &mut impl Write) -> Result<(), Error> {
    let report = replay(args)?;
    args.output.write(&report, table::print, out).map_err(Error::Output)?;
    match report.capture.broken {
        Some(broken) => Err(Error::Broken { path: args.capture.clone(), broken }),
        None => Ok(()),
    }
}

/// Replays as `args` say.
///
/// # Errors
/// When nothing can be replayed.
pub fn replay(args: &Args) -> Result<ReplayReport, Error> {
    let (mut store, rejected) = load(args)?;
    let mut capture = Capture::read(&args.capture)?;
    let mut compiler = Compiler::new();
    compiler.update(&store);
    let pods = match args.node {
        // The pods matter only if no node is given.
        Some(_) => Vec::new(),
        None => Plan::new(&capture, &compiler.compiled().catalog)?.pods,
    };
    let this_node = store.assume_node(args.node.as_deref(), &pods)?;
    compiler.update(&store);
    let compiled = compiler.compiled();
    let plan = Plan::new(&capture, &compiled.catalog)?;
    for step in plan.steps.iter().filter(|step| step.link == HOST) {
        // A capture does not show who sent a packet: the node's address is taken for the node.
        let mark =
            if step.hairpin { HostFrame::Hairpin { sender: None } } else { HostFrame::Local };
        capture.set_source(&step.packet, mark.mac());
    }
    let snapshot = Snapshot {
        epoch: Epoch(1),
        policy: Arc::clone(&compiled.tables),
        routes: Arc::new(plan.routes),
    };
    let mut rig = Rig::new(snapshot, plan.links, plan.steps.len()).map_err(Error::Memory)?;
    let (flows, summary) = verdicts::replay(&capture, &plan.steps, &compiled, &mut rig);
    let performance = match args.repeat {
        Some(0) => None,
        repeat => timing::measure(&capture, &plan.steps, &mut rig, repeat),
    };
    let info = CaptureInfo::new(&args.capture, &capture, plan.skipped);
    let mut notes = notes(&info, plan.links, &summary);
    match &this_node {
        Some(this_node) => notes.push(format!("{this_node}; all others are remote nodes")),
        None if store.has_nodes() => notes.push(
            "it is not known which node is this one, so all are remote nodes (--node NAME)".into(),
        ),
        None => {}
    }
    if plan.skipped.other_link_type > 0 {
        notes.push(format!(
            "{} packets have no Ethernet header (link type {}) and were skipped: capture on the \
             pod's own interface, not on `any` and not on a tunnel",
            plan.skipped.other_link_type,
            capture.records.other_link_type_names(),
        ));
    }
    Ok(ReplayReport { capture: info, rejected, flows, summary, performance, notes })
}

/// Reads the manifests. Returns the rejected objects as lines, too.
fn load(args: &Args) -> Result<(Store, Vec<String>), Error> {
    if !args.manifests.exists() {
        return Err(Error::NoManifests(args.manifests.clone()));
    }
    let mut store = Store::new();
    // A capture has packets as they were on the wire: replies come from cluster IPs already.
    store.set_translation(Translation::Off);
    store.sync(&manifest::load(&args.manifests));
    let rejected = store.rejections().map(ToString::to_string).collect();
    Ok((store, rejected))
}

/// Remarks that a reader of the report needs.
fn notes(info: &CaptureInfo, links: u16, summary: &Summary) -> Vec<String> {
    let mut notes = Vec::new();
    let Skipped { truncated, oversized, .. } = info.skipped;
    if truncated > 0 {
        notes.push(format!("{truncated} packets are truncated and were skipped: capture with -s0"));
    }
    if oversized > 0 {
        notes.push(format!(
            "{oversized} packets are larger than 64 KiB and were skipped: capture with the \
             interface's gso_max_size and gro_max_size at 65536"
        ));
    }
    if links == 1 && summary.received.packets > 0 {
        notes.push(
            "no address in the capture is a pod's: the manifests need the Pods, with \
                    status.podIPs"
                .into(),
        );
    }
    if summary.undelivered > 0 {
        notes.push(format!("{} packets were lost because no frame was free", summary.undelivered));
    }
    if summary.held > 0 {
        notes.push(format!(
            "{} frames were still held for the rest of their request when the capture ended",
            summary.held
        ));
    }
    notes
}
