//! The file of plain flows for the time between a clean stop and the next start: `flows.state`.
//!
//! It is written when the workers have stopped, and read and removed at the next start, so a later
//! crash doesn't restore old flows. It grants nothing: workers take over only flows that the tables
//! in force allow.
//!
//! # Format, version 1
//! All numbers are little-endian.
//! - the header: [`MAGIC`], the version (2 bytes), zeros (2), the id of the kernel's boot (16), the
//!   time of writing by `CLOCK_BOOTTIME` in milliseconds (8);
//! - sections, each with its type (2 bytes), zeros (2), its length (4) and as many bytes. Sections
//!   of unknown types are skipped, so later versions can add some;
//! - CRC-32C of all that (4 bytes).
//!
//! Section [`LINKS`] names links: for each, its netdev and its pod, each as length (2 bytes) and
//! text. Flows refer to them by number, from 1; link 0 is the one to the kernel. Section [`FLOWS`]
//! has [`FLOW_LEN`] bytes for each flow, see [`put_flow`]. Section [`FRONTENDS`] has, for each flow
//! that is translated, its position among the flows (4 bytes), and the address (16) and port (2) of
//! the service; it follows the flows.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;

use nix::time::{ClockId, clock_gettime};
use podgate_dataplane::flow::{FlowLinks, SavedFlow, tcp};
use podgate_tables::address::Address;
use podgate_tables::ids::LinkId;
use podgate_tables::l7::L7Protocol;
use podgate_tables::policy::ProvenSender;
use podgate_tables::service::L4Addr;
use podgate_tables::tuple::{FlowDirection, Tuple};

use crate::{atomic_file, damaged_file};

const MAGIC: &[u8; 8] = b"podgatef";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 36;
const LINKS: u16 = 1;
const FLOWS: u16 = 2;
const FRONTENDS: u16 = 3;
const FLOW_LEN: usize = 80;
/// Flag of a flow: [`SavedFlow::picked_up`].
const PICKED_UP: u8 = 1;
/// Where the flags of a flow have [`ProvenSender::number`]: the number of bits below it.
const SENDER_SHIFT: u32 = 1;
/// Where they have the position of [`SavedFlow::detached`] in [`L7Protocol::ALL`] plus one, or
/// zero: the number of bits below it, and its bits.
const DETACHED_SHIFT: u32 = 3;
const DETACHED_BITS: u8 = 7;
const _: () = assert!(L7Protocol::ALL.len() <= DETACHED_BITS as usize);
/// Most flows in a file; connections take precedence.
const FLOWS_MAX: usize = 1 << 19;
/// Longest file, bytes.
const FILE_MAX: u64 = 64 << 20;
/// Age in milliseconds from which a file is not used: the endpoints' TCP has given up by then.
const AGE_MAX_MS: u64 = 600_000;

/// Why a file's flows are not taken over.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    /// It is another file, or damaged.
    #[error("it is damaged ({0})")]
    Damaged(&'static str),
    /// It has another version.
    #[error("it is of version {0}, not {VERSION}")]
    Version(u16),
    /// The machine was rebooted since.
    #[error("it was written before the machine started")]
    OtherBoot,
    /// It is too old.
    #[error("it is {0} s old, which is more than 10 minutes")]
    TooOld(u64),
    /// It can't be read or removed.
    #[error("{0}")]
    Io(String),
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

/// A time of one boot of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Moment {
    boot: [u8; 16],
    /// Milliseconds since the boot, suspension included.
    at_ms: u64,
}

impl Moment {
    /// Now.
    ///
    /// # Errors
    /// When the boot id or the clock can't be read.
    pub(crate) fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits = text.trim().replace('-', "");
        let boot = u128::from_str_radix(&digits, 16).map_err(io::Error::other)?.to_le_bytes();
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
        let at_ms = time.tv_sec() as u64 * 1000 + time.tv_nsec() as u64 / 1_000_000;
        Ok(Self { boot, at_ms })
    }
}

