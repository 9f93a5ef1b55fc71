//! SYNs at a constant rate, each of a different connection.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};

use super::{GENERATOR_CORE, pin};

/// Number of source ports and of destination ports.
const PORTS: u32 = 50_000;
const FIRST_PORT: u32 = 10_000;

/// Sends `rate` SYNs per second from the calling thread's namespace, until `stop` is set or `bound`
/// has passed. Returns the mean rate, which is less than `rate` if the core is too slow.
///
/// The destination ports are closed, so each SYN is answered by a reset.
///
/// # Errors
/// Without root, or when the thread can't be pinned.
pub(crate) fn syn_flood(
    [from, to]: [Ipv4Addr; 2],
    rate: u32,
    stop: &AtomicBool,
    bound: Duration,
) -> Result<f64> {
    pin(GENERATOR_CORE)?;
    let raw = SockProtocol::Raw;
    let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), raw)
        .context("can't open a raw socket")?;
    let target = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
    let (begin, mut sent, mut packet) = (Instant::now(), 0_u32, Vec::new());
    while begin.elapsed() < bound && !stop.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        while sent < due {
            let (source, port) = (FIRST_PORT + sent % PORTS, FIRST_PORT + sent / PORTS % PORTS);
            packet.clear();
            let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 64);
            builder.tcp(source as u16, port as u16, sent, 64_000).syn().write(&mut packet, &[])?;
            // SYNs that the link doesn't accept count, too.
            let _ = sendto(socket.as_raw_fd(), &packet, &target, MsgFlags::empty());
            sent += 1;
        }
        thread::sleep(Duration::from_micros(200));
    }
    Ok(f64::from(sent) / begin.elapsed().as_secs_f64())
}
