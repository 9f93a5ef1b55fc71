//! The UDP ports that this node's kernel receives tunnels on.
//!
//! Ports are read from the tunnel devices (`RTM_GETLINK`) and, where the kernel has ports without a
//! device, from the generic netlink families `fou`, `l2tp` and `wireguard`. Families are listed and
//! not asked for by name, which would load their modules.
//!
//! Tunnels over IP protocols of their own (IPIP, SIT, GRE, IP6TNL, L2TP over IP) are not read: the
//! dataplane refuses these protocols whatever devices there are (`podgate_tables::tunnel`).
//! A device that was moved into another network namespace while its socket stayed in this one is
//! not listed here. What is encrypted with keys (IPsec) needs no refusal, since pods don't have
//! them.

use std::collections::BTreeSet;
use std::io;

use nix::libc;
use rtnetlink::sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use rtnetlink::sys::{Socket, SocketAddr};

use super::wire::{attribute, attributes, dump_request, find, messages, number, text};

/// How often a dump is asked for again that changed while it was read.
const ATTEMPTS: usize = 8;
/// Datagrams of one dump at most. The kernel fills 16 KiB or more of each.
const DATAGRAMS_MAX: usize = 65_536;
/// How long the kernel may take for a part of its answer, which it makes while it is asked.
const ANSWER_MAX_S: libc::time_t = 5;

/// `RTM_GETLINK`, bytes of `struct ifinfomsg`, and the attributes of a link that say its kind and
/// what belongs to the kind (`include/uapi/linux/rtnetlink.h`, `if_link.h`).
const RTM_GETLINK: u16 = 18;
const IFINFOMSG: usize = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;

/// The control family of generic netlink, its command to list families, and their attributes
/// (`include/uapi/linux/genetlink.h`).
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Bytes of `struct genlmsghdr`.
const GENLMSGHDR: usize = 4;

/// `FOU_CMD_GET` and `FOU_ATTR_PORT` (`include/uapi/linux/fou.h`).
const FOU_CMD_GET: u8 = 3;
const FOU_ATTR_PORT: u16 = 1;
/// `L2TP_CMD_TUNNEL_GET` and `L2TP_ATTR_UDP_SPORT` (`include/uapi/linux/l2tp.h`); a tunnel over IP
/// has no port.
const L2TP_CMD_TUNNEL_GET: u8 = 4;
const L2TP_ATTR_UDP_SPORT: u16 = 26;
/// `WG_CMD_GET_DEVICE` and attributes of a device (`include/uapi/linux/wireguard.h`).
const WG_CMD_GET_DEVICE: u8 = 0;
const WGDEVICE_A_IFINDEX: u16 = 1;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;

/// Ports that a GTP device receives on: GTPv0 and GTPv1-U (`include/net/gtp.h`).
const GTP_PORTS: [u16; 2] = [3386, 2152];

/// Sockets to ask for tunnels. They stay open, so that a process without a free file descriptor can
/// still ask.
#[derive(Debug)]
pub(crate) struct TunnelReader {
    links: Asker,
    families: Asker,
}

