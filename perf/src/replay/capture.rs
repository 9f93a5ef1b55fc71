//! Reading capture files: pcap and pcapng.
//!
//! The file is read into memory as it is, and packets are ranges of it: that bounds memory by the
//! file's size plus [`Packet`]'s for each packet, and lets a capture be replayed many times without
//! reading it again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pcap_file::pcap::PcapParser;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgParser};
use pcap_file::{DataLink, PcapError, TsResolution};
use podgate_dataplane::types::Mac;
use serde::{Deserialize, Serialize};

use super::plan::Skipped;
use super::report::CaptureInfo;

/// Largest file that is read, bytes.
pub const FILE_MAX: u64 = 1 << 30;

/// Largest frame that is replayed, bytes: the largest IP packet behind an Ethernet header with two
/// VLAN tags.
const FRAME_MAX: u32 = 65_535 + 14 + 8;

/// First block of a pcapng file, the same in both byte orders
/// (draft-ietf-opsawg-pcapng §4.1).
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Where the frame begins in a pcap record (draft-ietf-opsawg-pcap §5).
const PCAP_DATA_AT: usize = 16;
/// Where the frame begins in an enhanced packet block, and in the packet block that it replaced
/// (draft-ietf-opsawg-pcapng §4.3 and appendix A).
const ENHANCED_DATA_AT: usize = 28;
/// Where the frame begins in a simple packet block (draft-ietf-opsawg-pcapng §4.4).
const SIMPLE_DATA_AT: usize = 12;

/// Why a capture can't be replayed at all.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file can't be read.
    #[error("can't read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is larger than [`FILE_MAX`].
    #[error(
        "{} is larger than {} MiB; cut it into pieces, for example with \
         `editcap -c 1000000 {} piece.pcap`",
        path.display(), FILE_MAX >> 20, path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is neither pcap nor pcapng.
    #[error(
        "{} is no capture: {}",
        path.display(),
        if *.empty { "it is empty; end tcpdump by Ctrl-C, or let it write at once by -U" }
        else { "neither pcap nor pcapng" }
    )]
    NotACapture {
        /// The file.
        path: PathBuf,
        /// Whether there is nothing in it.
        empty: bool,
    },
    /// Packets in the file don't begin with an Ethernet header.
    #[error(
        "{} has packets of link type {link_type}, and only ETHERNET can be replayed; capture on \
         the pod's own interface (`tcpdump -i eth0`), not on `any` and not on a tunnel",
        path.display()
    )]
    LinkType {
        /// The file.
        path: PathBuf,
        /// Name of the link type.
        link_type: String,
    },
}

/// The two file formats.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// The format of libpcap, with stamps of micro- or nanoseconds.
    Pcap,
    /// The next generation, with several interfaces.
    Pcapng,
}

impl Format {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcap => "pcap",
            Self::Pcapng => "pcapng",
        }
    }
}

/// Where a file stops making sense.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Where the record begins that can't be read, bytes from the start of the file.
    pub offset: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// One captured frame, whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packet {
    /// When it was captured, nanoseconds since the epoch. Never less than the packet's before.
    pub(super) time: u64,
    /// Where it was captured, counted from 0 over the whole file.
    pub(super) interface: u32,
    at: u32,
    len: u32,
}

/// A capture in memory.
pub(super) struct Capture {
    /// Format of the file.
    pub(super) format: Format,
    /// The packets that are whole, in the order to replay them in (see [`order`]).
    pub(super) packets: Vec<Packet>,
    /// Interfaces that packets were captured on.
    pub(super) interfaces: u32,
    /// Packets that were captured in part only.
    pub(super) truncated: u64,
    /// Packets larger than IP allows, which come from offloads beyond 64 KiB.
    pub(super) oversized: u64,
    /// Where the file breaks off, if it does. Everything before is there.
    pub(super) broken: Option<Broken>,
    file: Vec<u8>,
}

