//! Responses, and the addresses that they have for the queried name.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::records::{Record, Records};
use super::{CLASS_IN, DnsName, Header, Malformed, Question, kind, rcode, word};
use crate::address::Address;

/// Aliases that are followed from the queried name. Resolvers give up after about as many.
const ALIASES_MAX: usize = 16;
/// Names of CNAME records that are read to follow them: a response may have thousands of records,
/// and is read once for each alias that is out of order.
const ALIAS_READS_MAX: usize = 1024;
/// Targets of SRV records whose addresses are taken from the same response.
const TARGETS_MAX: usize = 16;

/// Keys of service parameters (RFC 9460 §14.3.2).
const IPV4_HINT: u16 = 4;
const IPV6_HINT: u16 = 6;

/// A well-formed response.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    /// Header.
    pub header: Header,
    /// What was asked for. None in a response that only says that the query failed.
    pub question: Option<Question>,
    answers: Records<'a>,
    /// Authorities and additional records.
    others: Records<'a>,
}

impl<'a> Response<'a> {
    /// Parses what a server sends.
    ///
    /// # Errors
    /// [`Malformed`] also for a query, and for another number of questions than one, unless the
    /// response is only an error, with or without EDNS.
    pub fn parse(message: &'a [u8]) -> Result<Self, Malformed> {
        let header = Header::parse(message).filter(Header::is_response).ok_or(Malformed)?;
        let [questions, answers, authorities, additionals] = header.counts;
        if [questions, answers, authorities] == [0; 3] {
            return Self::without_question(message, header);
        }
        if questions != 1 || header.opcode() != 0 {
            return Err(Malformed);
        }
        let question = Question::read(message)?;
        let (at, left) = (question.end, [answers, authorities, additionals].map(u32::from));
        let mut records = Records { message, at, left: left.iter().sum() };
        let (mut others, behind) = (records.clone(), records.left - left[0]);
        while let Some(record) = records.next()? {
            if records.left >= behind {
                others = records.clone();
            }
            let is_in = record.class == CLASS_IN;
            let len = record.data.len();
            match record.kind {
                kind::A if is_in && len != 4 => return Err(Malformed),
                kind::AAAA if is_in && len != 16 => return Err(Malformed),
                _ => {}
            }
        }
        if records.at != message.len() {
            return Err(Malformed);
        }
        let answers = Records { message, at, left: left[0] };
        Ok(Self { header, question: Some(question), answers, others })
    }

    /// An error of a server that did not read the question, or doesn't know the version of EDNS
    /// (RFC 6891 §6.1.3): a header, and an OPT record at most.
    fn without_question(message: &'a [u8], header: Header) -> Result<Self, Malformed> {
        let left = u32::from(header.counts[3]);
        let mut records = Records { message, at: super::HEADER_LEN, left };
        let mut extended = 0;
        if let Some(record) = records.next()? {
            // RFC 6891 §6.1.1: its owner is the root.
            if record.kind != kind::OPT || message[record.owner] != 0 {
                return Err(Malformed);
            }
            // RFC 6891 §6.1.3: the upper bits of the response code.
            extended = record.ttl >> 24;
        }
        let is_error = header.rcode() != rcode::NO_ERROR || extended > 0;
        if !is_error || records.left > 0 || records.at != message.len() {
            return Err(Malformed);
        }
        Ok(Self { header, question: None, others: records.clone(), answers: records })
    }

