//! The follower between model stacks.

mod lab;

use proptest::prelude::*;

use super::requests::{MEMORY_MAX, QUEUE_MS, UNIT_MS};
use super::*;
use crate::l7::http1::tests::corpus;
use crate::l7::reply::{BAD_REQUEST, FORBIDDEN};
use crate::packet::tcp_flags::{ACK, FIN, PSH, RST, SYN, URG};
use lab::{CLIENT, Lab, Options, RESPONSE, SERVER};

const DOCS: &[u8] = b"GET /docs HTTP/1.1\r\nHost: backend\r\n\r\n";
const SECRET: &[u8] = b"GET /secr HTTP/1.1\r\nHost: backend\r\n\r\n";

fn lab() -> Lab {
    Lab::open(Options::default())
}

/// Every kind of wire that the follower has to write to.
fn all_wires() -> impl Iterator<Item = Options> {
    (0..16).map(|bits| Options {
        v6: bits & 1 != 0,
        vlan: bits & 2 != 0,
        timestamps: bits & 4 != 0,
        frame: if bits & 8 != 0 { 128 } else { Options::default().frame },
        ..Options::default()
    })
}

#[test]
fn allowed_requests_and_their_responses_go_by_untouched() {
    for options in all_wires() {
        let mut lab = Lab::open(options);
        let offset = lab.client.sent;
        let packet = lab.packet(
            CLIENT,
            lab.client.isn.wrapping_add(1 + offset),
            lab.client.ack(),
            ACK | PSH,
            DOCS,
        );
        lab.client.sent += DOCS.len() as u32;
        lab.inject(CLIENT, &packet);
        assert_eq!(lab.io.sent.len(), 1);
        assert_eq!(lab.io.sent[0].bytes, packet);
        lab.exchange();
        assert_eq!(lab.client.received, RESPONSE);
        assert!(lab.log.iter().all(|packet| !packet.own), "nothing of our own");
        assert!(lab.io.dropped.is_empty());
        assert!(matches!(
            lab.io.events[..],
            [
                EventKind::HttpRequest { allowed: true, rule: Some(_), malformed: None, .. },
                EventKind::HttpResponse { status: 200, .. }
            ]
        ));
    }
}

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
fn requests_behind_an_offered_upgrade_wait_for_its_answer() {
    let mut lab = lab();
    lab.serves = false;
    let offer = b"GET /docs HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n";
    lab.request(offer);
    lab.request(DOCS);
    assert_eq!(lab.server.received, offer);
    lab.response(RESPONSE);
    assert_eq!(lab.server.received, [&offer[..], DOCS].concat());
}

/// What the server got and the client got for a stream sent in `pieces` (offset and length).
fn run_pieces(stream: &[u8], pieces: &[(usize, usize)], options: Options) -> (Vec<u8>, Vec<u8>) {
    let mut lab = Lab::open(options);
    for (offset, len) in pieces {
        lab.client_sends(*offset as u32, &stream[*offset..offset + len], 0);
        lab.exchange();
    }
    lab.wait_millis(60);
    assert!(lab.verdicts().iter().filter(|allowed| !**allowed).count() <= 1);
    (lab.server.received.clone(), lab.client.received.clone())
}

fn in_segments(len: usize, size: usize) -> Vec<(usize, usize)> {
    (0..len).step_by(size).map(|at| (at, size.min(len - at))).collect()
}

