//! Capture files.

use podgate_replay::read_frames;

/// Input: a capture file.
pub fn captures(data: &[u8]) {
    let mut last = 0;
    let mut bytes = 0;
    let _rejected = read_frames(data.to_vec(), |time, frame| {
        assert!(time >= last, "packets are in the order of their time");
        last = time;
        bytes += frame.len();
    });
    assert!(bytes <= data.len(), "more bytes in frames than in the file");
}
