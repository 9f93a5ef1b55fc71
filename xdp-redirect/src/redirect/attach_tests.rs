//! Attaching to real veth pairs, in namespaces that each test makes.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};
use nix::unistd::gettid;
use podgate_hostnet::netns;
use podgate_tables::drop_reason::FrameDropReason;
use tempfile::TempDir;

use super::{Redirect, unpin};
use crate::link::{Hook, HookLink};
use crate::test_netns::{in_new_namespaces, ip};
use crate::{DroppedData, Error, Pod, bpffs};

const HOST: &str = "pg-host0";
const POD: &str = "pg-pod0";

/// How long a test waits for what must happen before it fails.
const PATIENCE: Duration = Duration::from_secs(10);

/// A veth pair, both ends up, in the namespace of the calling thread.
fn veth() -> u32 {
    ip(&format!("link add {HOST} type veth peer name {POD}"));
    for link in [HOST, POD] {
        // No IPv6 address, so that the kernel sends nothing of its own.
        ip(&format!("link set {link} addrgenmode none up"));
    }
    if_nametoindex(HOST).unwrap()
}

/// A bpffs, unmounted with the mount namespace that the test runs in.
struct Pins(TempDir);

impl Pins {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        bpffs::ensure_mounted(dir.path()).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Otherwise the folder can't be removed. The links are gone with their last reference.
        nix::mount::umount(self.0.path()).unwrap();
    }
}

/// Id and mode of the program on a netdev as netlink reports them: mode 1 is native
/// (`XDP_ATTACHED_DRV`).
fn attached(name: &str) -> Option<(u64, u64)> {
    let links: serde_json::Value =
        serde_json::from_str(&ip(&format!("-j -d link show {name}"))).unwrap();
    let xdp = links[0].get("xdp")?;
    Some((xdp["prog"]["id"].as_u64()?, xdp["mode"].as_u64()?))
}

fn load() -> Redirect {
    Redirect::load(2, 4).unwrap()
}

fn id_of(redirect: &Redirect) -> u64 {
    let fd = redirect.programs.redirect.as_fd().as_raw_fd();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
    let id = info.lines().find_map(|line| line.strip_prefix("prog_id:")).unwrap();
    id.trim().parse().unwrap()
}

#[test]
fn attaches_natively_and_drop_detaches_what_is_not_pinned() {
    in_new_namespaces(|| {
        let ifindex = veth();
        let mut redirect = load();
        redirect.attach(ifindex, 3, None).unwrap();
        assert_eq!(attached(HOST), Some((id_of(&redirect), 1)));
        drop(redirect);
        assert_eq!(attached(HOST), None);
    });
}

#[test]
fn large_mtu_is_no_obstacle() {
    in_new_namespaces(|| {
        let ifindex = veth();
        for link in [HOST, POD] {
            ip(&format!("link set {link} mtu 65000"));
        }
        load().attach(ifindex, 0, None).unwrap();
    });
}

#[test]
fn pinned_link_outlives_its_maker_and_is_adopted_without_a_gap() {
    in_new_namespaces(|| {
        let ifindex = veth();
        let pins = Pins::new();
        let pin = pins.path("host");

        let mut first = load();
        first.attach(ifindex, 0, Some(&pin)).unwrap();
        let first_id = id_of(&first);
        drop(first);
        assert_eq!(attached(HOST), Some((first_id, 1)));

        // The kernel rejects a second link on the netdev (EBUSY), so success means adoption.
        let mut second = load();
        second.attach(ifindex, 1, Some(&pin)).unwrap();
        assert_ne!(id_of(&second), first_id);
        assert_eq!(attached(HOST), Some((id_of(&second), 1)));

        // At once and for good: the next attach finds the netdev free.
        second.detach(1).unwrap();
        assert_eq!(attached(HOST), None);
        assert!(!pin.exists());
        second.attach(ifindex, 1, Some(&pin)).unwrap();
        assert_eq!(attached(HOST), Some((id_of(&second), 1)));
        drop(second);

        unpin(&pin).unwrap();
        assert_eq!(attached(HOST), None);
        assert!(!pin.exists());
        unpin(&pin).unwrap();
    });
}