#[test]
fn the_corpus_has_one_outcome_for_every_segmentation() {
    for folder in ["allowed", "denied", "malformed", "broken-body", "not-http1"] {
        for (name, stream) in corpus(folder) {
            let run = |pieces: &[(usize, usize)]| {
                let (server, client) = run_pieces(&stream, pieces, Options::default());
                // Whether the server answers before a reset is a matter of time.
                let by_reset = matches!(folder, "broken-body" | "not-http1");
                (server, if by_reset { Vec::new() } else { client })
            };
            let expected = run(&in_segments(stream.len(), 1400));
            match folder {
                "allowed" if name.starts_with("incomplete") => assert!(expected.0.is_empty()),
                "allowed" => assert_eq!(expected.0, stream, "{name}"),
                _ => {
                    assert!(stream.starts_with(&expected.0), "{folder}/{name}");
                    assert!(!expected.0.windows(6).any(|w| w == b"secret"), "{folder}/{name}");
                }
            }
            let ends_with = match folder {
                "denied" if name == "head-method" => FORBIDDEN.strip_suffix(b"Access denied\r\n"),
                "denied" => Some(FORBIDDEN),
                "malformed" => Some(BAD_REQUEST),
                _ => Some(&b""[..]),
            };
            assert!(expected.1.ends_with(ends_with.unwrap()), "{folder}/{name}");
            if stream.len() > 1000 {
                continue;
            }
            for size in [1, 7] {
                let mut pieces = in_segments(stream.len(), size);
                let outcome = run(&pieces);
                assert_eq!(outcome, expected, "{folder}/{name} by {size}");
                pieces = pieces.iter().flat_map(|piece| [*piece, *piece]).collect();
                let outcome = run(&pieces);
                assert_eq!(outcome, expected, "{folder}/{name} by {size}, twice");
            }
            for cut in 1..stream.len() {
                let pieces = [(0, cut), (cut, stream.len() - cut)];
                assert_eq!(run(&pieces), expected, "{folder}/{name} cut at {cut}");
                let reversed = run(&[pieces[1], pieces[0]]);
                assert_eq!(reversed, expected, "{folder}/{name} cut at {cut}, reversed");
            }
        }
    }
}

#[test]
fn a_split_head_is_acknowledged_so_that_a_slow_client_can_go_on() {
    let mut lab = lab();
    // Nagle: the second part is not sent before the first is acknowledged.
    lab.request(&DOCS[..10]);
    assert!(lab.server.received.is_empty());
    lab.io.events.clear();
    lab.wait_millis(30);
    let ack = lab.log.last().unwrap();
    assert!(ack.own && ack.direction == SERVER && ack.payload().is_empty());
    assert_eq!(ack.tcp.ack, lab.client.next());
    lab.request(&DOCS[10..]);
    assert_eq!(lab.server.received, DOCS);
    assert_eq!(lab.client.received, RESPONSE);
}

#[test]
fn bytes_that_we_acknowledged_are_delivered_though_packets_are_lost() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(&DOCS[..10]);
    lab.wait_millis(30);
    lab.client_sends(10, &DOCS[10..], PSH);
    lab.exchange_with(|packet| packet.direction == SERVER);
    assert!(lab.server.received.is_empty());
    // The client sends again only what nobody acknowledged.
    lab.client_sends(10, &DOCS[10..], PSH);
    lab.exchange();
    assert!(lab.server.received.is_empty());
    lab.wait_millis(250);
    assert_eq!(lab.server.received, DOCS);
}

#[test]
fn a_lost_acknowledgement_of_ours_is_repeated() {
    let mut lab = lab();
    lab.request(&DOCS[..10]);
    lab.now = lab.now.plus_millis(25);
    lab.follower.tick(lab.now, &mut lab.io);
    lab.io.sent.clear();
    lab.client_sends(0, &DOCS[..10], PSH);
    assert!(lab.io.sent.iter().any(|packet| {
        packet.own && packet.direction == SERVER && packet.tcp.ack == lab.client.next()
    }));
}

#[test]
fn an_incomplete_head_is_given_up_in_time() {
    let mut lab = lab();
    lab.request(&DOCS[..10]);
    lab.wait_millis(UNIT_MS - 100);
    assert!(!lab.client.was_reset);
    lab.wait_millis(200);
    assert!(lab.client.was_reset && lab.server.was_reset);
    assert!(lab.server.received.is_empty());
}

#[test]
fn a_retransmission_with_other_bytes_is_dropped() {
    let mut lab = lab();
    (lab.serves, lab.acks) = (false, false);
    lab.client_sends(0, DOCS, PSH);
    // The server never saw the first packet.
    lab.io.sent.clear();
    for (offset, bytes) in [(0, SECRET), (4, &SECRET[4..12]), (6, b"e"), (8, b"r /")] {
        lab.client_sends(offset, bytes, PSH);
        assert!(lab.io.sent.is_empty());
    }
    assert_eq!(lab.io.dropped, [DropReason::L7Mismatch; 4]);
    lab.client_sends(0, DOCS, PSH);
    lab.exchange();
    assert_eq!(lab.server.received, DOCS);
}

