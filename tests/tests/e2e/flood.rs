//! A pod that sends frames as fast as it can until the test stops it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use etherparse::PacketBuilder;
use podgate_tests::lab::{Host, Injector, Lab, wait_for};

/// Most frames of a flood, so that a test that hangs ends.
const FRAMES_MAX: u64 = 50_000_000;

/// A running flood.
#[derive(Debug)]
pub(super) struct Flood {
    ending: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Flood {
    /// Starts to send `frames` out of `from` in a loop.
    pub(super) fn start(from: &Host, frames: Vec<Vec<u8>>) -> Result<Self> {
        let injector = from.injector()?;
        let (ending, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, count) = (Arc::clone(&ending), Arc::clone(&sent));
        let thread = thread::spawn(move || flood(&injector, &frames, &end, &count));
        Ok(Self { ending, sent, thread })
    }

    /// Waits until more frames have been sent.
    pub(super) fn wait_for_more(&self) -> Result<()> {
        let before = self.sent.load(Ordering::Relaxed);
        wait_for("the flood", Duration::from_secs(20), || {
            Ok((self.sent.load(Ordering::Relaxed) > before + 2000).then_some(()))
        })
    }

    /// Ends the flood.
    pub(super) fn stop(self) -> Result<()> {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the flood's thread panicked"))?
    }
}

fn flood(
    injector: &Injector,
    frames: &[Vec<u8>],
    ending: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    while !ending.load(Ordering::Relaxed) && sent.load(Ordering::Relaxed) < FRAMES_MAX {
        let done = injector.send(frames.iter().map(Vec::as_slice))?;
        sent.fetch_add(done.sent, Ordering::Relaxed);
    }
    Ok(())
}

/// UDP frames from the first host to the second one's port `to_port`, one from each of these source
/// ports.
pub(super) fn udp_frames(
    lab: &Lab,
    [from, to]: [&Host; 2],
    ports: Range<u16>,
    to_port: u16,
) -> Result<Vec<Vec<u8>>> {
    let (source, gateway) = (from.mac("eth0")?, lab.node().mac(&from.link)?);
    let (here, there) = (from.addresses.v4.octets(), to.addresses.v4.octets());
    let frame = |port| {
        let builder = PacketBuilder::ethernet2(source, gateway).ipv4(here, there, 64);
        let mut frame = Vec::new();
        builder.udp(port, to_port).write(&mut frame, &[0x5a; 64])?;
        Ok(frame)
    };
    ports.map(frame).collect()
}