    /// The addresses of the queried name: those of A and AAAA records of the name itself or of the
    /// one that its chain of CNAME records leads to, hints of its HTTPS and SVCB records, and
    /// addresses of the targets of its SRV records that come with them. Records of other names are
    /// ignored.
    #[must_use]
    pub fn addresses(&self) -> Addresses<'a> {
        let (owner, ttl) = self.canonical_name().unzip();
        let mut records = self.answers.clone();
        if owner.is_none() {
            records.left = 0;
        }
        let is_srv = self.question.as_ref().is_some_and(|question| question.kind == kind::SRV);
        let mut others = self.others.clone();
        if !is_srv || owner.is_none() {
            others.left = 0;
        }
        let ttl = ttl.unwrap_or(0);
        let targets = match &owner {
            Some(owner) if is_srv => Targets::read(records.clone(), owner, ttl),
            _ => Targets::default(),
        };
        Addresses { records, others, owner, ttl, targets, hints: Hints::default() }
    }

    /// The name at the end of the chain of aliases, and the least TTL on the way. `None` if the
    /// chain is too long or a loop, if there is no name, or if finding it takes too long.
    fn canonical_name(&self) -> Option<(DnsName, u32)> {
        let mut name = self.question.as_ref()?.name;
        let (mut ttl, mut aliases, mut reads) = (u32::MAX, 0, 0);
        loop {
            // Once, if the records are in order, as nearly always.
            let before = aliases;
            let mut records = self.answers.clone();
            while let Some(record) = records.next().ok()? {
                if record.kind != kind::CNAME {
                    continue;
                }
                reads += 1;
                if reads > ALIAS_READS_MAX {
                    return None;
                }
                if !is_owned_by(self.answers.message, &record, &name) {
                    continue;
                }
                let (target, end) = DnsName::read(self.answers.message, record.data.start).ok()?;
                if end != record.data.end || aliases == ALIASES_MAX {
                    return None;
                }
                (name, ttl, aliases) = (target, ttl.min(record.ttl), aliases + 1);
            }
            if aliases == before {
                return name.is_unambiguous().then_some((name, ttl));
            }
        }
    }
}

fn is_owned_by(message: &[u8], record: &Record, name: &DnsName) -> bool {
    record.class == CLASS_IN
        && DnsName::read(message, record.owner).is_ok_and(|(owner, _)| owner.is_same(name))
}

/// Addresses of a response, each with the seconds for which it may be used; see
/// [`Response::addresses`]. Addresses that no packet may have as its destination are left out.
#[derive(Clone, Debug)]
pub struct Addresses<'a> {
    /// Answers that were not read yet.
    records: Records<'a>,
    /// Records after the answers that were not read yet.
    others: Records<'a>,
    owner: Option<DnsName>,
    /// The least TTL of the aliases.
    ttl: u32,
    targets: Targets,
    hints: Hints,
}

/// Targets of SRV records, in their order, each with the TTL of its record and the aliases. They
/// are read once: a response may have thousands of records to compare with each of them.
#[derive(Clone, Debug)]
struct Targets {
    names: [DnsName; TARGETS_MAX],
    ttls: [u32; TARGETS_MAX],
    count: usize,
}

impl Default for Targets {
    fn default() -> Self {
        Self { names: [DnsName::ROOT; TARGETS_MAX], ttls: [0; TARGETS_MAX], count: 0 }
    }
}

impl Targets {
    /// Those of the SRV records of `owner` among `answers`, up to one that can't be read.
    fn read(mut answers: Records<'_>, owner: &DnsName, ttl: u32) -> Self {
        let mut targets = Self::default();
        while targets.count < TARGETS_MAX
            && let Ok(Some(srv)) = answers.next()
        {
            if srv.kind != kind::SRV || !is_owned_by(answers.message, &srv, owner) {
                continue;
            }
            // After priority, weight and port.
            let Ok((target, end)) = DnsName::read(answers.message, srv.data.start + 6) else {
                break;
            };
            if end != srv.data.end {
                continue;
            }
            targets.names[targets.count] = target;
            targets.ttls[targets.count] = srv.ttl.min(ttl);
            targets.count += 1;
        }
        targets
    }

    /// The TTL of the first target that is `name`.
    fn ttl_of(&self, name: &DnsName) -> Option<u32> {
        let mut targets = self.names.iter().zip(self.ttls).take(self.count);
        targets.find(|(target, _)| target.is_same(name)).map(|(_, ttl)| ttl)
    }
}

/// What is left of a list of hints.
#[derive(Clone, Debug, Default)]
struct Hints {
    /// Service parameters that were not read yet.
    params: Range<usize>,
    /// Addresses of the current one, and their length.
    values: Range<usize>,
    size: usize,
    ttl: u32,
}

