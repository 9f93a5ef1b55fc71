//! TCP sequence numbers.

/// A position in a TCP stream, modulo 2^32 (RFC 9293 §3.4).
///
/// Positions compare by their distance, which is right while they lie less than 2^31 apart; so
/// there is no total order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Seq(pub(super) u32);

impl Seq {
    pub(super) const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// Bytes from `earlier` to here; negative if `earlier` is later.
    pub(super) const fn since(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    pub(super) const fn is_before(self, other: Self) -> bool {
        self.since(other) < 0
    }

    pub(super) const fn is_after(self, other: Self) -> bool {
        self.since(other) > 0
    }

    pub(super) const fn later(self, other: Self) -> Self {
        if self.is_before(other) { other } else { self }
    }

    pub(super) const fn earlier(self, other: Self) -> Self {
        if self.is_before(other) { self } else { other }
    }

    /// Bytes from `earlier` to here, none if `earlier` is later.
    pub(super) const fn count_since(self, earlier: Self) -> u32 {
        if self.is_before(earlier) { 0 } else { self.0.wrapping_sub(earlier.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_compare_across_the_wrap() {
        let (before, after) = (Seq(u32::MAX - 1), Seq(u32::MAX - 1).plus(10));
        assert_eq!(after, Seq(8));
        assert!(before.is_before(after) && after.is_after(before));
        assert_eq!((before.later(after), before.earlier(after)), (after, before));
        assert_eq!((after.since(before), before.since(after)), (10, -10));
        assert_eq!((after.count_since(before), before.count_since(after)), (10, 0));
    }
}
