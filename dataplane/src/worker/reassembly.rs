//! Reassembly of IP fragments into one packet.
//!
//! Only the first fragment has ports, and it may arrive last; and the receiver's view of a datagram
//! is known only once all of it is here. So no fragment is forwarded on its own, and policy decides
//! on the complete datagram ([`super::forward`] fragments it again). The XDP program steers all
//! fragments between two addresses to one worker.
//!
//! # Rules
//! - Fragments of one datagram are received from one link, with one identification, in any order.
//! - *Overlaps* discard the datagram and its later fragments (RFC 5722; the same for IPv4: no
//!   legitimate sender creates them). An exact duplicate alone is dropped (RFC 8200 §4.5 allows
//!   that): networks do duplicate packets.
//! - The first fragment contains all headers; the parser rejects others (RFC 1858, RFC 7112). A
//!   later fragment that would overwrite them (RFC 3128) overlaps.
//! - *Timeout.* 30 seconds over IPv4 and 60 over IPv6 from the first fragment received, as in Linux
//!   (`IP_FRAG_TIME`, `IPV6_FRAG_TIMEOUT`; RFC 8200 §4.5).
//! - *Limits.* [`DATAGRAMS_MAX`] datagrams of [`PARTS_MAX`] fragments each, and a share of the
//!   UMEM's frames, over all workers ([`frames_max`]). A link that uses as many as are free drops
//!   its oldest datagram for a new one: that harms no other link, and a link that loses fragments
//!   is not blocked until they time out. Of datagrams from outside of the node, those of the group
//!   of sources that has the most are dropped first.
//! - *ECN.* A congestion mark of any fragment marks the datagram (RFC 3168 §5.3).

use std::cmp::Reverse;
use std::hash::RandomState;

use hashbrown::HashMap;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::ids::LinkId;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::Tuple;
use thin_vec::ThinVec;

use crate::flow::{Opener, SOURCES};
use crate::mem::{FRAME_HEADROOM, Frame, Packet, Umem};
use crate::packet::fragment::remove_fragment_header;
use crate::packet::offset::{ipv4, ipv6};
use crate::packet::{FragmentInfo, View, checksum};

use super::egress::Egress;

/// Incomplete datagrams per worker, at most.
const DATAGRAMS_MAX: usize = 256;
/// Fragments of one datagram, at most: 65,535 bytes take 45 at an MTU of 1500.
const PARTS_MAX: usize = 64;
/// Waiting fragments of all workers may use one in this many frames of the UMEM; with many workers
/// more ([`frames_max`]).
const FRAMES_SHARE: usize = 16;
/// Beyond that, at most one in this many frames is left free for them.
const FRAMES_SHARE_MORE: u32 = 8;
/// Time between two checks for expired datagrams, milliseconds.
const CHECK_MILLIS: u64 = 500;

const LIFETIME_V4_SECS: u64 = 30;
const LIFETIME_V6_SECS: u64 = 60;

/// Largest value of the IPv4 total length, and of the IPv6 payload length, bytes.
const LENGTH_MAX: u32 = 65_535;

/// Headers of a first IPv6 fragment that the payload length of its datagram does not count, bytes:
/// the fixed header, and the fragment header, which is not part of it (RFC 8200 §4.5).
const V6_NOT_COUNTED: u32 = (ipv6::HEADER_LEN + ipv6::FRAGMENT_HEADER_LEN) as u32;

/// Key of a datagram: equal for all of its fragments.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct DatagramKey {
    link: LinkId,
    /// Addresses, and over IPv4 the protocol (RFC 791 §3.2, RFC 8200 §4.5); no ports.
    tuple: Tuple,
    id: u32,
}

impl DatagramKey {
    fn new(link: LinkId, view: &View, fragment: FragmentInfo) -> Self {
        let mut tuple = view.tuple;
        if !view.is_v4() {
            tuple.protocol = 0;
        }
        Self { link, tuple, id: fragment.id }
    }

    fn lifetime_secs(&self) -> u64 {
        if self.tuple.src.is_v4() { LIFETIME_V4_SECS } else { LIFETIME_V6_SECS }
    }
}

