//! DATA frames of a server that are divided, on their way in segments.

use podgate_dataplane::l7::http2::{Http2, PREFACE};

use super::*;
use crate::lab::LabOf;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const SETTINGS_ACK: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A request whose fields are of the static table, or without indexing (RFC 7541 §6, Appendix A).
fn get(stream: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x04, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    block.extend_from_slice(b"\x01\x03web");
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

/// All of the server's bytes arrive, in frames that the client's window has room for, without a
/// retransmission.
#[test]
fn a_frame_without_room_is_divided_wherever_its_segments_begin() {
    for (first_segment, timestamps) in
        (1..40).chain([1_400]).flat_map(|at| [(at, true), (at, false)])
    {
        let mut lab = LabOf::<Http2>::open(Options { timestamps, ..Options::default() });
        lab.serves = false;
        lab.request(&[&PREFACE[..], &frame(SETTINGS, 0, 0, b"")].concat());
        let settings = [frame(SETTINGS, 0, 0, b""), frame(SETTINGS, SETTINGS_ACK, 0, b"")];
        lab.response(&settings.concat());
        lab.request(&frame(SETTINGS, SETTINGS_ACK, 0, b""));
        lab.request(&[get(1, "/secret"), get(3, "/docs")].concat());
        assert_eq!(lab.verdicts(), [false, true]);
        assert!(lab.client.received.ends_with(b"Access denied\r\n"));
        let content: Vec<u8> = (0..16_384_u32).map(|at| (at / 7) as u8).collect();
        lab.response(&frame(HEADERS, END_HEADERS, 3, &[0x88]));
        for part in [1, 2, 3].map(|_| frame(DATA, 0, 3, &content)) {
            part.chunks(1_400).for_each(|segment| lab.response(segment));
        }
        // 16,368 bytes of the window are left.
        let before = lab.client.received.len();
        let start = lab.server.sent;
        let last = frame(DATA, END_STREAM, 3, &content[1..]);
        let ping = frame(PING, 0, 0, &[7; 8]);
        let (first, rest) = last.split_at(first_segment);
        lab.response(first);
        rest.chunks(1_400).for_each(|segment| lab.response(segment));
        lab.response(&ping);
        let (fits, later) = content[1..].split_at(16_368);
        let mut expected = frame(DATA, 0, 3, fits);
        assert_eq!(lab.client.received[before..], expected, "cut at {first_segment}");
        lab.request(&frame(WINDOW_UPDATE, 0, 0, &65_535_u32.to_be_bytes()));
        expected.extend([frame(DATA, END_STREAM, 3, later), ping.clone()].concat());
        assert_eq!(lab.client.received[before..], expected, "cut at {first_segment}");
        // The server sends all again.
        for (at, segment) in [&last[..], &ping].concat().chunks(1_400).enumerate() {
            lab.server_sends(start + at as u32 * 1_400, segment, 0);
            lab.exchange();
        }
        assert_eq!(lab.client.received[before..], expected, "cut at {first_segment}");
        assert!(!lab.client.was_reset && !lab.server.was_reset);
        let update = frame(WINDOW_UPDATE, 0, 0, &65_520_u32.to_be_bytes());
        assert!(lab.server.received.ends_with(&update), "without the credit of our content");
    }
}
