//! Reading capture files: pcap and pcapng.
//!
//! The whole file is read into memory, and packets are ranges of it. So memory is bounded by the
//! file's size plus a [`Packet`] for each packet, and repetitions don't read the file again.
//!
//! All files that tcpdump reads are read (libpcap, `sf-pcap.c` and `sf-pcapng.c`), and also
//! sections of different byte orders and interfaces of different link types. Only the fields for
//! packets and their times are parsed, so damage in other fields does not matter.

mod bytes;
mod pcap;
mod pcapng;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use podgate_tables::address::Mac;
use serde::{Deserialize, Serialize};

/// Maximum size of a file, bytes.
pub const FILE_MAX: u64 = 1 << 30;

/// Maximum size of a replayed frame, bytes: the largest IP packet after an Ethernet header with two
/// VLAN tags.
const FRAME_MAX: u32 = 65_535 + 14 + 8;

/// Maximum size of a frame in a record, bytes; a larger one is a damaged length (libpcap,
/// `MAXIMUM_SNAPLEN`).
const RECORD_MAX: u32 = 262_144;

/// Link type of Ethernet frames (<https://www.tcpdump.org/linktypes.html>).
const ETHERNET: u16 = 1;

/// Why nothing of a capture can be replayed.
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
    #[error("{} is not a capture: {reason}", path.display())]
    NotACapture {
        /// The file.
        path: PathBuf,
        /// What the file is instead.
        reason: String,
    },
    /// No packet in the file begins with an Ethernet header.
    #[error(
        "{} has packets of link type {link_type} only, and only ETHERNET can be replayed; capture \
         on the pod's own interface (`tcpdump -i eth0`), not on `any` and not on a tunnel",
        path.display()
    )]
    LinkType {
        /// The file.
        path: PathBuf,
        /// Names of the link types.
        link_type: String,
    },
}

/// The two file formats.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// pcap, with timestamps in micro- or nanoseconds.
    Pcap,
    /// pcapng, with several interfaces.
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

/// Damage in a file, before which everything was read.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// Offset of the first record that can't be read, bytes.
    pub offset: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// One completely captured frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packet {
    /// Time of capture, nanoseconds since the epoch. Never less than that of the packet before.
    pub(super) time: u64,
    /// Interface of capture, counted from 0 over the whole file.
    pub(super) interface: u32,
    at: u32,
    len: u32,
}

/// A capture in memory.
pub(super) struct Capture {
    /// Format of the file.
    pub(super) format: Format,
    /// Its contents, with the packets in the order of replay (see [`order`]).
    pub(super) records: Records,
    file: Vec<u8>,
}

impl Capture {
    /// Reads the capture at `path`.
    ///
    /// # Errors
    /// When nothing of it can be replayed. Damage later in the file is no error.
    pub(super) fn read(path: &Path) -> Result<Self, CaptureError> {
        let unreadable = |source| CaptureError::Unreadable { path: path.into(), source };
        let mut file = Vec::new();
        File::open(path)
            .and_then(|open| open.take(FILE_MAX + 1).read_to_end(&mut file))
            .map_err(unreadable)?;
        if file.len() as u64 > FILE_MAX {
            return Err(CaptureError::TooLarge { path: path.into() });
        }
        Self::parse(path, file)
    }

    /// Reads a capture in memory; `path` is for errors.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn parse(path: &Path, file: Vec<u8>) -> Result<Self, CaptureError> {
        let (format, mut records) = Records::read(&file)
            .map_err(|reason| CaptureError::NotACapture { path: path.into(), reason })?;
        if records.is_of_other_link_types() {
            let link_type = records.other_link_type_names();
            return Err(CaptureError::LinkType { path: path.into(), link_type });
        }
        order(&mut records.packets);
        Ok(Self { format, records, file })
    }

    /// Timestamp of the first packet; 0 if there is none.
    #[must_use]
    pub(super) fn start(&self) -> u64 {
        self.records.packets.first().map_or(0, |packet| packet.time)
    }

    /// The frame's bytes, from the Ethernet header.
    #[must_use]
    pub(super) fn frame(&self, packet: &Packet) -> &[u8] {
        &self.file[packet.at as usize..][..packet.len as usize]
    }

    /// Sets the Ethernet source of a frame.
    pub(super) fn set_source(&mut self, packet: &Packet, mac: Mac) {
        let frame = &mut self.file[packet.at as usize..][..packet.len as usize];
        if let Some(source) = frame.get_mut(6..12) {
            source.copy_from_slice(&mac);
        }
    }
}

