//! Whole HTTP/2 connections against the inspector, cut in every way.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use podgate_dataplane::l7::http2::{FRAMES_MAX, PREFACE, STREAMS_MAX};
use podgate_dataplane::l7::protocol::Protocol;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, ResponseStatus};
use podgate_tables::tuple::FlowDirection::{Original, Reply};
use podgate_test_support::{Connection, docs_only};
use proptest::prelude::*;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

type Fields = Vec<(String, String)>;

/// What an end has read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Header lists, by stream; whether the stream ended with them.
    headers: Vec<(u32, Fields, bool)>,
    /// Content, by stream.
    data: Vec<(u32, Vec<u8>)>,
    /// Other frames: kind, flags, stream, payload.
    others: Vec<(u8, u8, u32, Vec<u8>)>,
}

impl Seen {
    /// What an end with its own decoder reads.
    fn read(mut bytes: &[u8]) -> Self {
        let mut decoder = loona_hpack::Decoder::new();
        let (mut seen, mut block) = (Self::default(), Vec::new());
        let mut ends = false;
        while !bytes.is_empty() {
            let len = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            let (kind, flags) = (bytes[3], bytes[4]);
            let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
            let payload = &bytes[9..9 + len];
            bytes = &bytes[9 + len..];
            match kind {
                HEADERS | CONTINUATION => {
                    ends |= kind == HEADERS && flags & END_STREAM != 0;
                    block.extend_from_slice(payload);
                    if flags & END_HEADERS != 0 {
                        let fields = decoder.decode(&block).unwrap();
                        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
                        let fields = fields.into_iter().map(|(n, v)| (text(n), text(v))).collect();
                        seen.headers.push((stream, fields, ends));
                        block.clear();
                        ends = false;
                    }
                }
                DATA => seen.data.push((stream, payload.to_vec())),
                _ => seen.others.push((kind, flags, stream, payload.to_vec())),
            }
        }
        assert!(block.is_empty(), "a block without its end");
        seen
    }

    fn streams(&self) -> Vec<u32> {
        self.headers.iter().map(|(stream, ..)| *stream).collect()
    }

    fn has_stream(&self, wanted: u32) -> bool {
        let others = self.others.iter().map(|(_, _, stream, _)| *stream);
        let data = self.data.iter().map(|(stream, _)| *stream);
        self.streams().into_iter().chain(others).chain(data).any(|stream| stream == wanted)
    }
}

/// Writes one end's frames, with a dynamic table in use.
struct Writer {
    encoder: loona_hpack::Encoder<'static>,
    bytes: Vec<u8>,
}

impl Writer {
    fn client() -> Self {
        let mut writer = Self { encoder: loona_hpack::Encoder::new(), bytes: PREFACE.to_vec() };
        writer.frame(SETTINGS, 0, 0, &[]);
        writer
    }

    fn server() -> Self {
        let mut writer = Self { encoder: loona_hpack::Encoder::new(), bytes: Vec::new() };
        writer.frame(SETTINGS, 0, 0, &[]);
        writer.frame(SETTINGS, ACK, 0, &[]);
        writer
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes.extend(frame(kind, flags, stream, payload));
    }

    fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        self.encoder.encode(fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
    }

    fn headers(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        let block = self.block(fields);
        self.frame(HEADERS, flags | END_HEADERS, stream, &block);
    }

    fn get(&mut self, stream: u32, path: &str) {
        self.headers(stream, END_STREAM, &request("GET", path, &[("x-token", "same for all")]));
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

fn request<'a>(
    method: &'a str,
    path: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut fields =
        vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "web:80")];
    fields.extend(more);
    fields
}

type Http = Connection<Protocol>;

fn connected() -> (Http, Writer, Writer) {
    let (mut http, mut client, mut server) = (Http::default(), Writer::client(), Writer::server());
    http.send(Original, &client.take(), &docs_only());
    http.send(Reply, &server.take(), &docs_only());
    client.frame(SETTINGS, ACK, 0, &[]);
    http.send(Original, &client.take(), &docs_only());
    (http, client, server)
}

fn at_server(http: &Http) -> Seen {
    Seen::read(http.requests.received.strip_prefix(&PREFACE[..]).unwrap())
}

fn at_client(http: &Http) -> Seen {
    Seen::read(&http.responses.received)
}

