//! A send-only AF_XDP socket.

use std::io::Write;

use anyhow::{Result, ensure};
use xsk_rs::{FrameDesc, Umem};

use super::Generator;
use super::frame::{FLOWS, FRAME_BYTES, Flow};
use super::xsk::{self, BATCH, RING, Rings};

/// Number of rounds in a row without a sent frame before the generator fails.
const IDLE_ROUNDS: u32 = 1_000_000;

/// Sends frames on the pod's end of its veth as `skb`s: slower than
/// [`LiveFrames`](super::LiveFrames), but on the path of a pod's own traffic.
pub(crate) struct SendSocket {
    rings: Rings,
    /// Frames that aren't being sent. Each always has the contents of one flow.
    free: Vec<FrameDesc>,
    umem: Umem,
}

impl SendSocket {
    /// A generator of `flow` on `link` of the calling thread's namespace.
    ///
    /// # Errors
    /// When there is no such link, or its queue has a socket already.
    pub(crate) fn new(link: &str, flow: &Flow) -> Result<Self> {
        let (umem, mut free) = xsk::umem(RING)?;
        for (desc, number) in free.iter_mut().zip((0..FLOWS).cycle()) {
            let frame = flow.frame(number)?;
            // SAFETY: the frame is of this UMEM, and has no other user yet.
            unsafe { umem.data_mut(desc) }.cursor().write_all(&frame)?;
        }
        let rings = xsk::open(&umem, link)?;
        Ok(Self { rings, free, umem })
    }
}

impl Generator for SendSocket {
    fn send(&mut self, count: u32) -> Result<()> {
        let (mut left, mut idle) = (count as usize, 0);
        while left > 0 {
            // SAFETY: `free` has frames of this socket's UMEM, which has no other user.
            unsafe { self.rings.reclaim(&mut self.free) };
            let some = self.free.len().min(BATCH).min(left);
            let from = self.free.len() - some;
            for desc in &mut self.free[from..] {
                // A completed descriptor has no length.
                // SAFETY: the frame is of this UMEM, and has no other user now.
                unsafe { self.umem.data_mut(desc) }.cursor().set_pos(FRAME_BYTES);
            }
            // SAFETY: these frames are of this UMEM; they leave `free` until they are reclaimed.
            let sent = unsafe { self.rings.tx.produce(&self.free[from..]) };
            self.free.truncate(self.free.len() - sent);
            left -= sent;
            idle = if sent == 0 { idle + 1 } else { 0 };
            ensure!(idle < IDLE_ROUNDS, "the link accepts no more frames");
            self.rings.flush()?;
        }
        Ok(())
    }
}