#[test]
fn an_undecided_head_cannot_be_exchanged_either() {
    let mut lab = lab();
    lab.client_sends(0, &DOCS[..12], 0);
    lab.client_sends(0, &SECRET[..12], 0);
    lab.client_sends(12, &DOCS[12..], 0);
    lab.exchange();
    assert_eq!(lab.server.received, DOCS);
    assert_eq!(lab.io.dropped, [DropReason::L7Mismatch]);
}

#[test]
fn chunk_sizes_cannot_be_exchanged() {
    let head = b"POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut lab = lab();
    (lab.serves, lab.acks) = (false, false);
    lab.client_sends(0, &[&head[..], b"3\r\nabc\r\n0\r\n\r\n"].concat(), PSH);
    lab.io.sent.clear();
    let at = head.len() as u32;
    lab.client_sends(at, b"9\r\n", PSH);
    assert_eq!(lab.io.dropped, [DropReason::L7Mismatch]);
    // What a chunk holds decides nothing.
    lab.client_sends(at, b"3\r\nxyz\r\n0\r\n\r\n", PSH);
    assert_eq!((lab.io.dropped.len(), lab.io.sent.len()), (1, 1));
}

#[test]
fn packets_that_the_server_ignores_do_not_count() {
    let mut lab = lab();
    // A wrong checksum.
    let (seq, ack) = (lab.client.next(), lab.client.ack());
    let mut decoy = lab.packet(CLIENT, seq, ack, ACK | PSH, DOCS);
    *decoy.last_mut().unwrap() ^= 1;
    lab.inject(CLIENT, &decoy);
    // Beyond the server's window.
    lab.send(CLIENT, seq.wrapping_add(65_010), ack, ACK, DOCS);
    // Acknowledging what was never sent.
    lab.send(CLIENT, seq, ack.wrapping_add(10), ACK, DOCS);
    assert_eq!(
        lab.io.dropped,
        [DropReason::BadChecksum, DropReason::L7Limit, DropReason::Malformed]
    );
    assert!(lab.io.sent.is_empty());
    lab.request(SECRET);
    assert_eq!(lab.client.received, FORBIDDEN);
    assert!(lab.server.received.is_empty());
}

#[test]
fn urgent_data_ends_the_connection() {
    for payload in [DOCS, b""] {
        let mut lab = lab();
        lab.client_sends(0, payload, URG | PSH);
        lab.exchange();
        assert!(lab.client.was_reset && lab.server.was_reset);
        assert!(lab.server.received.is_empty());
    }
}

#[test]
fn acknowledgements_out_of_place_are_no_data() {
    let mut lab = lab();
    lab.request(DOCS);
    let (next, ack) = (lab.server.next(), lab.server.ack());
    lab.send(SERVER, next.wrapping_add(50), ack, ACK, b"");
    let (next, ack) = (lab.client.next(), lab.client.ack());
    lab.send(CLIENT, next.wrapping_add(50), ack, ACK, b"");
    assert_eq!(lab.io.sent.len(), 2);
    lab.exchange();
    lab.request(DOCS);
    assert_eq!(lab.client.received, RESPONSE.repeat(2));
}

#[test]
fn nothing_is_followed_from_the_middle() {
    for from in [CLIENT, SERVER] {
        let mut lab = Lab::new(Options { timestamps: false, ..Options::default() });
        lab.send(from, 100, 200, ACK | PSH, DOCS);
        assert_eq!(lab.io.dropped, [DropReason::L7Unsupported]);
        let resets: Vec<_> =
            lab.io.sent.drain(..).map(|p| (p.direction, p.tcp.seq, p.is(RST))).collect();
        assert_eq!(resets, [(from, 100, true), (from.reverse(), 200, true)]);
        lab.send(from, 100, 200, ACK | PSH, DOCS);
        assert!(lab.io.sent.drain(..).all(|packet| packet.is(RST)));
    }
}

#[test]
fn data_does_not_pass_before_the_handshake() {
    let mut lab = Lab::new(Options::default());
    lab.syn();
    lab.exchange();
    let (seq, ack) = (lab.client.isn.wrapping_add(1), lab.server.isn.wrapping_add(1));
    lab.send(CLIENT, seq, ack, ACK | PSH, DOCS);
    assert_eq!(lab.io.dropped, [DropReason::Malformed]);
    assert!(lab.io.sent.is_empty());
}

