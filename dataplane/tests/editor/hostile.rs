//! Clients that try to show the server another stream than us.

use proptest::prelude::*;

use super::*;

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
    assert_eq!(lab.io.dropped, [DropReason::L7RetransmissionMismatch; 4]);
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
    assert_eq!(lab.io.dropped, [DropReason::L7RetransmissionMismatch]);
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
    assert_eq!(lab.io.dropped, [DropReason::L7RetransmissionMismatch]);
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
    lab.request(SECRET);
    assert_eq!(lab.client.received, [RESPONSE, RESPONSE, FORBIDDEN].concat());
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

/// Bytes that may be buffered: few enough that the bound is reached, or without a bound.
fn buffered_max() -> impl Strategy<Value = usize> {
    prop_oneof![0..2_000_usize, Just(usize::MAX)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// The client sends an allowed and a denied stream of the same length over each other, with
    /// loss after us; the server prefers early or late bytes. It must never read the denied one.
    #[test]
    fn no_mixture_of_segments_gets_a_denied_request_to_the_server(
        tricks in proptest::collection::vec(trick(), 1..30),
        last_wins: bool,
        buffered_max in buffered_max(),
    ) {
        let allowed = [DOCS, DOCS].concat();
        let denied = [DOCS, SECRET].concat();
        let mut lab = lab();
        lab.io.buffered_bytes_max = buffered_max;
        lab.serves = false;
        lab.server.early.last_wins = last_wins;
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
            Just(b"POST /docs HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello".to_vec()),
            Just(b"POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                   4;x\r\nabcd\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n".to_vec()),
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
        // First in a random order with repetitions, then as from a client that retransmits.
        let piece = |index: &prop::sample::Index| pieces[index.index(pieces.len())];
        let mut sent: Vec<_> = order.iter().map(piece).collect();
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
        buffered_max in buffered_max(),
    ) {
        let mut lab = lab();
        lab.io.buffered_bytes_max = buffered_max;
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
            if podgate_dataplane::packet::parse(&packet, packet.len() as u32).is_ok() {
                lab.inject(from, &packet);
                lab.io.sent.clear();
            }
            lab.now = lab.now.plus_millis(millis);
            lab.editor.tick(lab.now, &lab.policy, &mut lab.io);
            lab.check_balance();
        }
    }
}
