//! HTTP/2 by `Upgrade` from HTTP/1.1 (RFC 7540 §3.2).

use super::*;

const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// 100 streams at once, and a window of 65,535 bytes: what nghttp sends.
const SETTINGS_FIELD: &str = "AAMAAABkAAQAAP__";

fn offer_with(path: &str, settings: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: web\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: {settings}\r\n\r\n"
    )
    .into_bytes()
}

fn offer(path: &str) -> Vec<u8> {
    offer_with(path, SETTINGS_FIELD)
}

/// The frames of a server after its 101 response: SETTINGS, and the response on stream 1.
fn server() -> Writer {
    let mut server = Writer { encoder: loona_hpack::Encoder::new(), bytes: Vec::new() };
    server.frame(SETTINGS, 0, 0, &[]);
    server.headers(1, 0, &[(":status", "200")]);
    server.frame(DATA, END_STREAM, 1, b"the document");
    server
}

/// An accepted offer, with nothing sent after the 101 response.
fn upgraded() -> Http {
    let mut http = Http::default();
    http.send(Original, &offer("/docs"), &docs_only());
    http.send(Reply, SWITCH, &docs_only());
    assert_eq!((http.verdicts(), http.reset), (vec![true], None));
    http
}

/// What each end has read after the upgrade.
fn read(http: &Http, offer: &[u8]) -> (Seen, Seen) {
    let requests = http.requests.received.strip_prefix(offer).unwrap();
    let responses = http.responses.received.strip_prefix(SWITCH).unwrap();
    (Seen::read(requests.strip_prefix(&PREFACE[..]).unwrap()), Seen::read(responses))
}

#[test]
fn an_accepted_offer_goes_on_as_http2() {
    let mut http = upgraded();
    http.now = Nanos(7);
    let mut server = server();
    http.send(Reply, &server.take(), &docs_only());
    let mut client = Writer::client();
    client.frame(SETTINGS, ACK, 0, &[]);
    client.get(3, "/secret");
    client.get(5, "/docs/b");
    http.send(Original, &client.take(), &docs_only());
    server.headers(5, END_STREAM, &[(":status", "204")]);
    http.send(Reply, &server.take(), &docs_only());
    assert_eq!((http.verdicts(), http.reset), (vec![true, false, true], None));
    let (at_server, at_client) = read(&http, &offer("/docs"));
    assert_eq!(at_server.streams(), [5]);
    assert_eq!(at_client.streams(), [1, 3, 5]);
    assert_eq!(value(&at_client.headers[1].1, ":status"), Some("403"));
    let http2 = |status| ResponseStatus::Http { version: HttpVersion::Http2, status };
    let switch = ResponseStatus::Http { version: HttpVersion::Http11, status: 101 };
    assert_eq!(statuses(&http), [switch, http2(200), http2(204)]);
    let latencies: Vec<_> = http.events.iter().filter_map(latency).collect();
    assert_eq!(latencies, [0, 7, 0], "stream 1 began with the request");
}

fn latency(event: &EventKind) -> Option<u64> {
    match event {
        EventKind::Response { latency_ns, .. } => Some(*latency_ns),
        _ => None,
    }
}

#[test]
fn a_cut_anywhere_in_an_upgrade_changes_nothing() {
    let (mut client, mut server) = (Writer::client(), server());
    client.get(3, "/secret");
    client.get(5, "/docs/b");
    server.headers(5, END_STREAM, &[(":status", "204")]);
    let (frames, responses) = (client.take(), [SWITCH, &server.take()].concat());
    let offer = offer("/docs");
    // The client continues when it has the 101 response.
    let run = |at: usize, reply_at: usize| {
        let mut http = Http::default();
        let parts = [(&offer, Original), (&responses, Reply), (&frames, Original)];
        for (bytes, direction) in parts {
            let cut = if direction.is_reply() { reply_at } else { at }.min(bytes.len());
            http.send(direction, &bytes[..cut], &docs_only());
            http.send(direction, &bytes[cut..], &docs_only());
        }
        (read(&http, &offer), http.verdicts(), http.reset)
    };
    let whole = run(0, 0);
    assert_eq!((&whole.1, whole.2), (&vec![true, false, true], None));
    for at in 0..frames.len().max(offer.len()) {
        assert_eq!(run(at, 0), whole, "the client's bytes cut at {at}");
    }
    for at in 0..responses.len() {
        assert_eq!(run(0, at), whole, "the server's bytes cut at {at}");
    }
}

