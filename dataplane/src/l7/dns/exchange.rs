//! The queries of one flow, and which responses answer them.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use podgate_tables::address::Address;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{
    DnsQuestion, DnsResult, EventKind, RequestRecord, ResponseStatus, Text,
};
use podgate_tables::ids::{LinkId, RuleId};
use podgate_tables::l7::dns::{self, Header, Query, QueryError, Question, Response, rcode};
use podgate_tables::l7::{L7Policy, L7Verdict};
use podgate_tables::time::Nanos;

use super::learned::{AnswerAddress, AnswerRing, records};
use super::{Denied, Reply};

/// Queries of one flow that may wait for their answers. Stub resolvers have two, forwarders and
/// load generators up to a hundred.
pub const OUTSTANDING_MAX: usize = 128;
/// Time in which a query must be answered, milliseconds. Resolvers give up after about ten seconds.
pub const QUERY_MS: u64 = 30_000;

/// Entries that are kept allocated for the next flow.
const REUSED_MAX: usize = 8;

/// A query that was forwarded.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    /// Keyed hash of the question.
    question: u64,
    since: Nanos,
    id: u16,
}

/// The queries of one flow that wait for their answers.
#[derive(Debug, Default)]
pub struct Exchange {
    outstanding: Vec<Outstanding>,
    /// A server can't find another question with the same hash without the key.
    hasher: RandomState,
}

/// What happens to a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueryOutcome {
    /// It goes to the server. `replaced` says that the oldest query that waited for an answer was
    /// forgotten for it.
    Pass {
        /// Whether there were [`OUTSTANDING_MAX`] others.
        replaced: bool,
    },
    /// It is answered by us.
    Answer,
    /// It is dropped.
    Drop,
}

/// A response to an outstanding query.
#[derive(Debug)]
pub struct Answered<'a> {
    response: Response<'a>,
    asked: Nanos,
}

impl Exchange {
    /// Whether one more query would replace one that may still be answered.
    #[must_use]
    pub fn is_full(&self, now: Nanos) -> bool {
        self.outstanding.len() >= OUTSTANDING_MAX
            && self.outstanding.iter().all(|query| is_recent(query, now))
    }

    /// Forgets all queries, for the next flow.
    pub fn clear(&mut self) {
        self.outstanding.clear();
        if self.outstanding.capacity() > REUSED_MAX {
            self.outstanding = Vec::new();
        }
    }

    /// Decides a message from the client, and writes the answer to `reply` if it is answered by us.
    /// Also returns what to report.
    pub fn query(
        &mut self,
        now: Nanos,
        policy: &L7Policy,
        denied: Denied,
        message: &[u8],
        reply: &mut Reply,
    ) -> (QueryOutcome, EventKind) {
        let query = match Query::parse(message) {
            Ok(query) => query,
            Err(error) => return undecidable(&error, message, reply),
        };
        match dns::decide(&query, policy) {
            L7Verdict::Allow { rule } => {
                let event = request(&query.question, Ok(rule));
                let replaced = self.add(now, query.header.id, self.hash(&query.question));
                (QueryOutcome::Pass { replaced }, event)
            }
            L7Verdict::Deny => {
                *reply = Reply::new(&query, message, denied.rcode());
                (QueryOutcome::Answer, request(&query.question, Err(DropReason::L7Denied)))
            }
        }
    }

    fn add(&mut self, now: Nanos, id: u16, question: u64) -> bool {
        let new = Outstanding { question, since: now, id };
        let same = |old: &&mut Outstanding| old.id == id && old.question == question;
        if let Some(repeated) = self.outstanding.iter_mut().find(same) {
            *repeated = new;
            return false;
        }
        if self.outstanding.len() < OUTSTANDING_MAX {
            self.outstanding.push(new);
            return false;
        }
        match self.outstanding.iter_mut().min_by_key(|old| old.since) {
            Some(oldest) => {
                let was_waited_for = is_recent(oldest, now);
                *oldest = new;
                was_waited_for
            }
            None => false,
        }
    }

