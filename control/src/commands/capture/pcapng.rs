//! Writes pcapng (draft-ietf-opsawg-pcapng): a section with an interface for each link and side of
//! policy, packets with comments, and statistics at the end.

use std::collections::HashMap;
use std::io::{self, Write};

use podgate_api::{CaptureSide, PacketCopy};

/// Block types (sections 4.1, 4.2, 4.3 and 4.5).
const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// Byte-order magic of a section header.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// Option codes (sections 3.5 and 4).
const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const EPB_FLAGS: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const SHB_USER_APPLICATION: u16 = 4;
const ISB_RECEIVED: u16 = 4;
const ISB_DROPPED: u16 = 5;
const IF_TIMESTAMP_RESOLUTION: u16 = 9;

/// Timestamps in nanoseconds.
const NANOSECONDS: u8 = 9;

/// Link type of Ethernet.
const ETHERNET: u16 = 1;

/// Direction of a packet in [`EPB_FLAGS`].
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// Longest comment, bytes.
const COMMENT_MAX: usize = 4096;

/// What a file has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Summary {
    /// Packets before policy.
    pub(super) before: u64,
    /// Packets after policy.
    pub(super) after: u64,
    /// Bytes of packets.
    pub(super) bytes: u64,
    /// Packets that were lost.
    pub(super) lost: u64,
}

