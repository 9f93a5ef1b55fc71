//! The two directions of traffic that policies apply to.

use std::fmt;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

/// Which flows of a selected endpoint a rule applies to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrafficDirection {
    /// Flows that it opens.
    Egress,
    /// Flows that are opened to it.
    Ingress,
}

impl TrafficDirection {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];
}

/// `egress` or `ingress`.
impl fmt::Display for TrafficDirection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}

/// A value for each direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PerDirection<T> {
    /// That of egress.
    pub egress: T,
    /// That of ingress.
    pub ingress: T,
}

impl<T> PerDirection<T> {
    /// The value that `value` gives for each direction.
    pub fn new(mut value: impl FnMut(TrafficDirection) -> T) -> Self {
        Self { egress: value(TrafficDirection::Egress), ingress: value(TrafficDirection::Ingress) }
    }
}

impl<T> Index<TrafficDirection> for PerDirection<T> {
    type Output = T;

    fn index(&self, direction: TrafficDirection) -> &T {
        match direction {
            TrafficDirection::Egress => &self.egress,
            TrafficDirection::Ingress => &self.ingress,
        }
    }
}

impl<T> IndexMut<TrafficDirection> for PerDirection<T> {
    fn index_mut(&mut self, direction: TrafficDirection) -> &mut T {
        match direction {
            TrafficDirection::Egress => &mut self.egress,
            TrafficDirection::Ingress => &mut self.ingress,
        }
    }
}
