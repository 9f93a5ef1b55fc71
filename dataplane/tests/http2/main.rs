//! Whole HTTP/2 connections against the inspector, cut in every way.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

mod frames;
mod limits;
mod upgrade;
mod windows;

use std::sync::Arc;

use podgate_dataplane::l7::http1::FORBIDDEN;
use podgate_dataplane::l7::http2::{Http2, PREFACE};
use podgate_dataplane::l7::inspector::Inspector;
use podgate_dataplane::l7::protocol::FlowInspector;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, HttpVersion, ResponseStatus};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Entry, L7Policy, L7Rules};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection::{Original, Reply};
use podgate_test_support::{Connection, docs_only};
use proptest::prelude::*;

use frames::*;

type Http = Connection<FlowInspector>;

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
    assert_eq!(
        statuses(&http),
        [200, 201].map(|status| ResponseStatus::Http { version: HttpVersion::Http2, status })
    );
}

/// nghttpd and gRPC servers send their SETTINGS when they accept (RFC 9113 §3.4).
#[test]
fn a_server_may_send_its_settings_before_the_client_speaks() {
    for size in [1, 5, 100] {
        let (mut http, mut client, mut server) =
            (Http::default(), Writer::client(), Writer::server());
        server.take();
        server.frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]);
        for piece in server.take().chunks(size) {
            http.send(Reply, piece, &docs_only());
        }
        client.get(1, "/docs");
        client.get(3, "/secret");
        http.send(Original, &client.take(), &docs_only());
        assert_eq!((http.verdicts(), http.reset), (vec![true, false], None), "{size}");
        assert_eq!(at_server(&http).streams(), [1]);
        assert_eq!(at_client(&http).streams(), [3]);
    }
}