#[test]
fn programs_that_another_process_detached_are_attached_and_pinned_again() {
    in_new_namespaces(|| {
        let (ifindex, pins) = (veth(), Pins::new());
        let pin = pins.path("pin");
        let mut redirect = load();
        redirect.attach(ifindex, 0, Some(&pin)).unwrap();
        redirect.guard(0).unwrap();
        let again = redirect.attach_again();
        assert!(again.links.is_empty() && again.failed.is_empty(), "{again:?}");

        unpin(&pin).unwrap();
        assert_eq!(attached(HOST), None);
        // So are links whose pins are not there any more, and those that were pinned again.
        redirect.pin_again().unwrap();
        let again = redirect.attach_again();
        assert_eq!(again.links, [HOST]);
        assert!(again.failed.is_empty(), "{again:?}");
        assert_eq!(attached(HOST), Some((id_of(&redirect), 1)));
        assert!(redirect.attached[&0].egress.as_ref().unwrap().link.is_attached().unwrap());
        assert_eq!(redirect.pin_again().unwrap(), 2);
        assert!(redirect.attach_again().links.is_empty());

        // Not while another program is in the way.
        unpin(&pin).unwrap();
        let mut other = load();
        other.attach(ifindex, 0, None).unwrap();
        let again = redirect.attach_again();
        let failed: Vec<_> = again.failed.iter().map(|(ifindex, _)| *ifindex).collect();
        assert_eq!(failed, [ifindex], "{again:?}");
        drop(other);
        let again = redirect.attach_again();
        assert!(again.failed.is_empty(), "{again:?}");
        assert_eq!(attached(HOST), Some((id_of(&redirect), 1)));
        assert_eq!(redirect.pin_again().unwrap(), 2);

        // The pins are those of the new links.
        drop(redirect);
        assert!(attached(HOST).is_some());
        unpin(&pin).unwrap();
        assert_eq!(attached(HOST), None);

        // A netdev that is gone is not an error.
        let mut redirect = load();
        redirect.attach(ifindex, 0, None).unwrap();
        ip(&format!("link del {HOST}"));
        let again = redirect.attach_again();
        assert!(again.links.is_empty() && again.failed.is_empty(), "{again:?}");
    });
}

#[test]
fn pin_of_a_vanished_netdev_is_swept_away() {
    in_new_namespaces(|| {
        let pins = Pins::new();
        let pin = pins.path("host");
        let mut redirect = load();
        redirect.attach(veth(), 0, Some(&pin)).unwrap();
        ip(&format!("link del {HOST}"));
        redirect.detach(0).unwrap();
        assert!(!pin.exists());

        redirect.attach(veth(), 0, Some(&pin)).unwrap();
        drop(redirect);
        ip(&format!("link del {HOST}"));
        assert_eq!(HookLink::open(&pin).unwrap().unwrap().place().unwrap(), (Hook::Xdp, None));
        let mut redirect = load();
        redirect.attach(veth(), 0, Some(&pin)).unwrap();
        assert_eq!(attached(HOST), Some((id_of(&redirect), 1)));
    });
}

#[test]
fn pin_of_another_netdev_is_rejected_and_not_changed() {
    in_new_namespaces(|| {
        let ifindex = veth();
        let pod = if_nametoindex(POD).unwrap();
        let pins = Pins::new();
        let pin = pins.path("pod");
        let mut redirect = load();
        redirect.attach(pod, 0, Some(&pin)).unwrap();

        let error = load().attach(ifindex, 0, Some(&pin)).unwrap_err();
        assert!(matches!(&error, Error::PinnedElsewhere { .. }));
        assert!(error.to_string().contains(HOST) && error.to_string().contains(POD), "{error}");
        assert_eq!(attached(POD), Some((id_of(&redirect), 1)));
        assert_eq!(attached(HOST), None);
    });
}

