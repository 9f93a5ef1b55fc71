//! Files built byte by byte, and files of another library's writer.

use super::*;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;
use pcap_file::{DataLink, Endianness};
use proptest::prelude::*;
use std::time::Duration;

const ORDERS: [bool; 2] = [false, true];
const SLL2: u16 = 276;

/// Writes integers in one byte order.
struct Writer {
    big_endian: bool,
    out: Vec<u8>,
}

impl Writer {
    fn new(big_endian: bool) -> Self {
        Self { big_endian, out: Vec::new() }
    }

    fn u16(mut self, n: u16) -> Self {
        self.out.extend(if self.big_endian { n.to_be_bytes() } else { n.to_le_bytes() });
        self
    }

    fn u32(mut self, n: u32) -> Self {
        self.out.extend(if self.big_endian { n.to_be_bytes() } else { n.to_le_bytes() });
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.out.extend(bytes);
        self
    }

    fn padded(mut self, bytes: &[u8]) -> Self {
        self.out.extend(bytes);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self
    }

    /// A pcapng block around `body`.
    fn block(self, block_type: u32, body: impl FnOnce(Self) -> Self) -> Self {
        let body = body(Self::new(self.big_endian)).padded(b"").out;
        let length = body.len() as u32 + 12;
        self.u32(block_type).u32(length).bytes(&body).u32(length)
    }

    fn section(self, options: &[u8]) -> Self {
        self.block(0x0a0d_0d0a, |body| {
            body.u32(0x1a2b_3c4d).u16(1).u16(0).bytes(&[0xff; 8]).bytes(options)
        })
    }

    fn interface(self, link_type: u16, options: impl FnOnce(Self) -> Self) -> Self {
        self.block(1, |body| options(body.u16(link_type).u16(0xbeef).u32(0)))
    }

    fn option(self, code: u16, value: &[u8]) -> Self {
        self.u16(code).u16(value.len() as u16).padded(value)
    }

    fn enhanced(self, interface: u32, micros: u64, data: &[u8], options: &[u8]) -> Self {
        let (high, low, len) = ((micros >> 32) as u32, micros as u32, data.len() as u32);
        self.block(6, |body| {
            let body = body.u32(interface).u32(high).u32(low).u32(len).u32(len);
            body.padded(data).bytes(options)
        })
    }

    /// A pcap file's header.
    fn pcap(self, magic: u32, version: [u16; 2], link_type: u32) -> Self {
        let [major, minor] = version;
        self.u32(magic).u16(major).u16(minor).u32(0).u32(0).u32(0).u32(link_type)
    }

    fn record(self, stamp: [u32; 2], lengths: [u32; 2], data: &[u8]) -> Self {
        self.u32(stamp[0]).u32(stamp[1]).u32(lengths[0]).u32(lengths[1]).bytes(data)
    }
}

fn read(file: &[u8]) -> Records {
    Records::read(file).unwrap().1
}

/// Interface, timestamp and frame of each packet of an undamaged file.
fn packets(file: &[u8]) -> Vec<(u32, u64, &[u8])> {
    let records = read(file);
    assert_eq!(records.broken, None);
    let data = |packet: &Packet| &file[packet.at as usize..][..packet.len as usize];
    let found = |packet: &Packet| (packet.interface, packet.time, data(packet));
    records.packets.iter().map(found).collect()
}

/// The damage in a file: its offset and the reason.
fn broken(file: &[u8]) -> (u64, String) {
    let broken = read(file).broken.expect("a file that breaks off");
    (broken.offset, broken.reason)
}

#[test]
fn timestamps_are_read_in_the_resolution_of_their_interface() {
    let stamp = |resolution, offset_s, units| {
        pcapng::Interface { link_type: ETHERNET, snap_len: 0, resolution, offset_s }.time(units)
    };
    assert_eq!(stamp(6, 0, 7), 7_000);
    assert_eq!(stamp(9, 0, 7), 7);
    assert_eq!(stamp(3, 0, 7), 7_000_000);
    assert_eq!(stamp(12, 0, 7_000), 7);
    assert_eq!(stamp(0x80 | 1, 0, 3), 1_500_000_000);
    assert_eq!(stamp(0x7f, 0, u64::MAX), 0);
    assert_eq!(stamp(0, 0, u64::MAX), u64::MAX);
    assert_eq!(stamp(9, 2, 7), 2_000_000_007);
    assert_eq!(stamp(9, -2, 7), 0);
    assert_eq!(stamp(0, i64::MIN, 1), 0);
}

