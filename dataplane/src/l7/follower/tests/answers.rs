//! Refusing: what the client is told, and what the server never sees.

use super::*;

#[test]
fn a_denied_request_is_answered_at_once_and_never_forwarded() {
    for options in all_wires() {
        let mut lab = Lab::open(options);
        lab.request(SECRET);
        assert!(lab.server.received.is_empty());
        assert!(lab.server.was_reset, "{options:?}");
        assert_eq!(lab.client.received, FORBIDDEN);
        assert!(lab.client.fin_taken);
        assert_eq!(lab.verdicts(), [false]);
        let answer = lab.log.iter().find(|packet| packet.own && packet.is(FIN)).unwrap();
        assert_eq!(answer.tcp.ack, lab.client.next(), "acknowledges the request");
        let reset = lab.log.iter().find(|packet| packet.is(RST)).unwrap();
        assert_eq!((reset.direction, reset.tcp.seq), (CLIENT, lab.server.ack()));
    }
}

#[test]
fn the_403_has_these_bytes() {
    assert_eq!(
        FORBIDDEN,
        b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 15\r\n\
          connection: close\r\nserver: podgate\r\n\r\nAccess denied\r\n"
    );
    for (text, length) in [(FORBIDDEN, 15), (BAD_REQUEST, 13)] {
        let body = text.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(text.len() - body, length);
        let field = format!("content-length: {length}\r\n");
        assert!(text.windows(field.len()).any(|w| w == field.as_bytes()));
    }
}

#[test]
fn a_denied_head_request_gets_no_body() {
    let mut lab = lab();
    lab.request(b"HEAD /secret HTTP/1.1\r\nHost: backend\r\n\r\n");
    assert_eq!(lab.client.received, FORBIDDEN.strip_suffix(b"Access denied\r\n").unwrap());
}

#[test]
fn a_pipelined_denied_request_is_answered_after_those_before_it() {
    let mut lab = lab();
    lab.request(&[DOCS, DOCS, SECRET, DOCS].concat());
    assert_eq!(lab.server.received, [DOCS, DOCS].concat());
    assert_eq!(lab.client.received, [RESPONSE, RESPONSE, FORBIDDEN].concat());
    assert!(lab.client.fin_taken && lab.server.was_reset);
    assert_eq!(lab.verdicts(), [true, true, false]);
}

#[test]
fn responses_that_are_lost_behind_us_come_again_before_the_server_is_reset() {
    let mut lab = lab();
    lab.client_sends(0, &[DOCS, SECRET].concat(), PSH);
    // The first response is lost on its way to the client; the answer arrives early.
    let mut lost = false;
    lab.exchange_with(|packet| {
        let lose = packet.payload() == RESPONSE && !lost;
        lost |= lose;
        !lose
    });
    assert!(lab.client.received.is_empty() && !lab.server.was_reset);
    lab.server_sends(0, RESPONSE, PSH);
    lab.exchange();
    assert_eq!(lab.client.received, [RESPONSE, FORBIDDEN].concat());
    assert!(lab.server.was_reset);
}

#[test]
fn a_lost_answer_is_sent_again_for_the_clients_retransmission() {
    let mut lab = lab();
    lab.client_sends(0, SECRET, PSH);
    lab.exchange_with(|packet| packet.direction == CLIENT);
    assert!(lab.client.received.is_empty());
    lab.client_sends(0, SECRET, PSH);
    lab.exchange();
    assert_eq!(lab.client.received, FORBIDDEN);
    assert!(lab.client.fin_taken);
}

#[test]
fn a_lost_answer_is_sent_again_in_time() {
    let mut lab = lab();
    lab.client_sends(0, SECRET, PSH);
    lab.exchange_with(|packet| packet.direction == CLIENT);
    lab.wait_millis(250);
    assert_eq!(lab.client.received, FORBIDDEN);
}

#[test]
fn without_frames_the_answer_waits_for_one() {
    let mut lab = lab();
    lab.io.starved = true;
    lab.request(SECRET);
    assert!(lab.client.received.is_empty() && lab.server.received.is_empty());
    lab.io.starved = false;
    lab.request(SECRET);
    lab.wait_millis(250);
    assert_eq!(lab.client.received, FORBIDDEN);
    assert!(lab.server.received.is_empty());
}

#[test]
fn a_denied_body_is_swallowed_and_the_close_completed() {
    let mut lab = lab();
    lab.request(b"POST /secret HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n");
    assert_eq!(lab.client.received, FORBIDDEN);
    lab.request(&[b'x'; 1400]);
    lab.request(&[b'x'; 1600]);
    let fin_at = lab.client.sent;
    lab.client_sends(fin_at, b"", FIN);
    let last = lab.io.sent.last().unwrap().clone();
    assert_eq!(last.tcp.ack, lab.client.next().wrapping_add(1), "the FIN is acknowledged");
    assert!(!last.is(RST));
    lab.exchange();
    assert!(lab.server.received.is_empty() && !lab.client.was_reset);
    lab.io.sent.clear();
    lab.follower.close(&mut lab.io);
    assert!(lab.io.sent.is_empty(), "both ends know already");
}

