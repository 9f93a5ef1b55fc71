//! What hostile clients send: the limits, and how each ends.

use podgate_dataplane::l7::http2::{FRAMES_MAX, STREAMS_MAX};

use super::*;

const GOAWAY: u8 = 7;
const PRIORITY_UPDATE: u8 = 0x10;

/// The reset of a connection whose client sends this after the start.
fn outcome(build: impl FnOnce(&mut Writer)) -> Option<DropReason> {
    let (mut http, mut client, _) = connected();
    build(&mut client);
    http.send(Original, &client.take(), &docs_only());
    http.reset
}

#[test]
fn what_breaks_the_protocol_or_its_limits_resets_the_connection() {
    let malformed = Some(DropReason::L7Malformed);
    let limit = Some(DropReason::L7Limit);
    let flood = |kind: u8, flags: u8, stream: u32, payload: &'static [u8]| {
        outcome(|client| (0..2000).for_each(|_| client.frame(kind, flags, stream, payload)))
    };
    assert_eq!(flood(PING, 0, 0, &[0; 8]), limit);
    assert_eq!(flood(SETTINGS, 0, 0, &[]), limit);
    assert_eq!(flood(PRIORITY, 0, 1, &[0; 5]), limit);
    assert_eq!(flood(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), limit);
    let rapid_reset = outcome(|client| {
        for stream in (1..6000).step_by(2) {
            client.get(stream, "/docs");
            client.frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        }
    });
    assert_eq!(rapid_reset, limit);
    let continuations = outcome(|client| {
        client.frame(HEADERS, END_STREAM, 1, &[]);
        (0..=FRAMES_MAX).for_each(|_| client.frame(CONTINUATION, 0, 1, &[]));
    });
    assert_eq!(continuations, limit);
    assert_eq!(outcome(|client| client.frame(HEADERS, END_HEADERS, 1, &[0xff; 20])), malformed);
    assert_eq!(outcome(|client| client.frame(HEADERS, END_HEADERS, 2, &[])), malformed);
    assert_eq!(outcome(|client| client.frame(DATA, 0, 1, b"x")), malformed);
    assert_eq!(outcome(|client| client.frame(DATA, 0, 0, b"x")), malformed);
    assert_eq!(outcome(|client| client.frame(CONTINUATION, END_HEADERS, 1, b"x")), malformed);
    assert_eq!(outcome(|client| client.frame(PING, 0, 0, b"x")), malformed);
    assert_eq!(outcome(|client| client.frame(5, END_HEADERS, 1, b"x")), malformed, "a push");
    assert_eq!(outcome(|client| client.frame(DATA, 0, 1, &[0; 20_000])), malformed);
    let padded = outcome(|client| {
        client.headers(1, 0, &request("POST", "/docs", &[]));
        client.frame(DATA, PADDED, 1, &[9, 0, 0]);
    });
    assert_eq!(padded, malformed);
    assert_eq!(outcome(|client| client.frame(0x77, 0, 9, b"grease")), None);
}

#[test]
fn a_header_bomb_is_answered_and_streams_are_bounded() {
    let (mut http, mut client, _) = connected();
    let long = "v".repeat(4_000);
    client.headers(1, END_STREAM, &request("GET", "/docs", &[("x-bomb", &long)]));
    // One byte for each reference to the field.
    let bomb: Vec<_> = std::iter::repeat_n(("x-bomb", long.as_str()), 100).collect();
    client.headers(3, END_STREAM, &request("GET", "/docs", &bomb));
    http.send(Original, &client.take(), &docs_only());
    assert_eq!(http.verdicts(), [true, false]);
    let seen = at_client(&http);
    assert_eq!(value(&seen.headers[0].1, ":status"), Some("431"));

    let (mut http, mut client, _) = connected();
    for stream in 0..STREAMS_MAX as u32 + 10 {
        client.headers(stream * 2 + 1, 0, &request("POST", "/docs", &[]));
        http.send(Original, &client.take(), &docs_only());
    }
    assert_eq!(http.reset, None);
    assert_eq!(at_server(&http).streams().len(), STREAMS_MAX);
}

#[test]
fn frames_that_only_make_work_are_limited_whatever_they_are() {
    let flood = |kind: u8, stream: u32, payload: &'static [u8]| {
        outcome(|client| {
            client.headers(1, 0, &request("POST", "/docs", &[]));
            (0..2000).for_each(|_| client.frame(kind, 0, stream, payload));
        })
    };
    for (kind, stream, payload) in [
        (DATA, 1, &b""[..]),
        (WINDOW_UPDATE, 1, &[0, 0, 0, 1]),
        (GOAWAY, 0, &[0; 8]),
        (PRIORITY_UPDATE, 0, &[0, 0, 0, 1, b'u']),
        (0x77, 1, b"unknown"),
    ] {
        assert_eq!(flood(kind, stream, payload), Some(DropReason::L7Limit), "{kind}");
    }
    let content = outcome(|client| {
        client.headers(1, 0, &request("POST", "/docs", &[]));
        (0..2000).for_each(|_| client.frame(DATA, 0, 1, b"x"));
    });
    assert_eq!(content, None, "content may come in small frames");
}