impl Capture {
    /// Reads the capture at `path`.
    ///
    /// # Errors
    /// When nothing of it can be replayed. A file that is broken later on is no error.
    pub(super) fn read(path: &Path) -> Result<Self, CaptureError> {
        let unreadable = |source| CaptureError::Unreadable { path: path.into(), source };
        let mut file = Vec::new();
        File::open(path)
            .and_then(|open| open.take(FILE_MAX + 1).read_to_end(&mut file))
            .map_err(unreadable)?;
        if file.len() as u64 > FILE_MAX {
            return Err(CaptureError::TooLarge { path: path.into() });
        }
        let (format, records) = if file.starts_with(&PCAPNG_MAGIC) {
            (Format::Pcapng, Records::pcapng(&file))
        } else {
            (Format::Pcap, Records::pcap(&file))
        };
        let records = records.map_err(|error| match error {
            Unusable::NotACapture => {
                CaptureError::NotACapture { path: path.into(), empty: file.is_empty() }
            }
            Unusable::LinkType(link) => {
                CaptureError::LinkType { path: path.into(), link_type: format!("{link:?}") }
            }
        })?;
        let Records { mut packets, interfaces, truncated, oversized, broken, .. } = records;
        order(&mut packets);
        Ok(Self { format, packets, interfaces, truncated, oversized, broken, file })
    }

    /// What the report says of it.
    #[must_use]
    pub(super) fn info(&self, file: &Path, skipped: Skipped) -> CaptureInfo {
        let start = self.packets.first().map(|first| i128::from(first.time));
        let end = self.packets.last().map_or(0, |last| last.time);
        CaptureInfo {
            file: file.display().to_string(),
            format: self.format,
            interfaces: self.interfaces,
            packets: self.packets.len() as u64 + self.truncated + self.oversized,
            start: start.and_then(|nanos| Timestamp::from_nanosecond(nanos).ok()),
            duration_ns: end - self.start(),
            skipped,
            broken: self.broken.clone(),
        }
    }

    /// Stamp of the first packet; zero if there is none.
    #[must_use]
    pub(super) fn start(&self) -> u64 {
        self.packets.first().map_or(0, |packet| packet.time)
    }

    /// The frame's bytes, from the Ethernet header on.
    #[must_use]
    pub(super) fn frame(&self, packet: &Packet) -> &[u8] {
        &self.file[packet.at as usize..][..packet.len as usize]
    }

    /// Gives a frame another Ethernet source.
    pub(super) fn set_source(&mut self, packet: &Packet, mac: Mac) {
        let frame = &mut self.file[packet.at as usize..][..packet.len as usize];
        if let Some(source) = frame.get_mut(6..12) {
            source.copy_from_slice(&mac);
        }
    }
}

/// Puts packets in the order of their stamps, and keeps those of one interface in the order of the
/// file: its clock may have been set back, but the order in which it saw packets is certain. Such
/// packets get the stamp of the one before.
fn order(packets: &mut [Packet]) {
    let mut latest: HashMap<u32, u64> = HashMap::new();
    for packet in packets.iter_mut() {
        let latest = latest.entry(packet.interface).or_default();
        *latest = packet.time.max(*latest);
        packet.time = *latest;
    }
    packets.sort_by_key(|packet| packet.time);
}

enum Unusable {
    NotACapture,
    LinkType(DataLink),
}

/// What has been read of a file.
#[derive(Default)]
struct Records {
    packets: Vec<Packet>,
    interfaces: u32,
    truncated: u64,
    oversized: u64,
    broken: Option<Broken>,
}

impl Records {
    fn pcap(file: &[u8]) -> Result<Self, Unusable> {
        let mut records = Self { interfaces: 1, ..Self::default() };
        let (mut rest, parser) = PcapParser::new(file).map_err(|_| Unusable::NotACapture)?;
        let header = parser.header();
        if header.datalink != DataLink::ETHERNET {
            return Err(Unusable::LinkType(header.datalink));
        }
        let fraction_ns = match header.ts_resolution {
            TsResolution::MicroSecond => 1000,
            TsResolution::NanoSecond => 1,
        };
        while !rest.is_empty() {
            let offset = file.len() - rest.len();
            // The raw form, because the other one takes a snap length of 0 for a limit.
            match parser.next_raw_packet(rest) {
                Ok((next, packet)) => {
                    let seconds = u64::from(packet.ts_sec) * 1_000_000_000;
                    let time = seconds + u64::from(packet.ts_frac) * fraction_ns;
                    let at = offset + PCAP_DATA_AT;
                    let found = Found { interface: 0, at, len: packet.incl_len };
                    records.add(time, found, packet.orig_len);
                    rest = next;
                }
                Err(error) => {
                    records.breaks(offset, &error);
                    break;
                }
            }
        }
        Ok(records)
    }

