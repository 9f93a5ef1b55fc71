//! Bounds of work, memory and time.

use podgate_dataplane::l7::editor::QUEUE_MS;
use podgate_test_support::Outgoing;

use super::*;

/// A denied request as short as can be.
const SHORT: &[u8] = b"GET / HTTP/1.1\r\nHost:a\r\n\r\n";

#[test]
fn a_connection_that_stays_stalled_is_retried_less_and_less_often() {
    let mut lab = lab();
    lab.serves = false;
    let upgrade = b"GET /docs HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n";
    lab.request(&[&upgrade[..], DOCS].concat());
    assert_eq!(lab.verdicts(), [true], "nothing passes before the answer to the offer");
    let end = lab.now.plus_secs(60);
    let mut ticks = 0;
    while let Some(deadline) = lab.editor.deadline().filter(|deadline| *deadline < end) {
        lab.now = lab.now.max(deadline);
        lab.editor.tick(lab.now, &lab.policy, &mut lab.io);
        lab.exchange();
        ticks += 1;
    }
    // At first every 20 ms, later every 640 ms.
    assert!((60..120).contains(&ticks), "{ticks}");
    // The answer ends the wait at once.
    lab.response(RESPONSE);
    assert_eq!(lab.verdicts(), [true, true]);
}

/// As many requests as wait for their responses at once, and as many answers as wait for their
/// acknowledgement (16 KiB); the next ones are decided as the client acknowledges.
#[test]
fn one_segment_of_denied_requests_causes_a_bounded_number_of_answers() {
    let mut lab = lab();
    let answers = (16 << 10) / FORBIDDEN.len();
    let requests = SHORT.repeat((60 << 10) / SHORT.len());
    lab.client_sends(0, &requests, PSH);
    let decided = lab.verdicts().len();
    assert!((128..=128 + answers + 1).contains(&decided), "{decided} of one segment");
    // The client sends again what was not acknowledged.
    for _ in 0..200 {
        lab.exchange();
        let acked = lab.io.events.len() * SHORT.len();
        if acked == requests.len() {
            break;
        }
        let before = lab.verdicts().len();
        lab.client_sends(acked as u32, &requests[acked..], PSH);
        let decided = lab.verdicts().len() - before;
        assert!(decided <= 128 + answers + 1, "{decided} of one segment");
        lab.wait_millis(20);
    }
    assert_eq!(lab.verdicts(), vec![false; requests.len() / SHORT.len()]);
    assert_eq!(lab.client.received, FORBIDDEN.repeat(requests.len() / SHORT.len()));
    assert!(lab.server.received.is_empty());
}

/// Requests of which every second one is denied, and both sides' outcome.
fn alternating(pairs: usize) -> [Vec<u8>; 3] {
    let answers = [FORBIDDEN, RESPONSE].concat();
    [[SECRET, DOCS].concat().repeat(pairs), DOCS.repeat(pairs), answers.repeat(pairs)]
}

fn segment_sizes(options: Options) -> impl Iterator<Item = (usize, Options)> {
    // Segments of Ethernet, and one of a sender with segmentation offload.
    [700, 1_400, 60_000].into_iter().map(move |size| (size, options))
}

/// More edits than may be in flight: the rest of a segment waits until the receiver has
/// acknowledged the first ones. The client never sends anything again.
#[test]
fn requests_that_are_denied_in_turn_wait_for_no_retransmission() {
    let [requests, allowed, answers] = alternating(200);
    for (size, options) in all_options().flat_map(segment_sizes) {
        let mut lab = Lab::open(Options { sack: true, ..options });
        lab.io.held_frames_max = usize::MAX;
        let half = requests.len() / 2;
        for (at, len) in in_segments(half, size) {
            lab.client_sends(at as u32, &requests[at..at + len], PSH);
        }
        lab.exchange();
        for (at, len) in in_segments(half, size).into_iter().map(|(at, len)| (at + half, len)) {
            let fin = if at + len == requests.len() { FIN } else { 0 };
            lab.client_sends(at as u32, &requests[at..at + len], PSH | fin);
        }
        lab.client.sent += 1;
        lab.exchange();
        assert_eq!(lab.server.received.len(), allowed.len(), "{size} {options:?}");
        assert_eq!(lab.server.received, allowed);
        assert_eq!(lab.client.received, answers);
        assert!(lab.server.fin_taken, "{size} {options:?}");
        assert_eq!(lab.editor.held_frames(), 0);
        assert!(!lab.io.dropped.contains(&DropReason::L7Limit));
        let told = |packet: &&Outgoing| packet.direction == SERVER && packet.sack().is_some();
        assert_eq!(lab.log.iter().filter(told).count(), 0, "nothing was lost");
    }
}

/// The same towards the client, whose answers are inserted between the server's responses.
#[test]
fn answers_between_responses_wait_for_no_retransmission() {
    let [requests, allowed, answers] = alternating(60);
    let (requests, answers) = ([&requests, SECRET].concat(), [&answers, FORBIDDEN].concat());
    for (size, options) in all_options().flat_map(segment_sizes) {
        let mut lab = Lab::open(options);
        (lab.serves, lab.io.held_frames_max) = (false, usize::MAX);
        lab.request(&requests);
        assert_eq!(lab.server.received, allowed);
        let responses = RESPONSE.repeat(60);
        for (at, len) in in_segments(responses.len(), size) {
            let fin = if at + len == responses.len() { FIN } else { 0 };
            lab.server_sends(at as u32, &responses[at..at + len], PSH | fin);
        }
        lab.server.sent += 1;
        lab.exchange();
        assert_eq!(lab.client.received, answers, "{size} {options:?}");
        assert!(lab.client.fin_taken, "{size} {options:?}");
        assert_eq!(lab.editor.held_frames(), 0);
    }
}

