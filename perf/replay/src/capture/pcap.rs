//! The pcap format (draft-ietf-opsawg-pcap; libpcap, `sf-pcap.c`).

use super::bytes::Bytes;
use super::{RECORD_MAX, Record, Records};

/// Length of the file's header, bytes.
const FILE_HEADER: usize = 24;
/// Length of a record's header, bytes: seconds, fraction of a second, captured length, length on
/// the wire.
const RECORD_HEADER: usize = 16;

/// Magic number of a file with timestamps in microseconds.
const MICROSECONDS: u32 = 0xa1b2_c3d4;
/// Magic number of a file with timestamps in nanoseconds.
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Magic number of a file by a patched libpcap of 1999, with microseconds and eight more bytes in
/// each record's header (libpcap, `KUZNETZOV_TCPDUMP_MAGIC`).
const PATCHED: u32 = 0xa1b2_cd34;

/// Layout of a file's records.
#[derive(Clone, Copy)]
struct Layout {
    big_endian: bool,
    /// Nanoseconds in the unit of timestamps.
    unit_ns: u64,
    /// Length of a record's header.
    header: usize,
    lengths: Lengths,
    link_type: u16,
}

/// The order of a record's two lengths, which was reversed before version 2.4 (libpcap,
/// `sf_next_packet`).
#[derive(Clone, Copy)]
enum Lengths {
    CapturedFirst,
    OriginalFirst,
    /// The smaller one is the captured length.
    Either,
}

/// Reads a file.
///
/// # Errors
/// When it is no pcap file.
pub(super) fn read(file: &[u8]) -> Result<Records, String> {
    let layout = Layout::of(file)?;
    let mut records = Records { interfaces: 1, ..Records::default() };
    let mut offset = FILE_HEADER;
    while offset < file.len() {
        match layout.record(file, offset) {
            Ok(record) => {
                records.add(record);
                offset = record.at + record.len as usize;
            }
            Err(reason) => {
                records.set_broken(offset, reason);
                break;
            }
        }
    }
    Ok(records)
}

impl Layout {
    fn of(file: &[u8]) -> Result<Self, String> {
        let neither = || "neither pcap nor pcapng".to_owned();
        let magic = file.first_chunk().copied().ok_or_else(neither)?;
        let known = |magic| [MICROSECONDS, NANOSECONDS, PATCHED].contains(&magic);
        let (magic, big_endian) = match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
            (little, _) if known(little) => (little, false),
            (_, big) if known(big) => (big, true),
            _ => return Err(neither()),
        };
        let header = Bytes { data: file, big_endian };
        let short = || format!("it is shorter than the header of a pcap file, {FILE_HEADER} bytes");
        let version = (header.u16(4).ok_or_else(short)?, header.u16(6).ok_or_else(short)?);
        let lengths = match version {
            (2, 0..3) | (543, 0) => Lengths::OriginalFirst,
            (2, 3) => Lengths::Either,
            (2, 4) => Lengths::CapturedFirst,
            (major, minor) => {
                return Err(format!("version {major}.{minor} of pcap is not supported"));
            }
        };
        // The upper half describes frame check sequences after frames (section 4), which are not
        // part of a packet's length.
        let link_type = header.u32(20).ok_or_else(short)? as u16;
        let unit_ns = if magic == NANOSECONDS { 1 } else { 1000 };
        let header = RECORD_HEADER + if magic == PATCHED { 8 } else { 0 };
        Ok(Self { big_endian, unit_ns, header, lengths, link_type })
    }

    /// The record at `offset`, which is within the file.
    fn record(self, file: &[u8], offset: usize) -> Result<Record, String> {
        let Self { big_endian, unit_ns, header: header_len, lengths, link_type } = self;
        let ends = || "the file ends inside a record".to_owned();
        let header = file.get(offset..offset + header_len).ok_or_else(ends)?;
        let header = Bytes { data: header, big_endian };
        let field = |at| header.u32(at).ok_or_else(ends);
        let (seconds, fraction) = (u64::from(field(0)?), u64::from(field(4)?));
        let (first, second) = (field(8)?, field(12)?);
        let (len, original_len) = match lengths {
            Lengths::OriginalFirst => (second, first),
            Lengths::Either => (first.min(second), first.max(second)),
            Lengths::CapturedFirst => (first, second),
        };
        if len > RECORD_MAX {
            return Err(format!("a record has {len} bytes, more than {RECORD_MAX}"));
        }
        let at = offset + header_len;
        if file.len() - at < len as usize {
            return Err(ends());
        }
        let time = seconds * 1_000_000_000 + fraction * unit_ns;
        Ok(Record { time, interface: 0, link_type, at, len, original_len })
    }
}