#[test]
fn a_declined_offer_goes_on_as_http1() {
    let mut http = Http::default();
    http.send(Original, &offer("/docs"), &docs_only());
    http.send(Original, b"GET /secret HTTP/1.1\r\nHost: web\r\n\r\n", &docs_only());
    assert_eq!(http.verdicts(), [true], "nothing more is decided before the answer");
    http.send(Reply, OK, &docs_only());
    http.send(Original, &offer("/docs"), &docs_only());
    http.send(Reply, SWITCH, &docs_only());
    assert_eq!((http.verdicts(), http.reset), (vec![true, false, true], None));
    let forbidden = [OK, FORBIDDEN, SWITCH].concat();
    assert_eq!(http.responses.received, forbidden);
}

#[test]
fn a_denied_offer_gets_a_403() {
    let mut http = Http::default();
    http.send(Original, &offer("/secret"), &docs_only());
    assert_eq!((http.verdicts(), http.requests.received.len()), (vec![false], 0));
    assert_eq!(http.responses.received, FORBIDDEN);
    http.send(Original, b"GET /docs HTTP/1.1\r\nHost: web\r\n\r\n", &docs_only());
    http.send(Reply, OK, &docs_only());
    assert_eq!(http.responses.received, [FORBIDDEN, OK].concat());
}

#[test]
fn a_preface_before_the_answer_waits_and_is_no_request_of_http1() {
    let early = |answer: &[u8]| {
        let mut http = Http::default();
        http.send(
            Original,
            &[&offer("/docs"), &Writer::client().take()[..]].concat(),
            &docs_only(),
        );
        assert_eq!(http.requests.received, offer("/docs"));
        http.send(Reply, answer, &docs_only());
        http
    };
    let accepted = early(SWITCH);
    assert_eq!(accepted.reset, None);
    assert_eq!(read(&accepted, &offer("/docs")).0.others.len(), 1, "its SETTINGS");
    assert_eq!(early(OK).reset, Some(DropReason::L7Unsupported));
}

#[test]
fn behind_an_upgrade_nothing_but_http2_passes() {
    for bytes in [&b"GET /secret HTTP/1.1\r\nHost: web\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSX"] {
        let mut http = upgraded();
        http.send(Original, bytes, &docs_only());
        assert_eq!(http.reset, Some(DropReason::L7Malformed));
        assert_eq!(http.requests.received, offer("/docs"));
    }
    // Stream 1 is ended by the client, and can't be opened again.
    type Build = fn(&mut Writer);
    let builds: [Build; 2] = [
        |client| client.frame(DATA, END_STREAM, 1, b"x"),
        |client| client.headers(1, END_STREAM, &[("trailer", "x")]),
    ];
    for build in builds {
        let (mut http, mut client) = (upgraded(), Writer::client());
        build(&mut client);
        http.send(Original, &client.take(), &docs_only());
        assert_eq!(http.reset, Some(DropReason::L7Malformed));
    }
}