fn statuses(http: &Http) -> Vec<ResponseStatus> {
    let status = |event: &EventKind| match event {
        EventKind::Response { status, .. } => Some(*status),
        _ => None,
    };
    http.events.iter().filter_map(status).collect()
}

fn value<'f>(fields: &'f Fields, name: &str) -> Option<&'f str> {
    fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
}

#[test]
fn what_is_allowed_passes_byte_for_byte() {
    let (mut http, mut client, mut server) = connected();
    let before = http.requests.received.len();
    client.get(1, "/docs");
    client.headers(3, 0, &request("POST", "/docs/new", &[("content-length", "5")]));
    client.frame(DATA, END_STREAM, 3, b"hello");
    client.frame(PING, 0, 0, &[7; 8]);
    let sent = client.take();
    http.send(Original, &sent, &docs_only());
    assert_eq!(&http.requests.received[before..], &sent[..]);
    let before = http.responses.received.len();
    server.headers(1, 0, &[(":status", "200")]);
    server.frame(DATA, END_STREAM, 1, b"docs");
    server.headers(3, END_STREAM, &[(":status", "201")]);
    let sent = server.take();
    http.send(Reply, &sent, &docs_only());
    assert_eq!(&http.responses.received[before..], &sent[..]);
    assert_eq!((http.verdicts(), http.reset), (vec![true, true], None));
    assert_eq!(statuses(&http), [ResponseStatus::Http(200), ResponseStatus::Http(201)]);
}

#[test]
fn a_denial_touches_one_stream_only() {
    let (mut http, mut client, mut server) = connected();
    client.get(1, "/docs/a");
    client.get(3, "/secret");
    client.get(5, "/docs/b");
    client.headers(7, 0, &request("POST", "/secret", &[("content-length", "9"), ("x-new", "1")]));
    client.frame(DATA, 0, 7, b"four");
    client.frame(DATA, END_STREAM, 7, b"bytes");
    client.frame(WINDOW_UPDATE, 0, 7, &[0, 0, 0, 9]);
    client.frame(PRIORITY, 0, 7, &[0; 5]);
    client.frame(RST_STREAM, 0, 3, &[0; 4]);
    client.headers(9, END_STREAM, &request("GET", "/docs/c", &[("x-new", "1")]));
    http.send(Original, &client.take(), &docs_only());
    server.headers(1, END_STREAM, &[(":status", "200"), ("server", "nginx")]);
    server.headers(5, END_STREAM, &[(":status", "200"), ("server", "nginx")]);
    server.headers(9, END_STREAM, &[(":status", "204"), ("server", "nginx")]);
    http.send(Reply, &server.take(), &docs_only());
    assert_eq!(http.reset, None);
    assert_eq!(http.verdicts(), [true, false, true, false, true]);

    let seen = at_server(&http);
    assert_eq!(seen.streams(), [1, 5, 9]);
    assert!(!seen.has_stream(3) && !seen.has_stream(7), "{seen:?}");
    for (stream, fields, ends) in &seen.headers {
        assert!(*ends, "{stream}");
        let path = ["/docs/a", "/docs/b", "/docs/c"]
            [seen.streams().iter().position(|s| s == stream).unwrap()];
        assert_eq!(value(fields, ":path"), Some(path));
    }
    assert_eq!(value(&seen.headers[2].1, "x-new"), Some("1"), "an entry that the server lacks");

    let seen = at_client(&http);
    let status = |wanted: u32| {
        let (_, fields, _) = seen.headers.iter().find(|(stream, ..)| *stream == wanted).unwrap();
        value(fields, ":status").map(str::to_owned)
    };
    for (stream, expected) in [(1, "200"), (3, "403"), (5, "200"), (7, "403"), (9, "204")] {
        assert_eq!(status(stream).as_deref(), Some(expected), "{stream}");
    }
    let body = b"Access denied\r\n".to_vec();
    assert_eq!(seen.data, [(3, body.clone()), (7, body)]);
    let credit: u32 = seen
        .others
        .iter()
        .filter(|other| other.0 == WINDOW_UPDATE && other.2 == 0)
        .map(|other| u32::from_be_bytes(other.3[..4].try_into().unwrap()))
        .sum();
    assert_eq!(credit, 9, "of the dropped content: {seen:?}");
}