#[test]
fn the_options_of_an_interface_define_its_timestamps() {
    for big_endian in ORDERS {
        let offset = if big_endian { 2_u64.to_be_bytes() } else { 2_u64.to_le_bytes() };
        let file = Writer::new(big_endian)
            .section(b"")
            .interface(ETHERNET, |body| body.option(9, &[9]).option(14, &offset))
            .enhanced(0, 7, b"x", b"");
        assert_eq!(packets(&file.out), [(0, 2_000_000_007, &b"x"[..])]);
    }
}

#[test]
fn packets_are_sorted_by_time_but_never_reordered_on_one_interface() {
    let packet = |time, interface, at| Packet { time, interface, at, len: 0 };
    let mut packets =
        [packet(10, 0, 0), packet(30, 1, 1), packet(20, 0, 2), packet(5, 1, 3), packet(25, 0, 4)];
    order(&mut packets);
    let order = packets.map(|packet| (packet.at, packet.time));
    assert_eq!(order, [(0, 10), (2, 20), (4, 25), (1, 30), (3, 30)]);
}

#[test]
fn option_lists_may_end_with_their_block_and_have_any_content() {
    // A comment without an end of the list, text that is not UTF-8, if_tzone with four bytes, an
    // option of a length that reaches beyond its block, a list of half an option.
    for big_endian in ORDERS {
        let comment = Writer::new(big_endian).option(1, b"\xff\xfe comment").out;
        let beyond = Writer::new(big_endian).u16(2).u16(500).out;
        let half = [1, 0];
        let in_blocks = [&comment[..], &beyond, &half, b""];
        for options in in_blocks {
            let file = Writer::new(big_endian)
                .section(options)
                .interface(ETHERNET, |body| {
                    body.option(2, b"\xc3\x28").option(10, &[0, 0, 0x0e, 0x10]).option(11, b"")
                })
                .enhanced(0, 5, b"one", options)
                .block(5, |body| body.u32(0).u32(0).u32(0).bytes(options))
                .block(4, |body| body.bytes(options))
                .block(0x0bad, |body| body.u32(1).bytes(options))
                .enhanced(0, 6, b"two", options);
            let [one, two]: [&[u8]; 2] = [b"one", b"two"];
            assert_eq!(packets(&file.out), [(0, 5_000, one), (0, 6_000, two)], "{options:?}");
        }
    }
}

#[test]
fn an_option_that_timestamps_depend_on_must_be_complete() {
    for options in [&[9, 0, 2, 0, 9, 0, 0, 0][..], &[14, 0, 4, 0, 1, 0, 0, 0], &[9, 0, 1, 0]] {
        let section = Writer::new(false).section(b"");
        let at = section.out.len() as u64;
        let file =
            section.interface(ETHERNET, |body| body.bytes(options)).enhanced(0, 5, b"x", b"");
        let (offset, reason) = broken(&file.out);
        assert_eq!(offset, at);
        assert!(reason.contains("option"), "{reason}");
    }
}

#[test]
fn obsolete_packet_blocks_have_timestamps_in_two_halves() {
    for big_endian in ORDERS {
        let file = Writer::new(big_endian)
            .section(b"")
            .interface(ETHERNET, |body| body)
            // Interface, drops, stamp, lengths; an option without an end.
            .block(2, |body| {
                body.u16(0).u16(0xffff).u32(1).u32(2).u32(3).u32(3).padded(b"one").u16(2).u16(4)
            });
        let micros = (1_u64 << 32) + 2;
        assert_eq!(packets(&file.out), [(0, micros * 1_000, &b"one"[..])]);
    }
}

#[test]
fn simple_packets_are_truncated_to_the_snapshot_length_of_the_first_interface() {
    let file = Writer::new(true)
        .section(b"")
        .block(1, |body| body.u16(ETHERNET).u16(0).u32(5))
        .enhanced(0, 9, b"three", b"")
        .block(3, |body| body.u32(3).padded(b"two"))
        .block(3, |body| body.u32(6).padded(b"cut o"));
    let [one, two]: [&[u8]; 2] = [b"three", b"two"];
    assert_eq!(packets(&file.out), [(0, 9_000, one), (0, 9_000, two)]);
    assert_eq!(read(&file.out).truncated, 1);
}

