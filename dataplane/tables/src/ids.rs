//! Numbers that stand for links, epochs, rules and selectors in the tables.
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

/// Number of a publication of tables. A flow stores the epoch in which its verdict was made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Epoch(pub u32);

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
