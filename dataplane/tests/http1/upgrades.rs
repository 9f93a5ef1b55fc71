//! Upgrades and tunnels.

use super::*;

#[test]
fn websocket_is_opaque_after_101_and_other_switches_are_reset() {
    let offer = |protocol: &str| {
        format!(
            "GET /docs HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        )
    };
    let mut http = run([offer("websocket").as_bytes()]);
    http.send(Original, get("/docs").as_bytes(), &docs_only());
    assert!(http.requests.stalled, "nothing passes before the answer");
    http.send(Reply, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n\x81\x01x", &docs_only());
    http.send(Original, get("/secret").as_bytes(), &docs_only());
    let expected = [offer("websocket"), get("/docs"), get("/secret")].concat();
    assert_eq!(http.requests.received, expected.as_bytes());
    let mut behind = run([get("/docs").as_bytes(), offer("websocket").as_bytes()]);
    behind.send(Reply, b"HTTP/1.1 204 No Content\r\n\r\n", &docs_only());
    behind.send(Original, get("/docs").as_bytes(), &docs_only());
    assert!(behind.requests.stalled, "an earlier response is not its answer");
    let mut declined = run([offer("websocket").as_bytes(), get("/docs").as_bytes()]);
    declined.send(Reply, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", &docs_only());
    assert_eq!(declined.verdicts(), [true, true], "a declined offer goes on as HTTP");
    for (offered, switched) in [("h2c", "h2c"), ("websocket", "foo"), ("TLS/1.0", "TLS/1.0")] {
        let mut other = run([offer(offered).as_bytes()]);
        let response = format!("HTTP/1.1 101 S\r\nUpgrade: {switched}\r\n\r\n");
        other.send(Reply, response.as_bytes(), &docs_only());
        assert_eq!(other.reset, Some(DropReason::L7Unsupported), "{switched}");
    }
    let mut unasked = run([get("/docs").as_bytes()]);
    unasked.send(Reply, b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n", &docs_only());
    assert_eq!(unasked.reset, Some(DropReason::L7Unsupported));
}

#[test]
fn a_tunnel_is_opaque_after_2xx_and_http_goes_on_where_the_server_declines() {
    let connect = b"CONNECT backend:443 HTTP/1.1\r\nHost: backend:443\r\n\r\n";
    let spec = |method: &str, path: Option<&str>| {
        let path = path.map(str::to_owned);
        let method = Some(method.to_owned());
        let rule = HttpRule::new(HttpRuleSpec { method, path, ..HttpRuleSpec::default() });
        let rules = Some(Arc::new(L7Rules::http(vec![rule.unwrap()])));
        L7Policy { ingress: vec![L7Entry { rule: RuleId(1), rules }], ..L7Policy::default() }
    };
    let policy = spec("CONNECT|GET", None);
    for status in ["200 OK", "204 No Content"] {
        let mut http = Http::default();
        http.send(Original, &[&connect[..], b"\x16\x03\x01"].concat(), &policy);
        assert!(http.requests.stalled, "nothing passes before the answer");
        let response = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
        http.send(Reply, response.as_bytes(), &policy);
        http.send(Reply, b"\0 any bytes", &policy);
        http.send(Original, b"more", &policy);
        assert_eq!(http.requests.received, [&connect[..], b"\x16\x03\x01more"].concat());
        let expected = [response.as_bytes(), b"\0 any bytes"].concat();
        assert_eq!(http.responses.received, expected);
        assert!(http.reset.is_none());
    }
    let mut declined = Http::default();
    declined.send(Original, &[&connect[..], get("/docs").as_bytes()].concat(), &policy);
    declined.send(Reply, b"HTTP/1.1 407 P\r\nContent-Length: 1\r\n\r\nx", &policy);
    assert_eq!(declined.verdicts(), [true, true]);
    // An earlier request's 200 is not its answer.
    let mut behind = Http::default();
    behind.send(Original, &[get("/docs").as_bytes(), connect].concat(), &policy);
    behind.send(Reply, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", &policy);
    behind.send(Original, b"\x16", &policy);
    assert!(behind.requests.stalled);
    for policy in [spec("GET", None), spec("CONNECT", Some(".*")), docs_only()] {
        let mut denied = Http::default();
        denied.send(Original, connect, &policy);
        assert!(denied.requests.received.is_empty() && denied.closed);
        assert_eq!(denied.responses.received, FORBIDDEN_CLOSE);
        let [EventKind::Request { allowed: false, reason: None, .. }] = denied.events[..] else {
            panic!("{:?}", denied.events)
        };
    }
}

#[test]
fn a_101_must_answer_the_request_that_offered_it() {
    let offer = "GET /docs HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n";
    let switch = b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n";
    let mut early = run([get("/docs").as_bytes(), offer.as_bytes()]);
    early.send(Reply, switch, &docs_only());
    assert_eq!(early.reset, Some(DropReason::L7Unsupported));
    let other = offer.replace("websocket", "h2c");
    let mut other = run([other.as_bytes()]);
    other.send(Reply, switch, &docs_only());
    assert_eq!(other.reset, Some(DropReason::L7Unsupported));
    let several = offer.replace("websocket", "h2c, websocket");
    let mut several = run([several.as_bytes()]);
    several.send(Reply, switch, &docs_only());
    assert_eq!(several.reset, None);
}
