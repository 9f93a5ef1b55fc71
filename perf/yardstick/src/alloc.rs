//! Counts allocations.
//!
//! A program whose allocations are to be counted installs the counting allocator:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: podgate_yardstick::alloc::Counting = podgate_yardstick::alloc::COUNTING;
//! # assert!(podgate_yardstick::alloc::is_installed());
//! ```
//!
//! It is the system's allocator plus a few atomic additions per allocation.

use std::alloc::System;
use std::hint::black_box;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

/// Type of the counting allocator.
pub type Counting = &'static StatsAlloc<System>;

/// The counting allocator.
pub const COUNTING: Counting = &INSTRUMENTED_SYSTEM;

/// Allocations of all threads of the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count {
    /// Number of allocations and reallocations.
    pub allocations: u64,
    /// Allocated bytes, including what reallocations added.
    pub bytes: u64,
}

impl Count {
    /// The count so far.
    #[must_use]
    pub fn now() -> Self {
        let stats = INSTRUMENTED_SYSTEM.stats();
        Self {
            allocations: (stats.allocations + stats.reallocations) as u64,
            bytes: stats.bytes_allocated as u64,
        }
    }

    /// The difference to `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            allocations: self.allocations - earlier.allocations,
            bytes: self.bytes - earlier.bytes,
        }
    }
}

/// Bytes that are allocated now.
#[must_use]
pub fn live_bytes() -> u64 {
    let stats = INSTRUMENTED_SYSTEM.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated) as u64
}

/// Whether [`COUNTING`] is this program's allocator.
#[must_use]
pub fn is_installed() -> bool {
    let before = Count::now();
    drop(black_box(Box::new(0_u64)));
    Count::now() != before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_counting_allocator_is_detected() {
        assert!(!is_installed(), "unit tests have the default allocator");
    }
}
