//! The stream editor with the HTTP/1 inspector, between model stacks.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod answers;
mod bounds;
mod ending;
mod hostile;
mod http2;
mod lab;
mod opening;
mod stream;

use podgate_dataplane::l7::editor::{HISTORY_MAX, QUEUE_MS, UNDECIDED_MS};
use podgate_dataplane::l7::http1::{
    FORBIDDEN, FORBIDDEN_CLOSE, HEAD_TOO_LARGE, REQUEST_TIMEOUT, bad_request,
};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, ResponseStatus};
use podgate_tables::l7::http1::Flaw;
use podgate_tables::tcp_flags::{ACK, FIN, PSH, RST, SYN, URG};
use podgate_test_support::http1_corpus as corpus;

use lab::{CLIENT, Lab, Options, RESPONSE, SERVER};

const DOCS: &[u8] = b"GET /docs HTTP/1.1\r\nHost: backend\r\n\r\n";
const SECRET: &[u8] = b"GET /secr HTTP/1.1\r\nHost: backend\r\n\r\n";

fn lab() -> Lab {
    Lab::open(Options::default())
}

/// Every combination of headers and frame sizes that the editor has to edit.
fn all_options() -> impl Iterator<Item = Options> {
    (0..16).map(|bits| Options {
        v6: bits & 1 != 0,
        vlan: bits & 2 != 0,
        timestamps: bits & 4 != 0,
        frame: if bits & 8 != 0 { 128 } else { Options::default().frame },
        ..Options::default()
    })
}

/// What the server got and the client got for a stream sent in `pieces` (offset and length).
fn run_pieces(stream: &[u8], pieces: &[(usize, usize)], options: Options) -> (Vec<u8>, Vec<u8>) {
    let mut lab = Lab::open(options);
    for (offset, len) in pieces {
        lab.client_sends(*offset as u32, &stream[*offset..offset + len], 0);
        lab.exchange();
    }
    lab.wait_millis(60);
    assert!(lab.verdicts().iter().filter(|allowed| !**allowed).count() <= 1);
    (lab.server.received.clone(), lab.client.received.clone())
}

fn in_segments(len: usize, size: usize) -> Vec<(usize, usize)> {
    (0..len).step_by(size).map(|at| (at, size.min(len - at))).collect()
}