#[test]
fn no_http1_request_passes_behind_settings_of_the_server() {
    let mut http = Http::default();
    http.send(Reply, &frame(SETTINGS, 0, 0, &[]), &docs_only());
    http.send(Original, b"GET /docs HTTP/1.1\r\nHost: h\r\n\r\n", &docs_only());
    assert_eq!((http.reset, http.requests.received), (Some(DropReason::L7Malformed), vec![]));
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

/// The client may use the former window until it gets the server's acknowledgement.
#[test]
fn a_window_that_the_server_has_not_acknowledged_is_not_used() {
    let (mut http, mut client, mut server) = connected();
    let denied = |http: &mut Http, client: &mut Writer, stream: u32| {
        client.get(stream, "/secret");
        http.send(Original, &client.take(), &docs_only());
        at_client(http).data.iter().any(|data| data.0 == stream)
    };
    assert!(denied(&mut http, &mut client, 1));
    for (stream, acknowledged, [before, after]) in
        [(3, 0_u32, [false, false]), (7, 100, [false, true]), (11, 99, [true, true])]
    {
        let size = acknowledged.to_be_bytes();
        client.frame(SETTINGS, 0, 0, &[&[0, 4], &size[..]].concat());
        assert_eq!(denied(&mut http, &mut client, stream), before, "{acknowledged}");
        server.frame(SETTINGS, ACK, 0, &[]);
        http.send(Reply, &server.take(), &docs_only());
        assert_eq!(denied(&mut http, &mut client, stream + 2), after, "{acknowledged}");
    }
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

#[test]
fn a_server_may_send_its_settings_before_the_client_sends_anything() {
    for cut in [0, 1, 9] {
        let (mut http, mut client, mut server) =
            (Http::default(), Writer::client(), Writer::server());
        let settings = server.take();
        let (first, second) = settings.split_at(cut);
        http.send(Reply, first, &docs_only());
        http.send(Reply, second, &docs_only());
        client.frame(SETTINGS, ACK, 0, &[]);
        http.send(Original, &client.take(), &docs_only());
        client.headers(1, END_STREAM, &request("GET", "/docs", &[]));
        client.headers(3, END_STREAM, &request("GET", "/secret", &[]));
        http.send(Original, &client.take(), &docs_only());
        assert_eq!((http.verdicts(), http.reset), (vec![true, false], None), "cut at {cut}");
        assert!(http.responses.received.starts_with(&settings), "cut at {cut}");
    }
    let mut http = Http::default();
    http.send(Reply, b"HTTP/1.1 408 Request Timeout\r\n\r\n", &docs_only());
    assert_eq!((http.responses.passed, http.reset), (32, None), "HTTP/1 servers do so, too");
    let mut http = Http::default();
    http.send(Reply, &Writer::server().take(), &docs_only());
    http.send(Original, b"GET /docs HTTP/1.1\r\nHost: a\r\n\r\n", &docs_only());
    assert_eq!((http.requests.passed, http.reset), (0, Some(DropReason::L7Malformed)));
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

fn with_cookie(rule: &str) -> L7Policy {
    let headers = vec![format!("Cookie: {rule}")];
    let rule = HttpRule::new(HttpRuleSpec { headers, ..HttpRuleSpec::default() }).unwrap();
    let rules = Some(Arc::new(L7Rules::http(vec![rule])));
    L7Policy { ingress: vec![L7Entry { rule: RuleId(1), rules }], ..L7Policy::default() }
}

#[test]
fn several_cookie_fields_are_one_for_rules() {
    let policy = with_cookie("a=1; b=2; c=3");
    for (cookies, allowed) in [
        (&["a=1; b=2; c=3"][..], true),
        (&["a=1", "b=2", "c=3"], true),
        (&["a=1; b=2", "c=3"], true),
        (&["a=1", "c=3", "b=2"], false),
        (&["a=1", "b=2"], false),
        (&["", "a=1; b=2; c=3"], false),
        (&["a=1", " b=2", "c=3"], false),
    ] {
        let (mut http, mut client, _) = connected();
        let mut fields = request("GET", "/", &[]);
        for cookie in cookies {
            fields.extend([("cookie", *cookie), ("x-between", "1")]);
        }
        client.headers(1, END_STREAM, &fields);
        let sent = client.take();
        http.send(Original, &sent, &policy);
        assert_eq!(http.verdicts(), [allowed], "{cookies:?}");
        assert_eq!(http.requests.received.ends_with(&sent), allowed, "they pass as they came");
    }
    // What is malformed by itself does not become a part of a valid field.
    let (mut http, mut client, _) = connected();
    client.headers(1, END_STREAM, &request("GET", "/", &[("cookie", "a"), ("cookie", "b ")]));
    http.send(Original, &client.take(), &with_cookie("a; b"));
    assert_eq!(http.verdicts(), [false]);
    assert_eq!(value(&at_client(&http).headers[0].1, ":status"), Some("400"));
}

/// An HTTP/2 connection takes its inspector, and the tables of header fields as far as they are
/// filled.
#[test]
fn an_idle_connection_gives_back_what_it_does_not_use() {
    let (mut http, mut client, mut server) = connected();
    for stream in (1..200).step_by(2) {
        client.get(stream, if stream % 3 == 0 { "/secret" } else { "/docs" });
        http.send(Original, &client.take(), &docs_only());
        if stream % 3 != 0 {
            server.headers(stream, 0, &[(":status", "200"), ("x-server", "same")]);
            server.frame(DATA, END_STREAM, stream, b"content");
            http.send(Reply, &server.take(), &docs_only());
        }
    }
    assert_eq!(http.reset, None);
    http.inspector.shrink_to_fit();
    let idle = http.inspector.heap();
    println!("{} bytes of the inspector, {idle} in all", size_of::<Http2>());
    assert!(size_of::<Http2>() <= 1024, "{}", size_of::<Http2>());
    assert!(idle <= size_of::<Http2>() + 1024, "{idle}");
    // What was freed is allocated again.
    client.get(201, "/docs");
    http.send(Original, &client.take(), &docs_only());
    assert_eq!(http.verdicts().last(), Some(&true));
}