/// A link by name: slots and indices may change over a restart.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct NamedLink {
    /// Name of the netdev.
    pub(crate) link: String,
    /// The pod behind it, `NAMESPACE/NAME`.
    pub(crate) pod: String,
}

/// Flows with their links by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FlowsFile {
    pub(crate) written: Moment,
    pub(crate) links: Vec<NamedLink>,
    /// Their links are numbers from 1 of `links`, and 0 for the one to the kernel.
    pub(crate) flows: Vec<SavedFlow>,
}

impl FlowsFile {
    /// Of flows whose links are slots; `slots` names all but `host`, the one to the kernel. Flows
    /// of links without a name are left out, and those beyond [`FLOWS_MAX`].
    pub(crate) fn new(
        written: Moment,
        mut flows: Vec<SavedFlow>,
        host: LinkId,
        slots: impl Iterator<Item = (LinkId, NamedLink)>,
    ) -> Self {
        let (mut links, mut numbers) = (Vec::new(), HashMap::from([(host, LinkId(0))]));
        for (slot, name) in slots {
            links.push(name);
            numbers.insert(slot, LinkId(links.len() as u16));
        }
        flows.retain_mut(|flow| renumber(flow, &numbers));
        if flows.len() > FLOWS_MAX {
            flows.sort_by_key(|flow| flow.tcp != tcp::State::Established);
            flows.truncate(FLOWS_MAX);
        }
        Self { written, links, flows }
    }

    /// The flows with slots for links and idle times as of `now`, without flows of links that are
    /// gone.
    ///
    /// # Errors
    /// When they are too old for any to be taken over.
    pub(crate) fn flows_now(
        self,
        now: Moment,
        host: LinkId,
        slots: &HashMap<NamedLink, LinkId>,
    ) -> Result<Vec<SavedFlow>, Unusable> {
        let age = self.age_ms(now)?;
        let names = self.links.iter().zip(1..);
        let known = names.filter_map(|(name, number)| Some((LinkId(number), *slots.get(name)?)));
        let numbers: HashMap<_, _> = known.chain([(LinkId(0), host)]).collect();
        let mut flows = self.flows;
        flows.retain_mut(|flow| renumber(flow, &numbers));
        for flow in &mut flows {
            flow.idle_ms = flow.idle_ms.saturating_add(age);
        }
        Ok(flows)
    }

    fn age_ms(&self, now: Moment) -> Result<u32, Unusable> {
        if self.written.boot != now.boot {
            return Err(Unusable::OtherBoot);
        }
        let age = now.at_ms.checked_sub(self.written.at_ms);
        match age.ok_or(Unusable::Damaged("its time is in the future"))? {
            age if age > AGE_MAX_MS => Err(Unusable::TooOld(age / 1000)),
            age => Ok(age as u32),
        }
    }

