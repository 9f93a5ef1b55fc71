//! What hostile clients send: the limits, and how each ends.

use podgate_dataplane::l7::http2::{FRAMES_MAX, STREAMS_MAX};

use super::*;

/// The reset of a connection whose client sends this behind the start.
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
