//! Messages as `include/uapi` and the kernel's `fill_info` functions lay them out, for tunnels
//! whose modules a test machine need not have; and real VXLAN devices.

use std::net::UdpSocket;
use std::process::Command;

use super::super::request::family as family_of;
use super::super::tests::in_netns;
use super::super::wire::{messages, request};
use super::sockets::tunnel_port;
use super::*;

/// A message of a `RTM_GETLINK` dump.
fn link(index: u32, kind: &str, data: &[u8]) -> Vec<u8> {
    let kind = [kind.as_bytes(), &[0]].concat();
    let info =
        [attribute(libc::IFLA_INFO_KIND, &kind), attribute(libc::IFLA_INFO_DATA, data)].concat();
    let mut message = vec![0; IFINFOMSG];
    message[4..8].copy_from_slice(&index.to_ne_bytes());
    // `IFLA_IFNAME` comes first; nested attributes have the flag NLA_F_NESTED from some kernels.
    message.extend(attribute(3, b"tun0\0"));
    message.extend(attribute(0x8000 | libc::IFLA_LINKINFO, &info));
    message
}

fn ports_of(kind: &str, data: &[u8]) -> Vec<u16> {
    match tunnel_of_link(&link(7, kind, data)).unwrap() {
        LinkTunnel::Ports(ports) => ports,
        LinkTunnel::WireGuard(index) => panic!("WireGuard device {index}"),
    }
}

fn be(port: u16) -> [u8; 2] {
    port.to_be_bytes()
}

#[test]
fn ports_are_read_from_each_kind_of_tunnel_device() {
    // `vxlan_fill_info`: the id, the source ports, the port, then flags without a value
    // (IFLA_VXLAN_COLLECT_METADATA is one byte, IFLA_VXLAN_GPE has none).
    let vxlan = [
        attribute(1, &7_u32.to_ne_bytes()),
        attribute(10, &[0; 4]),
        attribute(15, &be(5555)),
        attribute(25, &[1]),
        attribute(27, &[]),
    ]
    .concat();
    assert_eq!(ports_of("vxlan", &vxlan), [5555]);
    // `geneve_fill_info`: the id, the remote address, TTL, TOS, the port.
    let geneve = [
        attribute(1, &7_u32.to_ne_bytes()),
        attribute(2, &[192, 0, 2, 7]),
        attribute(3, &[64]),
        attribute(4, &[0]),
        attribute(5, &be(6082)),
    ]
    .concat();
    assert_eq!(ports_of("geneve", &geneve), [6082]);
    // `bareudp_fill_info`: the port, the ethertype, the lowest source port.
    let bareudp =
        [attribute(1, &be(6635)), attribute(2, &be(0x8847)), attribute(3, &be(32768))].concat();
    assert_eq!(ports_of("bareudp", &bareudp), [6635]);
    // `amt_fill_info`: the mode, the relay's and the gateway's port.
    let amt =
        [attribute(1, &0_u32.to_ne_bytes()), attribute(2, &be(2268)), attribute(3, &be(2269))];
    assert_eq!(ports_of("amt", &amt.concat()), [2268, 2269]);
    assert_eq!(ports_of("gtp", &[]), [3386, 2152]);
    let wireguard = tunnel_of_link(&link(9, "wireguard", &[])).unwrap();
    assert_eq!(wireguard, LinkTunnel::WireGuard(9));
    for other in ["veth", "ipip", "sit", "gre", "erspan", "ip6tnl", ""] {
        assert!(ports_of(other, &attribute(15, &be(5555))).is_empty(), "{other}");
    }
    // A link without any information of its kind, such as a NIC.
    assert_eq!(tunnel_of_link(&[0; IFINFOMSG]).unwrap(), LinkTunnel::Ports(Vec::new()));
}