#[test]
fn a_pin_that_is_no_bpffs_or_no_link_is_rejected() {
    in_new_namespaces(|| {
        let ifindex = veth();
        let dir = tempfile::tempdir().unwrap();
        let mut redirect = load();
        let pin = dir.path().join("host");
        let error = redirect.attach(ifindex, 0, Some(&pin)).unwrap_err();
        assert!(matches!(&error, Error::Pin { .. }));
        assert!(error.to_string().contains("bpffs"), "{error}");
        assert_eq!(attached(HOST), None);

        fs::write(&pin, "not a link").unwrap();
        assert!(matches!(unpin(&pin), Err(Error::Pin { .. })));
        assert!(pin.exists());
    });
}

fn attach_error(ifindex: u32) -> (Errno, String) {
    let error = load().attach(ifindex, 0, None).unwrap_err();
    let text = error.to_string();
    let Error::Attach { errno, .. } = error else { panic!("{text}") };
    (errno, text)
}

#[test]
fn a_netdev_without_native_xdp_is_rejected_by_name() {
    in_new_namespaces(|| {
        let (errno, text) = attach_error(if_nametoindex("lo").unwrap());
        assert_eq!(errno, Errno::EOPNOTSUPP);
        assert!(text.contains("link lo") && text.contains("generic mode is not used"), "{text}");
    });
}

#[test]
fn more_queues_in_the_pod_than_here_are_rejected_with_the_remedy() {
    in_new_namespaces(|| {
        ip(&format!(
            "link add {HOST} numtxqueues 1 numrxqueues 1 \
             type veth peer name {POD} numtxqueues 2 numrxqueues 2"
        ));
        let (errno, text) = attach_error(if_nametoindex(HOST).unwrap());
        assert_eq!(errno, Errno::ENOSPC);
        assert!(text.contains("transmit queues"), "{text}");
    });
}

#[test]
fn a_link_with_another_program_is_rejected_and_keeps_it() {
    in_new_namespaces(|| {
        let ifindex = veth();
        let mut owner = load();
        owner.attach(ifindex, 0, None).unwrap();
        let (errno, text) = attach_error(ifindex);
        assert_eq!(errno, Errno::EBUSY);
        assert!(text.contains(HOST) && text.contains("another XDP program"), "{text}");
        assert_eq!(attached(HOST), Some((id_of(&owner), 1)));
    });
}

#[test]
fn an_unknown_netdev_is_rejected_as_such() {
    in_new_namespaces(|| {
        let (errno, text) = attach_error(4711);
        assert_eq!(errno, Errno::ENODEV);
        assert!(text.contains("no such netdev"), "{text}");
    });
}

#[test]
fn slots_and_netdevs_are_used_once_and_failures_leave_no_trace() {
    in_new_namespaces(|| {
        let ifindex = veth();
        let pod = if_nametoindex(POD).unwrap();
        let mut redirect = load();
        assert!(redirect.attach(4711, 0, None).is_err());
        redirect.attach(ifindex, 0, None).unwrap();
        assert!(matches!(redirect.attach(pod, 0, None), Err(Error::Slot { taken: true, .. })));
        assert!(matches!(redirect.attach(ifindex, 1, None), Err(Error::Map { .. })));
        assert!(matches!(redirect.attach(pod, 4, None), Err(Error::OutOfRange { .. })));
        assert!(matches!(redirect.detach(1), Err(Error::Slot { taken: false, .. })));
        assert!(matches!(redirect.clear_socket(0, 2), Err(Error::OutOfRange { .. })));
        // The failed attempts freed what they allocated: slot 1, and the pod's end in LINKS.
        redirect.attach(pod, 1, None).unwrap();
    });
}