/// Sorts packets by time, but keeps those of one interface in the order of the file: if its clock
/// was set back, the order in the file is still right. Such packets get the timestamp of the one
/// before.
fn order(packets: &mut [Packet]) {
    let mut latest: HashMap<u32, u64> = HashMap::new();
    for packet in packets.iter_mut() {
        let latest = latest.entry(packet.interface).or_default();
        *latest = packet.time.max(*latest);
        packet.time = *latest;
    }
    packets.sort_by_key(|packet| packet.time);
}

/// The contents of a file.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Records {
    /// Complete packets.
    pub(super) packets: Vec<Packet>,
    /// Interfaces that packets were captured on.
    pub(super) interfaces: u32,
    /// Number of truncated packets.
    pub(super) truncated: u64,
    /// Number of packets larger than IP allows, from offloads beyond 64 KiB.
    pub(super) oversized: u64,
    /// Number of packets without an Ethernet header, by link type.
    pub(super) other: BTreeMap<u16, u64>,
    /// Damage in the file, if any. Everything before it was read.
    pub(super) broken: Option<Broken>,
}

/// One packet's record in the file.
#[derive(Clone, Copy)]
struct Record {
    /// Nanoseconds since the epoch.
    time: u64,
    /// Interface, counted from 0 over the whole file.
    interface: u32,
    link_type: u16,
    /// Offset of its frame in the file, bytes.
    at: usize,
    /// Captured length, bytes.
    len: u32,
    /// Length on the wire, bytes.
    original_len: u32,
}

impl Records {
    /// Reads `file` up to the first damage.
    ///
    /// # Errors
    /// When it is no capture, with a description of what it is.
    fn read(file: &[u8]) -> Result<(Format, Self), String> {
        if file.is_empty() {
            let hint =
                "it is empty; end tcpdump by Ctrl-C, or make it write each packet at once (-U)";
            return Err(hint.into());
        }
        if file.starts_with(&pcapng::MAGIC) {
            Ok((Format::Pcapng, pcapng::read(file)?))
        } else {
            Ok((Format::Pcap, pcap::read(file)?))
        }
    }

    fn add(&mut self, record: Record) {
        let Record { time, interface, link_type, at, len, original_len } = record;
        if link_type != ETHERNET {
            *self.other.entry(link_type).or_default() += 1;
        } else if len < original_len {
            self.truncated += 1;
        } else if len > FRAME_MAX {
            self.oversized += 1;
        } else {
            self.packets.push(Packet { time, interface, at: at as u32, len });
        }
    }

    fn set_broken(&mut self, offset: usize, reason: impl Into<String>) {
        self.broken = Some(Broken { offset: offset as u64, reason: reason.into() });
    }

    /// Number of packets without an Ethernet header.
    pub(super) fn other_link_types(&self) -> u64 {
        self.other.values().sum()
    }

    /// Link types of these packets, as text.
    pub(super) fn other_link_type_names(&self) -> String {
        let names: Vec<_> = self.other.keys().map(|&link_type| link_type_name(link_type)).collect();
        names.join(", ")
    }

    /// Whether there are packets, but none with an Ethernet header.
    fn is_of_other_link_types(&self) -> bool {
        let ethernet = self.packets.len() as u64 + self.truncated + self.oversized;
        ethernet == 0 && !self.other.is_empty()
    }
}

/// Name and number of a link type (<https://www.tcpdump.org/linktypes.html>), or its number.
fn link_type_name(link_type: u16) -> String {
    let name = match link_type {
        0 => "NULL",
        9 => "PPP",
        101 => "RAW",
        105 => "IEEE802_11",
        108 => "LOOP",
        113 => "LINUX_SLL",
        127 => "IEEE802_11_RADIOTAP",
        220 => "USB_LINUX_MMAPPED",
        228 => "IPV4",
        229 => "IPV6",
        239 => "NFLOG",
        253 => "NETLINK",
        276 => "LINUX_SLL2",
        _ => return link_type.to_string(),
    };
    format!("{name} ({link_type})")
}
