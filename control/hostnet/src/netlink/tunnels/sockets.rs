//! UDP sockets of the network namespace that tunnels receive on, whatever namespace their devices
//! are in.
//!
//! A device that is moved into another namespace leaves its socket behind. The kernel lists UDP
//! sockets (sock_diag(7)) without saying which are tunnels', but every tunnel sets its socket up by
//! `setup_udp_tunnel_sock` (`net/ipv4/udp_tunnel_core.c`), which turns `IP_MULTICAST_LOOP` off, and
//! sock_diag reports that option. Programs rarely turn it off; the sockets of those that do are
//! taken for tunnels', too.

use std::collections::BTreeSet;
use std::io;
use std::mem;

use crate::netlink::request::Requester;
use crate::netlink::wire::{find, number};

/// Netlink protocol (`include/uapi/linux/netlink.h`).
const NETLINK_SOCK_DIAG: isize = 4;
/// Message type (`include/uapi/linux/sock_diag.h`).
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `TCP_CLOSE` as a bit: UDP sockets that are not connected, as those of tunnels without a fixed
/// peer. `fou` and L2TP, which may have one, list their ports themselves.
const UNCONNECTED: u32 = 1 << 7;
/// Bytes of `struct inet_diag_sockid`, `struct inet_diag_req_v2` and `struct inet_diag_msg`
/// (`include/uapi/linux/inet_diag.h`).
const SOCKID: usize = 48;
const REQUEST: usize = 8 + SOCKID;
const MESSAGE: usize = 4 + SOCKID + 20;
/// Offset of the local port in `struct inet_diag_msg`.
const LOCAL_PORT: usize = 4;
/// Attribute `INET_DIAG_SOCKOPT`, and `mc_loop` in its first byte.
const INET_DIAG_SOCKOPT: u16 = 22;
const MC_LOOP: u8 = if cfg!(target_endian = "big") { 0x08 } else { 0x10 };

/// Lists the ports.
#[derive(Debug)]
pub(super) struct TunnelSockets {
    /// `None` if this kernel can't list UDP sockets.
    socket: Option<Requester>,
    /// Ports of the reading before. A socket may be missing in a list if another one is closed
    /// while the list is made.
    before: BTreeSet<u16>,
}

impl TunnelSockets {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When it can't be opened.
    pub(super) fn open() -> io::Result<Self> {
        let socket = Some(Requester::open(NETLINK_SOCK_DIAG)?);
        Ok(Self { socket, before: BTreeSet::new() })
    }

    /// Whether the kernel can list UDP sockets (`CONFIG_INET_UDP_DIAG`).
    pub(super) fn are_listed(&self) -> bool {
        self.socket.is_some()
    }

    /// Ports that this reading or the one before found.
    ///
    /// # Errors
    /// When the answer is incomplete or damaged.
    pub(super) fn ports(&mut self) -> io::Result<BTreeSet<u16>> {
        let mut ports = BTreeSet::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let Some(socket) = &mut self.socket else { return Ok(BTreeSet::new()) };
            match socket.dump(SOCK_DIAG_BY_FAMILY, &request(family)) {
                Ok(sockets) => {
                    for message in &sockets {
                        ports.extend(tunnel_port(message)?);
                    }
                }
                // The kernel has no module for it.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.socket = None,
                Err(error) => return Err(error),
            }
        }
        let before = mem::replace(&mut self.before, ports.clone());
        ports.extend(before);
        Ok(ports)
    }
}

/// `struct inet_diag_req_v2` for all unconnected UDP sockets of an address family.
fn request(family: libc::c_int) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[0] = family as u8;
    request[1] = libc::IPPROTO_UDP as u8;
    request[4..8].copy_from_slice(&UNCONNECTED.to_ne_bytes());
    request
}

/// The local port of a listed socket if it is set up as those of tunnels are.
pub(super) fn tunnel_port(message: &[u8]) -> io::Result<Option<u16>> {
    let attributes = message.get(MESSAGE..).unwrap_or_default();
    let missing = || io::Error::other("the kernel lists a UDP socket without its options");
    let options = find(attributes, INET_DIAG_SOCKOPT)?.ok_or_else(missing)?;
    let [first] = number(options, 0, |byte: [u8; 1]| byte)?;
    let port = number(message, LOCAL_PORT, u16::from_be_bytes)?;
    Ok((first & MC_LOOP == 0).then_some(port))
}
