//! Fragments on their way in: gathered until a datagram is whole, then one packet like any other.
//!
//! Only the first fragment has ports, and it may come last; what the receiver will make of a
//! datagram is known only once all of it is here. So nothing of it goes on before, and policy
//! judges the whole ([`super::oversize`] cuts it again on its way out). The XDP program sends all
//! fragments between two addresses to one worker.
//!
//! # Stated rules
//! - Fragments of one datagram come by one link, with one identification, in any order.
//! - *Overlaps* kill the datagram, and what still comes of it (RFC 5722; IPv4 alike: no honest
//!   sender makes them). A second copy of the same part is dropped alone (RFC 8200 §4.5 allows
//!   it): networks do duplicate packets.
//! - The first fragment holds all headers; the parser refuses others (RFC 1858, RFC 7112). A later
//!   fragment that would overwrite them (RFC 3128) overlaps.
//! - *Time.* A datagram has 30 seconds over IPv4 and 60 over IPv6 from its first fragment on, as
//!   in Linux (`IP_FRAG_TIME`, `IPV6_FRAG_TIMEOUT`; RFC 8200 §4.5).
//! - *Room.* [`DATAGRAMS_MAX`] datagrams of [`PARTS_MAX`] fragments each, and one frame in
//!   [`FRAMES_SHARE`] of the UMEM, over all workers. A link whose own are as many as the free ones
//!   gives up its oldest datagram for a new one: it harms no other link, and one that loses
//!   fragments is not cut off until they time out.
//! - *Congestion marks* of any fragment mark the datagram (RFC 3168 §5.3).

use std::hash::RandomState;

use hashbrown::HashMap;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;
use thin_vec::ThinVec;

use crate::packet::{Piece, View, checksum};
use crate::xsk::{FRAME_HEADROOM, FRAME_SIZE, Frame, Packet, Umem};

use super::egress::Egress;

/// Datagrams that wait for their rest, at most.
const DATAGRAMS_MAX: usize = 256;
/// Fragments of one datagram, at most: 65,535 bytes take 45 at an MTU of 1500.
const PARTS_MAX: usize = 64;
/// Part of the UMEM that fragments may keep waiting, over all workers: one frame in so many.
const FRAMES_SHARE: usize = 16;
/// Between two looks at what timed out.
const LOOK_MILLIS: u64 = 500;

const LIFETIME_V4_SECS: u64 = 30;
const LIFETIME_V6_SECS: u64 = 60;

/// Longest packet: the IPv4 length field's largest value, and what an IPv6 packet's may be behind
/// the fixed header.
const LENGTH_MAX: u32 = 65_535;

/// What fragments of one datagram have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    link: LinkId,
    /// Addresses, and over IPv4 the protocol (RFC 791 §3.2, RFC 8200 §4.5); no ports.
    tuple: Tuple,
    id: u32,
}

impl Key {
    fn new(link: LinkId, view: &View, piece: Piece) -> Self {
        let mut tuple = view.tuple;
        if !view.is_v4() {
            tuple.protocol = 0;
        }
        Self { link, tuple, id: piece.id }
    }

    fn lifetime_secs(&self) -> u64 {
        if self.tuple.src.is_v4() { LIFETIME_V4_SECS } else { LIFETIME_V6_SECS }
    }
}

/// A fragment that waits.
#[derive(Debug)]
struct Part {
    /// Where its bytes belong in the datagram.
    offset: u32,
    end: u32,
    view: View,
    packet: Packet,
}

/// A datagram that is not whole.
#[derive(Debug)]
struct Datagram {
    key: Key,
    began: Nanos,
    /// In order, without overlaps.
    parts: Vec<Part>,
    /// Its length, once the last fragment came.
    end: Option<u32>,
    /// Bytes of all parts.
    bytes: u32,
    frames: usize,
    /// Bytes of the largest fragment, IP header included.
    largest: u32,
    /// Which of the four ECN codepoints its fragments have, a bit for each.
    ecn: u8,
    /// Why nothing more of it is taken.
    dead: Option<DropReason>,
    /// Slots of the link's datagrams that began before and after it.
    neighbours: [Option<usize>; 2],
}

impl Datagram {
    fn is_whole(&self) -> bool {
        self.end == Some(self.bytes)
    }

    fn is_over(&self, now: Nanos) -> bool {
        now >= self.began.plus_secs(self.key.lifetime_secs())
    }

