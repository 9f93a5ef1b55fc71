//! How the editor begins to follow a connection: genuine and forged handshakes.

use podgate_dataplane::packet::tcp_options::NO_OPERATION;

use super::*;

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
fn syns_negotiate_only_options_that_leave_the_stream_as_it_is() {
    const MP_CAPABLE: &[u8] = &[30, 4, 1, 1];
    const MP_JOIN: &[u8] = &[30, 12, 0x10, 1, 0, 0, 0, 1, 0, 0, 0, 2];
    const FAST_OPEN_COOKIE: &[u8] = &[34, 6, 1, 2, 3, 4, 1, 1];
    const TRUNCATED: &[u8] = &[30, 40, 1, 1];
    for syn_options in [MP_CAPABLE, MP_JOIN, FAST_OPEN_COOKIE, TRUNCATED] {
        for v6 in [false, true] {
            let timestamps = syn_options != TRUNCATED;
            let options = Options { v6, timestamps, sack: true, syn_options, ..Options::default() };
            let mut lab = Lab::open(options);
            for syn in lab.log.iter().filter(|packet| packet.is(SYN)) {
                // After maximum segment size, window scale and selective acknowledgements.
                let options = &syn.bytes[usize::from(syn.view.l4) + 20 + 12..];
                assert!(options.iter().take(syn_options.len()).all(|byte| *byte == NO_OPERATION));
            }
            lab.client_sends(0, DOCS, 0);
            lab.exchange();
            assert_eq!(lab.server.received, DOCS);
        }
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
    // A SYN-ACK with another number on an open connection is forged or late.
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
    assert_eq!(lab.client.received, FORBIDDEN);
    let mut again = Lab::new(Options { client_isn: 5_000, server_isn: 9_000, ..lab.options });
    std::mem::swap(&mut lab.editor, &mut again.editor);
    std::mem::swap(&mut lab.io.buffered_bytes, &mut again.io.buffered_bytes);
    // The server may still have the old connection (SYN cookies), so that one is reset first.
    again.syn();
    again.exchange();
    let (seq, ack) = (again.server.isn, again.server.ack());
    again.send(SERVER, seq, ack, SYN | ACK, b"");
    assert!(again.io.sent.iter().all(|sent| sent.is(RST)) && !again.io.sent.is_empty());
    let mut retried = Lab::new(again.options);
    std::mem::swap(&mut retried.editor, &mut again.editor);
    std::mem::swap(&mut retried.io.buffered_bytes, &mut again.io.buffered_bytes);
    let mut again = retried;
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
fn what_waits_of_a_connection_that_another_one_replaces_is_dropped_with_an_event() {
    let mut lab = Lab::new(Options::default());
    lab.syn();
    lab.exchange();
    let (seq, ack) = (lab.server.isn, lab.server.ack());
    lab.send(SERVER, seq, ack, SYN | ACK, b"");
    lab.server_sends(100, b"behind a gap", PSH);
    assert_eq!((lab.editor.held_frames(), &lab.io.dropped[..]), (1, &[][..]));
    lab.send(CLIENT, 4_242, 0, SYN, b"");
    lab.send(SERVER, 9_000, 4_243, SYN | ACK, b"");
    assert_eq!((lab.editor.held_frames(), &lab.io.reported[..]), (0, &[DropReason::L7Closed][..]));
    assert_eq!(lab.io.dropped, lab.io.reported);
}
