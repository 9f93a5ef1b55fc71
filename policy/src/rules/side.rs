//! The two sides of an endpoint that policy applies to.

use std::fmt;
use std::ops::{Index, IndexMut};

/// Which flows of a selected endpoint a rule is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Side {
    /// Flows that it opens.
    Egress,
    /// Flows that are opened to it.
    Ingress,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];
}

/// `egress` or `ingress`.
impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

/// A value for each side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PerSide<T> {
    /// That of egress.
    pub egress: T,
    /// That of ingress.
    pub ingress: T,
}

impl<T> PerSide<T> {
    /// The value that `value` gives for each side.
    pub fn new(mut value: impl FnMut(Side) -> T) -> Self {
        Self { egress: value(Side::Egress), ingress: value(Side::Ingress) }
    }
}

impl<T> Index<Side> for PerSide<T> {
    type Output = T;

    fn index(&self, side: Side) -> &T {
        match side {
            Side::Egress => &self.egress,
            Side::Ingress => &self.ingress,
        }
    }
}

impl<T> IndexMut<Side> for PerSide<T> {
    fn index_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Egress => &mut self.egress,
            Side::Ingress => &mut self.ingress,
        }
    }
}