    /// Where among the parts this one belongs.
    fn place(&self, offset: u32, end: u32, more: bool) -> Result<usize, DropReason> {
        if let Some(reason) = self.dead {
            return Err(reason);
        }
        let at = self.parts.partition_point(|part| part.offset < offset);
        let (before, after) = self.parts.split_at(at);
        let is_copy = |part: &&Part| (part.offset, part.end) == (offset, end);
        if after.first().filter(is_copy).is_some() && more != (self.end == Some(end)) {
            return Err(DropReason::FragmentDuplicate);
        }
        if before.last().is_some_and(|part| part.end > offset)
            || after.first().is_some_and(|part| part.offset < end)
        {
            return Err(DropReason::FragmentOverlap);
        }
        let beyond = match self.end {
            Some(last) => end > last || !more,
            None => !more && self.parts.last().is_some_and(|part| part.end > end),
        };
        if beyond {
            return Err(DropReason::FragmentMalformed);
        }
        if self.parts.len() == PARTS_MAX {
            return Err(DropReason::FragmentLimit);
        }
        Ok(at)
    }
}

/// What one link has waiting.
#[derive(Clone, Copy, Default, Debug)]
struct Share {
    datagrams: usize,
    frames: usize,
    /// Slots of the oldest datagram and the youngest.
    ends: [Option<usize>; 2],
}

/// A worker's datagrams that are not whole.
#[derive(Debug)]
pub(super) struct Reassembly {
    /// Keyed by secrets of its own: pods choose addresses and identifications.
    index: HashMap<Key, usize, RandomState>,
    slots: Vec<Option<Datagram>>,
    free: Vec<usize>,
    /// Emptied vectors of parts, kept for their capacity.
    spare: Vec<Vec<Part>>,
    shares: Vec<Share>,
    all: Share,
    frames_max: usize,
    next_look: Nanos,
}

impl Reassembly {
    /// Room for datagrams of `workers`' part of `umem`.
    pub(super) fn new(umem_frames: u32, workers: u16) -> Self {
        let free = (0..DATAGRAMS_MAX).rev().collect();
        Self {
            index: HashMap::with_capacity_and_hasher(2 * DATAGRAMS_MAX, RandomState::new()),
            slots: (0..DATAGRAMS_MAX).map(|_| None).collect(),
            free,
            spare: Vec::with_capacity(DATAGRAMS_MAX),
            shares: Vec::new(),
            all: Share::default(),
            // With many workers, still the largest datagram, and as much again for another link.
            frames_max: (umem_frames as usize / FRAMES_SHARE / usize::from(workers.max(1)))
                .max(2 * PARTS_MAX),
            next_look: Nanos::default(),
        }
    }

    /// Frames that wait.
    pub(super) fn held_frames(&self) -> usize {
        self.all.frames
    }

    /// Takes a fragment, and returns the packet that it completes.
    ///
    /// # Errors
    /// The fragment, and why it is refused. What waited of its datagram may be gone with it.
    pub(super) fn offer(
        &mut self,
        egress: &mut Egress,
        now: Nanos,
        link: LinkId,
        view: View,
        piece: Piece,
        packet: Packet,
    ) -> Result<Option<Packet>, (Packet, DropReason)> {
        let offset = u32::from(piece.offset);
        let end = offset + (view.end - u32::from(view.l4));
        if !is_possible(&view, piece, end) {
            return Err((packet, DropReason::FragmentMalformed));
        }
        let Some(slot) = self.slot(egress, now, Key::new(link, &view, piece)) else {
            return Err((packet, DropReason::FragmentLimit));
        };
        let Some(datagram) = &mut self.slots[slot] else { unreachable!("the slot is in use") };
        let at = match datagram.place(offset, end, piece.more) {
            Ok(at) => at,
            Err(DropReason::FragmentDuplicate) => {
                return Err((packet, DropReason::FragmentDuplicate));
            }
            Err(reason) => {
                self.kill(egress, slot, reason);
                return Err((packet, reason));
            }
        };
        let frames = packet.frames();
        if !self.make_room(egress, slot, frames) {
            self.kill(egress, slot, DropReason::FragmentLimit);
            return Err((packet, DropReason::FragmentLimit));
        }
        let Some(datagram) = &mut self.slots[slot] else { unreachable!("it made no room itself") };
        if !piece.more {
            datagram.end = Some(end);
        }
        datagram.bytes += end - offset;
        datagram.frames += frames;
        datagram.largest = datagram.largest.max(view.ip_len());
        datagram.ecn |= 1 << ecn(&egress.umem().data(&packet.head)[usize::from(view.l3)..]);
        datagram.parts.insert(at, Part { offset, end, view, packet });
        let whole = datagram.is_whole();
        self.count(link, |share| share.frames += frames);
        egress.stats().fragments_waiting.add(1);
        if !whole {
            return Ok(None);
        }
        let Some(datagram) = self.take(slot) else { unreachable!("the slot is in use") };
        Ok(self.join(egress, datagram))
    }

