//! DNS inspection: queries are decided by name, and the addresses of names are learned from
//! answers.
//!
//! # Queries
//! A query that the rules allow passes; any other is answered here, and the server never sees it:
//! with the response code of [`Denied`] if the rules deny its name, REFUSED if rules can't decide
//! it (another class than IN, a zone transfer, a dot within a label), FORMERR if it is malformed,
//! NOTIMP if it is no standard query. The answer has the query's identifier and question, and EDNS
//! if the query uses it.
//!
//! # Responses
//! A response passes only if it answers an allowed query of the same flow: identifier and question
//! are equal, letters in any case, and the query is less than [`QUERY_MS`] old. So an
//! attacker who can't read the flow has to guess identifier and port, as towards any resolver, and
//! an address is learned only for a name that the client asked for and was allowed to.
//!
//! # Release
//! A response with addresses is held until the control thread has published tables that admit them
//! ([`learned`]), so that the client's first packet to such an address passes. If that takes longer
//! than [`HOLD_MS`], the response is dropped, and the client queries again. A response is not held
//! if one with the same name and addresses was recently released for the same link under the same
//! tables ([`Admitted`]).

mod admitted;
mod exchange;
pub mod learned;
mod reply;
mod stream;

use std::sync::Arc;

use learned::AnswerRing;
use podgate_tables::l7::dns::rcode;

pub use admitted::{Admitted, AnswerKey, FRESH_MS};
pub use exchange::{Answered, Exchange, OUTSTANDING_MAX, QUERY_MS, QueryOutcome};
pub use reply::{REPLY_MAX, Reply};
pub use stream::DnsStream;

/// Longest time that a response is held, milliseconds; over UDP, this long for room on the ring to
/// the control thread, and again this long for its release. Both are less than a client's timeout,
/// which is five seconds in most resolvers' configurations.
pub const HOLD_MS: u64 = 2_000;

/// How the client of a query that rules deny is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Denied {
    /// By REFUSED: most clients ask their next server.
    #[default]
    Refused,
    /// By NXDOMAIN: clients conclude that the name does not exist.
    NameError,
}

impl Denied {
    /// The response code.
    #[must_use]
    pub const fn rcode(self) -> u8 {
        match self {
            Self::Refused => rcode::REFUSED,
            Self::NameError => rcode::NAME_ERROR,
        }
    }
}

/// What DNS inspection needs of the worker.
#[derive(Clone, Debug)]
pub struct DnsContext {
    /// How denied queries are answered.
    pub denied: Denied,
    /// Where answers are learned.
    pub answers: Arc<AnswerRing>,
}
