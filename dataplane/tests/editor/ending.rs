//! Resets and closes.

use super::*;

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
    // In the window, but not exact: the server sends a challenge ACK, and its connection stays
    // open.
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
    lab.editor.close(&mut lab.io);
    assert!(lab.io.sent.is_empty(), "nobody has to be reset");
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
        lab.editor.close(&mut lab.io);
        assert_eq!(lab.editor.held_frames(), 0);
        lab.exchange();
        assert!(lab.client.was_reset && lab.server.was_reset, "after {steps} steps");
        assert!(lab.io.sent.is_empty());
    }
}

#[test]
fn resets_that_miss_are_corrected_by_the_challenge() {
    let mut lab = lab();
    lab.serves = false;
    // A lost packet of a body: the server expects an earlier byte than the one after those we
    // forwarded.
    let head = b"POST /docs HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n";
    lab.request(head);
    let at = head.len() as u32;
    lab.acks = false;
    lab.client_sends(at, b"he", 0);
    lab.exchange();
    lab.client_sends(at + 2, b"l", 0);
    lab.io.sent.clear();
    lab.acks = true;
    lab.client_sends(at + 3, b"lo", URG);
    lab.exchange();
    assert!(lab.server.was_reset && lab.client.was_reset);
}
