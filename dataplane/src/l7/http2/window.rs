//! The flow-control window in which the client receives (RFC 9113 §5.2).

use super::frame::DEFAULT_WINDOW;

/// The client's window for the whole connection. Our content makes it smaller than the server
/// knows, by [`Self::hidden`].
#[derive(Debug)]
pub(super) struct Window {
    /// SETTINGS_INITIAL_WINDOW_SIZE of the client that the server has acknowledged: the window of a
    /// new stream, bytes.
    pub(super) initial: u32,
    /// Bytes that may be sent to the client.
    room: i64,
    /// Bytes of ours for which the client will return credit, which must not reach the server.
    hidden: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { initial: DEFAULT_WINDOW, room: i64::from(DEFAULT_WINDOW), hidden: 0 }
    }
}

impl Window {
    /// Takes room for our content on a new stream. False if there is none beside `begun` bytes of
    /// the server, which must pass as a whole. `unacked` is the least window of a new stream that
    /// the server has not acknowledged: the client may use the former or the new one until it gets
    /// the acknowledgement (RFC 9113 §6.5.3).
    pub(super) fn reserve_own(&mut self, bytes: u32, begun: u32, unacked: Option<u32>) -> bool {
        let initial = unacked.map_or(self.initial, |unacked| unacked.min(self.initial));
        if initial < bytes || self.room < i64::from(bytes) + i64::from(begun) {
            return false;
        }
        self.room -= i64::from(bytes);
        self.hidden += bytes;
        true
    }

    /// Whether the server believes that there is more room, as it does not know of our content.
    pub(super) const fn differs(&self) -> bool {
        self.hidden > 0
    }

    /// How many of these bytes of the server may pass now.
    pub(super) fn room_for(&self, bytes: u32) -> u32 {
        if self.differs() { self.room.clamp(0, i64::from(bytes)) as u32 } else { bytes }
    }

    /// Takes room for content of the server.
    pub(super) fn reserve(&mut self, bytes: u32) {
        self.room -= i64::from(bytes);
    }

    /// The client adds room. Returns by how many bytes the increment is to be smaller for the
    /// server.
    pub(super) fn add(&mut self, increment: u32) -> u32 {
        self.room += i64::from(increment);
        let own = self.hidden.min(increment);
        self.hidden -= own;
        own
    }
}
