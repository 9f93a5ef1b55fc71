//! Bounds of work, memory and time.

use podgate_dataplane::l7::editor::QUEUE_MS;

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