    /// Writes it to `path` atomically.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        atomic_file::write(path, &self.to_bytes())
    }

    /// Reads what an agent wrote to `path`, and removes the file; `None` if there is none. One that
    /// is damaged is set aside.
    ///
    /// # Errors
    /// Why there is nothing that could be taken over. A file that can't be removed isn't used.
    pub(crate) fn take(path: &Path) -> Result<Option<Self>, Unusable> {
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            metadata => metadata?,
        };
        let read = match metadata.len() {
            _ if !metadata.is_file() => Err(Unusable::Damaged("it is not a regular file")),
            0..=FILE_MAX => Self::from_bytes(&fs::read(path)?),
            _ => Err(Unusable::Damaged("it is too long")),
        };
        match read {
            Err(Unusable::Damaged(_)) => _ = damaged_file::set_aside(path)?,
            _ => fs::remove_file(path)?,
        }
        read.map(Some)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + 64 + self.flows.len() * FLOW_LEN);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.written.boot);
        bytes.extend(self.written.at_ms.to_le_bytes());
        put_section(&mut bytes, LINKS, |bytes| {
            for text in self.links.iter().flat_map(|name| [&name.link, &name.pod]) {
                bytes.extend((text.len() as u16).to_le_bytes());
                bytes.extend(text.as_bytes());
            }
        });
        put_section(&mut bytes, FLOWS, |bytes| {
            self.flows.iter().for_each(|flow| put_flow(bytes, flow));
        });
        put_section(&mut bytes, FRONTENDS, |bytes| {
            for (position, flow) in self.flows.iter().enumerate() {
                let Some(L4Addr { address, port }) = flow.frontend else { continue };
                bytes.extend((position as u32).to_le_bytes());
                bytes.extend(address.bits().to_le_bytes());
                bytes.extend(port.to_le_bytes());
            }
        });
        let sum = crc32c::crc32c(&bytes);
        bytes.extend(sum.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, Unusable> {
        let mut header = Reader(bytes);
        if header.take(8)? != MAGIC {
            return Err(Unusable::Damaged("it has another magic number"));
        }
        // Before the checksum, which another version may have elsewhere.
        match header.u16()? {
            VERSION => {}
            other => return Err(Unusable::Version(other)),
        }
        let (checked, sum) = bytes
            .split_last_chunk::<4>()
            .map(|(all, sum)| (all, u32::from_le_bytes(*sum)))
            .ok_or(SHORT)?;
        if crc32c::crc32c(checked) != sum {
            return Err(Unusable::Damaged("its checksum is wrong"));
        }
        let mut reader = Reader(checked.get(12..).ok_or(SHORT)?);
        let written = Moment { boot: reader.array()?, at_ms: reader.u64()? };
        let (mut links, mut flows) = (Vec::new(), Vec::new());
        while !reader.0.is_empty() {
            let kind = reader.u16()?;
            reader.take(2)?;
            let len = reader.u32()?;
            let mut section = Reader(reader.take(len as usize)?);
            while !section.0.is_empty() {
                match kind {
                    LINKS => {
                        links.push(NamedLink { link: section.text()?, pod: section.text()? });
                    }
                    FLOWS if flows.len() < FLOWS_MAX => flows.push(section.flow()?),
                    FLOWS => return Err(Unusable::Damaged("it has too many flows")),
                    FRONTENDS => {
                        let position = section.u32()? as usize;
                        let frontend = L4Addr { address: section.address()?, port: section.u16()? };
                        let flow: &mut SavedFlow = flows
                            .get_mut(position)
                            .ok_or(Unusable::Damaged("it has a service without a flow"))?;
                        flow.frontend = Some(frontend);
                    }
                    _ => break,
                }
            }
        }
        if links.len() >= usize::from(u16::MAX) {
            return Err(Unusable::Damaged("it has too many links"));
        }
        Ok(Self { written, links, flows })
    }
}

/// Puts the numbers in place of a flow's links; false if one has none.
fn renumber(flow: &mut SavedFlow, numbers: &HashMap<LinkId, LinkId>) -> bool {
    let FlowLinks { opener, responder } = flow.links;
    let (opener, responder) = (numbers.get(&opener), numbers.get(&responder));
    let (Some(opener), Some(responder)) = (opener, responder) else { return false };
    flow.links = FlowLinks::new(*opener, *responder);
    true
}

