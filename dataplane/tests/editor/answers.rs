//! Denials: what the client receives, and what the server never sees.

use super::*;

const BROKEN: &[u8] = b"GET /docs HTTP/1.1\nHost: h\n\n";
/// The answer to it.
const BAD_REQUEST: &[u8] = bad_request(Flaw::LineEnd);

#[test]
fn a_denied_request_is_answered_at_once_and_never_forwarded() {
    for options in all_options() {
        let mut lab = Lab::open(options);
        lab.request(SECRET);
        assert!(lab.server.received.is_empty());
        assert!(!lab.server.was_reset && !lab.server.fin_taken, "{options:?}");
        assert_eq!(lab.client.received, FORBIDDEN);
        assert_eq!(lab.verdicts(), [false]);
        let answer = lab.log.iter().find(|packet| packet.originated).unwrap();
        assert_eq!(answer.tcp.ack, lab.client.next(), "acknowledges the request");
    }
}

#[test]
fn a_connection_goes_on_behind_denied_requests() {
    for options in all_options() {
        let mut lab = Lab::open(options);
        let post = b"POST /secret HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n";
        for _ in 0..3 {
            lab.request(DOCS);
            lab.request(SECRET);
            lab.request(SECRET);
            lab.request(post);
            lab.request(&[b'x'; 1400]);
            lab.request(&[b'x'; 1600]);
        }
        lab.request(DOCS);
        assert_eq!(lab.server.received, DOCS.repeat(4));
        let round = [RESPONSE, FORBIDDEN, FORBIDDEN, FORBIDDEN].concat();
        assert_eq!(lab.client.received, [&round.repeat(3), RESPONSE].concat());
        assert_eq!(lab.client.ack(), lab.log.last().unwrap().tcp.ack.max(lab.client.ack()));
        lab.client_sends(lab.client.sent, b"", FIN);
        lab.client.sent += 1;
        lab.exchange();
        lab.server_sends(lab.server.sent, b"", FIN);
        lab.server.sent += 1;
        lab.exchange();
        assert!(lab.server.fin_taken && lab.client.fin_taken);
        assert!(!lab.server.was_reset && !lab.client.was_reset);
    }
}