    fn pcapng(file: &[u8]) -> Result<Self, Unusable> {
        let mut records = Self::default();
        let (mut rest, mut parser) = PcapNgParser::new(file).map_err(|_| Unusable::NotACapture)?;
        // Interfaces of the sections before the current one.
        let mut earlier = 0;
        while !rest.is_empty() {
            let offset = file.len() - rest.len();
            let here = parser.interfaces().len() as u32;
            let block = parser.next_block(rest);
            if let Ok((_, Block::SectionHeader(_))) = block {
                earlier += here;
            }
            let added = block.and_then(|(next, block)| {
                rest = next;
                records.add_block(&block, offset, earlier, parser.interfaces())
            });
            match added {
                Ok(None) => {}
                Ok(Some(unusable)) => return Err(unusable),
                Err(error) => {
                    records.breaks(offset, &error);
                    break;
                }
            }
        }
        records.interfaces = earlier + parser.interfaces().len() as u32;
        Ok(records)
    }

    /// Adds the packet of a pcapng block that begins at `offset`, if it is a packet's.
    fn add_block(
        &mut self,
        block: &Block<'_>,
        offset: usize,
        earlier: u32,
        interfaces: &[InterfaceDescriptionBlock<'_>],
    ) -> Result<Option<Unusable>, PcapError> {
        let (interface, units, header, len, original_len) = match block {
            // The library takes every unit for a nanosecond; `stamp` puts that right.
            Block::EnhancedPacket(packet) => {
                let units = packet.timestamp.as_nanos() as u64;
                let len = packet.data.len() as u32;
                (packet.interface_id, Some(units), ENHANCED_DATA_AT, len, packet.original_len)
            }
            Block::Packet(packet) => {
                let (interface, len) = (packet.interface_id.into(), packet.data.len() as u32);
                (interface, Some(packet.timestamp), ENHANCED_DATA_AT, len, packet.original_len)
            }
            // Has neither stamp nor interface, and its data goes on in the padding.
            Block::SimplePacket(packet) => {
                let len = packet.original_len.min(packet.data.len() as u32);
                (0, None, SIMPLE_DATA_AT, len, packet.original_len)
            }
            _ => return Ok(None),
        };
        let description =
            interfaces.get(interface as usize).ok_or(PcapError::InvalidInterfaceId(interface))?;
        if description.linktype != DataLink::ETHERNET {
            return Ok(Some(Unusable::LinkType(description.linktype)));
        }
        let latest = || self.packets.last().map_or(0, |packet| packet.time);
        let time = units.map_or_else(latest, |units| stamp(description, units));
        let found = Found { interface: earlier + interface, at: offset + header, len };
        self.add(time, found, original_len);
        Ok(None)
    }

    fn add(&mut self, time: u64, found: Found, original_len: u32) {
        let Found { interface, at, len } = found;
        if len < original_len {
            self.truncated += 1;
        } else if len > FRAME_MAX {
            self.oversized += 1;
        } else {
            self.packets.push(Packet { time, interface, at: at as u32, len });
        }
    }

    fn breaks(&mut self, offset: usize, error: &PcapError) {
        let reason = match error {
            PcapError::IncompleteBuffer => "the file ends inside a record".into(),
            other => other.to_string(),
        };
        self.broken = Some(Broken { offset: offset as u64, reason });
    }
}

/// A packet's place in the file.
#[derive(Clone, Copy)]
struct Found {
    interface: u32,
    at: usize,
    len: u32,
}

/// Nanoseconds since the epoch of a stamp in the interface's units
/// (draft-ietf-opsawg-pcapng §4.2, `if_tsresol` and `if_tsoffset`).
fn stamp(interface: &InterfaceDescriptionBlock<'_>, units: u64) -> u64 {
    let (mut resolution, mut offset) = (6, 0_i64);
    for option in &interface.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(value) => resolution = *value,
            InterfaceDescriptionOption::IfTsOffset(value) => offset = value.cast_signed(),
            _ => {}
        }
    }
    let exponent = u32::from(resolution & 0x7f);
    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
    // A resolution that is finer than 128 bits leaves nothing of 64 bits of stamp.
    let per_second = base.checked_pow(exponent).unwrap_or(u128::MAX);
    let nanos = u128::from(units) * 1_000_000_000 / per_second;
    let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
    nanos.saturating_add_signed(offset.saturating_mul(1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::Endianness;
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::section_header::SectionHeaderBlock;
    use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
    use std::time::Duration;

    fn interface(
        options: Vec<InterfaceDescriptionOption<'static>>,
    ) -> InterfaceDescriptionBlock<'static> {
        let mut block = InterfaceDescriptionBlock::new(DataLink::ETHERNET, 0);
        block.options = options;
        block
    }

    #[test]
    fn stamps_are_read_in_the_units_of_their_interface() {
        use InterfaceDescriptionOption::{IfTsOffset, IfTsResol};
        let nanos = |options, units| stamp(&interface(options), units);
        assert_eq!(nanos(vec![], 7), 7_000);
        assert_eq!(nanos(vec![IfTsResol(9)], 7), 7);
        assert_eq!(nanos(vec![IfTsResol(3)], 7), 7_000_000);
        assert_eq!(nanos(vec![IfTsResol(12)], 7_000), 7);
        assert_eq!(nanos(vec![IfTsResol(0x80 | 1)], 3), 1_500_000_000);
        assert_eq!(nanos(vec![IfTsResol(0x7f)], u64::MAX), 0);
        assert_eq!(nanos(vec![IfTsResol(0)], u64::MAX), u64::MAX);
        assert_eq!(nanos(vec![IfTsResol(9), IfTsOffset(2)], 7), 2_000_000_007);
        assert_eq!(nanos(vec![IfTsResol(9), IfTsOffset((-2_i64).cast_unsigned())], 7), 0);
    }

    #[test]
    fn packets_go_by_their_stamps_but_never_overtake_on_one_interface() {
        let packet = |time, interface, at| Packet { time, interface, at, len: 0 };
        let mut packets = [
            packet(10, 0, 0),
            packet(30, 1, 1),
            packet(20, 0, 2),
            packet(5, 1, 3),
            packet(25, 0, 4),
        ];
        order(&mut packets);
        let order = packets.map(|packet| (packet.at, packet.time));
        assert_eq!(order, [(0, 10), (2, 20), (4, 25), (1, 30), (3, 30)]);
    }

    #[test]
    fn sections_of_either_byte_order_have_interfaces_of_their_own() {
        let mut file = Vec::new();
        for (endianness, data) in [(Endianness::Little, b"one"), (Endianness::Big, b"two")] {
            let header = SectionHeaderBlock { endianness, ..Default::default() };
            let mut writer = PcapNgWriter::with_section_header(Vec::new(), header).unwrap();
            writer.write_pcapng_block(interface(vec![])).unwrap();
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::from_nanos(7),
                original_len: 3,
                data: data.into(),
                options: vec![],
            };
            writer.write_pcapng_block(packet).unwrap();
            let simple = SimplePacketBlock { original_len: 2, data: data[..2].into() };
            writer.write_pcapng_block(simple).unwrap();
            file.extend(writer.into_inner());
        }
        let Ok(records) = Records::pcapng(&file) else { panic!("a sound file") };
        assert_eq!((records.interfaces, records.broken), (2, None));
        let data = |packet: &Packet| &file[packet.at as usize..][..packet.len as usize];
        let found: Vec<_> = records
            .packets
            .iter()
            .map(|packet| (packet.interface, packet.time, data(packet)))
            .collect();
        let [one, two]: [&[u8]; 2] = [b"one", b"two"];
        assert_eq!(
            found,
            [(0, 7000, one), (0, 7000, &one[..2]), (1, 7000, two), (1, 7000, &two[..2])]
        );
    }

    #[test]
    fn a_packet_of_an_unknown_interface_breaks_the_file() {
        let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
        let at = writer.get_ref().len() as u64;
        // The writer checks, so the packet is written by a section that has an interface.
        let mut other = PcapNgWriter::new(Vec::new()).unwrap();
        other.write_pcapng_block(interface(vec![])).unwrap();
        let header = other.get_ref().len();
        other.write_pcapng_block(SimplePacketBlock { original_len: 1, data: b"x".into() }).unwrap();
        writer.get_mut().extend(&other.get_ref()[header..]);
        let Ok(records) = Records::pcapng(writer.get_ref()) else { panic!("the start is sound") };
        assert_eq!(records.broken.map(|broken| broken.offset), Some(at));
    }
}
