//! Settings that their receiver has not acknowledged.

use super::frame::Settings;

/// SETTINGS frames that may be unacknowledged at once.
const UNACKED_MAX: usize = 16;

/// What is needed of a SETTINGS frame until it is acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unacknowledged {
    /// SETTINGS_HEADER_TABLE_SIZE: the least and the last value, bytes.
    pub(super) table_size: Option<(u32, u32)>,
    /// SETTINGS_INITIAL_WINDOW_SIZE, bytes, or [`NO_WINDOW`]. Connections are many: an [`Option`]
    /// would take twice as much.
    initial_window: u32,
}

/// No valid window (RFC 9113 §6.5.2).
const NO_WINDOW: u32 = u32::MAX;

impl Unacknowledged {
    /// Of a frame with these settings.
    pub(super) fn new(settings: &Settings) -> Self {
        let Settings { table_size, initial_window, .. } = *settings;
        Self { table_size, initial_window: initial_window.unwrap_or(NO_WINDOW) }
    }

    /// SETTINGS_INITIAL_WINDOW_SIZE, if the frame has it, bytes.
    pub(super) fn initial_window(&self) -> Option<u32> {
        Some(self.initial_window).filter(|window| *window != NO_WINDOW)
    }
}

impl Default for Unacknowledged {
    fn default() -> Self {
        Self { table_size: None, initial_window: NO_WINDOW }
    }
}

/// The SETTINGS frames of one end that the other end has not acknowledged, oldest first.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    frames: [Unacknowledged; UNACKED_MAX],
    len: usize,
}

impl Unacked {
    /// A SETTINGS frame passes. False if there are too many.
    pub(super) const fn push(&mut self, frame: Unacknowledged) -> bool {
        if self.len == UNACKED_MAX {
            return false;
        }
        self.frames[self.len] = frame;
        self.len += 1;
        true
    }

    /// The oldest one is acknowledged. [`None`] if there is none.
    pub(super) fn pop(&mut self) -> Option<Unacknowledged> {
        if self.len == 0 {
            return None;
        }
        self.frames.rotate_left(1);
        self.len -= 1;
        Some(self.frames[UNACKED_MAX - 1])
    }

    /// The least window that one of them has, bytes.
    pub(super) fn least_window(&self) -> Option<u32> {
        self.frames[..self.len].iter().filter_map(Unacknowledged::initial_window).min()
    }
}