    /// The slot of the datagram with this key, a new one if there is none. `None` if there is no
    /// room for it.
    fn slot(&mut self, egress: &mut Egress, now: Nanos, key: Key) -> Option<usize> {
        if let Some(slot) = self.index.get(&key).copied() {
            if !self.slots[slot].as_ref().is_some_and(|datagram| datagram.is_over(now)) {
                return Some(slot);
            }
            self.drop_datagram(egress, slot, DropReason::FragmentTimeout);
        }
        if self.share(key.link).datagrams >= DATAGRAMS_MAX - self.all.datagrams {
            let oldest = self.share(key.link).ends[0]?;
            self.drop_datagram(egress, oldest, DropReason::FragmentLimit);
        }
        let slot = self.free.pop()?;
        let [_, youngest] = self.share(key.link).ends;
        self.slots[slot] = Some(Datagram {
            key,
            began: now,
            parts: self.spare.pop().unwrap_or_default(),
            end: None,
            bytes: 0,
            frames: 0,
            largest: 0,
            ecn: 0,
            dead: None,
            neighbours: [youngest, None],
        });
        self.index.insert(key, slot);
        self.count(key.link, |share| share.datagrams += 1);
        self.connect(key.link, youngest, Some(slot));
        self.connect(key.link, Some(slot), None);
        Some(slot)
    }

    /// Makes sure that the link of the datagram in `slot` may have `frames` more, by giving up
    /// others of the link.
    fn make_room(&mut self, egress: &mut Egress, slot: usize, frames: usize) -> bool {
        let Some(link) = self.slots[slot].as_ref().map(|datagram| datagram.key.link) else {
            return false;
        };
        while self.share(link).frames + frames > self.frames_max.saturating_sub(self.all.frames) {
            let oldest = match self.share(link).ends[0] {
                Some(own) if own == slot => self.after(slot),
                oldest => oldest,
            };
            let Some(oldest) = oldest else { return false };
            self.drop_datagram(egress, oldest, DropReason::FragmentLimit);
        }
        true
    }

    /// The slot of the link's datagram that began next.
    fn after(&self, slot: usize) -> Option<usize> {
        self.slots[slot].as_ref()?.neighbours[1]
    }

    /// Makes two datagrams of `link` neighbours; one that is missing makes the other an end.
    fn connect(&mut self, link: LinkId, before: Option<usize>, after: Option<usize>) {
        let ends = &mut self.shares[link.index()].ends;
        let mut set = |one: Option<usize>, side: usize, other| match one {
            Some(slot) => {
                if let Some(datagram) = &mut self.slots[slot] {
                    datagram.neighbours[side] = other;
                }
            }
            None => ends[1 - side] = other,
        };
        set(before, 1, after);
        set(after, 0, before);
    }

    /// Drops a datagram whose time is over; tells whose it was. `None` if there is none.
    pub(super) fn next_expired(
        &mut self,
        egress: &mut Egress,
        now: Nanos,
    ) -> Option<(LinkId, Tuple)> {
        if now < self.next_look {
            return None;
        }
        let is_over = |datagram: &Option<Datagram>| {
            datagram.as_ref().is_some_and(|datagram| datagram.is_over(now))
        };
        let Some(slot) = self.slots.iter().position(is_over) else {
            self.next_look = now.plus_millis(LOOK_MILLIS);
            return None;
        };
        let key = self.slots[slot].as_ref()?.key;
        self.drop_datagram(egress, slot, DropReason::FragmentTimeout);
        Some((key.link, key.tuple))
    }

