//! Settings that their receiver has not acknowledged.

/// SETTINGS frames that may be unacknowledged at once.
const UNACKED_MAX: usize = 16;

/// The header table sizes of the SETTINGS frames of one end that the other end has not
/// acknowledged, oldest first: of each the least and the last.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    sizes: [Option<(u32, u32)>; UNACKED_MAX],
    len: usize,
}

impl Unacked {
    /// A SETTINGS frame passes. False if there are too many.
    pub(super) const fn push(&mut self, size: Option<(u32, u32)>) -> bool {
        if self.len == UNACKED_MAX {
            return false;
        }
        self.sizes[self.len] = size;
        self.len += 1;
        true
    }

    /// The oldest one is acknowledged: its sizes. [`None`] if there is none.
    pub(super) fn pop(&mut self) -> Option<Option<(u32, u32)>> {
        if self.len == 0 {
            return None;
        }
        self.sizes.rotate_left(1);
        self.len -= 1;
        Some(self.sizes[UNACKED_MAX - 1])
    }
}