/// A file that is written.
pub(super) struct Writer<W> {
    out: W,
    snap_len: u32,
    /// Numbers of interfaces, with their packets.
    interfaces: HashMap<(String, CaptureSide), (u32, u64)>,
    last_ns: u64,
    summary: Summary,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    pub(super) fn new(out: W, snap_len: u32) -> io::Result<Self> {
        let (interfaces, summary) = Default::default();
        let mut this = Self { out, snap_len, interfaces, last_ns: 0, summary };
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend(1_u16.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        // The length of the section is not known.
        body.extend((-1_i64).to_le_bytes());
        let program = concat!("podgate ", env!("CARGO_PKG_VERSION"));
        option(&mut body, SHB_USER_APPLICATION, program.as_bytes());
        option(&mut body, OPT_END, &[]);
        this.block(SECTION_HEADER, &body)?;
        // So that a reader of a pipe can begin.
        this.out.flush()?;
        Ok(this)
    }

    /// Writes a packet.
    pub(super) fn packet(&mut self, packet: &PacketCopy, data: &[u8]) -> io::Result<()> {
        let interface = self.interface(packet)?;
        let mut body = Vec::with_capacity(data.len() + packet.comment.len() + 64);
        body.extend(interface.to_le_bytes());
        body.extend(timestamp(packet.time_ns));
        body.extend((data.len() as u32).to_le_bytes());
        body.extend(packet.len.to_le_bytes());
        padded(&mut body, data);
        let comment = packet.comment.as_bytes();
        option(&mut body, OPT_COMMENT, &comment[..comment.len().min(COMMENT_MAX)]);
        let direction = match packet.side {
            CaptureSide::Before => INBOUND,
            CaptureSide::After => OUTBOUND,
        };
        option(&mut body, EPB_FLAGS, &direction.to_le_bytes());
        option(&mut body, OPT_END, &[]);
        self.block(ENHANCED_PACKET, &body)?;
        match packet.side {
            CaptureSide::Before => self.summary.before += 1,
            CaptureSide::After => self.summary.after += 1,
        }
        self.summary.bytes += data.len() as u64;
        self.summary.lost = packet.lost;
        self.last_ns = packet.time_ns;
        Ok(())
    }

    /// Sets how many packets were lost.
    pub(super) const fn set_lost(&mut self, lost: u64) {
        self.summary.lost = lost;
    }

    /// Completes the file.
    pub(super) fn finish(mut self) -> io::Result<Summary> {
        let mut interfaces: Vec<_> = self.interfaces.values().copied().collect();
        interfaces.sort_unstable();
        for (number, packets) in interfaces {
            let mut body = Vec::new();
            body.extend(number.to_le_bytes());
            body.extend(timestamp(self.last_ns));
            option(&mut body, ISB_RECEIVED, &packets.to_le_bytes());
            // Losses are not known by interface.
            if number == 0 {
                option(&mut body, ISB_DROPPED, &self.summary.lost.to_le_bytes());
            }
            option(&mut body, OPT_END, &[]);
            self.block(INTERFACE_STATISTICS, &body)?;
        }
        self.out.flush()?;
        Ok(self.summary)
    }

    /// The number of a packet's interface, which is described before its first packet.
    fn interface(&mut self, packet: &PacketCopy) -> io::Result<u32> {
        let next = self.interfaces.len() as u32;
        let key = (packet.link.clone(), packet.side);
        if let Some((number, packets)) = self.interfaces.get_mut(&key) {
            *packets += 1;
            return Ok(*number);
        }
        self.interfaces.insert(key, (next, 1));
        let side = match packet.side {
            CaptureSide::Before => "before policy",
            CaptureSide::After => "after policy",
        };
        let pod = packet.pod.as_deref().unwrap_or("the node");
        let mut body = Vec::new();
        body.extend(ETHERNET.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend(self.snap_len.to_le_bytes());
        option(&mut body, IF_NAME, format!("{} {side}", packet.link).as_bytes());
        option(&mut body, IF_DESCRIPTION, format!("{pod}, {side}").as_bytes());
        option(&mut body, IF_TIMESTAMP_RESOLUTION, &[NANOSECONDS]);
        option(&mut body, OPT_END, &[]);
        self.block(INTERFACE_DESCRIPTION, &body)?;
        Ok(next)
    }

    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let len = (body.len() + 12) as u32;
        for part in [&kind.to_le_bytes()[..], &len.to_le_bytes(), body, &len.to_le_bytes()] {
            self.out.write_all(part)?;
        }
        Ok(())
    }
}

/// The two halves of a timestamp, the high one first.
fn timestamp(nanos: u64) -> [u8; 8] {
    let [high, low] = [(nanos >> 32) as u32, nanos as u32].map(u32::to_le_bytes);
    let mut both = [0; 8];
    both[..4].copy_from_slice(&high);
    both[4..].copy_from_slice(&low);
    both
}

fn padded(body: &mut Vec<u8>, data: &[u8]) {
    body.extend(data);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    padded(body, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(time_ns: u64, side: CaptureSide) -> PacketCopy {
        PacketCopy {
            time_ns,
            link: "veth0".into(),
            pod: Some("shop/cart-0".into()),
            side,
            comment: "before policy: FORWARDED".into(),
            len: 61,
            data: String::new(),
            lost: 3,
        }
    }

    #[test]
    fn the_reader_of_captures_reads_what_is_written() {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, 65_549).unwrap();
        let [first, second] = [vec![1; 61], vec![2; 61]];
        writer.packet(&copy(1 << 40, CaptureSide::Before), &first).unwrap();
        writer.packet(&copy((1 << 40) + 1, CaptureSide::After), &second).unwrap();
        writer.packet(&copy((1 << 40) + 2, CaptureSide::Before), &first).unwrap();
        let summary = writer.finish().unwrap();
        assert_eq!(summary, Summary { before: 2, after: 1, bytes: 183, lost: 3 });
        let mut read = Vec::new();
        podgate_replay::read_frames(file, |time, frame| read.push((time, frame.to_vec()))).unwrap();
        let [one, two, three] = [1 << 40, (1 << 40) + 1, (1 << 40) + 2];
        assert_eq!(read, [(one, first.clone()), (two, second), (three, first)]);
    }

    #[test]
    fn a_capture_without_packets_is_a_file_that_can_be_read() {
        let mut file = Vec::new();
        let summary = Writer::new(&mut file, 96).unwrap().finish().unwrap();
        assert_eq!(summary, Summary::default());
        assert_eq!(file.len() % 4, 0);
        podgate_replay::read_frames(file, |_, _| panic!("a packet")).unwrap();
    }
}