#[test]
fn data_in_a_syn_is_taken_off() {
    for from in [CLIENT, SERVER] {
        let mut lab = Lab::new(Options::default());
        let isn = lab.client.isn;
        lab.send(CLIENT, isn, 0, SYN, if from == CLIENT { SECRET } else { b"" });
        if from == SERVER {
            lab.exchange();
            let (isn, ack) = (lab.server.isn, lab.server.ack());
            lab.send(SERVER, isn, ack, SYN | ACK, b"early");
        }
        assert_eq!(lab.io.sent.len(), 1);
        assert!(lab.io.sent[0].payload().is_empty() && lab.io.sent[0].is(SYN));
    }
}

#[test]
fn a_syn_ack_counts_only_if_it_answers() {
    let mut lab = Lab::new(Options::default());
    lab.syn();
    lab.exchange();
    let isn = lab.server.isn;
    let wrong = lab.client.isn.wrapping_add(2);
    lab.send(SERVER, isn, wrong, SYN | ACK, b"");
    lab.send(SERVER, isn, lab.client.isn, SYN, b"");
    assert_eq!(lab.io.dropped, [DropReason::Malformed; 2]);
    assert!(lab.io.sent.is_empty());
}

#[test]
fn repeated_syns_change_nothing() {
    let mut lab = Lab::new(Options::default());
    lab.syn();
    lab.syn();
    lab.exchange();
    let (isn, ack) = (lab.server.isn, lab.client.isn.wrapping_add(1));
    lab.send(SERVER, isn, ack, SYN | ACK, b"");
    lab.send(SERVER, isn, ack, SYN | ACK, b"");
    lab.exchange();
    lab.request(DOCS);
    lab.syn();
    lab.send(SERVER, isn, ack, SYN | ACK, b"");
    // Another number for an open connection is a lie or a stray.
    lab.send(SERVER, isn.wrapping_add(9), ack, SYN | ACK, b"");
    assert_eq!(lab.io.dropped, [DropReason::Malformed]);
    lab.exchange();
    lab.request(SECRET);
    assert_eq!(lab.server.received, DOCS);
    assert_eq!(lab.client.received, [RESPONSE, FORBIDDEN].concat());
}

#[test]
fn the_first_syn_ack_that_the_client_takes_counts() {
    let mut lab = Lab::new(Options::default());
    lab.syn();
    lab.exchange();
    let ack = lab.client.isn.wrapping_add(1);
    // A SYN cookie that got lost, and the one that did not.
    lab.send(SERVER, 77, ack, SYN | ACK, b"");
    lab.io.sent.clear();
    let isn = lab.server.isn;
    lab.send(SERVER, isn, ack, SYN | ACK, b"");
    lab.exchange();
    lab.request(DOCS);
    assert_eq!(lab.client.received, RESPONSE);
}

#[test]
fn a_new_connection_of_the_same_ports_is_followed_from_its_syn() {
    let mut lab = lab();
    lab.request(SECRET);
    assert!(lab.server.was_reset);
    let mut again = Lab::new(Options { client_isn: 5_000, server_isn: 9_000, ..lab.options });
    std::mem::swap(&mut lab.follower, &mut again.follower);
    again.handshake();
    again.request(DOCS);
    assert_eq!(again.client.received, RESPONSE);
    again.request(SECRET);
    assert_eq!(again.server.received, DOCS);
}

#[test]
fn a_syn_alone_does_not_end_the_inspection_of_a_live_connection() {
    let mut lab = lab();
    lab.send(CLIENT, 4_242, 0, SYN, b"");
    lab.exchange();
    lab.request(SECRET);
    assert_eq!(lab.client.received, FORBIDDEN);
    assert!(lab.server.received.is_empty());
}

#[test]
fn a_blind_reset_neither_passes_nor_ends_the_inspection() {
    let mut lab = lab();
    let (seq, window) = (lab.client.next(), 65_000);
    for wrong in [seq.wrapping_sub(1), seq.wrapping_add(window + 2), seq ^ 0x8000_0000] {
        lab.send(CLIENT, wrong, 0, RST, b"");
    }
    let from_server = lab.server.next().wrapping_sub(2);
    lab.send(SERVER, from_server, 0, RST, b"");
    assert!(lab.io.sent.is_empty());
    // In the window, but not exact: the server challenges it, and lives.
    lab.send(CLIENT, seq.wrapping_add(5), 0, RST, b"");
    lab.exchange();
    assert!(!lab.server.was_reset && !lab.client.was_reset);
    lab.request(SECRET);
    assert!(lab.server.received.is_empty());
    assert_eq!(lab.client.received, FORBIDDEN);
}

