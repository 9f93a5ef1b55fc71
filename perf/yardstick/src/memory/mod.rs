//! The worker by itself, on links in memory and one core: no kernel, no sockets.
//!
//! Timed are whole rounds of the worker ([`Worker::round`]): its rings, parsing, the flow table,
//! policy, forwarding and the service of fill and completion rings. What the kernel would do, that
//! is to put packets into frames and to take them away, happens between rounds and is not timed;
//! so the packets' first bytes are as warm in the cache as after a copy on the same core. Each
//! round has 512 packets, 64 on each of eight links, and reads the clock twice. Events are on, and
//! taken out of their ring between rounds.
//!
//! [`Worker::round`]: podgate_dataplane::worker::Worker::round

pub(crate) mod established;
pub(crate) mod flow_table;
pub(crate) mod instructions;
pub(crate) mod new_flow;
mod small_node;
mod stopwatch;

use std::thread;

use anyhow::{Result, anyhow};

/// Packets that a worker takes off one link's ring in a round.
const BATCH: usize = 64;
/// Links that have packets in one round.
const BUSY_LINKS: usize = 8;

/// Runs `work` on a thread of its own that keeps to the last core. What follows it on this thread,
/// and the programs that it starts, go where they want.
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
