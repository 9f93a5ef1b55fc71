//! Traffic: what sends frames from one pod, what counts them in another, and the plainest
//! forwarder between them.
//!
//! A rate is what *arrived*: [`Arrivals`] counts at the ingress of the receiving pod, the same way
//! behind every peer, and drops there, so that the receiver's stack costs all of them the same
//! little and nobody answers. What was sent is of no interest: the generator sends more than any
//! peer forwards.
//!
//! Two generators. [`LiveFrames`] has the kernel make frames (`BPF_PROG_TEST_RUN`) and puts them
//! into the host's end of the pod's veth at about 2 Mpps. [`SendSocket`] is an AF_XDP socket in the
//! pod that only sends, at about 0.5 Mpps: every frame becomes an `skb`, as what a pod's own stack
//! sends. Both stay on core 0; forwarders are given core 1.
//!
//! [`forward`] is the yardstick for AF_XDP itself, on xsk-rs and libxdp: it shares no code with
//! podgate.
#![allow(unsafe_code)]

mod arrivals;
mod forward;
mod frame;
mod live;
mod send_socket;
mod xsk;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use core_affinity::CoreId;

pub use arrivals::{Arrivals, Arrived};
pub use forward::{PodLink, forward};
pub use frame::{FLOWS, FRAME_BYTES, Flow, source_ports};
pub use live::LiveFrames;
pub use send_socket::SendSocket;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traffic.bpf.o"));

/// Where generators run.
pub const GENERATOR_CORE: usize = 0;
/// Where what is measured runs.
pub const FORWARDER_CORE: usize = 1;

/// How long one call of a generator should take: long enough that its own start costs nothing,
/// short enough to end in time behind a slow peer, whose work is done inside of the call.
const CALL: Duration = Duration::from_millis(10);
const FRAMES_PER_CALL_MIN: u32 = 64;
const FRAMES_PER_CALL_MAX: u32 = 1 << 16;

/// Something that sends frames out of a pod.
pub trait Generator {
    /// Sends `count` frames, or as many of them as the link takes.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn send(&mut self, count: u32) -> Result<()>;
}

/// Pins the calling thread, and so the processes that it starts.
///
/// # Errors
/// When there is no such core, or this process may not use it.
pub fn pin(core: usize) -> Result<()> {
    ensure!(core_affinity::set_for_current(CoreId { id: core }), "can't run on core {core}");
    Ok(())
}

/// Frames that arrive per second while `generator` sends without a pause, taken over `window` after
/// `warm_up`. Works on the calling thread, which must be in the sending pod's namespace.
///
/// # Errors
/// When the generator fails, or a counter can't be read.
pub fn rate(
    generator: &mut dyn Generator,
    arrivals: &Arrivals,
    warm_up: Duration,
    window: Duration,
) -> Result<f64> {
    pin(GENERATOR_CORE)?;
    let mut per_call = FRAMES_PER_CALL_MIN;
    send_for(generator, warm_up, &mut per_call)?;
    let (begin, before) = (Instant::now(), arrivals.count()?.measured);
    send_for(generator, window, &mut per_call)?;
    let (elapsed, after) = (begin.elapsed(), arrivals.count()?.measured);
    Ok((after - before) as f64 / elapsed.as_secs_f64())
}

fn send_for(generator: &mut dyn Generator, time: Duration, per_call: &mut u32) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        let call = Instant::now();
        generator.send(*per_call)?;
        let scale = CALL.as_secs_f64() / call.elapsed().as_secs_f64().max(1e-9);
        let fitting = f64::from(*per_call) * scale.clamp(0.25, 4.0);
        *per_call = (fitting as u32).clamp(FRAMES_PER_CALL_MIN, FRAMES_PER_CALL_MAX);
    }
    Ok(())
}

/// The object with all programs; `constants` are its globals.
fn load_object(first_port: u16, measured_port: u16) -> Result<Ebpf> {
    EbpfLoader::new()
        .override_global("flows", &u32::from(FLOWS), true)
        .override_global("first_port", &first_port, true)
        .override_global("measured_port", &measured_port, true)
        .load(OBJECT)
        .context("can't load the traffic programs")
}