#[test]
fn an_exact_reset_passes_both_ways() {
    let mut by_client = lab();
    let seq = by_client.client.next();
    by_client.send(CLIENT, seq, 0, RST, b"");
    by_client.exchange();
    assert!(by_client.server.was_reset);
    let mut by_server = lab();
    let seq = by_server.server.next();
    by_server.send(SERVER, seq, 0, RST, b"");
    by_server.exchange();
    assert!(by_server.client.was_reset);
}

#[test]
fn both_ends_may_close() {
    let mut lab = lab();
    lab.request(DOCS);
    lab.client_sends(lab.client.sent, b"", FIN);
    lab.client.sent += 1;
    lab.exchange();
    assert!(lab.server.fin_taken);
    lab.server_sends(lab.server.sent, b"", FIN);
    lab.server.sent += 1;
    lab.exchange();
    assert!(lab.client.fin_taken);
    lab.client_sends(lab.client.sent, b"more", 0);
    assert_eq!(lab.io.dropped, [DropReason::Malformed]);
    lab.io.sent.clear();
    lab.follower.close(&mut lab.io);
    assert!(lab.io.sent.is_empty(), "nobody has to be reset");
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
fn keep_alive_probes_pass() {
    let mut lab = lab();
    lab.request(DOCS);
    lab.acks = false;
    let before = lab.client.sent - 1;
    lab.client_sends(before, b"", 0);
    lab.client_sends(before, b"\0", 0);
    assert_eq!(lab.io.sent.len(), 2);
    assert!(lab.io.dropped.is_empty());
    lab.exchange();
    assert_eq!(lab.server.received, DOCS);
}

#[test]
fn a_probe_of_a_closed_window_passes() {
    let mut lab = Lab::new(Options::default());
    lab.server.window = 0;
    lab.handshake();
    lab.client_sends(0, &DOCS[..1], 0);
    assert!(lab.io.dropped.is_empty());
    lab.client_sends(0, &DOCS[..2], 0);
    assert_eq!(lab.io.dropped, [DropReason::L7Limit]);
}

#[test]
fn early_segments_wait_and_are_bounded_in_number_and_time() {
    let mut lab = lab();
    for index in 1..40u32 {
        lab.client_sends(index, &DOCS[index as usize..=index as usize], 0);
        if index as usize >= DOCS.len() - 1 {
            break;
        }
    }
    assert!(lab.follower.held_frames() <= 16);
    assert!(lab.io.dropped.iter().all(|reason| *reason == DropReason::L7Limit));
    lab.io.dropped.clear();
    lab.wait_millis(QUEUE_MS + 10);
    assert_eq!(lab.follower.held_frames(), 0);
    assert!(!lab.io.dropped.is_empty());
    lab.request(&[]);
    lab.client_sends(0, DOCS, 0);
    lab.exchange();
    assert_eq!(lab.server.received, DOCS);
}

#[test]
fn body_bytes_need_no_order() {
    let head = b"POST /docs HTTP/1.1\r\nHost: h\r\nContent-Length: 3000\r\n\r\n";
    let mut lab = lab();
    lab.serves = false;
    lab.request(head);
    let at = head.len() as u32;
    lab.client_sends(at + 2000, &[b'c'; 1000], 0);
    lab.client_sends(at + 1000, &[b'b'; 1000], 0);
    assert_eq!(lab.follower.held_frames(), 0);
    assert_eq!(lab.io.sent.len(), 2);
    lab.client_sends(at, &[b'a'; 1000], 0);
    lab.exchange();
    assert_eq!(lab.server.received.len(), head.len() + 3000);
    lab.client.sent = at + 3000;
    lab.request(SECRET);
    assert_eq!(lab.server.received.len(), head.len() + 3000);
    assert_eq!(lab.verdicts(), [true, false]);
}

#[test]
fn responses_may_lose_body_bytes_before_us() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(DOCS);
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n";
    lab.response(head);
    let at = head.len() as u32;
    lab.server_sends(at + 1000, &[b'b'; 2000], 0);
    // What comes behind bytes that frame must wait for them.
    lab.server_sends(at, &[b'a'; 1000], 0);
    lab.exchange();
    assert_eq!(lab.client.received.len(), head.len() + 3000);
    lab.request(SECRET);
    assert!(lab.client.received.ends_with(FORBIDDEN));
}