#[test]
fn packets_of_other_link_types_are_skipped_and_counted() {
    let file = Writer::new(false)
        .section(b"")
        .interface(SLL2, |body| body)
        .interface(ETHERNET, |body| body)
        .interface(0xfffe, |body| body)
        .enhanced(0, 1, b"cooked", b"")
        .enhanced(1, 2, b"frame", b"")
        .enhanced(0, 3, b"cooked", b"")
        .enhanced(2, 3, b"what", b"");
    assert_eq!(packets(&file.out), [(1, 2_000, &b"frame"[..])]);
    let records = read(&file.out);
    assert_eq!((records.interfaces, records.other_link_types()), (3, 3));
    assert_eq!(records.other_link_type_names(), "LINUX_SLL2 (276), 65534");
    assert!(!records.is_of_other_link_types());
}

#[test]
fn sections_of_either_byte_order_have_interfaces_of_their_own() {
    let mut file = Vec::new();
    for (endianness, data) in [(Endianness::Little, b"one"), (Endianness::Big, b"two")] {
        let header = SectionHeaderBlock { endianness, ..Default::default() };
        let mut writer = PcapNgWriter::with_section_header(Vec::new(), header).unwrap();
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        interface.options.push(InterfaceDescriptionOption::IfTsResol(9));
        writer.write_pcapng_block(interface).unwrap();
        let packet = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(7),
            original_len: 3,
            data: data.into(),
            options: vec![],
        };
        writer.write_pcapng_block(packet).unwrap();
        file.extend(writer.into_inner());
    }
    let [one, two]: [&[u8]; 2] = [b"one", b"two"];
    assert_eq!(packets(&file), [(0, 7, one), (1, 7, two)]);
    assert_eq!(read(&file).interfaces, 2);
}

#[test]
fn everything_before_the_damage_is_read() {
    let start = Writer::new(false).section(b"").interface(ETHERNET, |body| body);
    let start = start.enhanced(0, 1, b"first", b"");
    let at = start.out.len() as u64;
    let breaks = |tail: &[u8]| {
        let file = [&start.out[..], tail].concat();
        assert_eq!(read(&file).packets.len(), 1);
        let (offset, reason) = broken(&file);
        assert_eq!(offset, at, "{reason}");
        reason
    };
    let next = || Writer::new(false).enhanced(0, 2, b"second", b"").out;
    for cut in 1..next().len() {
        assert_eq!(breaks(&next()[..cut]), "the file ends inside a block");
    }
    let mut two_lengths = next();
    *two_lengths.last_mut().unwrap() = 1;
    assert!(breaks(&two_lengths).contains("at its end"));
    let mut header = Writer::new(false).section(b"").out;
    *header.last_mut().unwrap() = 1;
    let whole = [&header[..], &start.out[header.len()..]].concat();
    assert_eq!(packets(&whole), [(0, 1_000, &b"first"[..])], "the section's second length");
    for length in [0, 8, 11, 13] {
        let reason = breaks(&Writer::new(false).u32(6).u32(length).u32(length).out);
        assert!(reason.contains("can't have a length"), "{reason}");
    }
    let unknown = Writer::new(false).enhanced(1, 2, b"x", b"").out;
    assert!(breaks(&unknown).contains("interface 1"));
    let longer = Writer::new(false).block(6, |body| body.u32(0).u32(0).u32(0).u32(9).u32(9));
    assert!(breaks(&longer.out).contains("9 bytes"));
    for block_type in [1, 2, 3, 6, 0x0a0d_0d0a] {
        breaks(&Writer::new(false).block(block_type, |body| body).out);
    }
    let later = Writer::new(false).block(0x0a0d_0d0a, |body| body.u32(0x1a2b_3c4d).u16(2).u16(0));
    assert!(breaks(&later.out).contains("version 2.0"));
}

