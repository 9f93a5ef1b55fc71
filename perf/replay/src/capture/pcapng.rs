//! The pcapng format (draft-ietf-opsawg-pcapng; libpcap, `sf-pcapng.c`).
//!
//! Every block begins with its type and total length and ends with the total length, so unknown
//! blocks can be skipped. Options are parsed only in interface descriptions, where they define the
//! timestamps.

use super::bytes::Bytes;
use super::{Record, Records};

/// Type of a section header block, the same in both byte orders (section 4.1).
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// Type of a section header block.
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
/// Type of an interface description block (section 4.2).
const INTERFACE_DESCRIPTION: u32 = 1;
/// Type of the obsolete packet block (appendix A).
const PACKET: u32 = 2;
/// Type of a simple packet block (section 4.4).
const SIMPLE_PACKET: u32 = 3;
/// Type of an enhanced packet block (section 4.3).
const ENHANCED_PACKET: u32 = 6;

/// Byte-order magic of a section header.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// Length of a block's type and total length, bytes.
const BLOCK_HEADER: usize = 8;
/// Length of the total length at the end of a block, bytes.
const BLOCK_TRAILER: usize = 4;

/// Offset of the options in the body of an interface description, bytes.
const INTERFACE_OPTIONS: usize = 8;
/// Offset of the frame in the body of an enhanced packet block, and of a packet block, bytes.
const PACKET_DATA: usize = 20;
/// Offset of the frame in the body of a simple packet block, bytes.
const SIMPLE_DATA: usize = 4;

/// Option that ends a list of options (section 3.5).
const OPT_ENDOFOPT: u16 = 0;
/// Option for the resolution of timestamps (section 4.2).
const IF_TSRESOL: u16 = 9;
/// Option for the seconds to add to timestamps (section 4.2).
const IF_TSOFFSET: u16 = 14;

/// An interface, from its description block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Interface {
    pub(super) link_type: u16,
    /// Snapshot length, bytes; 0 for no limit.
    pub(super) snap_len: u32,
    /// Resolution of timestamps as in the file: a power of 10, or of 2 with the highest bit set.
    pub(super) resolution: u8,
    /// Seconds to add to timestamps.
    pub(super) offset_s: i64,
}

/// Reads a file that begins with [`MAGIC`].
///
/// # Errors
/// When its first section can't be read.
pub(super) fn read(file: &[u8]) -> Result<Records, String> {
    let mut reader = Reader {
        records: Records::default(),
        big_endian: false,
        interfaces: Vec::new(),
        earlier_interfaces: 0,
    };
    let mut offset = 0;
    while offset < file.len() {
        match reader.block(file, offset) {
            Ok(next) => offset = next,
            Err(reason) if offset == 0 => return Err(reason),
            Err(reason) => {
                reader.records.set_broken(offset, reason);
                break;
            }
        }
    }
    let Reader { mut records, interfaces, earlier_interfaces, .. } = reader;
    records.interfaces = earlier_interfaces + interfaces.len() as u32;
    Ok(records)
}

struct Reader {
    records: Records,
    /// Byte order of the current section.
    big_endian: bool,
    /// Interfaces of the current section.
    interfaces: Vec<Interface>,
    /// Number of interfaces in earlier sections.
    earlier_interfaces: u32,
}

impl Reader {
    /// Reads the block at `offset`, which is within the file. Returns the offset of the next one.
    fn block(&mut self, file: &[u8], offset: usize) -> Result<usize, String> {
        let ends = || "the file ends inside a block".to_owned();
        let rest = file.get(offset..).ok_or_else(ends)?;
        if rest.starts_with(&MAGIC) {
            self.big_endian = section_byte_order(rest)?;
        }
        let rest = Bytes { data: rest, big_endian: self.big_endian };
        let block_type = rest.u32(0).ok_or_else(ends)?;
        let length = rest.u32(4).ok_or_else(ends)? as usize;
        if length < BLOCK_HEADER + BLOCK_TRAILER || !length.is_multiple_of(4) {
            return Err(format!("a block can't have a length of {length}"));
        }
        let body = rest.data.get(BLOCK_HEADER..length - BLOCK_TRAILER).ok_or_else(ends)?;
        let trailer = rest.u32(length - BLOCK_TRAILER).ok_or_else(ends)?;
        // libpcap doesn't check that of the first section header.
        if trailer as usize != length && block_type != SECTION_HEADER {
            return Err(format!("a block's length is {length} at its start, {trailer} at its end"));
        }
        let body = Bytes { data: body, ..rest };
        let short = || "a block is too short for its fields".to_owned();
        match block_type {
            SECTION_HEADER => self.section(body)?,
            INTERFACE_DESCRIPTION => self.interfaces.push(Interface::read(body)?),
            ENHANCED_PACKET => {
                let interface = body.u32(0).ok_or_else(short)?;
                self.packet(body, interface, offset)?;
            }
            PACKET => {
                let interface = body.u16(0).ok_or_else(short)?;
                self.packet(body, interface.into(), offset)?;
            }
            SIMPLE_PACKET => self.simple_packet(body, offset)?,
            _ => {}
        }
        Ok(offset + length)
    }