#[test]
fn a_denied_chunked_body_is_dropped() {
    let mut lab = lab();
    lab.request(b"POST /secret HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(lab.client.received, FORBIDDEN);
    lab.request(b"5\r\nhel");
    lab.request(b"lo\r\n0\r\n\r");
    lab.request(&[b"\n", DOCS].concat());
    assert_eq!(lab.server.received, DOCS);
    assert_eq!(lab.client.received, [FORBIDDEN, RESPONSE].concat());
}

#[test]
fn a_client_that_expects_no_later_response_is_closed() {
    for request in [
        &b"GET /secret HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"[..],
        b"GET /secret HTTP/1.0\r\nHost: h\r\n\r\n",
        b"PUT /secret HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
    ] {
        let mut lab = lab();
        lab.request(request);
        assert_eq!(lab.client.received, FORBIDDEN_CLOSE);
        assert!(lab.client.fin_taken && lab.server.fin_taken);
        assert!(!lab.client.was_reset && !lab.server.was_reset);
        assert!(lab.server.received.is_empty());
    }
    let mut kept = lab();
    kept.request(b"GET /secret HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(kept.client.received, FORBIDDEN);
    assert!(!kept.client.fin_taken);
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
    assert_eq!(lab.server.received, [DOCS, DOCS, DOCS].concat());
    assert_eq!(lab.client.received, [RESPONSE, RESPONSE, FORBIDDEN, RESPONSE].concat());
    assert_eq!(lab.verdicts(), [true, true, false, true]);
}

#[test]
fn responses_that_are_lost_behind_us_come_again_in_front_of_the_answer() {
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
    lab.io.out_of_frames = true;
    lab.request(SECRET);
    assert!(lab.client.received.is_empty() && lab.server.received.is_empty());
    lab.io.out_of_frames = false;
    lab.request(SECRET);
    lab.wait_millis(250);
    assert_eq!(lab.client.received, FORBIDDEN.repeat(2));
    assert!(lab.server.received.is_empty());
}

#[test]
fn what_follows_a_closing_answer_is_dropped_and_the_close_completed() {
    let mut lab = lab();
    lab.request(BROKEN);
    assert_eq!(lab.client.received, BAD_REQUEST);
    lab.request(&[b'x'; 1400]);
    lab.request(&[b'x'; 1600]);
    let fin_at = lab.client.sent;
    lab.client_sends(fin_at, b"", FIN);
    lab.client.sent += 1;
    let to_client: Vec<_> = lab.io.sent.iter().filter(|sent| sent.direction == SERVER).collect();
    let last = to_client.last().unwrap();
    assert_eq!(last.tcp.ack, lab.client.next(), "the FIN is acknowledged");
    assert!(!last.is(RST));
    lab.exchange();
    assert!(lab.server.received.is_empty() && !lab.client.was_reset);
    // What the server still sends is not read.
    assert!(lab.server.fin_taken && lab.server.was_reset);
    lab.editor.close(&mut lab.io);
    assert!(lab.io.sent.is_empty(), "both ends know already");
}

#[test]
fn a_small_mss_and_a_small_window_only_slow_the_answer_down() {
    for (mss, window) in [(100, 65_000), (1460, 60), (1, 1), (1460, 0)] {
        let mut lab = Lab::new(Options { client_mss: mss, ..Options::default() });
        lab.client.window = window;
        lab.handshake();
        lab.request(SECRET);
        lab.wait_millis(5_000);
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
    malformed.request(BROKEN);
    assert_eq!(malformed.client.received, BAD_REQUEST);
    assert!(malformed.server.fin_taken && malformed.server.received.is_empty());
    let mut tls = lab();
    tls.request(b"\x16\x03\x01\x02\x00\x01\x00");
    assert!(tls.client.was_reset && tls.server.was_reset);
    assert!(tls.client.received.is_empty() && tls.server.received.is_empty());
}

#[test]
fn a_switch_to_websocket_ends_the_inspection_and_another_one_the_connection() {
    let offer = b"GET /docs HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n";
    let mut lab = lab();
    lab.serves = false;
    lab.request(SECRET);
    lab.request(offer);
    let switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\r\n";
    lab.response(switch);
    lab.request(SECRET);
    lab.response(b"\x81\x05hello");
    assert_eq!(lab.server.received, [&offer[..], SECRET].concat());
    assert_eq!(lab.client.received, [FORBIDDEN, switch, b"\x81\x05hello"].concat());
    let mut other = self::lab();
    other.serves = false;
    other.request(b"GET /docs HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n");
    other.response(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n");
    assert!(other.client.was_reset && other.server.was_reset);
    assert!(other.client.received.is_empty());
}

#[test]
fn a_fin_may_not_cut_a_head_short() {
    let mut lab = lab();
    lab.client_sends(0, &DOCS[..10], FIN);
    lab.exchange();
    assert!(lab.server.received.is_empty());
    assert_eq!(lab.client.received, bad_request(Flaw::Incomplete));
}

#[test]
fn a_fin_behind_a_denied_request_passes() {
    let mut lab = lab();
    lab.client_sends(0, &[DOCS, SECRET].concat(), FIN);
    lab.exchange();
    assert_eq!(lab.server.received, DOCS);
    assert!(lab.server.fin_taken);
    assert_eq!(lab.client.received, [RESPONSE, FORBIDDEN].concat());
}

#[test]
fn a_server_that_closes_first_leaves_no_place_for_an_answer() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(&[DOCS, SECRET].concat());
    lab.server_sends(0, b"HTTP/1.1 200 OK\r\n\r\nuntil the end", FIN);
    lab.server.sent += 1;
    lab.exchange();
    assert!(lab.client.received.ends_with(b"until the end") && lab.client.fin_taken);
    assert_eq!(lab.server.received, DOCS);
    assert!(!lab.client.was_reset);
}

#[test]
fn a_request_that_is_denied_behind_the_servers_fin_resets_both_ends() {
    let mut lab = lab();
    lab.server_sends(0, b"", FIN);
    lab.server.sent += 1;
    lab.exchange();
    lab.request(SECRET);
    assert!(lab.client.was_reset && lab.server.was_reset);
}

#[test]
fn an_answer_stands_in_front_of_the_servers_fin() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(&[DOCS, SECRET].concat());
    lab.server_sends(0, RESPONSE, FIN);
    lab.server.sent += 1;
    lab.exchange();
    assert_eq!(lab.client.received, [RESPONSE, FORBIDDEN].concat());
    assert!(lab.client.fin_taken);
}

#[test]
fn what_the_server_sends_behind_a_closing_answer_is_dropped() {
    let mut lab = lab();
    lab.serves = false;
    lab.client_sends(0, &[DOCS, BROKEN].concat(), PSH);
    lab.exchange();
    lab.acks = false;
    lab.server_sends(0, RESPONSE, PSH);
    lab.exchange();
    assert_eq!(lab.client.received, [RESPONSE, BAD_REQUEST].concat());
    assert!(lab.server.fin_taken);
    lab.server_sends(RESPONSE.len() as u32, RESPONSE, FIN);
    lab.server.sent += 1;
    lab.acks = true;
    lab.exchange();
    assert_eq!(lab.client.received, [RESPONSE, BAD_REQUEST].concat());
}

#[test]
fn a_client_that_never_closes_is_reset_in_time() {
    let mut lab = lab();
    lab.request(BROKEN);
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
        lab.editor.tick(lab.now, &lab.policy, &mut lab.io);
    }
    let answers = lab.io.sent.iter().filter(|packet| packet.payload() == FORBIDDEN).count();
    assert_eq!(answers, 6);
    assert!(lab.io.sent.last().unwrap().is(RST));
}

#[test]
fn a_broken_body_is_answered_in_place_of_the_server() {
    let head = b"POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut lab = lab();
    lab.serves = false;
    lab.request(head);
    lab.request(b"zz\r\n");
    assert_eq!(lab.client.received, bad_request(Flaw::ChunkSize));
    assert_eq!(lab.server.received, head);
    assert!(lab.client.fin_taken && lab.server.fin_taken);
    let mut begun = self::lab();
    begun.serves = false;
    begun.request(head);
    begun.response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    begun.request(b"zz\r\n");
    assert!(begun.client.was_reset && begun.server.was_reset);
}

#[test]
fn requests_go_on_though_the_servers_framing_is_lost() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(DOCS);
    lab.response(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx");
    for _ in 0..300 {
        lab.request(DOCS);
        lab.response(RESPONSE);
    }
    assert_eq!(lab.server.received, DOCS.repeat(301));
    lab.request(SECRET);
    assert!(lab.client.was_reset && lab.server.was_reset, "at once, not in silence");
    assert_eq!(lab.server.received, DOCS.repeat(301));
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

#[test]
fn denied_requests_in_two_segments_do_not_fill_the_memory() {
    let mut lab = lab();
    let cookie = "x".repeat(1_200);
    let head = format!("GET /secr HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\n\r\n");
    for _ in 0..100 {
        lab.request(&head.as_bytes()[..700]);
        lab.request(&head.as_bytes()[700..]);
    }
    assert!(lab.editor.history_bytes() < 2_000);
    lab.request(DOCS);
    assert_eq!(lab.server.received, DOCS);
    assert!(lab.client.received.ends_with(RESPONSE));
}

#[test]
fn answers_that_are_not_acknowledged_are_bounded() {
    let mut lab = lab();
    lab.acks = false;
    for _ in 0..400 {
        lab.client_sends(lab.client.sent, SECRET, PSH);
    }
    assert!(lab.editor.buffered_bytes() < 64 * 1024, "{}", lab.editor.buffered_bytes());
    lab.io.sent.clear();
    lab.client_sends(0, &SECRET[..1], 0);
    assert!(lab.io.sent.len() < 12, "{} packets for one", lab.io.sent.len());
}

#[test]
fn a_server_is_closed_though_it_has_not_acknowledged_what_passed() {
    let mut lab = lab();
    lab.serves = false;
    lab.client_sends(0, DOCS, PSH);
    lab.exchange_with(|packet| packet.direction == SERVER);
    // The response acknowledges nothing: the request is lost, and its retransmission under way.
    let (seq, ack) = (lab.server.isn.wrapping_add(1), lab.client.isn.wrapping_add(1));
    lab.server.sent = RESPONSE.len() as u32;
    lab.send(SERVER, seq, ack, ACK | PSH, RESPONSE);
    lab.client_sends(DOCS.len() as u32, BROKEN, PSH);
    let to_server: Vec<_> = lab.io.sent.iter().filter(|sent| sent.direction == CLIENT).collect();
    let fin = to_server.iter().find(|sent| sent.is(FIN)).expect("a FIN at once");
    assert_eq!(fin.tcp.seq, ack.wrapping_add(DOCS.len() as u32), "after what passed");
}