fn put_section(bytes: &mut Vec<u8>, kind: u16, put: impl FnOnce(&mut Vec<u8>)) {
    bytes.extend(kind.to_le_bytes());
    bytes.extend([0; 2]);
    let at = bytes.len();
    bytes.extend([0; 4]);
    put(bytes);
    let len = (bytes.len() - at - 4) as u32;
    bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

/// Source and destination address (16 bytes each), source and destination port (2 each), protocol,
/// ICMP type, TCP state, flags ([`PICKED_UP`], [`SENDER_SHIFT`], [`DETACHED_SHIFT`]; 1 each), links
/// of the opener and of the other end (2 each), milliseconds since the last packet (4), packets
/// from the opener and to it, bytes likewise (8 each).
fn put_flow(bytes: &mut Vec<u8>, flow: &SavedFlow) {
    let SavedFlow { tuple, links, tcp, picked_up, sender, idle_ms, .. } = flow;
    let detached = L7Protocol::ALL.iter().position(|protocol| flow.detached == Some(*protocol));
    let detached = detached.map_or(0, |position| position as u8 + 1);
    let flags = if *picked_up { PICKED_UP } else { 0 }
        | sender.number() << SENDER_SHIFT
        | detached << DETACHED_SHIFT;
    bytes.extend(tuple.src.bits().to_le_bytes());
    bytes.extend(tuple.dst.bits().to_le_bytes());
    bytes.extend(tuple.src_port.to_le_bytes());
    bytes.extend(tuple.dst_port.to_le_bytes());
    bytes.extend([tuple.protocol, flow.icmp_type(), tcp_number(*tcp), flags]);
    for link in [links.opener, links.responder] {
        bytes.extend(link.0.to_le_bytes());
    }
    bytes.extend(idle_ms.to_le_bytes());
    flow.packets.iter().chain(&flow.bytes).for_each(|number| bytes.extend(number.to_le_bytes()));
}

/// TCP states by their number in the file.
const TCP_STATES: [tcp::State; 9] = [
    tcp::State::SynSent,
    tcp::State::SynReceived,
    tcp::State::Established,
    tcp::State::HalfClosed(FlowDirection::Original),
    tcp::State::HalfClosed(FlowDirection::Reply),
    tcp::State::TimeWait,
    tcp::State::Reset(FlowDirection::Original),
    tcp::State::Reset(FlowDirection::Reply),
    tcp::State::Closed,
];

fn tcp_number(state: tcp::State) -> u8 {
    // Nine states are in the table, and there are no others.
    TCP_STATES.iter().position(|known| *known == state).unwrap_or(TCP_STATES.len()) as u8
}

const SHORT: Unusable = Unusable::Damaged("it ends too early");

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8], Unusable> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const LEN: usize>(&mut self) -> Result<[u8; LEN], Unusable> {
        self.take(LEN)?.try_into().map_err(|_| SHORT)
    }

    fn u16(&mut self) -> Result<u16, Unusable> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Unusable> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Unusable> {
        self.array().map(u64::from_le_bytes)
    }

    fn address(&mut self) -> Result<Address, Unusable> {
        self.array().map(u128::from_le_bytes).map(Address::from_bits)
    }

    fn text(&mut self) -> Result<String, Unusable> {
        let len = self.u16()?;
        let text = self.take(len.into())?.to_vec();
        String::from_utf8(text).map_err(|_| Unusable::Damaged("a name is not UTF-8"))
    }

    fn flow(&mut self) -> Result<SavedFlow, Unusable> {
        let (src, dst) = (self.address()?, self.address()?);
        let (src_port, dst_port) = (self.u16()?, self.u16()?);
        let [protocol, _icmp_type, tcp, flags] = self.array()?;
        let sender = ProvenSender::from_number(flags >> SENDER_SHIFT & ProvenSender::BITS);
        let detached = usize::from(flags >> DETACHED_SHIFT & DETACHED_BITS);
        let detached = detached.checked_sub(1).and_then(|at| L7Protocol::ALL.get(at).copied());
        let tcp = TCP_STATES.get(usize::from(tcp)).copied();
        Ok(SavedFlow {
            tuple: Tuple { src, dst, src_port, dst_port, protocol },
            links: FlowLinks::new(LinkId(self.u16()?), LinkId(self.u16()?)),
            frontend: None,
            tcp: tcp.ok_or(Unusable::Damaged("a TCP state is unknown"))?,
            picked_up: flags & PICKED_UP != 0,
            detached,
            sender,
            idle_ms: self.u32()?,
            packets: [self.u64()?, self.u64()?],
            bytes: [self.u64()?, self.u64()?],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: LinkId = LinkId(0);

    fn at(at_ms: u64) -> Moment {
        Moment { boot: [7; 16], at_ms }
    }

    fn name(text: &str) -> NamedLink {
        NamedLink { link: format!("veth-{text}"), pod: format!("shop/{text}") }
    }

    fn any_flow(links: u16) -> impl Strategy<Value = SavedFlow> {
        let address = || any::<u128>().prop_map(Address::from_bits);
        let tuple = (address(), address(), any::<(u16, u16, u8)>());
        let tuple = tuple.prop_map(|(src, dst, (src_port, dst_port, protocol))| Tuple {
            src,
            dst,
            src_port,
            dst_port,
            protocol,
        });
        let link = move || (0..=links).prop_map(LinkId);
        let links = (link(), link()).prop_map(|(a, b)| FlowLinks::new(a, b));
        let senders = vec![ProvenSender::Node, ProvenSender::Destination, ProvenSender::Unknown];
        let detached = prop::option::of(prop::sample::select(&L7Protocol::ALL[..]));
        let opened = (any::<bool>(), prop::sample::select(senders), detached);
        let frontend = (any::<u128>(), any::<u16>())
            .prop_map(|(bits, port)| L4Addr { address: Address::from_bits(bits), port });
        let frontend = prop::option::of(frontend);
        let state = (frontend, prop::sample::select(&TCP_STATES[..]), opened);
        let counted = any::<(u32, [u64; 2], [u64; 2])>();
        (tuple, links, state, counted).prop_map(|(tuple, links, state, counted)| {
            let (frontend, tcp, (picked_up, sender, detached)) = state;
            let (idle_ms, packets, bytes) = counted;
            SavedFlow {
                tuple,
                links,
                frontend,
                tcp,
                picked_up,
                detached,
                sender,
                idle_ms,
                packets,
                bytes,
            }
        })
    }

    fn any_file() -> impl Strategy<Value = FlowsFile> {
        let flows = proptest::collection::vec(any_flow(2), 0..20);
        (flows, any::<u64>(), any::<[u8; 16]>()).prop_map(|(flows, at_ms, boot)| FlowsFile {
            written: Moment { boot, at_ms },
            links: vec![name("cart"), name("db")],
            flows,
        })
    }

    fn sample() -> FlowsFile {
        let tuple = Tuple {
            src: Address::v4([10, 0, 0, 1]),
            dst: Address::v4([10, 0, 0, 2]),
            src_port: 40_000,
            dst_port: 80,
            protocol: 6,
        };
        let flow = SavedFlow {
            tuple,
            links: FlowLinks::new(LinkId(3), LinkId(5)),
            frontend: None,
            tcp: tcp::State::Established,
            picked_up: false,
            detached: None,
            sender: ProvenSender::Unknown,
            idle_ms: 250,
            packets: [3, 4],
            bytes: [180, 240],
        };
        let to_host = SavedFlow { links: FlowLinks::new(LinkId(5), HOST), ..flow.clone() };
        let unnamed = SavedFlow { links: FlowLinks::new(LinkId(3), LinkId(9)), ..flow.clone() };
        let slots = [(LinkId(3), name("cart")), (LinkId(5), name("db"))];
        FlowsFile::new(at(5000), vec![flow, to_host, unnamed], HOST, slots.into_iter())
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(file in any_file()) {
            prop_assert_eq!(FlowsFile::from_bytes(&file.to_bytes()), Ok(file));
        }

        #[test]
        fn no_bytes_make_it_panic(mut bytes in any::<Vec<u8>>(), with_frame in any::<bool>()) {
            if with_frame {
                // Past the checks of the frame, so that the sections are read.
                let mut framed = sample().to_bytes()[..HEADER_LEN].to_vec();
                framed.append(&mut bytes);
                framed.extend(crc32c::crc32c(&framed).to_le_bytes());
                bytes = framed;
            }
            let _ = FlowsFile::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_change_of_any_byte_and_any_cut_is_noticed() {
        let good = sample().to_bytes();
        for at in 0..good.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                assert!(FlowsFile::from_bytes(&bad).is_err(), "byte {at}");
            }
            assert!(FlowsFile::from_bytes(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn links_are_found_by_their_names_and_silence_goes_on() {
        let slots = HashMap::from([(name("cart"), LinkId(8)), (name("db"), LinkId(2))]);
        let flows = sample().flows_now(at(7500), HOST, &slots).unwrap();
        let links: Vec<_> = flows.iter().map(|flow| flow.links).collect();
        let expected = [FlowLinks::new(LinkId(8), LinkId(2)), FlowLinks::new(LinkId(2), HOST)];
        assert_eq!(links, expected);
        assert_eq!(flows[0].idle_ms, 2750);
        // Another pod behind the link, or the pod behind another link, has no such connections.
        let other = NamedLink { pod: "shop/other".into(), ..name("cart") };
        let slots = HashMap::from([(other, LinkId(8)), (name("db"), LinkId(2))]);
        assert_eq!(sample().flows_now(at(7500), HOST, &slots).unwrap().len(), 1);
    }

    #[test]
    fn old_files_and_those_of_another_boot_or_of_the_future_are_not_used() {
        let flows = |now| sample().flows_now(now, HOST, &HashMap::new()).map(|flows| flows.len());
        assert_eq!(flows(at(5000 + AGE_MAX_MS)), Ok(0));
        assert_eq!(flows(at(6000 + AGE_MAX_MS)), Err(Unusable::TooOld(601)));
        assert_eq!(flows(Moment { boot: [8; 16], at_ms: 5000 }), Err(Unusable::OtherBoot));
        assert!(matches!(flows(at(4999)), Err(Unusable::Damaged(_))));
    }

    #[test]
    fn sections_of_later_versions_are_passed_over_and_other_versions_are_not_read() {
        let mut bytes = sample().to_bytes();
        bytes.truncate(bytes.len() - 4);
        put_section(&mut bytes, 77, |bytes| bytes.extend(b"inspected"));
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        assert_eq!(FlowsFile::from_bytes(&bytes), Ok(sample()));
        bytes[8] = 2;
        assert_eq!(FlowsFile::from_bytes(&bytes), Err(Unusable::Version(2)));
    }

    #[test]
    fn a_file_is_read_once_and_a_damaged_one_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows.state");
        assert_eq!(FlowsFile::take(&path), Ok(None));
        sample().write(&path).unwrap();
        assert_eq!(FlowsFile::take(&path), Ok(Some(sample())));
        assert_eq!(FlowsFile::take(&path), Ok(None));
        fs::write(&path, "rubbish").unwrap();
        assert!(matches!(FlowsFile::take(&path), Err(Unusable::Damaged(_))));
        let aside = damaged_file::set_aside_before(&path);
        assert_eq!(fs::read(&aside[0]).unwrap(), b"rubbish");
        assert_eq!(FlowsFile::take(&path), Ok(None));
        // A directory can't replace the file that was set aside before.
        fs::create_dir(&path).unwrap();
        assert!(matches!(FlowsFile::take(&path), Err(Unusable::Damaged(_))));
        assert_eq!(FlowsFile::take(&path), Ok(None));
        // A device or a FIFO may have no end, or none to write to it.
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        let irregular = Err(Unusable::Damaged("it is not a regular file"));
        assert_eq!(FlowsFile::take(&path), irregular);
        assert_eq!(FlowsFile::take(&path), Ok(None));
    }

    #[test]
    fn this_moment_is_of_one_boot_and_goes_on() {
        let (first, second) = (Moment::now().unwrap(), Moment::now().unwrap());
        assert_eq!(first.boot, second.boot);
        assert!(first.at_ms > 0 && first.at_ms <= second.at_ms);
    }
}