#[test]
fn pcap_files_of_every_kind_are_read() {
    for big_endian in ORDERS {
        let file =
            |magic, version, link_type| Writer::new(big_endian).pcap(magic, version, link_type);
        let frame = &b"frame"[..];
        // Frame check sequences of four bytes, and no snap length.
        let micro = file(0xa1b2_c3d4, [2, 4], 0x2400_0001).record([1, 2], [5, 5], frame);
        assert_eq!(packets(&micro.out), [(0, 1_000_002_000, frame)]);
        let nano = file(0xa1b2_3c4d, [2, 4], 1).record([1, 2], [5, 5], frame);
        assert_eq!(packets(&nano.out), [(0, 1_000_000_002, frame)]);
        let patched = file(0xa1b2_cd34, [2, 4], 1);
        let patched = patched.record([1, 2], [5, 5], &[0xee; 8]).bytes(frame);
        assert_eq!(packets(&patched.out), [(0, 1_000_002_000, frame)]);
        for version in [[2, 2], [2, 3], [543, 0]] {
            let old = file(0xa1b2_c3d4, version, 1).record([1, 2], [9, 5], frame);
            assert_eq!(read(&old.out).truncated, 1, "the original length comes first");
            assert_eq!(read(&old.out).broken, None);
        }
        let between = file(0xa1b2_c3d4, [2, 3], 1).record([1, 2], [5, 9], frame);
        assert_eq!((read(&between.out).truncated, read(&between.out).broken), (1, None));
        let cooked = file(0xa1b2_c3d4, [2, 4], SLL2.into()).record([1, 2], [5, 5], frame);
        assert!(read(&cooked.out).is_of_other_link_types());
    }
}

#[test]
fn a_truncated_record_is_reported_at_its_offset() {
    let start = Writer::new(false).pcap(0xa1b2_c3d4, [2, 4], 1).record([1, 2], [5, 5], b"first");
    let at = start.out.len() as u64;
    let next = Writer::new(false).record([1, 2], [6, 6], b"second").out;
    for cut in 1..next.len() {
        let file = [&start.out[..], &next[..cut]].concat();
        assert_eq!(broken(&file), (at, "the file ends inside a record".into()));
    }
    let huge = start.record([1, 2], [u32::MAX, 5], b"x").out;
    assert_eq!(broken(&huge).0, at);
    assert!(Records::read(&huge[..23]).unwrap_err().contains("24 bytes"));
    let later = Writer::new(false).pcap(0xa1b2_c3d4, [2, 5], 1).out;
    assert!(Records::read(&later).unwrap_err().contains("version 2.5"));
    assert!(Records::read(b"\x1f\x8b\x08").unwrap_err().contains("neither"));
}

/// Mostly valid blocks, with any lengths and bodies.
fn file() -> impl Strategy<Value = Vec<u8>> {
    let body = proptest::collection::vec(any::<u8>(), 0..40);
    let kind = prop_oneof![Just(1_u32), Just(2), Just(3), Just(5), Just(6), Just(0x0a0d_0d0a)];
    let block = (kind, body, any::<bool>());
    let blocks = (any::<bool>(), proptest::collection::vec(block, 0..12)).prop_map(
        |(big_endian, blocks)| {
            let start = Writer::new(big_endian).section(b"").interface(ETHERNET, |body| body);
            let add = |file: Writer, (kind, bytes, sound): (u32, Vec<u8>, bool)| {
                if sound {
                    return file.enhanced(0, u64::MAX, &bytes, b"");
                }
                file.block(kind, |body| body.padded(&bytes))
            };
            blocks.into_iter().fold(start, add).out
        },
    );
    let magic = prop_oneof![Just(0xa1b2_c3d4), Just(0xa1b2_3c4d), Just(0xa1b2_cd34)];
    let rest = proptest::collection::vec(any::<u8>(), 0..200);
    let pcap = (any::<bool>(), magic, rest.clone()).prop_map(|(big_endian, magic, rest)| {
        Writer::new(big_endian).pcap(magic, [2, 4], 1).bytes(&rest).out
    });
    prop_oneof![4 => blocks, 2 => pcap, 1 => rest]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_within_their_bounds(
        mut file in file(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        for (at, byte) in damage {
            if !file.is_empty() {
                let at = at.index(file.len());
                file[at] = byte;
            }
        }
        let Ok((format, records)) = Records::read(&file) else { return Ok(()) };
        let least = if format == Format::Pcap { 16 } else { 16 + 4 };
        let packets = records.packets.len() as u64
            + records.truncated + records.oversized + records.other_link_types();
        // The packets are bounded by the file's length, whatever lengths it claims.
        prop_assert!(packets * least <= file.len() as u64);
        prop_assert!(u64::from(records.interfaces) * 20 <= file.len() as u64 || format == Format::Pcap);
        for packet in &records.packets {
            let frame = file.get(packet.at as usize..).and_then(|rest| rest.get(..packet.len as usize));
            prop_assert!(frame.is_some());
        }
        if let Some(broken) = records.broken {
            prop_assert!(broken.offset < file.len() as u64);
        }
    }
}