    /// Drops all that waits of `link`'s.
    pub(super) fn forget(&mut self, egress: &mut Egress, link: LinkId) {
        while let Some(slot) = self.share(link).ends[0] {
            self.drop_datagram(egress, slot, DropReason::LinkGone);
        }
    }

    /// Drops what waits of a datagram, and takes nothing more of it until its time is over.
    fn kill(&mut self, egress: &mut Egress, slot: usize, reason: DropReason) {
        let Some(datagram) = &mut self.slots[slot] else { return };
        datagram.dead = Some(reason);
        let (link, frames) = (datagram.key.link, std::mem::take(&mut datagram.frames));
        let mut parts = std::mem::take(&mut datagram.parts);
        discard(egress, &mut parts, reason);
        self.keep(parts);
        self.count(link, |share| share.frames -= frames);
    }

    fn drop_datagram(&mut self, egress: &mut Egress, slot: usize, reason: DropReason) {
        if let Some(mut datagram) = self.take(slot) {
            discard(egress, &mut datagram.parts, reason);
            self.keep(datagram.parts);
        }
    }

    /// Takes a datagram out of the tables.
    fn take(&mut self, slot: usize) -> Option<Datagram> {
        let datagram = self.slots[slot].take()?;
        self.index.remove(&datagram.key);
        self.free.push(slot);
        let [before, after] = datagram.neighbours;
        self.connect(datagram.key.link, before, after);
        self.count(datagram.key.link, |share| {
            share.datagrams -= 1;
            share.frames -= datagram.frames;
        });
        Some(datagram)
    }

    fn keep(&mut self, parts: Vec<Part>) {
        if parts.capacity() > 0 && self.spare.len() < DATAGRAMS_MAX {
            self.spare.push(parts);
        }
    }

    fn share(&self, link: LinkId) -> Share {
        self.shares.get(link.index()).copied().unwrap_or_default()
    }

    fn count(&mut self, link: LinkId, change: impl Fn(&mut Share)) {
        if self.shares.len() <= link.index() {
            self.shares.resize(link.index() + 1, Share::default());
        }
        change(&mut self.shares[link.index()]);
        change(&mut self.all);
    }

    /// Puts a whole datagram's parts together. `None` if the result can't be a packet; then it is
    /// dropped.
    fn join(&mut self, egress: &mut Egress, mut datagram: Datagram) -> Option<Packet> {
        let first = datagram.parts.first()?.view;
        let headers = first.l4 - first.l3;
        let length = match first.is_v4() {
            true => u32::from(headers) + datagram.bytes,
            false => u32::from(headers) - 40 + datagram.bytes,
        };
        let mark = mark(datagram.ecn);
        if length > LENGTH_MAX || mark.is_none() {
            discard(egress, &mut datagram.parts, DropReason::FragmentMalformed);
            self.keep(datagram.parts);
            return None;
        }
        let stats = egress.stats();
        stats.fragments_joined.add(datagram.parts.len() as u64 - 1);
        stats.fragments_waiting.set(stats.fragments_waiting.get() - datagram.parts.len() as u64);
        let mut joined = Joined { last: None, before: ThinVec::new() };
        for (index, part) in datagram.parts.drain(..).enumerate() {
            // The headers of the first serve for all.
            let skip = if index == 0 { 0 } else { u32::from(part.view.l4) };
            joined.append(egress, part.packet, skip, part.view.end);
        }
        self.keep(datagram.parts);
        let mut packet = joined.finish()?;
        packet.largest_fragment = u16::try_from(datagram.largest).unwrap_or(u16::MAX);
        let head = egress.umem().data_mut(&mut packet.head);
        let header = &mut head[usize::from(first.l3)..usize::from(first.l4)];
        match first.is_v4() {
            true => rewrite_v4(header, length as u16, mark?),
            false => rewrite_v6(header, length as u16, mark?),
        }
        Some(packet)
    }
}

/// Whether a datagram can have such a part. All but the last are multiples of 8 bytes, none is
/// empty, and none ends beyond what a packet may be long ("ping of death").
fn is_possible(view: &View, piece: Piece, end: u32) -> bool {
    let len = end - u32::from(piece.offset);
    let headers = if view.is_v4() { 20 } else { 8 };
    len > 0 && (!piece.more || len.is_multiple_of(8)) && headers + end <= LENGTH_MAX
}

