//! Records of frames that the programs dropped, and how many drops have none.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use aya::maps::{MapData, MapError, PerCpuArray, RingBuf};
use nix::time::{ClockId, clock_gettime};
use podgate_tables::drop_reason::FrameDropReason;

/// A frame that a program dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DroppedFrame<'a> {
    /// Why.
    pub reason: FrameDropReason,
    /// Time since the drop.
    pub age: Duration,
    /// The slot that its link had then; 0, that of the host link, if it had none.
    pub slot: u16,
    /// Whether the link is still in that slot.
    pub is_attached: bool,
    /// What the program saw of it.
    pub seen: DroppedData<'a>,
}

/// What a program sees of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DroppedData<'a> {
    /// At most its first 128 bytes, from the Ethernet header on.
    Frame(&'a [u8]),
    /// A UDP packet without its headers, at the socket lookup.
    Datagram {
        /// Source address and port.
        source: (u128, u16),
        /// Destination address and port, as the kernel has translated them.
        destination: (u128, u16),
    },
}

/// The records, oldest first. Its descriptor is readable while there are some.
pub(crate) struct DropRecords {
    ring: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
}

impl DropRecords {
    pub(crate) fn new(ring: RingBuf<MapData>, lost: PerCpuArray<MapData, u64>) -> Self {
        Self { ring, lost }
    }

    /// Takes at most `max` records; `is_attached` says whether a slot is that of the link of a
    /// netdev.
    pub(crate) fn take(
        &mut self,
        max: usize,
        is_attached: impl Fn(u16, u32) -> bool,
        mut take: impl FnMut(&DroppedFrame<'_>),
    ) {
        // It can't fail; without a time, all would have happened now.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        for _ in 0..max {
            let Some(record) = self.ring.next() else { break };
            if let Some(frame) = parse(&record, now, &is_attached) {
                take(&frame);
            }
        }
    }

    /// Drops that have no record.
    pub(crate) fn lost(&self) -> Result<u64, MapError> {
        Ok(self.lost.get(&0, 0)?.iter().sum())
    }
}

impl AsFd for DropRecords {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

/// Offsets in `struct drop_record` of `drops.bpf.h`.
mod record {
    pub(super) const TIME: usize = 0;
    pub(super) const IFINDEX: usize = 8;
    pub(super) const SLOT: usize = 12;
    pub(super) const REASON: usize = 16;
    pub(super) const CAPTURED: usize = 18;
    pub(super) const DATA: usize = 20;
    /// `RECORD_DATA`. Padding follows.
    pub(super) const DATA_MAX: usize = 128;
}

/// Offsets in `struct datagram` of `drops.bpf.h`.
mod datagram {
    pub(super) const SOURCE: usize = 0;
    pub(super) const DESTINATION: usize = 16;
    pub(super) const SOURCE_PORT: usize = 32;
    pub(super) const DESTINATION_PORT: usize = 34;
}

/// The bytes of a field.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// Reads a record at the time `now` of `CLOCK_MONOTONIC`. `None` if the programs write no such
/// record.
fn parse(
    bytes: &[u8],
    now: Duration,
    is_attached: impl Fn(u16, u32) -> bool,
) -> Option<DroppedFrame<'_>> {
    let time = Duration::from_nanos(u64::from_ne_bytes(field(bytes, record::TIME)?));
    let reason = usize::from(u16::from_ne_bytes(field(bytes, record::REASON)?));
    let reason = *FrameDropReason::ALL.get(reason)?;
    let captured = usize::from(u16::from_ne_bytes(field(bytes, record::CAPTURED)?));
    let data =
        bytes.get(record::DATA..)?.get(..captured).filter(|_| captured <= record::DATA_MAX)?;
    let end = |address, port| {
        let address = u128::from_be_bytes(field(data, address)?);
        Some((address, u16::from_be_bytes(field(data, port)?)))
    };
    let seen = match reason {
        FrameDropReason::ToNodeTunnel => DroppedData::Datagram {
            source: end(datagram::SOURCE, datagram::SOURCE_PORT)?,
            destination: end(datagram::DESTINATION, datagram::DESTINATION_PORT)?,
        },
        _ => DroppedData::Frame(data),
    };
    let ifindex = u32::from_ne_bytes(field(bytes, record::IFINDEX)?);
    let slot = u32::from_ne_bytes(field(bytes, record::SLOT)?).try_into().ok()?;
    let is_attached = is_attached(slot, ifindex);
    Some(DroppedFrame { reason, age: now.saturating_sub(time), slot, is_attached, seen })
}

#[cfg(test)]
mod tests {
    use std::array;

    use super::*;

    /// A record with this reason and so many bytes of data, with its padding.
    fn bytes(reason: u16, captured: u16) -> Vec<u8> {
        let numbers = [&9_u64.to_ne_bytes()[..], &3_u32.to_ne_bytes(), &2_u32.to_ne_bytes()];
        let lengths = [reason.to_ne_bytes(), captured.to_ne_bytes()].concat();
        let data: [u8; 128] = array::from_fn(|index| index as u8);
        [&numbers.concat()[..], &lengths, &data, &[0; 4]].concat()
    }

    fn read(bytes: &[u8], now: Duration) -> Option<DroppedFrame<'_>> {
        parse(bytes, now, |slot, ifindex| (slot, ifindex) == (2, 3))
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let now = Duration::from_nanos(11);
        let frame = bytes(FrameDropReason::NotIp as u16, 7);
        let expected = DroppedFrame {
            reason: FrameDropReason::NotIp,
            age: Duration::from_nanos(2),
            slot: 2,
            is_attached: true,
            seen: DroppedData::Frame(&[0, 1, 2, 3, 4, 5, 6]),
        };
        assert_eq!(read(&frame, now), Some(expected));
        let datagram = bytes(FrameDropReason::ToNodeTunnel as u16, 36);
        let source = 0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f;
        let destination = 0x1011_1213_1415_1617_1819_1a1b_1c1d_1e1f;
        let seen =
            DroppedData::Datagram { source: (source, 0x2021), destination: (destination, 0x2223) };
        assert_eq!(read(&datagram, now).map(|frame| frame.seen), Some(seen));
        // A record from later than `now` has age zero.
        assert_eq!(read(&frame, Duration::ZERO).map(|frame| frame.age), Some(Duration::ZERO));
    }

    #[test]
    fn what_no_program_writes_is_no_record() {
        let reasons = FrameDropReason::COUNT as u16;
        let tunnel = FrameDropReason::ToNodeTunnel as u16;
        let too_long = [129, 132, 133, u16::MAX].map(|captured| bytes(0, captured));
        for bad in [bytes(reasons, 7), bytes(tunnel, 35)].into_iter().chain(too_long) {
            assert_eq!(read(&bad, Duration::ZERO), None);
        }
        let whole = bytes(0, 128);
        assert!(read(&whole, Duration::ZERO).is_some());
        for length in 0..record::DATA + 128 {
            assert_eq!(read(&whole[..length], Duration::ZERO), None, "{length}");
        }
    }
}
