//! HTTP's inspectors over a connection whose client may speak HTTP/2: how the bytes that an end
//! sends at once are cut into segments must not change the outcome.

use podgate_dataplane::l7::http2::BLOCK_MAX;
use podgate_dataplane::l7::inspector::Inspector;
use podgate_dataplane::l7::protocol::FlowInspector;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::tuple::FlowDirection::{self, Original, Reply};
use podgate_test_support::{Connection, docs_only};

use crate::input::Input;

/// What the server gets, how many bytes of the server pass, the verdict of each request, and why
/// both ends were reset. What the client gets of us differs: credit for several frames that come
/// together is returned at once.
type Outcome = (Vec<u8>, usize, Vec<bool>, Option<DropReason>);

/// Sends all, in pieces of `size` bytes. [`None`] if the client had to wait for the server: where
/// it continues then depends on the pieces.
fn outcome(sent: &[(FlowDirection, &[u8])], size: usize) -> Option<Outcome> {
    let policy = docs_only();
    let mut connection = Connection::<FlowInspector>::default();
    let mut is_stalled = false;
    for (direction, bytes) in sent {
        for piece in bytes.chunks(size) {
            let waiting = match direction {
                Original => connection.requests.undecided.len(),
                Reply => connection.responses.undecided.len(),
            };
            let is_first = matches!(connection.inspector, FlowInspector::Http);
            let other = connection.inspector.heap_with(direction.reverse(), 1 << 16);
            let room = connection.inspector.heap_with(*direction, waiting + piece.len());
            connection.send(*direction, piece, &policy);
            // `heap_with` bounds the memory after one step. A piece is certainly one step only if
            // it is a single byte, and nothing stalled before it.
            let heap = connection.inspector.heap();
            let has_steps = is_first || is_stalled || size > 1;
            let is_announced = has_steps || heap <= room.max(other);
            assert!(is_announced, "{heap} bytes, of {room} and {other}");
            assert!(heap <= HEAP_MAX, "{heap} bytes");
            is_stalled |= connection.requests.stalled || connection.responses.stalled;
        }
    }
    let verdicts = connection.verdicts();
    let Connection { requests, responses, reset, .. } = connection;
    (!is_stalled).then_some((requests.received, responses.passed, verdicts, reset))
}

/// Bytes that an inspector never exceeds: two tables of 64 KiB with their entries, a block of each
/// end, 1,024 streams.
const HEAP_MAX: usize = 6 * 64 * 1024 + 8 * BLOCK_MAX + (256 << 10);

/// Input: size of pieces (a byte), then what the ends send in turn, each after a byte that is odd
/// for the server, and its length (two bytes).
pub fn http2(data: &[u8]) {
    let mut input = Input::new(data);
    let size = usize::from(input.u8()) + 1;
    let mut sent = Vec::new();
    while !input.is_empty() {
        let direction = if input.u8().is_multiple_of(2) { Original } else { Reply };
        sent.push((direction, input.long_string()));
    }
    let Some(whole) = outcome(&sent, usize::MAX) else { return };
    for size in [1, size] {
        let Some(pieces) = outcome(&sent, size) else { return };
        assert_eq!(pieces, whole, "in pieces of {size}");
    }
}
