//! Who owns a frame of the UMEM: userspace, or the rings of one link.

use crate::atomic::{AtomicU32, Ordering};

/// The rings of one link, as an owner of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingId(u32);

impl RingId {
    /// The rings of the link of this number.
    #[must_use]
    pub const fn of_link(link: u16) -> Self {
        Self(link as u32 + 1)
    }
}

/// Marks a frame that userspace owns.
const USERSPACE: u32 = 0;

/// The owner of one frame.
#[derive(Debug)]
pub struct FrameOwner(AtomicU32);

impl Default for FrameOwner {
    fn default() -> Self {
        Self(AtomicU32::new(USERSPACE))
    }
}

impl FrameOwner {
    /// Whether `rings` own the frame.
    #[must_use]
    #[inline]
    pub fn is(&self, rings: RingId) -> bool {
        self.0.load(Ordering::Relaxed) == rings.0
    }

    /// Whether userspace owns the frame.
    #[must_use]
    #[inline]
    pub fn is_userspace(&self) -> bool {
        self.0.load(Ordering::Relaxed) == USERSPACE
    }

    /// Gives the frame to `rings`. What the caller wrote to the frame is visible to the one that
    /// takes it back.
    #[inline]
    pub fn give(&self, rings: RingId) {
        self.0.store(rings.0, Ordering::Release);
    }

    /// Takes the frame from `rings` for userspace. Returns false if they don't own it.
    ///
    /// A load and a store, not a compare-and-swap, which would cost as much as the rest: a frame is
    /// in one ring at a time, and a ring has one reader. Only a kernel that names one frame in two
    /// rings of a link at the same moment could have it taken twice. The kernel is trusted not to,
    /// since it could write to the frame itself as well.
    #[must_use]
    #[inline]
    pub fn take(&self, rings: RingId) -> bool {
        // Pairs with `give`, where another worker may have written to the frame.
        let owned = self.0.load(Ordering::Acquire) == rings.0;
        if owned {
            self.0.store(USERSPACE, Ordering::Relaxed);
        }
        owned
    }
}