impl TunnelReader {
    /// Opens the sockets in the calling thread's network namespace.
    ///
    /// # Errors
    /// When a socket can't be had.
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self { links: Asker::open(NETLINK_ROUTE)?, families: Asker::open(NETLINK_GENERIC)? })
    }

    /// The ports, sorted. Everything that happened before the call is seen.
    ///
    /// # Errors
    /// When the kernel doesn't answer in full: then any port may be one.
    pub(crate) fn ports(&mut self) -> io::Result<Vec<u16>> {
        let mut ports = BTreeSet::new();
        let mut wireguard = Vec::new();
        for link in self.links.dump(RTM_GETLINK, &[0; IFINFOMSG])? {
            match tunnel_of_link(&link)? {
                LinkTunnel::Ports(of_link) => ports.extend(of_link),
                LinkTunnel::WireGuard(index) => wireguard.push(index),
            }
        }
        let families = self.families.dump(GENL_ID_CTRL, &genl_header(CTRL_CMD_GETFAMILY))?;
        for family in families {
            let Some((id, name)) = family_of(&family)? else { continue };
            match name.as_slice() {
                b"fou" => {
                    let found = self.families.dump(id, &genl_header(FOU_CMD_GET))?;
                    add_ports(&found, FOU_ATTR_PORT, u16::from_be_bytes, &mut ports)?;
                }
                b"l2tp" => {
                    let found = self.families.dump(id, &genl_header(L2TP_CMD_TUNNEL_GET))?;
                    add_ports(&found, L2TP_ATTR_UDP_SPORT, u16::from_ne_bytes, &mut ports)?;
                }
                b"wireguard" => {
                    for index in &wireguard {
                        let device = attribute(WGDEVICE_A_IFINDEX, &index.to_ne_bytes());
                        let body = [&genl_header(WG_CMD_GET_DEVICE)[..], &device].concat();
                        match self.families.dump(id, &body) {
                            Ok(found) => add_ports(
                                &found,
                                WGDEVICE_A_LISTEN_PORT,
                                u16::from_ne_bytes,
                                &mut ports,
                            )?,
                            // It went while we looked.
                            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                _ => {}
            }
        }
        // A tunnel that has not been given a port yet.
        ports.remove(&0);
        Ok(ports.into_iter().collect())
    }
}

/// A socket for dumps.
#[derive(Debug)]
struct Asker {
    socket: Socket,
    sequence: u32,
}

impl Asker {
    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        let patience = nix::sys::time::TimeVal::new(ANSWER_MAX_S, 0);
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::ReceiveTimeout,
            &patience,
        )?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The bodies of all messages of a dump.
    fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            attempts.next();
            match self.try_dump(kind, body) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) && !attempts.is_empty() => {
                }
                result => return result,
            }
        }
    }

    fn try_dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        // What is left of an answer that was given up has another number.
        self.sequence = self.sequence.wrapping_add(1);
        let request = dump_request(kind, self.sequence, body);
        let kernel = SocketAddr::new(0, 0);
        while let Err(error) = self.socket.send_to(&request, &kernel, 0) {
            // EBUSY: the rest of an earlier answer waits to be read.
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Err(error);
            }
            self.socket.recv_from_full()?;
        }
        let mut found = Vec::new();
        for _ in 0..DATAGRAMS_MAX {
            let (datagram, _) = self.socket.recv_from_full()?;
            let ended = messages(&datagram, self.sequence, |message| {
                found.push(message.to_vec());
                Ok(())
            })?;
            if ended {
                return Ok(found);
            }
        }
        Err(io::Error::other("the kernel's answer doesn't end"))
    }
}

fn genl_header(command: u8) -> [u8; GENLMSGHDR] {
    [command, 1, 0, 0]
}

/// What a link receives on.
#[derive(PartialEq, Eq, Debug)]
enum LinkTunnel {
    /// These UDP ports; none for most links.
    Ports(Vec<u16>),
    /// What the WireGuard device with this index says.
    WireGuard(u32),
}

/// Of one message of a `RTM_GETLINK` dump, from its `struct ifinfomsg` on.
fn tunnel_of_link(message: &[u8]) -> io::Result<LinkTunnel> {
    let index = number(message, 4, u32::from_ne_bytes)?;
    let link = message.get(IFINFOMSG..).unwrap_or_default();
    let info = find(link, IFLA_LINKINFO)?.unwrap_or_default();
    let kind = text(find(info, IFLA_INFO_KIND)?.unwrap_or_default());
    let data = find(info, IFLA_INFO_DATA)?.unwrap_or_default();
    // `IFLA_VXLAN_PORT`, `IFLA_GENEVE_PORT`, `IFLA_BAREUDP_PORT`, `IFLA_AMT_RELAY_PORT` and
    // `IFLA_AMT_GATEWAY_PORT`, each in network byte order.
    let attributes: &[u16] = match kind {
        b"vxlan" => &[15],
        b"geneve" => &[5],
        b"bareudp" => &[1],
        b"amt" => &[2, 3],
        b"gtp" => return Ok(LinkTunnel::Ports(GTP_PORTS.to_vec())),
        b"wireguard" => return Ok(LinkTunnel::WireGuard(index)),
        _ => &[],
    };
    let mut ports = Vec::new();
    for attribute in attributes {
        let missing = || io::Error::other(format!("tunnel link {index} doesn't say its port"));
        let value = find(data, *attribute)?.ok_or_else(missing)?;
        ports.push(number(value, 0, u16::from_be_bytes)?);
    }
    Ok(LinkTunnel::Ports(ports))
}

/// Number and name of a family, of one message that lists families.
fn family_of(message: &[u8]) -> io::Result<Option<(u16, Vec<u8>)>> {
    let family = message.get(GENLMSGHDR..).unwrap_or_default();
    let (id, name) = (find(family, CTRL_ATTR_FAMILY_ID)?, find(family, CTRL_ATTR_FAMILY_NAME)?);
    let (Some(id), Some(name)) = (id, name) else { return Ok(None) };
    Ok(Some((number(id, 0, u16::from_ne_bytes)?, text(name).to_vec())))
}

/// Adds the port that the attribute `kind` of each message says.
fn add_ports(
    messages: &[Vec<u8>],
    kind: u16,
    decode: fn([u8; 2]) -> u16,
    ports: &mut BTreeSet<u16>,
) -> io::Result<()> {
    for message in messages {
        for parsed in attributes(message.get(GENLMSGHDR..).unwrap_or_default()) {
            let (found, value) = parsed?;
            if found == kind {
                ports.insert(number(value, 0, decode)?);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
