//! Traffic generators, a counter of arrivals, and a minimal forwarder.
//!
//! A rate is the rate of *arrival*: [`Arrivals`] counts at the ingress of the receiving pod, the
//! same way for every forwarder, and drops the frames there, so that the receiver's stack costs
//! little and nothing is answered. The number of sent frames doesn't matter: the generator sends
//! more than any forwarder forwards.
//!
//! There are two generators. [`LiveFrames`] makes the kernel generate frames (`BPF_PROG_TEST_RUN`)
//! that arrive on the host's end of the pod's veth at about 2 Mpps. [`SendSocket`] is a send-only
//! AF_XDP socket in the pod, at about 0.5 Mpps: every frame becomes an `skb`, like those of the
//! pod's own stack. Both run on core 0, forwarders on core 1.
//!
//! [`mod@forward`] is the baseline for AF_XDP itself, on xsk-rs and libxdp: it shares no code with
//! podgate.
#![allow(unsafe_code)]

mod arrivals;
mod forward;
mod frame;
mod live;
mod send_socket;
mod stop;
mod syn_flood;
mod xsk;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use core_affinity::CoreId;
use podgate_tests::lab::Netns;

pub(crate) use arrivals::Arrivals;
pub(crate) use forward::{PodLink, forward};
pub(crate) use frame::{FLOWS, Flow, source_ports};
pub(crate) use live::LiveFrames;
pub(crate) use send_socket::SendSocket;
pub(crate) use syn_flood::syn_flood;

use stop::Stop;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traffic.bpf.o"));

/// Core of the generators.
pub(crate) const GENERATOR_CORE: usize = 0;
/// Core of the forwarders.
pub(crate) const FORWARDER_CORE: usize = 1;

/// Frames per call of a generator, which is stopped long before it has sent them.
const FRAMES_PER_CALL: u32 = 1 << 30;

/// Something that sends frames out of a pod.
pub(crate) trait Generator: Send {
    /// Sends `count` frames, or as many as the link accepts, or until the thread gets a signal.
    ///
    /// # Errors
    /// When a system call fails.
    fn send(&mut self, count: u32) -> Result<()>;
}

/// Pins the calling thread, and the processes that it starts, to a core.
///
/// # Errors
/// When there is no such core, or this process may not use it.
pub(crate) fn pin(core: usize) -> Result<()> {
    ensure!(core_affinity::set_for_current(CoreId { id: core }), "can't run on core {core}");
    Ok(())
}

/// Frames per second that arrive during `window`, which begins `warm_up` after a generator has
/// started to send in the namespace `from`. `prepare` creates the generator there.
///
/// # Errors
/// When the generator fails, or a counter can't be read.
pub(crate) fn rate<G: Generator>(
    from: &Netns,
    prepare: impl FnOnce() -> Result<G> + Send,
    arrivals: &Arrivals,
    warm_up: Duration,
    window: Duration,
) -> Result<f64> {
    stop::catch_signal()?;
    let stop = Stop::default();
    thread::scope(|scope| {
        let generate = || {
            let _end = stop.on_drop();
            from.inside(|| {
                pin(GENERATOR_CORE)?;
                let mut generator = prepare()?;
                stop.set_sending();
                while !stop.requested() {
                    generator.send(FRAMES_PER_CALL)?;
                }
                Ok(())
            })
        };
        let generator = scope.spawn(generate);
        stop.wait_until_sending();
        let measured = (|| {
            thread::sleep(warm_up);
            let (begin, before) = (Instant::now(), arrivals.count()?.measured);
            thread::sleep(window);
            let (elapsed, after) = (begin.elapsed(), arrivals.count()?.measured);
            Ok((after - before) as f64 / elapsed.as_secs_f64())
        })();
        stop.stop();
        generator.join().map_err(|_| anyhow!("the generator panicked"))??;
        measured
    })
}

/// Loads the object with all programs, with these globals.
fn load_object(first_port: u16, measured_port: u16) -> Result<Ebpf> {
    EbpfLoader::new()
        .override_global("flows", &u32::from(FLOWS), true)
        .override_global("first_port", &first_port, true)
        .override_global("measured_port", &measured_port, true)
        .load(OBJECT)
        .context("can't load the traffic programs")
}