impl Iterator for Addresses<'_> {
    type Item = (Address, u32);

    fn next(&mut self) -> Option<(Address, u32)> {
        loop {
            let (address, ttl) = match self.next_hint() {
                Some(address) => (address, self.hints.ttl),
                None => {
                    let Some(record) = self.records.next().ok()? else {
                        return self.next_of_target();
                    };
                    let message = self.records.message;
                    let ttl = record.ttl.min(self.ttl);
                    let owner = self.owner.as_ref()?;
                    if !is_owned_by(message, &record, owner) {
                        continue;
                    }
                    if matches!(record.kind, kind::SVCB | kind::HTTPS) {
                        self.hints = Hints { ttl, ..Hints::of(message, &record) };
                        continue;
                    }
                    let is_address = matches!(record.kind, kind::A | kind::AAAA);
                    let data = &message[record.data];
                    match address(data).filter(|_| is_address) {
                        Some(address) => (address, ttl),
                        None => continue,
                    }
                }
            };
            return Some((address, ttl));
        }
    }
}

impl Addresses<'_> {
    /// The next address after the answers that a target of an SRV record has (RFC 2782).
    fn next_of_target(&mut self) -> Option<(Address, u32)> {
        if self.targets.count == 0 {
            return None;
        }
        while let Some(record) = self.others.next().ok()? {
            if record.class != CLASS_IN || !matches!(record.kind, kind::A | kind::AAAA) {
                continue;
            }
            let message = self.others.message;
            let Some(address) = address(&message[record.data.clone()]) else { continue };
            let Ok((owner, _)) = DnsName::read(message, record.owner) else { continue };
            if let Some(ttl) = self.targets.ttl_of(&owner) {
                return Some((address, record.ttl.min(ttl)));
            }
        }
        None
    }

    fn next_hint(&mut self) -> Option<Address> {
        let (message, hints) = (self.records.message, &mut self.hints);
        loop {
            while hints.size > 0 && hints.values.len() >= hints.size {
                let end = hints.values.start + hints.size;
                let value = &message[hints.values.start..end];
                hints.values.start = end;
                if let Some(address) = address(value) {
                    return Some(address);
                }
            }
            if hints.params.len() < 4 {
                return None;
            }
            let at = hints.params.start;
            let (key, len) = (word(message, at).ok()?, word(message, at + 2).ok()?);
            hints.values = at + 4..at + 4 + usize::from(len);
            if hints.values.end > hints.params.end {
                *hints = Hints::default();
                return None;
            }
            hints.params.start = hints.values.end;
            hints.size = match key {
                IPV4_HINT => 4,
                IPV6_HINT => 16,
                _ => 0,
            };
        }
    }
}

impl Hints {
    /// Those of a service record: a priority, a name, and parameters (RFC 9460 §2.2). A priority of
    /// zero makes it an alias, without parameters.
    fn of(message: &[u8], record: &Record) -> Self {
        let data = record.data.clone();
        let is_service = word(message, data.start).is_ok_and(|priority| priority > 0);
        match DnsName::skip(message, data.start + 2) {
            Ok(at) if is_service && at <= data.end => {
                Self { params: at..data.end, ..Self::default() }
            }
            _ => Self::default(),
        }
    }
}

/// The address of a record's data.
fn address(data: &[u8]) -> Option<Address> {
    if let Ok(bytes) = <[u8; 4]>::try_from(data) {
        let ip = Ipv4Addr::from(bytes);
        let is_host = !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast();
        return is_host.then(|| Address::v4(bytes));
    }
    let bytes = <[u8; 16]>::try_from(data).ok()?;
    let ip = Ipv6Addr::from(bytes);
    // A mapped address would stand for an IPv4 address here.
    let is_host = !ip.is_unspecified() && !ip.is_multicast() && ip.to_ipv4_mapped().is_none();
    is_host.then(|| Address::v6(bytes))
}