    /// Finds the query that a message from the server answers. It is then no longer outstanding.
    ///
    /// # Errors
    /// The reason if the message is malformed, or answers no query.
    pub fn response<'a>(
        &mut self,
        now: Nanos,
        message: &'a [u8],
    ) -> Result<Answered<'a>, DropReason> {
        let response = Response::parse(message).map_err(|_| DropReason::L7Malformed)?;
        let question = response.question.as_ref().map(|question| self.hash(question));
        let Header { id, .. } = response.header;
        let answers = |query: &Outstanding| {
            query.id == id
                && question.is_none_or(|question| query.question == question)
                && is_recent(query, now)
        };
        let at = self.outstanding.iter().position(answers).ok_or(DropReason::DnsUnsolicited)?;
        let Outstanding { since, .. } = self.outstanding.swap_remove(at);
        Ok(Answered { response, asked: since })
    }

    /// The name is in lower case, so this does not depend on the case that was sent.
    fn hash(&self, question: &Question) -> u64 {
        self.hasher.hash_one((question.name.text(), question.kind, question.class))
    }
}

fn is_recent(query: &Outstanding, now: Nanos) -> bool {
    now < query.since.plus_millis(QUERY_MS)
}

impl Answered<'_> {
    /// A response that was matched before.
    pub(crate) fn again(message: &[u8], asked: Nanos) -> Option<Answered<'_>> {
        Response::parse(message).ok().map(|response| Answered { response, asked })
    }

    /// When the query was forwarded.
    #[must_use]
    pub const fn asked(&self) -> Nanos {
        self.asked
    }

    /// Whether it has addresses of the queried name.
    #[must_use]
    pub fn has_addresses(&self) -> bool {
        self.response.addresses().next().is_some()
    }

    /// The queried name.
    pub(super) fn name(&self) -> &[u8] {
        self.response.question.as_ref().map_or(&b""[..], |asked| asked.name.text())
    }

    /// Its addresses of that name, with their TTLs.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (Address, u32)> + Clone {
        self.response.addresses()
    }

    /// Entries that it takes on the ring to the control thread.
    #[must_use]
    pub fn records(&self) -> usize {
        records(self.addresses().count())
    }

    /// Gives its addresses to the control thread, as those that a client of link `client` asked
    /// for. Returns the ticket of their release, or `None` if there is no room.
    #[must_use]
    pub fn offer(&self, answers: &AnswerRing, client: LinkId) -> Option<u64> {
        let addresses = self.addresses();
        let count = addresses.clone().count();
        answers.offer(
            client,
            self.name(),
            count,
            addresses.map(|(address, ttl)| AnswerAddress { address, ttl }),
        )
    }

    /// What to report when it is forwarded at `now`.
    #[must_use]
    pub fn event(&self, now: Nanos) -> EventKind {
        let mut addresses = self.response.addresses();
        let first = addresses.next();
        let (address, ttl) = first.unwrap_or((Address::from_bits(0), 0));
        let result = DnsResult {
            rcode: self.response.header.rcode(),
            kind: self.response.question.as_ref().map_or(0, |question| question.kind),
            addresses: u16::from(first.is_some()).saturating_add(addresses.count() as u16),
            first: address,
            ttl,
        };
        let status = ResponseStatus::Dns(result);
        EventKind::Response { status, latency_ns: now.since(self.asked) }
    }
}

/// How a message from the client that rules can't decide is answered.
fn undecidable(error: &QueryError, message: &[u8], reply: &mut Reply) -> (QueryOutcome, EventKind) {
    let drop = |reason| EventKind::Drop { reason };
    match error {
        QueryError::NotAQuery => (QueryOutcome::Drop, drop(DropReason::L7Malformed)),
        QueryError::Malformed(header) => {
            *reply = Reply::bare(header, rcode::FORMAT_ERROR);
            (QueryOutcome::Answer, drop(DropReason::L7Malformed))
        }
        QueryError::Opcode(header) => {
            *reply = Reply::bare(header, rcode::NOT_IMPLEMENTED);
            (QueryOutcome::Answer, drop(DropReason::L7Unsupported))
        }
        QueryError::Undecidable(query) => {
            *reply = Reply::new(query, message, rcode::REFUSED);
            let event = request(&query.question, Err(DropReason::L7Unsupported));
            (QueryOutcome::Answer, event)
        }
    }
}

fn request(question: &Question, verdict: Result<Option<RuleId>, DropReason>) -> EventKind {
    let request = RequestRecord::Dns(DnsQuestion {
        name: Text::new(question.name.text()),
        kind: question.kind,
    });
    EventKind::decided(verdict, request)
}