/// The server answers without acknowledging, so that the requests are not what is bounded.
#[test]
fn edits_wait_for_the_acknowledgement_of_those_in_flight() {
    const PAIRS: usize = 140;
    let [requests, allowed, answers] = alternating(PAIRS);
    for (size, options) in all_options().flat_map(segment_sizes) {
        let mut lab = Lab::open(options);
        (lab.serves, lab.io.held_frames_max) = (false, usize::MAX);
        let acked = lab.client.next();
        for (at, len) in in_segments(requests.len(), size) {
            lab.client_sends(at as u32, &requests[at..at + len], PSH);
        }
        let responses = RESPONSE.repeat(60);
        let seq = lab.server.next();
        lab.send(SERVER, seq, acked, ACK | PSH, &responses);
        lab.server.sent += responses.len() as u32;
        let denied = lab.verdicts().iter().filter(|allowed| !**allowed).count();
        assert!((60..70).contains(&denied), "{denied} {size} {options:?}");
        assert!(lab.editor.held_frames() > 0);
        lab.exchange();
        for _ in 60..PAIRS {
            lab.response(RESPONSE);
        }
        assert_eq!(lab.server.received, allowed, "{size} {options:?}");
        assert_eq!(lab.client.received, answers);
        assert_eq!(lab.editor.held_frames(), 0);
        assert!(!lab.io.dropped.contains(&DropReason::L7Limit));
        // No byte goes to the server twice.
        let forwarded = lab.log.iter().filter(|packet| packet.direction == CLIENT);
        let bytes: usize = forwarded.map(|packet| packet.payload().len()).sum();
        assert_eq!(bytes, allowed.len());
    }
}

/// What waits for acknowledgements is bounded, and given up in time.
#[test]
fn the_rest_of_a_segment_does_not_wait_for_ever() {
    let [requests, allowed, answers] = alternating(100);
    let mut lab = Lab::open(Options { frame: 128, ..Options::default() });
    (lab.acks, lab.serves, lab.io.held_frames_max) = (false, false, 100);
    lab.client_sends(0, &requests, PSH);
    lab.exchange();
    assert!(lab.editor.held_frames() > 0);
    // The same again waits only once.
    let held = lab.editor.held_frames();
    lab.client_sends(0, &requests, PSH);
    lab.exchange();
    assert_eq!(lab.editor.held_frames(), held);
    lab.wait_millis(QUEUE_MS + 100);
    assert_eq!(lab.editor.held_frames(), 0);
    // It comes again.
    (lab.acks, lab.serves) = (true, true);
    lab.client_sends(0, &requests, PSH);
    lab.exchange();
    assert_eq!(lab.server.received, allowed);
    assert_eq!(lab.client.received, answers);
}

/// Without a share of frames the rest is dropped, and comes again.
#[test]
fn the_rest_of_a_segment_that_may_not_wait_comes_again() {
    let [requests, allowed, answers] = alternating(100);
    let mut lab = lab();
    lab.io.held_frames_max = 0;
    for _ in 0..100 {
        lab.client_sends(0, &requests, PSH);
        lab.exchange();
    }
    assert_eq!(lab.editor.held_frames(), 0);
    assert_eq!(lab.server.received, allowed);
    assert_eq!(lab.client.received, answers);
}

#[test]
fn a_segment_that_waits_for_memory_is_dropped_in_time_with_an_event() {
    let mut lab = lab();
    lab.io.buffered_bytes_max = 0;
    lab.client_sends(0, DOCS, PSH);
    assert_eq!((lab.editor.held_frames(), lab.io.events.len()), (1, 0));
    lab.wait_millis(QUEUE_MS - 100);
    assert_eq!(lab.editor.held_frames(), 1);
    lab.wait_millis(200);
    assert_eq!(lab.editor.held_frames(), 0);
    assert_eq!(lab.io.dropped, [DropReason::L7Limit]);
    assert!(matches!(lab.io.events[..], [EventKind::Drop { reason: DropReason::L7Limit }]));
    lab.io.buffered_bytes_max = usize::MAX;
    lab.client_sends(0, DOCS, PSH);
    lab.exchange();
    assert_eq!(lab.client.received, RESPONSE);
}

#[test]
fn what_waits_for_memory_goes_on_when_there_is_some() {
    let mut lab = lab();
    lab.io.buffered_bytes_max = 0;
    lab.client_sends(0, DOCS, PSH);
    lab.io.buffered_bytes_max = usize::MAX;
    lab.wait_millis(30);
    assert_eq!(lab.client.received, RESPONSE);
}

#[test]
fn an_idle_connection_has_no_timer_and_no_buffers() {
    let mut lab = lab();
    lab.request(DOCS);
    lab.request(SECRET);
    assert!(lab.editor.buffered_bytes() > 0);
    lab.wait_millis(1_100);
    assert_eq!((lab.editor.deadline(), lab.editor.buffered_bytes()), (None, 0));
    lab.request(DOCS);
    assert!(lab.editor.deadline().is_some());
    assert_eq!(lab.client.received, [RESPONSE, FORBIDDEN, RESPONSE].concat());
}