#[test]
fn a_tunnel_device_that_hides_its_port_and_damaged_bytes_are_errors() {
    assert!(tunnel_of_link(&link(7, "vxlan", &attribute(1, &[0; 4]))).is_err());
    assert!(tunnel_of_link(&link(7, "vxlan", &attribute(15, &[1]))).is_err(), "half a port");
    let whole = link(7, "vxlan", &attribute(15, &be(5555)));
    for length in 0..whole.len() {
        // Cut within a message that says more: an error, or a link of unknown kind; never
        // another port.
        if let Ok(found) = tunnel_of_link(&whole[..length]) {
            assert_eq!(found, LinkTunnel::Ports(Vec::new()), "{length}");
        }
    }
}

/// A generic netlink message.
fn genl(attributes: &[Vec<u8>]) -> Vec<u8> {
    [&genl_header(1)[..], &attributes.concat()].concat()
}

#[test]
fn ports_are_read_from_the_families_of_fou_l2tp_and_wireguard() {
    let mut ports = BTreeSet::new();
    // `fou_fill_info`: the port, the family, the protocol, the type.
    let fou = genl(&[attribute(1, &be(5556)), attribute(2, &[2]), attribute(3, &[4])]);
    add_ports(&[fou], FOU_ATTR_PORT, u16::from_be_bytes, &mut ports).unwrap();
    // `l2tp_nl_tunnel_send`: version, ids, encapsulation (0 is UDP), ports in host byte order. One
    // over IP has none.
    let l2tp =
        genl(&[attribute(7, &[3]), attribute(2, &[0, 0]), attribute(26, &1702_u16.to_ne_bytes())]);
    let over_ip = genl(&[attribute(7, &[3]), attribute(2, &1_u16.to_ne_bytes())]);
    add_ports(&[l2tp, over_ip], L2TP_ATTR_UDP_SPORT, u16::from_ne_bytes, &mut ports).unwrap();
    // `wg_get_device_dump`: the port, the mark, index and name.
    let wireguard = genl(&[
        attribute(6, &51821_u16.to_ne_bytes()),
        attribute(7, &[0; 4]),
        attribute(1, &9_u32.to_ne_bytes()),
        attribute(2, b"wg0\0"),
    ]);
    add_ports(&[wireguard], WGDEVICE_A_LISTEN_PORT, u16::from_ne_bytes, &mut ports).unwrap();
    assert_eq!(Vec::from_iter(ports.clone()), [1702, 5556, 51821]);
    let cut = vec![genl(&[attribute(1, &[1])])];
    assert!(add_ports(&cut, FOU_ATTR_PORT, u16::from_be_bytes, &mut ports).is_err());
    // `ctrl_fill_info`: the name comes before the number.
    let family = genl(&[attribute(2, b"fou\0"), attribute(1, &0x1f_u16.to_ne_bytes())]);
    let family = family_of(&family).unwrap().unwrap();
    assert_eq!((family.id, family.name.as_slice()), (0x1f, b"fou".as_slice()));
}

/// A netlink message with its header.
fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = request(kind, libc::NLM_F_DUMP, sequence, body);
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

#[test]
fn a_dump_is_whole_or_an_error() {
    let read = |datagram: &[u8]| {
        let mut bodies = Vec::new();
        let ended = messages(datagram, 5, |body| {
            bodies.push(body.to_vec());
            Ok(())
        });
        ended.map(|ended| (ended, bodies))
    };
    let (part, done) = (message(16, 2, 5, b"abcd"), message(3, 2, 5, &[0; 4]));
    assert_eq!(read(&part).unwrap(), (false, vec![b"abcd".to_vec()]));
    let stale = message(16, 2, 4, b"old!");
    let all = [&stale[..], &part, &done].concat();
    assert_eq!(read(&all).unwrap(), (true, vec![b"abcd".to_vec()]));
    let errno = |datagram: &[u8]| read(datagram).unwrap_err().raw_os_error();
    assert_eq!(errno(&message(2, 0, 5, &(-13_i32).to_ne_bytes())), Some(libc::EACCES));
    assert_eq!(errno(&message(3, 2, 5, &(-12_i32).to_ne_bytes())), Some(libc::ENOMEM));
    assert_eq!(errno(&message(16, 2 | 0x10, 5, b"abcd")), Some(libc::EINTR));
    assert!(read(&part[..15]).is_err() && read(&part[..18]).is_err());
}

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().unwrap();
    assert!(status.success(), "ip {line}");
}

