//! The flow-control window in which the client receives (RFC 9113 §5.2).

use super::frame::DEFAULT_WINDOW;

/// The client's window for the whole connection. Our content makes it smaller than the server
/// knows, by [`Self::hidden`].
#[derive(Debug)]
pub(super) struct Window {
    /// SETTINGS_INITIAL_WINDOW_SIZE of the client: the window of a new stream, bytes.
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
    /// Takes room for our content on a new stream. False if there is none.
    pub(super) fn reserve_own(&mut self, bytes: u32) -> bool {
        if self.initial < bytes || self.room < i64::from(bytes) {
            return false;
        }
        self.room -= i64::from(bytes);
        self.hidden += bytes;
        true
    }

    /// Takes room for content of the server. False if it has to wait, because the server does not
    /// know of ours.
    pub(super) fn reserve(&mut self, bytes: u32) -> bool {
        let room = self.room - i64::from(bytes);
        if self.hidden > 0 && room < 0 {
            return false;
        }
        self.room = room;
        true
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