#[test]
fn a_response_head_that_arrives_early_is_left_to_come_again() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(DOCS);
    lab.server_sends(10, &RESPONSE[10..], 0);
    assert_eq!(lab.io.dropped, [DropReason::L7Limit]);
    lab.server_sends(0, RESPONSE, 0);
    lab.exchange();
    assert_eq!(lab.client.received, RESPONSE);
}

#[test]
fn a_policy_change_holds_from_the_next_request_on() {
    let mut lab = lab();
    lab.request(DOCS);
    lab.policy = L7Policy { ingress: Vec::new(), egress: Vec::new() };
    lab.request(SECRET);
    assert_eq!(lab.verdicts(), [true, true]);
    lab.policy = crate::l7::http1::tests::docs_only();
    lab.request(SECRET);
    assert_eq!(lab.verdicts(), [true, true, false]);
}

#[test]
fn closing_resets_both_ends_wherever_they_are() {
    for steps in 0..4 {
        let mut lab = Lab::new(Options::default());
        lab.syn();
        lab.exchange();
        if steps > 0 {
            lab.handshake();
        }
        if steps > 1 {
            lab.request(DOCS);
        }
        if steps > 2 {
            lab.request(&DOCS[..5]);
            lab.client_sends(lab.client.sent + 10, b"early", 0);
        }
        lab.follower.close(&mut lab.io);
        assert_eq!(lab.follower.held_frames(), 0);
        lab.exchange();
        assert!(lab.client.was_reset && lab.server.was_reset, "after {steps} steps");
        assert!(lab.io.sent.is_empty());
    }
}

#[test]
fn resets_that_miss_are_corrected_by_the_challenge() {
    let mut lab = lab();
    lab.serves = false;
    // A lost packet of a body: the server expects less than we sent on.
    let head = b"POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n";
    lab.request(head);
    let at = head.len() as u32;
    lab.acks = false;
    lab.client_sends(at, b"he", 0);
    lab.exchange();
    lab.client_sends(at + 2, b"l", 0);
    lab.io.sent.clear();
    lab.acks = true;
    lab.client_sends(at + 3, b"lo!", 0);
    lab.exchange();
    assert!(lab.server.was_reset && lab.client.was_reset);
}

