//! The server's stream.

use super::*;

#[test]
fn responses_are_followed_as_leniently_as_clients_read_them() {
    let head_request = "HEAD /docs HTTP/1.1\r\nHost: h\r\n\r\n".to_owned();
    for (request, response, expected) in [
        (get("/docs"), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", &[200][..]),
        (get("/docs"), "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", &[200]),
        (get("/docs"), "\r\nHTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", &[200]),
        (
            get("/docs"),
            "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length:5\r\n\r\nhello",
            &[200],
        ),
        (get("/docs"), "HTTP/1.1 204 No Content\r\n\r\n", &[204]),
        (get("/docs"), "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", &[304]),
        (head_request, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", &[200]),
        (
            get("/docs"),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
            &[200],
        ),
        (
            get("/docs"),
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\nContent-Length: 7\r\n\r\n\
             3 ;x\nabc\n0\n\n",
            &[200],
        ),
        (
            get("/docs"),
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n\
             HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            &[100, 103, 404],
        ),
    ] {
        for cut in 1..response.len() {
            let mut http = run([request.as_bytes()]);
            let (first, second) = response.as_bytes().split_at(cut);
            http.send(Reply, first, &docs_only());
            // The denial's answer stands after the response, wherever that is cut.
            http.send(Original, get("/secret").as_bytes(), &docs_only());
            http.send(Reply, second, &docs_only());
            assert_eq!(statuses(&http), expected, "{response:?} cut at {cut}");
            let received = [response.as_bytes(), FORBIDDEN].concat();
            assert_eq!(http.responses.received, received, "{response:?} cut at {cut}");
        }
    }
}

#[test]
fn a_body_behind_a_response_without_one_is_skipped_as_clients_do() {
    let head_request = "HEAD /docs HTTP/1.1\r\nHost: h\r\n\r\n".to_owned();
    for (request, status) in [
        (head_request, "200 OK"),
        (get("/docs"), "204 No Content"),
        (get("/docs"), "304 Not Modified"),
    ] {
        let response = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nhello");
        let follow = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let both = [&*response, follow].concat();
        for cut in 1..both.len() {
            let (first, second) = both.as_bytes().split_at(cut);
            let mut http = run([request.as_bytes(), get("/docs").as_bytes()]);
            http.send(Reply, first, &docs_only());
            http.send(Reply, second, &docs_only());
            http.send(Original, get("/secret").as_bytes(), &docs_only());
            let expected = [both.as_bytes(), FORBIDDEN].concat();
            assert_eq!(http.responses.received, expected, "{status} cut at {cut}");
        }
        let without = response.strip_suffix("hello").unwrap();
        let mut http = run([request.as_bytes(), get("/docs").as_bytes()]);
        http.send(Reply, [without, follow].concat().as_bytes(), &docs_only());
        assert_eq!(statuses(&http), [status[..3].parse().unwrap(), 200]);
    }
}

#[test]
fn requests_go_on_behind_what_a_server_sends_too_much() {
    let head_request = "HEAD /docs HTTP/1.1\r\nHost: h\r\n\r\n".to_owned();
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for (request, response, answered) in [
        (head_request, format!("HTTP/1.1 200 OK\r\n{chunked}"), false),
        (get("/docs"), format!("HTTP/1.1 204 N\r\n{chunked}"), false),
        (get("/docs"), "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxyz".to_owned(), false),
        (get("/docs"), "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx\r\n\r\n".to_owned(), true),
        (get("/docs"), format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{chunked}"), true),
    ] {
        let mut http = run([request.as_bytes()]);
        http.send(Reply, response.as_bytes(), &docs_only());
        for _ in 0..200 {
            http.send(Original, get("/docs").as_bytes(), &docs_only());
            http.send(Reply, b"HTTP/1.1 204 No Content\r\n\r\n", &docs_only());
        }
        assert_eq!(http.verdicts(), [true; 201], "{response:?}");
        http.send(Original, get("/secret").as_bytes(), &docs_only());
        assert_eq!(denials(&http), [None], "{response:?}");
        match answered {
            true => assert!(http.responses.received.ends_with(FORBIDDEN), "{response:?}"),
            false => assert_eq!(http.reset, Some(DropReason::L7Denied), "{response:?}"),
        }
    }
}

#[test]
fn a_response_without_length_ends_with_the_connection() {
    let mut http = run([get("/docs").as_bytes()]);
    let response = b"HTTP/1.0 200 OK\r\n\r\nanything\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
    http.send(Reply, response, &docs_only());
    http.send(Original, get("/secret").as_bytes(), &docs_only());
    assert_eq!(http.responses.received, response, "no answer of ours stands within a body");
    http.send(Original, get("/docs").repeat(300).as_bytes(), &docs_only());
    http.send(Original, get("/secret").repeat(300).as_bytes(), &docs_only());
    assert_eq!(http.verdicts().len(), 602, "nothing waits");
    http.end(Reply, &docs_only());
    assert_eq!((http.reset, http.responses.received.len()), (None, response.len()));
}

#[test]
fn requests_go_on_where_a_response_has_several_readings() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n 2\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ] {
        let mut http = run([get("/docs").as_bytes()]);
        http.send(Reply, response.as_bytes(), &docs_only());
        let stream = get("/docs").repeat(200);
        http.send(Original, stream.as_bytes(), &docs_only());
        assert_eq!(http.requests.received.len(), get("/docs").len() * 201, "{response:?}");
        http.send(Original, get("/secret").as_bytes(), &docs_only());
        assert_eq!(http.reset, Some(DropReason::L7Denied), "{response:?}");
        assert_eq!(denials(&http), [None], "{response:?}: the denial is recorded");
    }
    let mut unasked = Http::default();
    let response = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n";
    unasked.send(Reply, response, &docs_only());
    assert_eq!(unasked.responses.received, response);
}

#[test]
fn a_denied_request_that_waits_ends_the_connection_when_the_framing_is_lost() {
    let mut http = run([get("/docs").as_bytes(), get("/secret").as_bytes()]);
    http.send(Reply, b"ICY 200 OK\r\n\r\n", &docs_only());
    assert_eq!(http.reset.unwrap(), DropReason::L7Malformed);
    assert_eq!(denials(&http), [None, Some(DropReason::L7Malformed)], "the request and the end");
}

#[test]
fn the_latency_of_a_response_is_from_the_release_of_its_request() {
    let mut http = Http { now: Nanos(1_000), ..Http::default() };
    http.send(Original, get("/docs").as_bytes(), &docs_only());
    http.now = http.now.plus_millis(5);
    http.send(Reply, b"HTTP/1.1 204 No Content\r\n\r\n", &docs_only());
    let [_, EventKind::Response { latency_ns, .. }] = http.events[..] else {
        panic!("{:?}", http.events)
    };
    assert_eq!(latency_ns, 5_000_000);
}