    /// Starts another section.
    fn section(&mut self, body: Bytes<'_>) -> Result<(), String> {
        let short = || "a section header is too short".to_owned();
        let (major, minor) = (body.u16(4).ok_or_else(short)?, body.u16(6).ok_or_else(short)?);
        if major != 1 {
            return Err(format!("version {major}.{minor} of pcapng is not supported"));
        }
        self.earlier_interfaces += self.interfaces.len() as u32;
        self.interfaces.clear();
        Ok(())
    }

    /// Adds the packet of an enhanced packet block, or of a packet block: both have the interface,
    /// the two halves of a timestamp, and the two lengths at the same offsets.
    fn packet(&mut self, body: Bytes<'_>, interface: u32, offset: usize) -> Result<(), String> {
        let short = || "a packet's block is too short".to_owned();
        let description = self.interface(interface)?;
        let field = |at| body.u32(at).ok_or_else(short);
        let units = u64::from(field(4)?) << 32 | u64::from(field(8)?);
        let (len, original_len) = (field(12)?, field(16)?);
        let data = body.data.get(PACKET_DATA..).ok_or_else(short)?;
        if data.len() < len as usize {
            return Err(format!("a packet has {len} bytes, but its block has {}", data.len()));
        }
        self.records.add(Record {
            time: description.time(units),
            interface: self.earlier_interfaces + interface,
            link_type: description.link_type,
            at: offset + BLOCK_HEADER + PACKET_DATA,
            len,
            original_len,
        });
        Ok(())
    }

    /// Adds the packet of a simple packet block. It has no timestamp, so it gets that of the packet
    /// before. It is of the first interface, whose snapshot length limits it.
    fn simple_packet(&mut self, body: Bytes<'_>, offset: usize) -> Result<(), String> {
        let description = self.interface(0)?;
        let short = || "a packet's block is too short".to_owned();
        let original_len = body.u32(0).ok_or_else(short)?;
        let data = body.data.get(SIMPLE_DATA..).ok_or_else(short)?;
        let snap_len = if description.snap_len == 0 { u32::MAX } else { description.snap_len };
        self.records.add(Record {
            time: self.records.packets.last().map_or(0, |packet| packet.time),
            interface: self.earlier_interfaces,
            link_type: description.link_type,
            at: offset + BLOCK_HEADER + SIMPLE_DATA,
            len: original_len.min(data.len() as u32).min(snap_len),
            original_len,
        });
        Ok(())
    }

    fn interface(&self, interface: u32) -> Result<Interface, String> {
        let description = self.interfaces.get(interface as usize).copied();
        description.ok_or_else(|| {
            format!("a packet of interface {interface}, which no block before it describes")
        })
    }
}

/// Whether the section that `header` begins is big endian (section 4.1).
fn section_byte_order(header: &[u8]) -> Result<bool, String> {
    let magic = header.get(BLOCK_HEADER..).and_then(<[u8]>::first_chunk).copied();
    let magic = magic.ok_or("the file ends inside a block")?;
    match (u32::from_le_bytes(magic), u32::from_be_bytes(magic)) {
        (BYTE_ORDER, _) => Ok(false),
        (_, BYTE_ORDER) => Ok(true),
        _ => Err("a section header without the byte-order magic".into()),
    }
}

impl Interface {
    /// Reads an interface description block.
    fn read(body: Bytes<'_>) -> Result<Self, String> {
        let short = || "an interface description is too short".to_owned();
        let link_type = body.u16(0).ok_or_else(short)?;
        let snap_len = body.u32(4).ok_or_else(short)?;
        let mut interface = Self { link_type, snap_len, resolution: 6, offset_s: 0 };
        let mut options = body.after(INTERFACE_OPTIONS).ok_or_else(short)?;
        // The list may end with its block, without OPT_ENDOFOPT (section 3.5).
        while !options.data.is_empty() {
            let short = || "an interface's options end inside an option".to_owned();
            let code = options.u16(0).ok_or_else(short)?;
            let len = usize::from(options.u16(2).ok_or_else(short)?);
            if code == OPT_ENDOFOPT {
                break;
            }
            let value = options.data.get(4..4 + len).ok_or_else(short)?;
            let value = Bytes { data: value, ..options };
            let misfit = || format!("an interface's option {code} can't have {len} bytes");
            match code {
                IF_TSRESOL => match value.data {
                    [resolution] => interface.resolution = *resolution,
                    _ => return Err(misfit()),
                },
                IF_TSOFFSET => match (len, value.u64(0)) {
                    (8, Some(offset)) => interface.offset_s = offset.cast_signed(),
                    _ => return Err(misfit()),
                },
                _ => {}
            }
            options = options.after(4 + len.next_multiple_of(4)).ok_or_else(short)?;
        }
        Ok(interface)
    }

    /// Nanoseconds since the epoch for a timestamp in the interface's resolution.
    pub(super) fn time(&self, units: u64) -> u64 {
        let exponent = u32::from(self.resolution & 0x7f);
        let base: u128 = if self.resolution & 0x80 == 0 { 10 } else { 2 };
        // With a resolution finer than 128 bits, a 64-bit timestamp is 0.
        let per_second = base.checked_pow(exponent).unwrap_or(u128::MAX);
        let nanos = u128::from(units) * 1_000_000_000 / per_second;
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        nanos.saturating_add_signed(self.offset_s.saturating_mul(1_000_000_000))
    }
}
