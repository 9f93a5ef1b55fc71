//! Queries, and the verdict on them.

use std::ops::Range;

use super::records::Records;
use super::{CLASS_IN, Header, Malformed, Question, kind, word};
use crate::l7::{L7Policy, L7Request, L7Verdict};

/// EDNS option: cookies (RFC 7873).
const OPTION_COOKIE: u16 = 10;

/// A query that can be decided.
#[derive(Clone, Debug)]
pub struct Query {
    /// Header.
    pub header: Header,
    /// What is asked for.
    pub question: Question,
    /// What the query says by EDNS, if it uses it.
    pub edns: Option<Edns>,
}

/// What a query's OPT record says (RFC 6891 §6.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edns {
    /// Whether signatures are wanted ("DO").
    pub dnssec_ok: bool,
    /// Where the data of a cookie option lies in the message.
    pub cookie: Option<Range<usize>>,
}

/// Why a message from a client can't be decided by rules, so that it is denied.
#[derive(Clone, Debug)]
pub enum QueryError {
    /// It is a response, or shorter than a header: it can't be answered.
    NotAQuery,
    /// It is malformed, or has another number of questions than one.
    Malformed(Header),
    /// It is something else than a standard query: an update, a notification.
    Opcode(Header),
    /// Rules can't decide it: another class than IN, a zone transfer, or a name with a dot in a
    /// label.
    Undecidable(Box<Query>),
}

impl Query {
    /// Parses what a client sends.
    ///
    /// # Errors
    /// [`QueryError`] if rules can't decide it.
    pub fn parse(message: &[u8]) -> Result<Self, QueryError> {
        let header = Header::parse(message).filter(|header| !header.is_response());
        let header = header.ok_or(QueryError::NotAQuery)?;
        if header.opcode() != 0 {
            return Err(QueryError::Opcode(header));
        }
        let query =
            Self::read(message, header).map_err(|Malformed| QueryError::Malformed(header))?;
        let Question { name, kind, class, .. } = &query.question;
        let is_transfer = matches!(*kind, kind::AXFR | kind::IXFR);
        match *class == CLASS_IN && !is_transfer && name.is_unambiguous() {
            true => Ok(query),
            false => Err(QueryError::Undecidable(Box::new(query))),
        }
    }

    fn read(message: &[u8], header: Header) -> Result<Self, Malformed> {
        let [questions, answers, authorities, additionals] = header.counts;
        // An incremental transfer, which is denied anyway, has an authority record.
        if (questions, answers) != (1, 0) || header.is_truncated() {
            return Err(Malformed);
        }
        let question = Question::read(message)?;
        if authorities > u16::from(question.kind == kind::IXFR) {
            return Err(Malformed);
        }
        let left = u32::from(authorities) + u32::from(additionals);
        let mut records = Records { message, at: question.end, left };
        let mut edns = None;
        while let Some(record) = records.next()? {
            if record.kind != kind::OPT {
                continue;
            }
            // RFC 6891 §6.1.1: one at most, and its owner is the root.
            if edns.is_some() || message[record.owner] != 0 {
                return Err(Malformed);
            }
            let cookie = cookie(message, record.data.clone())?;
            edns = Some(Edns { dnssec_ok: record.ttl & 0x8000 != 0, cookie });
        }
        match records.at == message.len() {
            true => Ok(Self { header, question, edns }),
            false => Err(Malformed),
        }
    }
}

/// Where the cookie lies in an OPT record's data, which is a list of options.
fn cookie(message: &[u8], mut data: Range<usize>) -> Result<Option<Range<usize>>, Malformed> {
    let mut cookie = None;
    while !data.is_empty() {
        let (code, len) = (word(message, data.start)?, word(message, data.start + 2)?);
        let value = data.start + 4..data.start + 4 + usize::from(len);
        if value.end > data.end {
            return Err(Malformed);
        }
        data.start = value.end;
        // RFC 7873 §4: other lengths are not cookies.
        if code == OPTION_COOKIE && matches!(value.len(), 8 | 16..=40) {
            cookie = Some(value);
        }
    }
    Ok(cookie)
}

/// Decides a query by the rules of its flow.
#[must_use]
pub fn decide(query: &Query, policy: &L7Policy) -> L7Verdict {
    policy.decide(&L7Request::Dns(query.question.name.text()))
}