#[test]
fn a_denied_call_is_answered_with_its_status_in_trailers() {
    let (mut http, mut client, mut server) = connected();
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    client.headers(1, 0, &request("POST", "/secret.Service/Get", &grpc));
    client.frame(DATA, END_STREAM, 1, &[0; 7]);
    client.headers(3, 0, &request("POST", "/docs/x.Service/Get", &grpc));
    client.frame(DATA, END_STREAM, 3, &[0; 7]);
    http.send(Original, &client.take(), &docs_only());
    server.headers(3, 0, &[(":status", "200"), ("content-type", "application/grpc")]);
    server.frame(DATA, 0, 3, &[0; 5]);
    server.headers(3, END_STREAM, &[("grpc-status", "0")]);
    http.send(Reply, &server.take(), &docs_only());
    let seen = at_client(&http);
    let (stream, fields, ends) = &seen.headers[0];
    assert_eq!((*stream, *ends), (1, true), "{seen:?}");
    assert_eq!(value(fields, ":status"), Some("200"));
    assert_eq!(value(fields, "grpc-status"), Some("7"));
    assert_eq!(value(fields, "grpc-message"), Some("Access denied"));
    assert_eq!(at_server(&http).streams(), [3]);
    assert_eq!(statuses(&http), [ResponseStatus::Grpc(0)]);
}

#[test]
fn an_answer_waits_for_the_end_of_the_servers_frame() {
    let (mut http, mut client, mut server) = connected();
    client.get(1, "/docs");
    http.send(Original, &client.take(), &docs_only());
    server.headers(1, 0, &[(":status", "200")]);
    server.frame(DATA, END_STREAM, 1, &[b'x'; 100]);
    let sent = server.take();
    let (first, second) = sent.split_at(sent.len() - 50);
    http.send(Reply, first, &docs_only());
    client.get(3, "/secret");
    http.send(Original, &client.take(), &docs_only());
    http.send(Reply, second, &docs_only());
    assert_eq!(at_client(&http).streams(), [1, 3]);
    // A block in two frames is not cut, either.
    client.get(5, "/docs");
    http.send(Original, &client.take(), &docs_only());
    let block = server.block(&[(":status", "200"), ("x-long", "value")]);
    server.frame(HEADERS, END_STREAM, 5, &block[..1]);
    http.send(Reply, &server.take(), &docs_only());
    client.get(7, "/secret");
    http.send(Original, &client.take(), &docs_only());
    server.frame(CONTINUATION, END_HEADERS, 5, &block[1..]);
    http.send(Reply, &server.take(), &docs_only());
    assert_eq!(at_client(&http).streams(), [1, 3, 5, 7]);
}

#[test]
fn the_body_of_an_answer_has_room_in_the_clients_window() {
    let (mut http, mut client, mut server) = (
        Http::default(),
        Writer { encoder: loona_hpack::Encoder::new(), bytes: PREFACE.to_vec() },
        Writer::server(),
    );
    // SETTINGS_INITIAL_WINDOW_SIZE 0.
    client.frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    client.get(1, "/secret");
    http.send(Original, &client.take(), &docs_only());
    http.send(Reply, &server.take(), &docs_only());
    let seen = at_client(&http);
    assert!(seen.data.is_empty() && seen.headers[0].2, "{seen:?}");
    assert_eq!(value(&seen.headers[0].1, ":status"), Some("403"));
}

#[test]
fn malformed_requests_are_answered_400_and_others_go_on() {
    for more in [("X-Upper", "1"), ("x", "a\r\nb: c"), ("connection", "close"), ("te", "gzip")] {
        let (mut http, mut client, mut server) = connected();
        client.headers(1, END_STREAM, &request("GET", "/docs", &[more]));
        client.get(3, "/docs");
        http.send(Original, &client.take(), &docs_only());
        server.headers(3, END_STREAM, &[(":status", "200")]);
        http.send(Reply, &server.take(), &docs_only());
        assert_eq!((http.reset, at_server(&http).streams()), (None, vec![3]), "{more:?}");
        let seen = at_client(&http);
        assert_eq!(value(&seen.headers[0].1, ":status"), Some("400"), "{more:?}");
        assert_eq!(seen.streams(), [1, 3]);
    }
}

