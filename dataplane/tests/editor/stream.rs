//! What is allowed arrives, whole and untouched.

use super::*;

#[test]
fn allowed_requests_and_their_responses_go_by_untouched() {
    for options in all_options() {
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
        assert!(lab.log.iter().all(|packet| !packet.originated), "nothing of our own");
        assert!(lab.io.dropped.is_empty());
        assert!(matches!(
            lab.io.events[..],
            [
                EventKind::Request { allowed: true, rule: Some(_), reason: None, .. },
                EventKind::Response { status: ResponseStatus::Http { status: 200, .. }, .. }
            ]
        ));
    }
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

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn the_corpus_has_one_outcome_for_every_segmentation() {
    for folder in ["allowed", "denied", "malformed", "broken-body", "not-http1"] {
        for (name, stream) in corpus(folder) {
            let run = |pieces: &[(usize, usize)]| {
                let (server, client) = run_pieces(&stream, pieces, Options::default());
                // Whether the server answers before a reset depends on timing.
                let depends = matches!(folder, "not-http1" | "broken-body");
                (server, if depends { Vec::new() } else { client })
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
            let closes = ["expect-continue", "connect", "trailers-announced", "http10"];
            let ends_with = match folder {
                "denied" if name == "head-method" => FORBIDDEN.strip_suffix(b"Access denied\r\n"),
                "denied" if closes.contains(&name.as_str()) => Some(FORBIDDEN_CLOSE),
                "denied" => Some(FORBIDDEN),
                "malformed"
                    if ["endless-line", "too-large", "too-many-fields"]
                        .contains(&name.as_str()) =>
                {
                    Some(HEAD_TOO_LARGE)
                }
                "malformed" => Some(&b"HTTP/1.1 400 Bad Request\r\n"[..]),
                _ => Some(&b""[..]),
            };
            assert!(contains(&expected.1, ends_with.unwrap()), "{folder}/{name}");
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
    assert!(ack.originated && ack.direction == SERVER && ack.payload().is_empty());
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
    // The client retransmits only what was not acknowledged.
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
    lab.editor.tick(lab.now, &lab.policy, &mut lab.io);
    lab.io.sent.clear();
    lab.client_sends(0, &DOCS[..10], PSH);
    assert!(lab.io.sent.iter().any(|packet| {
        packet.originated && packet.direction == SERVER && packet.tcp.ack == lab.client.next()
    }));
}

#[test]
fn an_incomplete_head_is_given_up_in_time() {
    let mut lab = lab();
    lab.request(&DOCS[..10]);
    lab.wait_millis(UNDECIDED_MS - 100);
    assert!(lab.client.received.is_empty());
    lab.wait_millis(200);
    assert_eq!(lab.client.received, REQUEST_TIMEOUT);
    assert!(lab.client.fin_taken && lab.server.fin_taken);
    assert!(lab.server.received.is_empty());
    lab.check_balance();
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
fn out_of_order_segments_are_bounded_in_number_and_time() {
    let mut lab = lab();
    lab.io.held_frames_max = 16;
    for index in 1..40 {
        lab.client_sends(index, b"x", 0);
    }
    assert_eq!(lab.editor.held_frames(), 16);
    assert_eq!(lab.io.dropped, [DropReason::L7Limit; 39 - 16]);
    lab.io.dropped.clear();
    lab.wait_millis(QUEUE_MS + 10);
    assert_eq!(lab.editor.held_frames(), 0);
    assert_eq!(lab.io.dropped, [DropReason::L7Limit; 16]);
    lab.request(&[]);
    lab.client_sends(0, DOCS, 0);
    lab.exchange();
    assert_eq!(lab.server.received, DOCS);
}

/// A sender that has a large window in flight loses one segment: no other one is dropped for it.
#[test]
fn a_lost_chunk_line_costs_no_other_segment() {
    let head = b"POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = [b"200\r\n".to_vec(), vec![b'a'; 0x200], b"\r\n".to_vec()].concat();
    let mut lab = lab();
    (lab.serves, lab.io.held_frames_max) = (false, 100);
    lab.request(head);
    let at = |index: u32| head.len() as u32 + index * chunk.len() as u32;
    for index in 1..=100 {
        lab.client_sends(at(index), &chunk, 0);
    }
    assert_eq!(lab.editor.held_frames(), 100);
    lab.client_sends(at(0), &chunk, 0);
    assert!(lab.io.dropped.is_empty(), "{:?}", lab.io.dropped);
    assert_eq!(lab.editor.held_frames(), 0);
    lab.exchange();
    assert_eq!(lab.server.received, [head.to_vec(), chunk.repeat(101)].concat());
}

/// RFC 2018 §4: without it the client would learn of the loss by its retransmission timeout.
#[test]
fn the_client_is_told_which_bytes_arrived_out_of_order() {
    let head = b"POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    for sack in [true, false] {
        let mut lab = Lab::open(Options { sack, ..Options::default() });
        (lab.serves, lab.acks) = (false, false);
        lab.request(head);
        let at = head.len() as u32;
        let base = lab.client.isn.wrapping_add(1).wrapping_add(at);
        lab.io.sent.clear();
        // The server has not acknowledged the head yet: it may still be on its way.
        lab.client_sends(at + 100, b"x", 0);
        assert!(lab.io.sent.is_empty());
        let blocks = |lab: &mut Lab| {
            let own = lab.io.sent.drain(..).filter(|sent| sent.originated).collect::<Vec<_>>();
            assert!(own.iter().all(|ack| ack.direction == SERVER));
            own.iter().map(|ack| ack.tcp.ack.wrapping_sub(base)).for_each(|ack| {
                assert_eq!(ack, 0, "nothing is acknowledged that the server does not have");
            });
            own.iter()
                .map(|ack| ack.sack().expect("a block"))
                .map(|(from, to)| (from.wrapping_sub(base), to.wrapping_sub(base)))
                .collect::<Vec<_>>()
        };
        let (seq, ack) = (lab.server.isn.wrapping_add(1), base);
        lab.send(SERVER, seq, ack, ACK, b"");
        let expected: &[_] = if sack { &[(100, 101)] } else { &[] };
        assert_eq!(blocks(&mut lab), expected);
        lab.client_sends(at + 200, b"abc", 0);
        lab.client_sends(at + 101, &[b'y'; 9], 0);
        let expected: &[_] = if sack { &[(200, 203), (100, 110)] } else { &[] };
        assert_eq!(blocks(&mut lab), expected);
    }
}

/// Segments that came while the server had not acknowledged were not reported one by one.
#[test]
fn the_client_is_told_all_that_arrived_once_the_server_has_acknowledged() {
    let head = b"POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut lab = Lab::open(Options { sack: true, ..Options::default() });
    (lab.serves, lab.acks, lab.io.held_frames_max) = (false, false, 100);
    lab.request(head);
    let at = head.len() as u32;
    let base = lab.client.isn.wrapping_add(1).wrapping_add(at);
    lab.io.sent.clear();
    for index in (1..=90).filter(|index| *index != 60) {
        lab.client_sends(at + index * 10, &[b'x'; 10], 0);
    }
    assert!(lab.io.sent.is_empty());
    let seq = lab.server.isn.wrapping_add(1);
    lab.send(SERVER, seq, base, ACK, b"");
    let own = lab.io.sent.iter().filter(|sent| sent.originated && sent.direction == SERVER);
    let blocks = own.map(|ack| ack.sack().expect("a block"));
    let blocks = blocks.map(|(from, to)| (from.wrapping_sub(base), to.wrapping_sub(base)));
    assert_eq!(blocks.collect::<Vec<_>>(), [(10, 600), (610, 910)]);
}

/// RFC 8985 §6.2: an acknowledgement of what was sent later makes a sender take earlier bytes for
/// lost, but not those that it has retransmitted since.
#[test]
fn the_client_is_told_of_a_segment_once_what_was_forwarded_before_it_is_acknowledged() {
    let head = b"POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut lab = Lab::open(Options { sack: true, ..Options::default() });
    (lab.serves, lab.acks) = (false, false);
    lab.request(head);
    let at = head.len() as u32;
    let base = lab.client.isn.wrapping_add(1).wrapping_add(at);
    let seq = lab.server.isn.wrapping_add(1);
    lab.send(SERVER, seq, base, ACK, b"");
    let blocks = |lab: &mut Lab| {
        let sent = lab.io.sent.drain(..).filter(|sent| sent.originated);
        let blocks = sent.map(|ack| ack.sack().expect("a block"));
        blocks
            .map(|(from, to)| (from.wrapping_sub(base), to.wrapping_sub(base)))
            .collect::<Vec<_>>()
    };
    lab.io.sent.clear();
    lab.client_sends(at, b"5\r\nhello\r\n", 0);
    lab.client_sends(at + 200, b"abc", 0);
    lab.client_sends(at + 10, b"5\r\nworld\r\n", 0);
    lab.now = lab.now.plus_millis(1);
    lab.client_sends(at + 300, b"abc", 0);
    assert_eq!(blocks(&mut lab), []);
    lab.send(SERVER, seq, base.wrapping_add(10), ACK, b"");
    assert_eq!(blocks(&mut lab), [(200, 203)]);
    lab.client_sends(at + 20, b"5\r\nagain\r\n", 0);
    lab.send(SERVER, seq, base.wrapping_add(20), ACK, b"");
    assert_eq!(blocks(&mut lab), [(200, 203), (300, 303)]);
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
    assert_eq!(lab.editor.held_frames(), 0);
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
    // What comes after bytes that determine framing must wait for them.
    lab.server_sends(at, &[b'a'; 1000], 0);
    lab.exchange();
    assert_eq!(lab.client.received.len(), head.len() + 3000);
    lab.request(SECRET);
    assert!(lab.client.received.ends_with(FORBIDDEN));
}

#[test]
fn a_response_head_that_arrives_early_waits() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(DOCS);
    lab.server_sends(10, &RESPONSE[10..], 0);
    assert_eq!(lab.editor.held_frames(), 1);
    lab.server_sends(0, &RESPONSE[..10], 0);
    assert!(lab.io.dropped.is_empty());
    lab.exchange();
    assert_eq!(lab.client.received, RESPONSE);
}

#[test]
fn a_policy_change_holds_from_the_next_request_on() {
    let mut lab = lab();
    lab.request(DOCS);
    lab.policy = podgate_tables::l7::L7Policy { ingress: Vec::new(), egress: Vec::new() };
    lab.request(SECRET);
    assert_eq!(lab.verdicts(), [true, true]);
    lab.policy = podgate_test_support::docs_only();
    lab.request(SECRET);
    assert_eq!(lab.verdicts(), [true, true, false]);
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
fn history_is_bounded() {
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
    assert!(lab.editor.history_bytes() <= HISTORY_MAX + 16 * 1024);
    lab.server_sends(0, b"", 0);
    assert_eq!(lab.editor.history_bytes(), 0, "acknowledged");
}

#[test]
fn only_bytes_that_we_can_send_again_are_acknowledged() {
    let mut lab = lab();
    lab.serves = false;
    let head = b"POST /docs HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n";
    lab.request(head);
    // The body is lost between the editor and the server, and after it a head begins.
    let at = head.len() as u32;
    lab.client_sends(at, &[b"body", &DOCS[..9]].concat(), 0);
    lab.exchange_with(|packet| packet.direction == SERVER);
    lab.log.clear();
    lab.wait_millis(100);
    assert!(lab.log.is_empty(), "the client has to send the body again");
    lab.client_sends(at, b"body", 0);
    lab.exchange();
    lab.wait_millis(25);
    assert_eq!(lab.log.last().unwrap().tcp.ack, lab.client.next());
}

#[test]
fn owned_bytes_are_given_up_in_the_end() {
    let mut lab = lab();
    lab.request(&DOCS[..9]);
    lab.wait_millis(30);
    lab.client_sends(9, &DOCS[9..], 0);
    lab.io.sent.clear();
    lab.server.was_reset = true; // It is gone, and silent.
    lab.wait_millis(30_000);
    assert!(lab.client.was_reset);
}

#[test]
fn without_a_share_of_frames_nothing_waits() {
    let mut lab = lab();
    lab.io.held_frames_max = 0;
    lab.client_sends(5, &DOCS[5..], 0);
    assert_eq!(lab.io.dropped, [DropReason::L7Limit]);
    assert_eq!(lab.editor.held_frames(), 0);
    lab.client_sends(0, DOCS, 0);
    lab.exchange();
    assert_eq!(lab.server.received, DOCS);
}

#[test]
fn without_a_share_of_memory_a_request_waits_until_there_is_one() {
    let mut lab = lab();
    lab.io.buffered_bytes_max = 0;
    lab.client_sends(0, DOCS, 0);
    assert!(lab.io.sent.is_empty());
    lab.wait_millis(QUEUE_MS + 10);
    assert_eq!(lab.io.dropped, [DropReason::L7Limit]);
    lab.io.buffered_bytes_max = 1 << 20;
    lab.client_sends(0, DOCS, 0);
    lab.exchange();
    assert_eq!(lab.server.received, DOCS);
}

#[test]
fn what_waits_for_memory_waits_no_longer_because_others_come() {
    let mut lab = lab();
    lab.io.buffered_bytes_max = 0;
    lab.acks = false;
    lab.client_sends(0, DOCS, 0);
    for _ in 0..3 {
        lab.wait_millis(QUEUE_MS / 2);
        lab.client_sends(0, b"", 0);
    }
    assert_eq!(lab.io.dropped, [DropReason::L7Limit]);
    assert_eq!(lab.editor.held_frames(), 0);
}

#[test]
fn without_a_share_of_memory_a_response_in_pieces_comes_again() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(DOCS);
    lab.request(DOCS);
    assert_eq!(lab.server.received, DOCS.repeat(2));
    lab.io.buffered_bytes_max = 0;
    lab.server_sends(0, RESPONSE, 0);
    assert!(lab.io.dropped.is_empty(), "one that is whole needs none");
    let (head, rest) = RESPONSE.split_at(20);
    let at = RESPONSE.len() as u32;
    lab.server_sends(at, head, 0);
    assert_eq!(lab.editor.held_frames(), 1, "its first part waits");
    lab.io.buffered_bytes_max = 1 << 20;
    lab.server_sends(at + head.len() as u32, rest, 0);
    lab.exchange();
    assert_eq!(lab.client.received, RESPONSE.repeat(2));
    lab.editor.close(&mut lab.io);
    lab.check_balance();
    assert_eq!(lab.editor.buffered_bytes(), 0);
}

#[test]
fn the_beginning_of_a_response_behind_another_one_is_kept_with_leave() {
    let mut lab = lab();
    lab.serves = false;
    lab.request(DOCS);
    lab.request(DOCS);
    let both = [RESPONSE, RESPONSE].concat();
    // In the midst of the first one's body, and of the second one's head.
    let (body, head) = (RESPONSE.len() - 1, RESPONSE.len() + 20);
    let mut sent = 0;
    for until in [body, head, both.len()] {
        lab.server_sends(sent as u32, &both[sent..until], 0);
        sent = until;
    }
    lab.exchange();
    assert_eq!(lab.client.received, both);
}

/// Packets of an upload and of its acknowledgements leave as they came, checksums included.
#[test]
fn a_long_body_passes_unchanged() {
    for options in all_options() {
        let mut lab = Lab::open(options);
        lab.serves = false;
        lab.request(b"POST /docs HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
        let head = lab.client.sent;
        for at in (0..100_000).step_by(1_000) {
            let bytes = vec![at as u8; 1_000];
            let seq = lab.client.next();
            let ack = lab.client.ack();
            let packet = lab.packet(CLIENT, seq, ack, ACK, &bytes);
            lab.client.sent += 1_000;
            lab.inject(CLIENT, &packet);
            assert_eq!(lab.io.sent.len(), 1);
            assert_eq!(lab.io.sent[0].bytes, packet);
            lab.exchange();
        }
        assert_eq!(lab.server.received.len() as u32, head + 100_000);
        lab.response(RESPONSE);
        lab.request(SECRET);
        assert_eq!(lab.client.received, [RESPONSE, FORBIDDEN].concat());
    }
}