/// MAC address of a link of the calling thread's namespace.
fn mac_of(link: &str) -> [u8; 6] {
    let shown: serde_json::Value =
        serde_json::from_str(&ip(&format!("-json link show dev {link}"))).unwrap();
    let pairs = shown[0]["address"].as_str().unwrap().split(':');
    let bytes: Vec<_> = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn without_a_socket_ip_is_dropped_while_arp_passes() {
    in_new_namespaces(|| {
        let ifindex = veth();
        ip(&format!("address add 10.0.0.1/24 dev {HOST}"));
        let host_netns = PathBuf::from(format!("/proc/self/task/{}/ns/net", gettid()));
        let host = UdpSocket::bind("10.0.0.1:0").unwrap();
        let mut redirect = load();
        redirect.attach(ifindex, 0, None).unwrap();

        in_new_namespaces(|| {
            let pod = gettid();
            netns::inside(&host_netns, || ip(&format!("link set {POD} netns {pod}"))).unwrap();
            ip(&format!("address add 10.0.0.2/24 dev {POD}"));
            ip(&format!("link set {POD} up"));
            ip("link set lo up");
            let mac = mac_of(POD);
            redirect.set_pod(0, Some(Pod { mac, addresses: vec![0xffff_0a00_0002] })).unwrap();
            let pod = UdpSocket::bind("10.0.0.2:0").unwrap();
            pod.connect(host.local_addr().unwrap()).unwrap();

            // Is queued in the pod until its ARP request is answered; then the program gets it.
            pod.send(b"while attached").unwrap();
            let deadline = Instant::now() + PATIENCE;
            while !ip(&format!("neighbour show dev {POD}")).contains("lladdr") {
                assert!(Instant::now() < deadline, "ARP doesn't pass");
            }
            pod.send(b"while attached").unwrap();

            redirect.detach(0).unwrap();
            pod.send(b"after detach").unwrap();
        });

        host.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut datagram = [0; 64];
        let length = host.recv(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], b"after detach");
    });
}

#[test]
fn the_guard_is_pinned_adopted_and_detached_with_the_xdp_program() {
    in_new_namespaces(|| {
        let ifindex = veth();
        let pins = Pins::new();
        let (pin, egress) = (pins.path("host"), pins.path("host-egress"));
        let place = || HookLink::open(&egress).unwrap().unwrap().place().unwrap();
        let mut first = load();
        assert!(matches!(first.guard(0), Err(Error::Slot { taken: false, .. })));
        first.attach(ifindex, 0, Some(&pin)).unwrap();
        first.guard(0).unwrap();
        drop(first);
        assert_eq!(place(), (Hook::Egress, Some(ifindex)));

        let mut second = load();
        second.attach(ifindex, 1, Some(&pin)).unwrap();
        second.guard(1).unwrap();
        second.set_pod(1, Some(Pod { mac: [2; 6], addresses: vec![1, 2] })).unwrap();
        second.detach(1).unwrap();
        assert!(!pin.exists() && !egress.exists());

        // With the netdev gone, the next one takes the place of both.
        second.attach(ifindex, 1, Some(&pin)).unwrap();
        second.guard(1).unwrap();
        ip(&format!("link del {HOST}"));
        assert_eq!(place(), (Hook::Egress, None));
        drop(second);
        let ifindex = veth();
        let mut third = load();
        third.attach(ifindex, 0, Some(&pin)).unwrap();
        third.guard(0).unwrap();
        assert_eq!(place(), (Hook::Egress, Some(ifindex)));
        let ingress = pins.path("host-ingress");
        third.mark(0, ifindex).unwrap();
        let place = HookLink::open(&ingress).unwrap().unwrap().place().unwrap();
        assert_eq!(place, (Hook::Ingress, Some(ifindex)));
        drop(third);
        unpin(&pin).unwrap();
        assert!(!pin.exists() && !egress.exists() && !ingress.exists());
    });
}

