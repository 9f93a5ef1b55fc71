//! Numbers of links, epochs, rules and selectors in the tables.
//!
//! The compiler assigns the ids of rules, deny sets, selectors and port names; its catalogue has
//! the names behind them. An id is valid for the snapshot that it came with.

/// Slot of a link (a netdev that podgate is attached to) in every per-link table, the XSKMAP
/// included.
///
/// A slot is reused after its link is gone, but not before every worker has released the link's
/// rings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LinkId(pub u16);

impl LinkId {
    /// The slot as an index.
    #[must_use]
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// Number of a publication of tables, one more for each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// As a flow stores it.
    #[must_use]
    #[inline]
    pub const fn short(self) -> ShortEpoch {
        ShortEpoch(self.0 as u32)
    }
}

/// The lower half of an epoch. A flow stores it with its verdict: 4 bytes in place of 8.
///
/// Epochs that are 2³² publications apart are equal here. With 10,000 publications a second, that
/// takes five days; a flow without a packet times out in two hours, and a flow whose packet finds
/// another epoch is decided again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShortEpoch(u32);

impl ShortEpoch {
    /// The epoch; fewer than 2³¹ publications may lie between it and `other`.
    #[must_use]
    #[inline]
    pub const fn nearest_to(self, other: Epoch) -> Epoch {
        let distance = self.0.wrapping_sub(other.short().0).cast_signed();
        Epoch(other.0.saturating_add_signed(distance as i64))
    }
}

/// Index of a policy rule in the compiler's catalogue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// Index of a set of policies that together put an endpoint into default deny.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct DenySetId(pub u32);

/// Number of a distinct peer selector, or of a distinct list of networks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SelectorId(pub u32);

/// Index of the name of a container port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PortNameId(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_epoch_stands_for_the_nearest_epoch_on_either_side_of_a_wrap() {
        let wrap = 1_u64 << 32;
        for epoch in [0, 1, wrap - 1, wrap, wrap + 1, 5 * wrap - 1, 5 * wrap, u64::MAX] {
            let short = Epoch(epoch).short();
            for other in [epoch, epoch.saturating_sub(7), epoch.saturating_add(7)] {
                assert_eq!(short.nearest_to(Epoch(other)), Epoch(epoch), "near {other}");
            }
        }
        assert_ne!(Epoch(1).short(), Epoch(2).short());
    }
}
