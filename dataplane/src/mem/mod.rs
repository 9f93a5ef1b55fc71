//! Packet memory and cache hints, below AF_XDP.
//!
//! A [`Umem`] is an area of frames. A [`Frame`] is the only handle to one of them and can't be
//! copied; a [`FramePool`] is one worker's stock of free frames; a [`Packet`] is made of frames.
//! [`crate::xsk`] moves frames between workers and the kernel.
//!
//! This module and `xsk` are the only ones of the crate where `unsafe` is allowed. A frame's bytes
//! are reached only through its one handle ([`Umem`], "Ownership").
#![allow(unsafe_code)]

mod frame;
mod mapping;
mod pool;
mod umem;

use std::mem::MaybeUninit;

pub use frame::{CsumPartial, FRAME_HEADROOM, FRAME_SIZE, Frame, Packet};
pub(crate) use mapping::Mapping;
pub use pool::FramePool;
pub use umem::Umem;
pub(crate) use umem::{Claim, FrameOwnership, Registrant};

/// Prefetches the cache line at an address. A hint: nothing is read or written, and the address
/// need not be valid.
#[inline]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no architectural effect, whatever the address; every x86-64 has it.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Advises the kernel to back untouched memory with huge pages (madvise(2), `MADV_HUGEPAGE`), so
/// that random accesses to a large table miss the TLB less often. A hint: failure is ignored.
pub(crate) fn prefer_huge_pages<T>(memory: &mut [MaybeUninit<T>]) {
    const PAGE: usize = 4096;
    let range = memory.as_mut_ptr_range();
    let (start, end) = (range.start.addr().next_multiple_of(PAGE), range.end.addr() / PAGE * PAGE);
    if start >= end {
        return;
    }
    let start = range.start.with_addr(start);
    // SAFETY: the advice changes no byte, whatever memory it covers.
    let _hint = unsafe { libc::madvise(start.cast(), end - start.addr(), libc::MADV_HUGEPAGE) };
}