#[test]
fn a_link_that_was_left_stays_cut_off_and_can_be_attached_in_another_slot() {
    in_new_namespaces(|| {
        let ifindex = veth();
        let pins = Pins::new();
        let (pin, egress) = (pins.path("host"), pins.path("host-egress"));
        let mut redirect = load();
        redirect.attach(ifindex, 0, Some(&pin)).unwrap();
        redirect.guard(0).unwrap();
        redirect.set_pod(0, Some(Pod { mac: [2; 6], addresses: vec![1, 2] })).unwrap();
        redirect.release_slot(0).unwrap();
        assert!(matches!(redirect.release_slot(0), Err(Error::Slot { taken: false, .. })));
        let place = |pin| HookLink::open(pin).unwrap().unwrap().place().unwrap();
        assert_eq!(place(&pin), (Hook::Xdp, Some(ifindex)));
        assert_eq!(place(&egress), (Hook::Egress, Some(ifindex)));

        redirect.attach(ifindex, 1, Some(&pin)).unwrap();
        redirect.guard(1).unwrap();
        redirect.set_pod(1, Some(Pod { mac: [2; 6], addresses: vec![1, 2] })).unwrap();
        redirect.detach(1).unwrap();
        assert!(!pin.exists() && !egress.exists());
    });
}

#[test]
fn only_af_xdp_sockets_can_be_steered_to() {
    let udp = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), None).unwrap();
    assert!(matches!(load().set_socket(0, 0, udp.as_fd()), Err(Error::Map { map: "XSKS", .. })));
}

#[test]
fn zero_workers_or_links_are_rejected() {
    assert!(matches!(Redirect::load(0, 1), Err(Error::NothingToServe)));
    assert!(matches!(Redirect::load(1, 0), Err(Error::NothingToServe)));
}

/// Sends an Ethernet frame out of a link of the calling thread's namespace.
fn send_frame(link: &str, frame: &[u8]) {
    let mut entries = getifaddrs().unwrap().filter(|entry| entry.interface_name == link);
    let address = entries.find_map(|entry| entry.address?.as_link_addr().copied()).unwrap();
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None).unwrap();
    bind(socket.as_raw_fd(), &address).unwrap();
    assert_eq!(send(socket.as_raw_fd(), frame, MsgFlags::empty()), Ok(frame.len()));
}

/// The tag of a frame that the kernel received is in the skb and not in the packet's data.
#[test]
fn a_record_of_a_tagged_frame_from_a_bridge_has_the_tag() {
    in_new_namespaces(|| {
        let ifindex = veth();
        ip("link add pg-br0 type bridge");
        ip("link add pg-far0 type veth peer name pg-far1");
        ip(&format!("link set {HOST} master pg-br0"));
        ip("link set pg-far1 master pg-br0");
        for link in ["pg-br0", "pg-far0", "pg-far1"] {
            ip(&format!("link set {link} addrgenmode none up"));
        }
        let mut redirect = load();
        redirect.attach(ifindex, 3, None).unwrap();
        redirect.guard(3).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let mut before = Vec::new();
        for length in [20, 60, 128, 1000] {
            // Customer and service tag, IEEE 802.1Q-2022 table 9-1.
            for protocol in [[0x81, 0x00], [0x88, 0xa8]] {
                let mut frame = [&[2; 6][..], &[4; 6], &protocol, &[0x60, 7]].concat();
                frame.extend((frame.len()..length).map(|index| (index + length) as u8));
                let mut seen = None;
                // The bridge forwards once its ports are up, and records are limited by rate.
                while seen.is_none() {
                    assert!(Instant::now() < deadline, "no record of the frame of {length} bytes");
                    send_frame("pg-far0", &frame);
                    redirect.take_dropped(usize::MAX, |dropped| {
                        let DroppedData::Frame(frame) = dropped.seen else { panic!("{dropped:?}") };
                        // The bridge sends some of its own.
                        let is_tagged = dropped.reason == FrameDropReason::ToPodVlanTagged;
                        if is_tagged && frame != before {
                            seen = Some((dropped.slot, frame.to_vec()));
                        }
                    });
                }
                frame.truncate(128);
                assert_eq!(seen, Some((3, frame.clone())));
                before = frame;
            }
        }
    });
}