#[test]
fn a_large_packet_of_many_frames_is_cut_in_the_right_place() {
    let body = vec![b'x'; 9_000];
    let head = format!("POST /docs HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut lab = lab();
    lab.request(&[head.as_bytes(), &body, SECRET].concat());
    assert_eq!(lab.server.received, [head.as_bytes(), &body].concat());
    assert_eq!(lab.client.received, [RESPONSE, FORBIDDEN].concat());
}

#[test]
fn remembered_bytes_are_bounded() {
    let mut lab = lab();
    (lab.serves, lab.acks) = (false, false);
    let request = format!("GET /docs?{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(1300));
    for index in 0..100 {
        let offset = index * request.len() as u32;
        if offset + request.len() as u32 > u32::from(lab.server.window) {
            break;
        }
        lab.client_sends(offset, request.as_bytes(), 0);
        lab.exchange();
    }
    assert!(lab.follower.requests.memory.len() <= MEMORY_MAX + 16 * 1024);
    lab.server_sends(0, b"", 0);
    assert_eq!(lab.follower.requests.memory.len(), 0, "acknowledged");
}

/// What a hostile client may do with one segment.
#[derive(Clone, Debug)]
struct Trick {
    offset: usize,
    len: usize,
    secret: bool,
    fin: bool,
    bad_checksum: bool,
    ack_shift: i8,
    lost: bool,
    pause: bool,
    server_acks: bool,
}

fn trick() -> impl Strategy<Value = Trick> {
    let len = DOCS.len() * 2;
    (
        0..len,
        1..len,
        any::<bool>(),
        proptest::bool::weighted(0.05),
        proptest::bool::weighted(0.1),
        prop_oneof![8 => Just(0i8), 1 => -3i8..4],
        proptest::bool::weighted(0.3),
        proptest::bool::weighted(0.1),
        any::<bool>(),
    )
        .prop_map(|(offset, len, secret, fin, bad_checksum, ack_shift, lost, pause, acks)| {
            Trick {
                offset,
                len,
                secret,
                fin,
                bad_checksum,
                ack_shift,
                lost,
                pause,
                server_acks: acks,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// The client sends an allowed and a denied stream of the same length over each other, with
    /// loss behind us; the server prefers early or late bytes. It must never read the denied one.
    #[test]
    fn no_mixture_of_segments_gets_a_denied_request_to_the_server(
        tricks in proptest::collection::vec(trick(), 1..30),
        last_wins: bool,
    ) {
        let allowed = [DOCS, DOCS].concat();
        let denied = [DOCS, SECRET].concat();
        let mut lab = lab();
        lab.serves = false;
        lab.server.last_wins = last_wins;
        for trick in tricks {
            let stream = if trick.secret { &denied } else { &allowed };
            let end = (trick.offset + trick.len).min(stream.len());
            let payload = &stream[trick.offset..end];
            let seq = lab.client.isn.wrapping_add(1 + trick.offset as u32);
            let ack = lab.client.ack().wrapping_add(i32::from(trick.ack_shift) as u32);
            let flags = ACK | if trick.fin { FIN } else { 0 };
            let mut packet = lab.packet(CLIENT, seq, ack, flags, payload);
            if trick.bad_checksum {
                *packet.last_mut().unwrap() ^= 0x20;
            }
            lab.inject(CLIENT, &packet);
            lab.acks = trick.server_acks;
            lab.exchange_with(|packet| packet.direction == SERVER || !trick.lost);
            if trick.pause {
                lab.wait_millis(25);
            }
        }
        let received = &lab.server.received;
        prop_assert!(!received.windows(6).any(|w| w == b"/secr "), "{}", received.escape_ascii());
        prop_assert!(allowed.starts_with(received), "{}", received.escape_ascii());
    }

    /// Whatever is allowed arrives, in whatever order and however often its pieces are sent.
    #[test]
    fn allowed_streams_arrive_whole(
        requests in proptest::collection::vec(prop_oneof![
            Just(DOCS.to_vec()),
            Just(b"POST /docs HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\nhello world".to_vec()),
            Just(b"POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                   4;x\r\nabcd\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\n".to_vec()),
        ], 1..5),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
        order in proptest::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let stream = requests.concat();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let pieces: Vec<_> = cuts.windows(2).map(|pair| (pair[0], pair[1] - pair[0])).collect();
        // First in a random order with repetitions, at last as a client that resends.
        let mut sent: Vec<_> = order.iter().map(|index| pieces[index.index(pieces.len())]).collect();
        sent.extend(&pieces);
        let (server, client) = run_pieces(&stream, &sent, Options::default());
        prop_assert_eq!(server, stream);
        prop_assert_eq!(client, RESPONSE.repeat(requests.len()));
    }

    /// Random segments from both ends, at random places, with random flags.
    #[test]
    fn random_segments_never_panic_and_leak_no_frame(
        segments in proptest::collection::vec(
            (any::<bool>(), any::<u8>(), -80i32..200, -80i32..300,
             proptest::collection::vec(any::<u8>(), 0..60), any::<bool>(), 0u64..40),
            0..40,
        ),
    ) {
        let mut lab = lab();
        for (by_client, flags, offset, ack, noise, sensible, millis) in segments {
            let from = if by_client { CLIENT } else { SERVER };
            let (own, other) =
                if by_client { (&lab.client, &lab.server) } else { (&lab.server, &lab.client) };
            let seq = own.isn.wrapping_add(1).wrapping_add(offset as u32);
            let ack = other.isn.wrapping_add(1).wrapping_add(ack as u32);
            let payload = match (sensible, by_client) {
                (true, true) => DOCS,
                (true, false) => RESPONSE,
                (false, _) => &noise,
            };
            let packet = lab.packet(from, seq, ack, flags, payload);
            if crate::packet::parse(&packet, packet.len() as u32).is_ok() {
                lab.inject(from, &packet);
                lab.io.sent.clear();
            }
            lab.now = lab.now.plus_millis(millis);
            lab.follower.tick(lab.now, &mut lab.io);
            lab.check_balance();
        }
    }
}