#[test]
fn header_blocks_settings_and_tables_have_largest_sizes() {
    let limit = Some(DropReason::L7Limit);
    let malformed = Some(DropReason::L7Malformed);
    let block = outcome(|client| {
        client.frame(HEADERS, END_STREAM, 1, &[0x82; 16_000]);
        (0..4).for_each(|_| client.frame(CONTINUATION, 0, 1, &[0x82; 16_000]));
    });
    assert_eq!(block, limit, "a block of more than 60 KiB");
    assert_eq!(outcome(|client| client.frame(SETTINGS, 0, 0, &[0; 65 * 6])), limit);
    assert_eq!(outcome(|client| client.frame(SETTINGS, 0, 0, &[0; 64 * 6])), None);
    assert_eq!(outcome(|client| client.frame(SETTINGS, 0, 0, &[0; 7])), malformed);
    // The size of the table is 5,000 bytes, and the server allows 4,096.
    assert_eq!(outcome(|client| client.frame(HEADERS, 5, 1, &[0x3f, 0xe9, 0x26])), malformed);
    let interrupted = outcome(|client| {
        client.frame(HEADERS, END_STREAM, 1, &[]);
        client.frame(PING, 0, 0, &[0; 8]);
    });
    assert_eq!(interrupted, malformed, "a frame within a header block");
}

#[test]
fn a_connection_begins_with_settings_and_acknowledges_what_was_sent() {
    for first in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, ACK, 0, &[])] {
        let mut http = Http::default();
        http.send(Original, &[&PREFACE[..], &first].concat(), &docs_only());
        assert_eq!(http.reset, Some(DropReason::L7Malformed));
    }
    let malformed = Some(DropReason::L7Malformed);
    assert_eq!(outcome(|client| client.frame(SETTINGS, ACK, 0, &[])), malformed, "a second one");
    assert_eq!(outcome(|client| client.frame(PING, 0, 1 << 31, &[0; 8])), malformed);
    assert_eq!(outcome(|client| client.frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])), malformed);
    assert_eq!(outcome(|client| client.frame(RST_STREAM, 0, 1, &[0; 4])), malformed, "idle");
}

/// A server that sends nothing leaves no point at which our answers can be inserted.
#[test]
fn answers_that_wait_are_bounded() {
    let (mut http, mut client, mut server) = connected();
    server.headers(1, 0, &[(":status", "200")]);
    client.get(1, "/docs");
    http.send(Original, &client.take(), &docs_only());
    // The server is within a frame.
    http.send(Reply, &server.take()[..5], &docs_only());
    for stream in (3..1000).step_by(2) {
        client.get(stream, "/secret");
        http.send(Original, &client.take(), &docs_only());
    }
    assert!(http.requests.stalled, "{} requests were decided", http.verdicts().len());
    assert!(http.verdicts().len() < 100, "{}", http.verdicts().len());
    assert!(http.inspector.heap() < 16 << 10, "{}", http.inspector.heap());
    assert_eq!(http.reset, None);
}

/// A client that opens no window gets answers without content, and occupies no memory.
#[test]
fn a_client_without_a_window_is_answered_without_content() {
    let mut http = Http::default();
    let mut client = Writer { encoder: loona_hpack::Encoder::new(), bytes: PREFACE.to_vec() };
    client.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    http.send(Original, &client.take(), &docs_only());
    http.send(Reply, &Writer::server().take(), &docs_only());
    for stream in (1..1000).step_by(2) {
        client.get(stream, "/secret");
        http.send(Original, &client.take(), &docs_only());
    }
    assert_eq!((http.verdicts().len(), http.reset), (500, None));
    assert!(at_client(&http).data.is_empty());
    assert!(http.inspector.heap() < 16 << 10, "{}", http.inspector.heap());
}

#[test]
fn a_request_with_several_readings_is_answered_400() {
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/docs"), (":authority", "web")];
    for more in [
        (":method", "POST"),
        (":path", "/secret"),
        (":authority", "other"),
        (":unknown", "x"),
        ("host", "other"),
        ("transfer-encoding", "chunked"),
        ("content-length", "1, 1"),
        ("x", "a\nb"),
        ("x", "a\0b"),
        ("x y", "a"),
        ("upgrade", "h2c"),
    ] {
        let (mut http, mut client, mut server) = connected();
        client.headers(1, END_STREAM, &[&get[..], &[more]].concat());
        client.headers(3, END_STREAM, &[&get[..3], &[("x", "y")], &get[3..]].concat());
        client.get(5, "/docs");
        http.send(Original, &client.take(), &docs_only());
        server.headers(5, END_STREAM, &[(":status", "200")]);
        http.send(Reply, &server.take(), &docs_only());
        assert_eq!(http.verdicts(), [false, false, true], "{more:?}");
        assert_eq!(at_server(&http).streams(), [5], "{more:?}");
        let at_client = at_client(&http).headers;
        for (_, fields, _) in &at_client[..2] {
            assert_eq!(value(fields, ":status"), Some("400"), "{more:?}");
        }
    }
}