#[test]
fn a_switch_that_can_not_be_followed_resets_the_connection() {
    let without = b"GET /docs HTTP/1.1\r\nHost: web\r\nUpgrade: h2c\r\n\r\n".to_vec();
    let twice = String::from_utf8(offer("/docs")).unwrap();
    let twice = twice.replace("\r\nUpgrade:", "\r\nHTTP2-Settings: AAMAAABk\r\nUpgrade:");
    let chunked = with_body("Transfer-Encoding: chunked", b"5\r\n12345\r\n");
    let invalid = offer_with("/docs", "AAMAAAB");
    for request in [without, twice.into_bytes(), invalid, chunked] {
        let mut http = Http::default();
        http.send(Original, &request, &docs_only());
        http.send(Reply, SWITCH, &docs_only());
        let text = request.escape_ascii();
        assert_eq!(http.reset, Some(DropReason::L7Unsupported), "{text}");
        assert!(http.responses.received.is_empty(), "{text}");
    }
}

/// Frames come after the whole body (RFC 7540 §3.2).
#[test]
fn an_offer_may_have_a_body() {
    for (length, body, rest) in [
        ("Content-Length: 5", &b"12"[..], &b"345"[..]),
        ("Content-Length: 5", b"12345", b""),
        ("Transfer-Encoding: chunked", b"5\r\n12345\r\n0\r\n\r\n", b""),
    ] {
        let request = with_body(length, body);
        let mut http = Http::default();
        http.send(Original, &request, &docs_only());
        http.send(Reply, SWITCH, &docs_only());
        let mut client = Writer::client();
        client.get(3, "/secret");
        client.get(5, "/docs");
        http.send(Original, &[rest, &client.take()[..]].concat(), &docs_only());
        assert_eq!((http.verdicts(), http.reset), (vec![true, false, true], None), "{length}");
        assert_eq!(read(&http, &[&request[..], rest].concat()).0.streams(), [5]);
    }
}

fn with_body(length: &str, body: &[u8]) -> Vec<u8> {
    let head = String::from_utf8(offer("/docs")).unwrap().replace("GET", "POST");
    let head = head.replace("\r\nUpgrade:", &format!("\r\n{length}\r\nUpgrade:"));
    [head.as_bytes(), body].concat()
}

#[test]
fn the_settings_of_the_offer_apply() {
    // SETTINGS_INITIAL_WINDOW_SIZE 0: the 403 on stream 3 must not have a body.
    let offer = offer_with("/docs", "AAQAAAAA");
    let mut http = Http::default();
    http.send(Original, &offer, &docs_only());
    http.send(Reply, &[SWITCH, &server().take()].concat(), &docs_only());
    // Its SETTINGS frame says nothing else.
    let mut client = Writer::client();
    client.get(3, "/secret");
    http.send(Original, &client.take(), &docs_only());
    let (_, at_client) = read(&http, &offer);
    let (stream, _, ends) = &at_client.headers[1];
    assert_eq!((*stream, *ends), (3, true), "{at_client:?}");
    // SETTINGS_HEADER_TABLE_SIZE 0: a server that adds entries nevertheless is not followed by our
    // decoder, and its responses pass.
    let offer = offer_with("/docs", "AAEAAAAA");
    let mut http = Http::default();
    http.send(Original, &offer, &docs_only());
    http.send(Reply, &[SWITCH, &server().take()].concat(), &docs_only());
    assert_eq!(statuses(&http).len(), 1, "only the 101 is reported");
    assert_eq!((http.reset, http.responses.undecided.len()), (None, 0));
}

/// The inspector announces the memory that the change of versions takes.
#[test]
fn an_upgrade_takes_no_more_memory_than_announced() {
    let mut http = Http::default();
    for (direction, bytes) in
        [(Original, offer("/docs")), (Reply, SWITCH.to_vec()), (Original, PREFACE.to_vec())]
    {
        let room = http.inspector.heap_with(direction, bytes.len());
        http.send(direction, &bytes, &docs_only());
        assert!(http.inspector.heap() <= room, "{} of {room}", http.inspector.heap());
    }
    assert!(http.inspector.heap() >= size_of::<Http2>());
    http.inspector.restart();
    assert_eq!(http.inspector.heap(), 0);
}