/// A waiting fragment.
#[derive(Debug)]
struct Part {
    /// Start and end of its data in the datagram, bytes.
    offset: u32,
    end: u32,
    view: View,
    packet: Packet,
}

/// An incomplete datagram.
#[derive(Debug)]
struct Datagram {
    key: DatagramKey,
    list: ListId,
    began: Nanos,
    /// In order, without overlaps.
    parts: Vec<Part>,
    /// Its length in bytes, once the last fragment was received.
    end: Option<u32>,
    /// Length of all parts, bytes.
    bytes: u32,
    frames: usize,
    /// Length of the largest fragment with its IP header, bytes.
    largest: u32,
    /// ECN codepoints of its fragments, a bit each.
    ecn: u8,
    /// Why later fragments of it are dropped, if it was discarded.
    discarded: Option<DropReason>,
    /// Slots of the previous and next datagram of its list, by time of their first fragment.
    neighbours: [Option<usize>; 2],
}

impl Datagram {
    fn is_complete(&self) -> bool {
        self.end == Some(self.bytes)
    }

    fn is_expired(&self, now: Nanos) -> bool {
        now >= self.began.plus_secs(self.key.lifetime_secs())
    }

    /// The index at which a fragment up to `end` is inserted among the parts.
    fn insert_index(&self, fragment: FragmentInfo, end: u32) -> Result<usize, DropReason> {
        let (offset, more) = (u32::from(fragment.offset), fragment.more);
        if let Some(reason) = self.discarded {
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

/// The list of a group of sources outside of the node, or from [`SOURCES`] on, of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ListId(usize);

impl From<Opener> for ListId {
    fn from(opener: Opener) -> Self {
        Self(opener.source_group().unwrap_or(SOURCES + opener.link().index()))
    }
}

impl ListId {
    const fn is_outside(self) -> bool {
        self.0 < SOURCES
    }
}

/// Datagrams and their frames.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Usage {
    datagrams: usize,
    frames: usize,
}

/// Datagrams of one link, or of one group of sources.
#[derive(Clone, Copy, Default, Debug)]
struct List {
    usage: Usage,
    /// Slots of the oldest and the newest datagram.
    ends: [Option<usize>; 2],
}

/// Frames of waiting fragments of each of `workers` workers, at most: with many workers, still
/// enough for two of the largest datagrams; one link may use half of it.
fn frames_max(umem_frames: u32, workers: u16) -> usize {
    let share = umem_frames as usize / FRAMES_SHARE / usize::from(workers.max(1));
    share.max(2 * PARTS_MAX)
}

/// Frames that busy links leave free to waiting fragments beyond one in [`FRAMES_SHARE`]: as many
/// as all workers may use, and at most one in [`FRAMES_SHARE_MORE`].
pub(super) fn frames_beyond_share(umem_frames: u32, workers: u16) -> u32 {
    let all = frames_max(umem_frames, workers) * usize::from(workers);
    let more = (all as u32).saturating_sub(umem_frames / FRAMES_SHARE as u32);
    more.min(umem_frames / FRAMES_SHARE_MORE)
}

/// One worker's incomplete datagrams.
#[derive(Debug)]
pub(super) struct Reassembly {
    /// With a keyed hash: pods choose addresses and identifications.
    index: HashMap<DatagramKey, usize, RandomState>,
    slots: Vec<Option<Datagram>>,
    free: Vec<usize>,
    /// Empty vectors of parts, kept for their capacity.
    spare: Vec<Vec<Part>>,
    /// By [`ListId`].
    lists: Vec<List>,
    /// What is used from outside of the node, and by all.
    outside: Usage,
    all: Usage,
    frames_max: usize,
    next_check: Nanos,
}

impl Reassembly {
    /// Limits for one of `workers` workers on a UMEM of `umem_frames` frames.
    pub(super) fn new(umem_frames: u32, workers: u16) -> Self {
        let free = (0..DATAGRAMS_MAX).rev().collect();
        Self {
            index: HashMap::with_capacity_and_hasher(2 * DATAGRAMS_MAX, RandomState::new()),
            slots: (0..DATAGRAMS_MAX).map(|_| None).collect(),
            free,
            spare: Vec::with_capacity(DATAGRAMS_MAX),
            lists: vec![List::default(); SOURCES],
            outside: Usage::default(),
            all: Usage::default(),
            frames_max: frames_max(umem_frames, workers),
            next_check: Nanos::default(),
        }
    }

    /// Frames of waiting fragments.
    pub(super) fn held_frames(&self) -> usize {
        self.all.frames
    }

    /// Inserts a fragment from `sender`. Returns the packet that it completes.
    ///
    /// # Errors
    /// The fragment, and why it must be dropped. Its datagram may be discarded, too.
    pub(super) fn insert(
        &mut self,
        egress: &mut Egress,
        now: Nanos,
        sender: Opener,
        view: View,
        fragment: FragmentInfo,
        packet: Packet,
    ) -> Result<Option<Packet>, (Packet, DropReason)> {
        let offset = u32::from(fragment.offset);
        let end = offset + (view.end - u32::from(view.l4));
        if !is_valid(&view, fragment, end) {
            return Err((packet, DropReason::FragmentMalformed));
        }
        let list = ListId::from(sender);
        let key = DatagramKey::new(sender.link(), &view, fragment);
        let Some(slot) = self.find_or_create(egress, now, key, list) else {
            return Err((packet, DropReason::FragmentLimit));
        };
        let Some(datagram) = &mut self.slots[slot] else { unreachable!("the slot is in use") };
        let at = match datagram.insert_index(fragment, end) {
            Ok(at) => at,
            Err(DropReason::FragmentDuplicate) => {
                return Err((packet, DropReason::FragmentDuplicate));
            }
            Err(reason) => {
                self.discard_datagram(egress, slot, reason);
                return Err((packet, reason));
            }
        };
        let frames = packet.frames();
        if !self.make_room(egress, slot, frames) {
            self.discard_datagram(egress, slot, DropReason::FragmentLimit);
            return Err((packet, DropReason::FragmentLimit));
        }
        let Some(datagram) = &mut self.slots[slot] else {
            unreachable!("make_room drops other datagrams only")
        };
        if !fragment.more {
            datagram.end = Some(end);
        }
        datagram.bytes += end - offset;
        datagram.frames += frames;
        datagram.largest = datagram.largest.max(view.ip_len());
        datagram.ecn |= 1 << ecn(&egress.umem().data(&packet.head)[usize::from(view.l3)..]);
        datagram.parts.insert(at, Part { offset, end, view, packet });
        let complete = datagram.is_complete();
        let list = datagram.list;
        self.count(list, |usage| usage.frames += frames);
        egress.stats().fragments_waiting.add(1);
        if !complete {
            return Ok(None);
        }
        let Some(datagram) = self.take(slot) else { unreachable!("the slot is in use") };
        Ok(self.reassemble(egress, datagram))
    }

    /// The slot of the datagram with this key, which is created if there is none. `None` if no slot
    /// is free.
    fn find_or_create(
        &mut self,
        egress: &mut Egress,
        now: Nanos,
        key: DatagramKey,
        list: ListId,
    ) -> Option<usize> {
        if let Some(slot) = self.index.get(&key).copied() {
            if !self.slots[slot].as_ref().is_some_and(|datagram| datagram.is_expired(now)) {
                return Some(slot);
            }
            self.drop_datagram(egress, slot, DropReason::FragmentTimeout);
        }
        if self.taken(list).datagrams >= DATAGRAMS_MAX - self.all.datagrams {
            let oldest = self.first_to_drop(list, None, |usage| usage.datagrams)?;
            self.drop_datagram(egress, oldest, DropReason::FragmentLimit);
        }
        let slot = self.free.pop()?;
        let [_, newest] = self.list(list).ends;
        self.slots[slot] = Some(Datagram {
            key,
            list,
            began: now,
            parts: self.spare.pop().unwrap_or_default(),
            end: None,
            bytes: 0,
            frames: 0,
            largest: 0,
            ecn: 0,
            discarded: None,
            neighbours: [newest, None],
        });
        self.index.insert(key, slot);
        self.count(list, |usage| usage.datagrams += 1);
        self.connect(list, newest, Some(slot));
        self.connect(list, Some(slot), None);
        Some(slot)
    }

    /// Drops other datagrams ([`Self::first_to_drop`]) until the datagram in `slot` may use
    /// `frames` more. Returns false if that isn't enough.
    fn make_room(&mut self, egress: &mut Egress, slot: usize, frames: usize) -> bool {
        let Some(list) = self.slots[slot].as_ref().map(|datagram| datagram.list) else {
            return false;
        };
        while self.taken(list).frames + frames > self.frames_max.saturating_sub(self.all.frames) {
            let oldest = self.first_to_drop(list, Some(slot), |usage| usage.frames);
            let Some(oldest) = oldest else { return false };
            self.drop_datagram(egress, oldest, DropReason::FragmentLimit);
        }
        true
    }

    /// What is used by all that share with `list`: the link, or all from outside of the node.
    fn taken(&self, list: ListId) -> Usage {
        if list.is_outside() { self.outside } else { self.list(list).usage }
    }

    /// The datagram that is dropped first to make room in `list`, other than that in the slot
    /// `except`: the oldest of the list, or from outside of the node, of the list that has the most
    /// of what `of` counts.
    fn first_to_drop(
        &self,
        list: ListId,
        except: Option<usize>,
        of: impl Fn(&Usage) -> usize,
    ) -> Option<usize> {
        let oldest = |list: &List| match list.ends[0] {
            Some(slot) if Some(slot) == except => self.datagram(slot)?.neighbours[1],
            oldest => oldest,
        };
        let own = self.list(list);
        if !list.is_outside() {
            return oldest(&own);
        }
        let more = self.lists[..SOURCES].iter().filter(|other| of(&other.usage) > of(&own.usage));
        let age = |slot: &usize| Reverse(self.datagram(*slot).map(|datagram| datagram.began));
        let candidates = more.filter_map(|list| Some((of(&list.usage), oldest(list)?)));
        let largest = candidates.max_by_key(|(count, slot)| (*count, age(slot)));
        largest.map(|(_, slot)| slot).or_else(|| oldest(&own))
    }

    fn datagram(&self, slot: usize) -> Option<&Datagram> {
        self.slots[slot].as_ref()
    }

    /// Links two datagrams in their list; `None` makes the other one an end of the list.
    fn connect(&mut self, list: ListId, before: Option<usize>, after: Option<usize>) {
        let ends = &mut self.lists[list.0].ends;
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

    /// Drops an expired datagram. Returns whether there was one.
    pub(super) fn drop_expired(&mut self, egress: &mut Egress, now: Nanos) -> bool {
        if now < self.next_check {
            return false;
        }
        let is_expired = |datagram: &Option<Datagram>| {
            datagram.as_ref().is_some_and(|datagram| datagram.is_expired(now))
        };
        let Some(slot) = self.slots.iter().position(is_expired) else {
            self.next_check = now.plus_millis(CHECK_MILLIS);
            return false;
        };
        self.drop_datagram(egress, slot, DropReason::FragmentTimeout);
        true
    }

    /// Drops all fragments of `link`.
    pub(super) fn drop_link(&mut self, egress: &mut Egress, link: LinkId) {
        for slot in 0..self.slots.len() {
            if self.datagram(slot).is_some_and(|datagram| datagram.key.link == link) {
                self.drop_datagram(egress, slot, DropReason::LinkGone);
            }
        }
    }

    /// Drops the fragments of a datagram, and its later ones until its timeout. The caller drops
    /// the last one with an event.
    fn discard_datagram(&mut self, egress: &mut Egress, slot: usize, reason: DropReason) {
        let Some(datagram) = &mut self.slots[slot] else { return };
        datagram.discarded = Some(reason);
        let (list, frames) = (datagram.list, std::mem::take(&mut datagram.frames));
        let mut parts = std::mem::take(&mut datagram.parts);
        drop_parts(egress, &mut parts, reason);
        self.recycle(parts);
        self.count(list, |usage| usage.frames -= frames);
    }

    /// Drops a datagram with an event, unless it was dropped already.
    fn drop_datagram(&mut self, egress: &mut Egress, slot: usize, reason: DropReason) {
        if let Some(mut datagram) = self.take(slot) {
            if datagram.discarded.is_none() {
                egress.emit_drop(datagram.key.link, datagram.key.tuple, reason);
            }
            drop_parts(egress, &mut datagram.parts, reason);
            self.recycle(datagram.parts);
        }
    }

    /// Removes a datagram from the index and its list.
    fn take(&mut self, slot: usize) -> Option<Datagram> {
        let datagram = self.slots[slot].take()?;
        self.index.remove(&datagram.key);
        self.free.push(slot);
        let [before, after] = datagram.neighbours;
        self.connect(datagram.list, before, after);
        self.count(datagram.list, |usage| {
            usage.datagrams -= 1;
            usage.frames -= datagram.frames;
        });
        Some(datagram)
    }

    fn recycle(&mut self, parts: Vec<Part>) {
        if parts.capacity() > 0 && self.spare.len() < DATAGRAMS_MAX {
            self.spare.push(parts);
        }
    }

    fn list(&self, list: ListId) -> List {
        self.lists.get(list.0).copied().unwrap_or_default()
    }

    fn count(&mut self, list: ListId, change: impl Fn(&mut Usage)) {
        if self.lists.len() <= list.0 {
            self.lists.resize(list.0 + 1, List::default());
        }
        change(&mut self.lists[list.0].usage);
        if list.is_outside() {
            change(&mut self.outside);
        }
        change(&mut self.all);
    }

    /// Merges the parts of a complete datagram. `None` if the result is not a valid packet; then it
    /// is dropped.
    fn reassemble(&mut self, egress: &mut Egress, mut datagram: Datagram) -> Option<Packet> {
        let first = datagram.parts.first()?.view;
        let headers = first.l4 - first.l3;
        let length = match first.is_v4() {
            true => u32::from(headers) + datagram.bytes,
            false => u32::from(headers) - V6_NOT_COUNTED + datagram.bytes,
        };
        let ecn_mark = ecn_mark(datagram.ecn);
        if length > LENGTH_MAX || ecn_mark.is_none() {
            let reason = DropReason::FragmentMalformed;
            egress.emit_drop(datagram.key.link, datagram.key.tuple, reason);
            drop_parts(egress, &mut datagram.parts, reason);
            self.recycle(datagram.parts);
            return None;
        }
        let stats = egress.stats();
        stats.fragments_joined.add(datagram.parts.len() as u64 - 1);
        stats.fragments_waiting.set(stats.fragments_waiting.get() - datagram.parts.len() as u64);
        let mut merged = Merged { last: None, before: ThinVec::new() };
        for (index, part) in datagram.parts.drain(..).enumerate() {
            // Keep the headers of the first fragment only.
            let skip = if index == 0 { 0 } else { u32::from(part.view.l4) };
            merged.append(egress, part.packet, skip, part.view.end);
        }
        self.recycle(datagram.parts);
        let mut packet = merged.finish()?;
        packet.largest_fragment = u16::try_from(datagram.largest).unwrap_or(u16::MAX);
        let umem = egress.umem();
        let header = &mut umem.data_mut(&mut packet.head)[usize::from(first.l3)..];
        match first.is_v4() {
            true => rewrite_v4(&mut header[..usize::from(headers)], length as u16, ecn_mark?),
            false => {
                rewrite_v6(header, length as u16, ecn_mark?);
                remove_fragment_header(umem, &mut packet.head, &first);
                packet.fragment_id = datagram.key.id;
            }
        }
        Some(packet)
    }
}

/// Whether a fragment is valid by itself. All but the last are multiples of 8 bytes, none is empty,
/// and none ends beyond the maximal packet length ("ping of death").
fn is_valid(view: &View, fragment: FragmentInfo, end: u32) -> bool {
    let len = end - u32::from(fragment.offset);
    let headers = if view.is_v4() { ipv4::HEADER_LEN as u32 } else { 0 };
    len > 0 && (!fragment.more || len.is_multiple_of(8)) && headers + end <= LENGTH_MAX
}

fn drop_parts(egress: &mut Egress, parts: &mut Vec<Part>, reason: DropReason) {
    let stats = egress.stats();
    stats.fragments_waiting.set(stats.fragments_waiting.get() - parts.len() as u64);
    for part in parts.drain(..) {
        egress.drop_counted(part.packet, reason);
    }
}

/// The ECN codepoint of an IP header (RFC 3168 §5).
fn ecn(header: &[u8]) -> u8 {
    match header[0] >> 4 {
        4 => header[1] & 3,
        _ => header[1] >> 4 & 3,
    }
}

/// Congestion mark of a reassembled datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum EcnMark {
    /// Set "congestion experienced".
    Set,
    /// Keep the codepoint of the first fragment.
    Keep,
}

/// The mark of a datagram whose fragments have these codepoints. `None` for an invalid combination:
/// a router marks only packets of ECN-capable senders (RFC 3168 §5.3).
fn ecn_mark(codepoints: u8) -> Option<EcnMark> {
    const NOT_CAPABLE: u8 = 1;
    const MARKED: u8 = 1 << 3;
    match (codepoints & MARKED != 0, codepoints & NOT_CAPABLE != 0) {
        (true, true) => None,
        (true, false) => Some(EcnMark::Set),
        (false, _) => Some(EcnMark::Keep),
    }
}

/// Turns the first fragment's header into that of the datagram. It keeps the identification and
/// "don't fragment": Linux sets the latter in fragments of a sender that probes the path MTU.
fn rewrite_v4(header: &mut [u8], length: u16, mark: EcnMark) {
    header[ipv4::TOS] |= if mark == EcnMark::Set { 3 } else { 0 };
    header[ipv4::TOTAL_LEN..][..2].copy_from_slice(&length.to_be_bytes());
    header[ipv4::FRAGMENT] &= ipv4::DONT_FRAGMENT;
    header[ipv4::FRAGMENT + 1] = 0;
    header[ipv4::CHECKSUM..][..2].fill(0);
    let sum = checksum::of(header);
    header[ipv4::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
}

/// The same.
fn rewrite_v6(header: &mut [u8], length: u16, mark: EcnMark) {
    header[1] |= if mark == EcnMark::Set { 3 << 4 } else { 0 };
    header[ipv6::PAYLOAD_LEN..][..2].copy_from_slice(&length.to_be_bytes());
}

/// Frames of a packet that is appended to, each filled before the next.
struct Merged {
    before: ThinVec<Frame>,
    last: Option<Frame>,
}

impl Merged {
    /// Appends bytes `from..to` of a packet.
    fn append(&mut self, egress: &mut Egress, packet: Packet, from: u32, to: u32) {
        let Packet { head, mut tail, .. } = packet;
        let (mut skip, mut left) = (from, to - from);
        for mut frame in std::iter::once(head).chain(tail.drain(..)) {
            let skipped = skip.min(frame.len());
            let taken = (frame.len() - skipped).min(left);
            frame.set_extent(frame.offset() + skipped, taken);
            skip -= skipped;
            left -= taken;
            self.push(egress, frame);
        }
        egress.frames().1.recycle_tail(tail);
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

/// Moves as many bytes as fit from the start of `from` to the end of `to`, and the rest to the
/// start of its own frame, so that as much as possible fits after it.
fn move_front(umem: &Umem, from: &mut Frame, to: &mut Frame) {
    let (len, room) = (to.len(), to.capacity() - to.len());
    let moved = from.len().min(room);
    to.set_len(len + moved);
    umem.data_mut(to)[len as usize..].copy_from_slice(&umem.data(from)[..moved as usize]);
    let (rest, at) = (from.len() - moved, from.offset() + moved);
    let front = FRAME_HEADROOM.min(at);
    from.set_extent(front, at - front + rest);
    umem.data_mut(from).copy_within((at - front) as usize.., 0);
    from.set_len(rest);
}

#[cfg(test)]
mod tests;
