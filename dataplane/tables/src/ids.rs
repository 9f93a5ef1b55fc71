//! Numbers that stand for links, rules and selectors in the tables.

/// Slot of a link (a netdev that we attach to) in every per-link table, the XSKMAP included.
///
/// Slots are reused after a link is gone, but never while a worker still holds its rings.
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

/// Generation of the published snapshot. A flow carries the epoch its verdict was made under.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Epoch(pub u32);

/// Index of a rule in the catalogue of whoever compiled the tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// Index of a set of policies that together put an endpoint into default deny.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct DenySetId(pub u32);

/// Number of a distinct peer selector, or of a distinct list of networks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct SelectorId(pub u32);

/// Index of a container port's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PortNameId(pub u32);
