//! Cost of observers on the packet path: a client that follows all flows, and scrapes of the
//! metrics, against none. Flow records are made for new flows in both cases.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use etherparse::PacketBuilder;
use podgate_tests::lab::{Agent, Daemon, Host, Lab, program};

use crate::context::Context;
use crate::forwarders::{ForwarderPath, on_forwarder_core, podgate};
use crate::measure::{Limit, Measurement};

pub(crate) const OVERHEAD: &str = "observe.overhead";

/// Minimum rate with all observers, relative to the rate without any.
const BAR: f64 = 0.95;
/// Policies for the server that don't match.
const RULES: u32 = 10;
/// The pod that opens flows.
const OTHERS: [&str; 1] = ["opener"];
/// New flows each [`PAUSE`].
const NEW_FLOWS: u16 = 100;
const PAUSE: Duration = Duration::from_millis(100);
/// Time between two scrapes.
const SCRAPE_PERIOD: &str = "1";
/// Where metrics are served.
const METRICS: &str = "127.0.0.1:9965";

const WINDOW: Duration = Duration::from_millis(3000);
const WINDOW_QUICK: Duration = Duration::from_millis(1500);

/// Whether there are observers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Observed {
    No,
    Yes,
}

/// Measures the rate of an established flow with and without observers, interleaved.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.status("podgate and its pods");
    let lab = podgate::lab_with(&[RULES], &OTHERS)?;
    let options = ["--pod-checksums", "leave", "--metrics-listen", METRICS];
    let agent = on_forwarder_core(|| Agent::start_with(&lab, 1, &options))?;
    let path = podgate::path(&lab, RULES)?;
    path.check(true)?;
    let window = if context.quick { WINDOW_QUICK } else { WINDOW };
    let [mut with, mut without] = <[Vec<f64>; 2]>::default();
    for round in 0..context.rounds {
        let mut order = [Observed::No, Observed::Yes];
        if round % 2 == 1 {
            order.reverse();
        }
        for observed in order {
            context.status(format!("{OVERHEAD}: round {} of {}", round + 1, context.rounds));
            let values = if observed == Observed::Yes { &mut with } else { &mut without };
            values.push(rate(&lab, &path, observed, window)? / 1e6);
        }
    }
    agent.stop()?;
    let opened = u64::from(NEW_FLOWS) * 1000 / PAUSE.as_millis() as u64;
    let measurement = Measurement::new(OVERHEAD, "Mpps", with)
        .compared_with("without", without)
        .ratio_bar(Limit::AtLeast(BAR))
        .note(format!(
            "one client follows all flows and the metrics are scraped each second, while another \
             pod opens {opened} flows a second in both cases"
        ));
    Ok(vec![measurement])
}

/// Frames per second of the established flow.
fn rate(lab: &Lab, path: &ForwarderPath<'_>, observed: Observed, window: Duration) -> Result<f64> {
    let observers = match observed {
        Observed::Yes => Some(observers(lab)?),
        Observed::No => None,
    };
    let (opener, server) = (lab.host("bench/opener")?, lab.host(&podgate::server(RULES))?);
    let frames = new_flows(lab, opener, server)?;
    let stop = AtomicBool::new(false);
    let rate = thread::scope(|scope| {
        let opening = scope.spawn(|| open_flows(opener, &frames, &stop));
        let rate = path.rate(window);
        stop.store(true, Ordering::Relaxed);
        opening.join().map_err(|_| anyhow!("the opener of flows panicked"))??;
        rate
    })?;
    drop(observers);
    Ok(rate)
}

/// A client that follows all flows, and one that scrapes the metrics. Dropping ends them.
fn observers(lab: &Lab) -> Result<[Daemon; 2]> {
    let netns = &lab.node().netns;
    let mut follow = netns.daemon(program()?);
    let socket = lab.state_dir().join("podgate.sock");
    follow.args(["observe", "--follow", "-o", "jsonpb", "--socket"]).arg(socket);
    let follow = Daemon::start("observe", follow, lab.file("observe.log"))?;
    let address: SocketAddr = METRICS.parse()?;
    let mut scrape = netns.daemon("sh".as_ref());
    let script = format!(
        "while :; do curl -sf http://{address}/metrics > /dev/null; sleep {SCRAPE_PERIOD}; done"
    );
    scrape.args(["-c", &script]);
    let scrape = Daemon::start("scrape", scrape, lab.file("scrape.log"))?;
    Ok([follow, scrape])
}

/// Datagrams to a port that no rule allows, each from another port.
fn new_flows(lab: &Lab, from: &Host, to: &Host) -> Result<Vec<Vec<u8>>> {
    let (source, gateway) = (from.mac("eth0")?, lab.node().mac(&from.link)?);
    let (here, there) = (from.addresses.v4.octets(), to.addresses.v4.octets());
    let frame = |port| {
        let builder = PacketBuilder::ethernet2(source, gateway).ipv4(here, there, 64);
        let mut frame = Vec::new();
        builder.udp(port, 9).write(&mut frame, &[0; 18]).context("a frame")?;
        Ok(frame)
    };
    (1024..1024 + 20 * NEW_FLOWS).map(frame).collect()
}

fn open_flows(from: &Host, frames: &[Vec<u8>], stop: &AtomicBool) -> Result<()> {
    let injector = from.injector()?;
    for burst in frames.chunks(NEW_FLOWS.into()).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        injector.send(burst.iter().map(Vec::as_slice))?;
        thread::sleep(PAUSE);
    }
    Ok(())
}
