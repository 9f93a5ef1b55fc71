//! Test support for several crates: workers on memory links, builders of frames and tables, a
//! recording `FlowIo`, and real TCP stacks over a lossy network.
//!
//! Everything here panics when the code under test fails. The unit tests of `podgate-dataplane`
//! can't use it: this crate links `podgate-dataplane` as a library, whose types differ from those
//! of the test build. Integration tests, other crates and `fuzz/` can.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a failed step fails the test")]

mod counters;
mod early_bytes;
mod frames;
mod inspect;
mod io;
mod kafka;
pub mod lossy;
mod random;
mod rig;
mod tables;
pub mod tcp_stack;
mod tls;

pub use counters::{Count, Counts};
pub use early_bytes::EarlyBytes;
pub use frames::{
    TcpPacket, cut, echo, ethernet, is_reset, link_mac, pod_mac, sctp, set_flags, tcp, udp, udp_v6,
    unreachable,
};
pub use inspect::{Connection, Stream, docs_only, http1_corpus};
pub use io::{Outgoing, RecordingIo, make_partial};
pub use kafka::kafka_request;
pub use random::Random;
pub use rig::{Rig, RigConfig};
pub use tables::{
    A, ADDRESSES, ADDRESSES_V6, B, DENY_SET, HOST, IngressOfB, LABELS_OF_A, MTU, OUTSIDE, RULE,
    closed, guarded, snapshot, snapshot_with,
};
pub use tls::{
    ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, Conversation, HANDSHAKE, client_hello,
    client_hello_message, conversations, from_hex, hello_retry_request, server_hello, tls_record,
};