fn discard(egress: &mut Egress, parts: &mut Vec<Part>, reason: DropReason) {
    let stats = egress.stats();
    stats.fragments_waiting.set(stats.fragments_waiting.get() - parts.len() as u64);
    for part in parts.drain(..) {
        egress.discard(part.packet, reason);
    }
}

/// The ECN codepoint of an IP header (RFC 3168 §5).
fn ecn(header: &[u8]) -> u8 {
    match header[0] >> 4 {
        4 => header[1] & 3,
        _ => header[1] >> 4 & 3,
    }
}

/// Whether the datagram is to be marked, from the codepoints of its fragments. `None` if they
/// can't be of one datagram: a router marks only what its sender said may be (RFC 3168 §5.3).
fn mark(codepoints: u8) -> Option<bool> {
    const NOT_CAPABLE: u8 = 1;
    const MARKED: u8 = 1 << 3;
    match (codepoints & MARKED != 0, codepoints & NOT_CAPABLE != 0) {
        (true, true) => None,
        (marked, _) => Some(marked),
    }
}

/// Makes the first fragment's header that of the whole datagram. It keeps its identification, and
/// its "don't fragment": Linux sets that in fragments of a sender that probes the path's MTU.
fn rewrite_v4(header: &mut [u8], length: u16, mark: bool) {
    header[1] |= if mark { 3 } else { 0 };
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[6] &= 0x40;
    header[7] = 0;
    header[10..12].fill(0);
    let sum = checksum::of(header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The same. The fragment header stays, as that of an atomic fragment (RFC 6946), for its
/// identification.
fn rewrite_v6(header: &mut [u8], length: u16, mark: bool) {
    header[1] |= if mark { 3 << 4 } else { 0 };
    header[4..6].copy_from_slice(&length.to_be_bytes());
    let at = header.len() - 8;
    header[at + 2..at + 4].fill(0);
}

/// Frames of a packet that grows at its end, each filled before the next.
struct Joined {
    before: ThinVec<Frame>,
    last: Option<Frame>,
}

impl Joined {
    /// Appends bytes `from..to` of a packet.
    fn append(&mut self, egress: &mut Egress, packet: Packet, from: u32, to: u32) {
        let Packet { head, mut tail, .. } = packet;
        let (mut skip, mut left) = (from, to - from);
        for mut frame in std::iter::once(head).chain(tail.drain(..)) {
            let skipped = skip.min(frame.len());
            let taken = (frame.len() - skipped).min(left);
            frame.set_extent(begin(&frame) + skipped, taken);
            skip -= skipped;
            left -= taken;
            self.push(egress, frame);
        }
        egress.frames().1.keep_tail(tail);
    }

    fn push(&mut self, egress: &mut Egress, mut frame: Frame) {
        if let Some(last) = &mut self.last {
            move_front(egress.umem(), &mut frame, last);
        }
        if frame.is_empty() {
            return egress.free(frame);
        }
        if let Some(full) = self.last.replace(frame) {
            if self.before.is_empty() {
                self.before = egress.frames().1.tail();
            }
            self.before.push(full);
        }
    }

    /// The packet; `None` if it is empty.
    fn finish(self) -> Option<Packet> {
        let Self { before: mut frames, last } = self;
        let last = last?;
        if frames.is_empty() {
            return Some(Packet::new(last, frames));
        }
        frames.push(last);
        let head = frames.remove(0);
        Some(Packet::new(head, frames))
    }
}

/// Where a frame's data begins, bytes into the frame.
fn begin(frame: &Frame) -> u32 {
    FRAME_SIZE - frame.capacity()
}

/// Moves as many bytes as fit from the front of `from` to the end of `to`, and what is left to
/// the front of its frame, so that as much as possible fits behind it.
fn move_front(umem: &Umem, from: &mut Frame, to: &mut Frame) {
    let (len, room) = (to.len(), to.capacity() - to.len());
    let moved = from.len().min(room);
    to.set_len(len + moved);
    umem.data_mut(to)[len as usize..].copy_from_slice(&umem.data(from)[..moved as usize]);
    let (rest, at) = (from.len() - moved, begin(from) + moved);
    let front = FRAME_HEADROOM.min(at);
    from.set_extent(front, at - front + rest);
    umem.data_mut(from).copy_within((at - front) as usize.., 0);
    from.set_len(rest);
}

#[cfg(test)]
mod tests;