#[test]
fn the_ports_of_real_devices_are_read_and_followed() {
    in_netns(|_| async {
        let mut reader = TunnelReader::open().unwrap();
        assert_eq!(reader.ports().unwrap(), [] as [u16; 0]);
        ip("link add pg-v0 type vxlan id 7 dstport 5555");
        ip("link add pg-v1 type vxlan external gpe dstport 4790");
        // Enough links that the answer takes several datagrams.
        for number in 0..60 {
            ip(&format!("link add pg-d{number} type veth peer name pg-e{number}"));
        }
        ip("link add pg-v2 type vxlan id 9 dstport 5556 local 127.0.0.1");
        assert_eq!(reader.ports().unwrap(), [4790, 5555, 5556]);
        ip("link del pg-v0");
        assert_eq!(reader.ports().unwrap(), [4790, 5556]);
    });
}

/// Where a test's thread can be left: a namespace that a tunnel device is moved into.
const OTHER: &str = "pg-test-moved";

struct OtherNetns;

impl OtherNetns {
    fn new() -> Self {
        ip(&format!("netns add {OTHER}"));
        Self
    }
}

impl Drop for OtherNetns {
    fn drop(&mut self) {
        ip(&format!("netns del {OTHER}"));
    }
}

#[test]
fn the_port_of_a_device_that_was_moved_elsewhere_is_read_and_followed() {
    in_netns(|_| async {
        let other = OtherNetns::new();
        let mut reader = TunnelReader::open().unwrap();
        // A process's socket is none of the kernel's.
        let _own = UdpSocket::bind("127.0.0.1:5558").unwrap();
        ip("link add pg-v0 type vxlan id 7 dstport 5555");
        ip(&format!("link set pg-v0 netns {OTHER}"));
        assert_eq!(reader.ports().unwrap(), [] as [u16; 0], "it is down, and so it has no socket");
        ip(&format!("-n {OTHER} link set pg-v0 up"));
        assert_eq!(reader.ports().unwrap(), [5555]);
        ip(&format!("-n {OTHER} link set pg-v0 down"));
        assert_eq!(reader.ports().unwrap(), [5555], "a reading may miss a socket");
        assert_eq!(reader.ports().unwrap(), [] as [u16; 0]);
        assert!(reader.sees_sockets());
        drop(other);
    });
}

/// A message of a `SOCK_DIAG_BY_FAMILY` dump.
fn socket(port: u16, options: &[Vec<u8>]) -> Vec<u8> {
    let mut message = vec![0; 72];
    message[4..6].copy_from_slice(&be(port));
    [message, options.concat()].concat()
}

#[test]
fn a_socket_without_multicast_loop_is_a_tunnels() {
    // `inet_diag_msg_attrs_fill`: shutdown, mark, then the options.
    let before = [attribute(8, &[0]), attribute(15, &[0; 4])];
    let with = |options: &[u8]| {
        let options = [&before[..], &[attribute(22, options)]].concat();
        tunnel_port(&socket(5555, &options))
    };
    assert_eq!(with(&[0x40, 0]).unwrap(), Some(5555));
    assert_eq!(with(&[0x50, 0]).unwrap(), None);
    assert!(with(&[]).is_err());
    assert!(tunnel_port(&socket(5555, &before)).is_err(), "its options are not in the message");
    assert!(tunnel_port(&socket(5555, &[])[..60]).is_err());
}
