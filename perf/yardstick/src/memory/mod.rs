//! The worker by itself, on memory links and one core, without a kernel and sockets.
//!
//! Whole rounds of the worker are timed ([`Worker::round`]): rings, parsing, flow table, policy,
//! forwarding, and service of the fill and completion rings. The kernel's part, copying packets
//! into frames and out of them, happens between rounds and is not timed; so the packets' first
//! bytes are as warm in the cache as after a copy on the same core. Each round has 512 packets, 64
//! on each of eight links, and reads the clock twice. Events are on, and are read from their ring
//! between rounds.
//!
//! [`Worker::round`]: podgate_dataplane::worker::Worker::round

pub(crate) mod established;
pub(crate) mod flow_table;
pub(crate) mod inspector;
pub(crate) mod instructions;
pub(crate) mod new_flow;
pub(crate) mod release;
mod small_node;
mod stopwatch;

use std::thread;

use anyhow::{Result, anyhow};

/// Packets that a worker takes from one link's ring in a round.
const BATCH: usize = 64;
/// Number of links with packets in one round.
const BUSY_LINKS: usize = 8;

/// Runs `work` on a new thread, pinned to the last core. This thread, and the programs that it
/// starts, are not pinned.
fn pinned<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let on_last_core = || {
        if let Some(core) = core_affinity::get_core_ids().and_then(|cores| cores.last().copied()) {
            core_affinity::set_for_current(core);
        }
        work()
    };
    thread::scope(|scope| scope.spawn(on_last_core).join())
        .map_err(|_| anyhow!("the measuring thread panicked"))?
}