#[test]
fn a_small_mss_and_a_small_window_only_slow_the_answer_down() {
    for (mss, window) in [(100, 65_000), (1460, 60), (1, 1), (1460, 0)] {
        let mut lab = Lab::new(Options { client_mss: mss, ..Options::default() });
        lab.client.window = window;
        lab.handshake();
        lab.request(SECRET);
        lab.wait_millis(15_000);
        // Windows open at last, and the client says so.
        lab.client.window = 65_000;
        if !lab.client.was_reset {
            lab.client_sends(lab.client.sent, b"", 0);
            lab.exchange();
            assert_eq!(lab.client.received, FORBIDDEN, "mss {mss}, window {window}");
        }
        assert!(FORBIDDEN.starts_with(&lab.client.received));
        assert!(lab.server.received.is_empty());
    }
}

#[test]
fn malformed_requests_get_a_400_and_other_protocols_a_reset() {
    let mut malformed = lab();
    malformed.request(b"GET /docs HTTP/1.1\nHost: h\n\n");
    assert_eq!(malformed.client.received, BAD_REQUEST);
    assert!(malformed.server.was_reset && malformed.server.received.is_empty());
    let mut tls = lab();
    tls.request(b"\x16\x03\x01\x02\x00\x01\x00");
    assert!(tls.client.was_reset && tls.server.was_reset);
    assert!(tls.client.received.is_empty() && tls.server.received.is_empty());
}

#[test]
fn a_switch_of_protocols_resets_both_ends() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(b"GET /docs HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n");
    lab.response(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n");
    assert!(lab.client.was_reset && lab.server.was_reset);
    assert!(lab.client.received.is_empty());
}

#[test]
fn a_fin_may_not_cut_a_head_short() {
    let mut lab = lab();
    lab.client_sends(0, &DOCS[..10], FIN);
    lab.exchange();
    assert!(lab.server.received.is_empty() && !lab.server.fin_taken);
    assert_eq!(lab.client.received, BAD_REQUEST);
}

#[test]
fn a_fin_behind_a_denied_request_does_not_pass() {
    let mut lab = lab();
    lab.client_sends(0, &[DOCS, SECRET].concat(), FIN);
    lab.exchange();
    assert_eq!(lab.server.received, DOCS);
    assert!(!lab.server.fin_taken);
    assert_eq!(lab.client.received, [RESPONSE, FORBIDDEN].concat());
}

#[test]
fn a_server_that_closes_first_leaves_no_place_for_an_answer() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(&[DOCS, SECRET].concat());
    lab.server_sends(0, b"HTTP/1.1 200 OK\r\n\r\nuntil the end", FIN);
    lab.exchange();
    assert!(lab.client.received.ends_with(b"until the end") && lab.client.fin_taken);
    assert_eq!(lab.server.received, DOCS);
    assert!(lab.server.was_reset && !lab.client.was_reset);
}

#[test]
fn what_the_server_says_behind_our_answer_is_dropped() {
    let mut lab = lab();
    lab.serves = false;
    lab.client_sends(0, &[DOCS, SECRET].concat(), PSH);
    lab.exchange();
    lab.acks = false;
    lab.server_sends(0, RESPONSE, PSH);
    lab.exchange();
    assert_eq!(lab.client.received, [RESPONSE, FORBIDDEN].concat());
    // The client has not acknowledged yet, so the server lives.
    assert!(!lab.server.was_reset);
    lab.server_sends(RESPONSE.len() as u32, RESPONSE, FIN);
    assert_eq!(lab.io.dropped, [DropReason::L7Closed]);
    assert!(lab.io.sent.is_empty());
}

#[test]
fn a_client_that_never_closes_is_reset_in_time() {
    let mut lab = lab();
    lab.request(SECRET);
    lab.wait_millis(29_000);
    assert!(!lab.client.was_reset);
    lab.wait_millis(2_000);
    assert!(lab.client.was_reset);
}

#[test]
fn a_client_that_never_acknowledges_is_given_up() {
    let mut lab = lab();
    lab.client_sends(0, SECRET, PSH);
    lab.io.sent.clear();
    lab.acks = false;
    for _ in 0..3_000 {
        lab.now = lab.now.plus_millis(10);
        lab.follower.tick(lab.now, &mut lab.io);
    }
    let answers = lab.io.sent.iter().filter(|packet| packet.is(FIN)).count();
    assert_eq!(answers, 6);
    assert!(lab.io.sent.last().unwrap().is(RST));
}

#[test]
fn a_denied_body_larger_than_the_window_is_swallowed() {
    let mut lab = lab();
    lab.request(b"POST /secret HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n");
    for _ in 0..200 {
        lab.request(&[b'x'; 1000]);
        assert_eq!(lab.log.last().unwrap().tcp.ack, lab.client.next());
    }
    assert!(lab.server.received.is_empty() && !lab.client.was_reset);
}