#[test]
fn content_that_differs_from_its_length_resets_the_stream_at_both_ends() {
    let (mut http, mut client, _) = connected();
    client.headers(1, 0, &request("POST", "/docs", &[("content-length", "3")]));
    client.frame(DATA, END_STREAM, 1, b"four");
    client.get(3, "/docs");
    http.send(Original, &client.take(), &docs_only());
    let seen = at_server(&http);
    assert!(seen.data.is_empty() && seen.streams() == [1, 3], "{seen:?}");
    assert!(seen.others.iter().any(|other| (other.0, other.2) == (RST_STREAM, 1)), "{seen:?}");
    let seen = at_client(&http);
    assert!(seen.others.iter().any(|other| (other.0, other.2) == (RST_STREAM, 1)), "{seen:?}");
}

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

#[test]
fn a_connection_without_the_whole_preface_is_not_http2() {
    let mut http = Http::default();
    http.send(Original, &PREFACE[..20], &docs_only());
    assert_eq!((http.requests.passed, http.reset), (0, None));
    http.send(Original, b"X", &docs_only());
    assert_eq!(http.reset, Some(DropReason::L7Unsupported));
    let mut http = Http::default();
    http.send(Original, b"P", &docs_only());
    http.send(
        Original,
        b"OST /secret HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        &docs_only(),
    );
    assert_eq!(http.verdicts(), [false]);
}

/// A conversation with everything in it: the client's bytes, and the server's.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let (mut client, mut server) = (Writer::client(), Writer::server());
    client.get(1, "/docs/a");
    client.get(3, "/secret");
    client.headers(5, 0, &request("POST", "/docs/b", &[("content-length", "3"), ("x-new", "1")]));
    client.frame(DATA, PADDED | END_STREAM, 5, &[2, b'a', b'b', b'c', 0, 0]);
    client.headers(7, 0, &request("POST", "/secret", &[("x-new", "1")]));
    client.frame(DATA, END_STREAM, 7, b"dropped");
    let block = client.block(&request("GET", "/docs/c", &[("x-new", "1"), ("x-more", "2")]));
    client.frame(HEADERS, END_STREAM, 9, &block[..3]);
    client.frame(CONTINUATION, END_HEADERS, 9, &block[3..]);
    client.frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1, 0]);
    for stream in [1, 5, 9] {
        server.headers(stream, 0, &[(":status", "200"), ("x-server", "same")]);
        server.frame(DATA, END_STREAM, stream, b"content");
    }
    (client.take(), server.take())
}

/// What both ends have read in the end, without the order of frames of different streams.
fn run(cuts: &[usize]) -> (Seen, Vec<(u32, Fields, bool)>, Vec<bool>) {
    let (client, server) = conversation();
    let mut http = Http::default();
    let mut rest = &client[..];
    for cut in cuts {
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        http.send(Original, piece, &docs_only());
        rest = behind;
    }
    http.send(Original, rest, &docs_only());
    let mut rest = &server[..];
    for cut in cuts {
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        http.send(Reply, piece, &docs_only());
        rest = behind;
    }
    http.send(Reply, rest, &docs_only());
    assert_eq!(http.reset, None);
    let mut at_client = at_client(&http).headers;
    at_client.sort();
    (at_server(&http), at_client, http.verdicts())
}

#[test]
fn a_cut_anywhere_changes_nothing() {
    let whole = run(&[]);
    assert_eq!(whole.0.streams(), [1, 5, 9]);
    assert_eq!(whole.2, [true, false, true, false, true]);
    let (client, _) = conversation();
    for at in 0..client.len() {
        assert_eq!(run(&[at]), whole, "cut at {at}");
    }
    assert_eq!(run(&vec![1; client.len()]), whole, "byte by byte");
}

proptest! {
    #[test]
    fn any_bytes_behind_the_preface_are_handled(
        bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..400,
        reply in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let (mut http, ..) = connected();
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        http.send(Original, first, &docs_only());
        http.send(Reply, &reply, &docs_only());
        http.send(Original, second, &docs_only());
    }

    #[test]
    fn frames_with_any_content_are_handled(
        frames in prop::collection::vec(
            (0u8..11, any::<u8>(), 0u32..12, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let (mut http, ..) = connected();
        for (kind, flags, stream, payload) in frames {
            let bytes = frame(kind, flags, stream, &payload);
            http.send(if stream % 3 == 0 { Reply } else { Original }, &bytes, &docs_only());
        }
    }
}
