//! Frames and time through a whole worker. After each step every packet is accounted for, and once
//! all flows have expired every frame is free again.

use podgate_tables::ids::LinkId;
use podgate_tables::proto;
use podgate_test_support::{
    A, ADDRESSES, B, HOST, IngressOfB, OUTSIDE, Rig, RigConfig, TcpPacket, cut, echo, link_mac,
    pod_mac, sctp, snapshot, tcp, udp, unreachable,
};

use crate::http1::rules;
use crate::input::Input;

/// Steps of one input, so that none takes seconds.
const STEPS_MAX: usize = 64;

/// Input: steps, each a byte that names it and what it needs.
pub fn packets(data: &[u8]) {
    let mut input = Input::new(data);
    let workers = 1 + u16::from(input.u8() % 2);
    let mut rig = Rig::of(RigConfig {
        workers,
        frames: 1024,
        ring: 64,
        flows_per_worker: 32,
        inspected_per_worker: 8,
        events_per_worker: 64,
    });
    let mut epoch = 0;
    publish(&mut rig, &mut epoch, input.u8());
    let mut last = Vec::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut rig, &mut input, &mut epoch, &mut last);
        rig.run();
        rig.events().clear();
        rig.counts().check_conservation();
    }
    rig.expire_all();
    rig.assert_no_frame_is_lost();
}

fn publish(rig: &mut Rig, epoch: &mut u64, choice: u8) {
    *epoch += 1;
    let ingress = match choice % 8 {
        0 => IngressOfB::Open,
        1 => IngressOfB::Closed,
        2 => IngressOfB::FromA(None),
        3 => IngressOfB::FromAAt(proto::UDP),
        4 => IngressOfB::FromAnyone(rules()),
        5 => IngressOfB::FromAOver(proto::UDP, rules()),
        6 => IngressOfB::FromA(Some(rules())),
        // The tables stay as they are; there are none at the start.
        _ => return,
    };
    rig.shared.publish(snapshot(*epoch, ingress));
}

fn step(rig: &mut Rig, input: &mut Input<'_>, epoch: &mut u64, last: &mut Vec<u8>) {
    let op = input.u8();
    let link = [HOST, A, B, A][usize::from(op >> 6)];
    let worker = usize::from(op >> 5 & 1) % rig.workers.len();
    let frame = match op & 0xf {
        0 => input.long_string().to_vec(),
        1 => ip(link, input.long_string()),
        2..=5 => segment(link, input),
        6 => udp(link, source(link), destination(link), [input.u16() % 4, 80], input.string()),
        7 => {
            let payload = vec![input.u8(); usize::from(input.u16() % 9000)];
            udp(link, source(link), destination(link), [1, 80], &payload)
        }
        8 => echo(link, source(link), destination(link), input.u8(), input.u16() % 4),
        9 if last.len() >= 42 && last[12..15] == [8, 0, 0x45] => {
            unreachable(link, source(link), destination(link), last)
        }
        10 => sctp(link, source(link), destination(link), [1, 80]),
        11 => {
            // The last frame again, with some bytes replaced.
            let (at, with) = (usize::from(input.u16()), input.string());
            let mut frame = last.clone();
            frame.iter_mut().skip(at).zip(with).for_each(|(to, from)| *to = *from);
            frame
        }
        12 => {
            let millis = u64::from(input.u16());
            rig.now = rig.now.plus_millis(millis * millis / 16);
            return;
        }
        13 => return publish(rig, epoch, input.u8()),
        14 => return fragments(rig, link, worker, input, last),
        _ => {
            // The last frame in several buffers, as small as the input says.
            let size = 14 + usize::from(input.u8());
            let parts = last.chunks(size);
            if parts.len() <= 18 {
                rig.links[link.index()].inject_parts(worker, parts);
            }
            return;
        }
    };
    rig.links[link.index()].inject(worker, &frame);
    *last = frame;
}

/// An IP packet after the Ethernet header that `link` expects.
fn ip(link: LinkId, packet: &[u8]) -> Vec<u8> {
    let kind: [u8; 2] =
        if packet.first().is_some_and(|b| b >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
    [&link_mac(link)[..], &pod_mac(link), &kind, packet].concat()
}

fn source(link: LinkId) -> [u8; 4] {
    ADDRESSES[link.index()]
}

fn destination(link: LinkId) -> [u8; 4] {
    match link {
        A => ADDRESSES[2],
        B => ADDRESSES[1],
        _ => OUTSIDE,
    }
}

/// A TCP segment between port 40000 to 40003 of pod A and port 80 of pod B, near the beginning of
/// both streams.
fn segment(link: LinkId, input: &mut Input<'_>) -> Vec<u8> {
    const FLAGS: [&str; 8] = ["S", "", "P", "F", "R", "SF", "FP", "SR"];
    let bits = input.u8();
    let client = 40_000 + u16::from(bits >> 6);
    let (seq, ack) = (u32::from(input.u8()), u32::from(input.u8()));
    let ack = (bits & 8 != 0).then_some(1_000 + ack);
    let packet = TcpPacket {
        src: source(link),
        dst: destination(link),
        ports: if link == B { [80, client] } else { [client, 80] },
        seq: 1_000 + seq,
        ack,
        flags: FLAGS[usize::from(bits & 7)],
        payload: input.string(),
    };
    tcp(link, &packet)
}

/// The last frame as fragments, in the order and number that the input says.
fn fragments(rig: &mut Rig, link: LinkId, worker: usize, input: &mut Input<'_>, last: &[u8]) {
    let (id, size, order) = (input.u8() % 4, 64 + usize::from(input.u16() % 1400), input.string());
    if last.len() < 64 || !matches!(last[12..14], [8, 0] | [0x86, 0xdd]) {
        return;
    }
    if etherparse::IpHeaders::from_slice(&last[14..]).is_err() {
        return;
    }
    let all = cut(last, id.into(), size);
    for index in order {
        let fragment = &all[usize::from(*index) % all.len()];
        rig.links[link.index()].inject(worker, fragment);
    }
}
