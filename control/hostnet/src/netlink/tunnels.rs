//! The UDP ports that this node's kernel receives tunnels on.
//!
//! Ports are read from the tunnel devices (`RTM_GETLINK`) and, where the kernel has ports without a
//! device, from the generic netlink families `fou`, `l2tp` and `wireguard`. The families are
//! listed, because a request for a family by name would load its module. Ports of devices in other
//! namespaces are read from the sockets ([`sockets`]).
//!
//! Tunnels over IP protocols of their own (IPIP, SIT, GRE, IP6TNL, L2TP over IP) are not read: the
//! dataplane drops these protocols anyway (`podgate_tables::tunnel`).
//! IPsec needs no check: pods don't have its keys.

mod sockets;

use std::collections::BTreeSet;
use std::io;

use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::request::{GENL_HEADER, GenericRequester, NamedFamily, Requester, genl_header};
use super::wire::{attribute, attributes, find, number, text};
use sockets::TunnelSockets;

/// Bytes of `struct ifinfomsg`.
const IFINFOMSG: usize = size_of::<libc::ifinfomsg>();

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

/// Netlink sockets that list tunnels. They stay open, so that a process without a free file
/// descriptor can still use them.
#[derive(Debug)]
pub struct TunnelReader {
    links: Requester,
    families: GenericRequester,
    sockets: TunnelSockets,
}

impl TunnelReader {
    /// Opens the sockets in the calling thread's network namespace.
    ///
    /// # Errors
    /// When a socket can't be opened.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            links: Requester::open(NETLINK_ROUTE)?,
            families: GenericRequester::open()?,
            sockets: TunnelSockets::open()?,
        })
    }

    /// Whether the ports of devices in other namespaces are among the last ones. They are not if
    /// the kernel is built without `CONFIG_INET_UDP_DIAG`.
    #[must_use]
    pub fn sees_sockets(&self) -> bool {
        self.sockets.are_listed()
    }

    /// The ports, sorted. Blocks the thread until the kernel has answered, at most some seconds.
    ///
    /// # Errors
    /// When the answer is incomplete or damaged: then any port may be a tunnel's.
    pub fn ports(&mut self) -> io::Result<Vec<u16>> {
        let mut ports = self.sockets.ports()?;
        let mut wireguard = Vec::new();
        for link in self.links.dump(libc::RTM_GETLINK, &[0; IFINFOMSG])? {
            match tunnel_of_link(&link)? {
                LinkTunnel::Ports(of_link) => ports.extend(of_link),
                LinkTunnel::WireGuard(index) => wireguard.push(index),
            }
        }
        for NamedFamily { id, name } in self.families.list()? {
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
                            // It was deleted in the meantime.
                            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                _ => {}
            }
        }
        // A tunnel that has no port yet.
        ports.remove(&0);
        Ok(ports.into_iter().collect())
    }
}

/// Where a link receives tunnel packets.
#[derive(PartialEq, Eq, Debug)]
enum LinkTunnel {
    /// On these UDP ports; none for most links.
    Ports(Vec<u16>),
    /// On the port of the WireGuard device with this index.
    WireGuard(u32),
}

/// Reads one message of an `RTM_GETLINK` dump, which begins with `struct ifinfomsg`.
fn tunnel_of_link(message: &[u8]) -> io::Result<LinkTunnel> {
    let index = number(message, 4, u32::from_ne_bytes)?;
    let link = message.get(IFINFOMSG..).unwrap_or_default();
    let info = find(link, libc::IFLA_LINKINFO)?.unwrap_or_default();
    let kind = text(find(info, libc::IFLA_INFO_KIND)?.unwrap_or_default());
    let data = find(info, libc::IFLA_INFO_DATA)?.unwrap_or_default();
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
        let missing = || io::Error::other(format!("tunnel link {index} has no port attribute"));
        let value = find(data, *attribute)?.ok_or_else(missing)?;
        ports.push(number(value, 0, u16::from_be_bytes)?);
    }
    Ok(LinkTunnel::Ports(ports))
}

/// Adds the port in the attribute `kind` of each message.
fn add_ports(
    messages: &[Vec<u8>],
    kind: u16,
    decode: fn([u8; 2]) -> u16,
    ports: &mut BTreeSet<u16>,
) -> io::Result<()> {
    for message in messages {
        for parsed in attributes(message.get(GENL_HEADER..).unwrap_or_default()) {
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
