//! Tables that share what they have in common with their copies.
//!
//! A snapshot is a copy of the compiler's tables. Copies are cheap, and changing one row of a table
//! that a snapshot still holds copies that row's chunk or shard, and the list of them, but not the
//! table.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};

use crate::address::Address;

/// Rows of one chunk.
const CHUNK: usize = 128;

/// A table of rows by number.
///
/// Rows that were never set, and those that were removed, are the default.
#[derive(Clone, Debug)]
pub struct Rows<T> {
    chunks: Arc<Vec<Arc<[T]>>>,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { chunks: Arc::default() }
    }
}

impl<T> Rows<T> {
    /// The row, unless it lies behind all that were ever set.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        Some(&self.chunks.get(index / CHUNK)?[index % CHUNK])
    }

    /// All rows up to some number behind the last one set.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let rows = self.chunks.iter().flat_map(|chunk| chunk.iter());
        rows.enumerate().map(|(index, row)| (index as u32, row))
    }
}

impl<T: Clone + Default + PartialEq> Rows<T> {
    /// Sets a row. Returns whether it was another one before.
    pub fn set(&mut self, index: u32, row: T) -> bool {
        let index = index as usize;
        match self.chunks.get(index / CHUNK) {
            Some(chunk) if chunk[index % CHUNK] == row => return false,
            None if row == T::default() => return false,
            _ => {}
        }
        let chunks = Arc::make_mut(&mut self.chunks);
        while chunks.len() <= index / CHUNK {
            chunks.push(vec![T::default(); CHUNK].into());
        }
        Arc::make_mut(&mut chunks[index / CHUNK])[index % CHUNK] = row;
        true
    }
}

const SHARDS: usize = 1024;

type Shard<T> = HashTable<(Address, T)>;

/// A table of rows by exact address.
#[derive(Clone, Debug)]
pub struct AddressMap<T> {
    hasher: DefaultHashBuilder,
    shards: Arc<Vec<Arc<Shard<T>>>>,
}

impl<T> Default for AddressMap<T> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        Self { hasher: DefaultHashBuilder::default(), shards: Arc::new(vec![empty; SHARDS]) }
    }
}

/// The shard of a hash. The table inside a shard uses the low and the seven highest bits.
const fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl<T> AddressMap<T> {
    /// The row of `address`.
    #[must_use]
    pub fn get(&self, address: Address) -> Option<&T> {
        let hash = self.hasher.hash_one(address);
        let shard = &self.shards[shard_of(hash)];
        shard.find(hash, |(of, _)| *of == address).map(|(_, row)| row)
    }

    /// All rows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Address, &T)> {
        let rows = self.shards.iter().flat_map(|shard| shard.iter());
        rows.map(|(address, row)| (*address, row))
    }
}

impl<T: Clone + PartialEq> AddressMap<T> {
    /// Sets a row, or removes it. Returns whether it was another one before.
    pub fn set(&mut self, address: Address, row: Option<T>) -> bool {
        if self.get(address) == row.as_ref() {
            return false;
        }
        let hash = self.hasher.hash_one(address);
        let shard = Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[shard_of(hash)]);
        let hasher = &self.hasher;
        let place = shard.entry(hash, |(of, _)| *of == address, |(of, _)| hasher.hash_one(of));
        match (place, row) {
            (Entry::Occupied(mut place), Some(row)) => place.get_mut().1 = row,
            (Entry::Occupied(place), None) => drop(place.remove()),
            (Entry::Vacant(place), Some(row)) => drop(place.insert((address, row))),
            (Entry::Vacant(_), None) => {}
        }
        true
    }
}

/// Whose addresses an [`AddressSet`] matches, beside those that are no pod's and no node's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub enum Covers {
    /// Nobody else's: Cilium's CIDR rules, and DNS names.
    #[default]
    Outsiders,
    /// Also those of nodes.
    Nodes,
    /// Anybody's: blocks of `NetworkPolicy`, networks of `ClusterNetworkPolicy`.
    Everyone,
}

/// Addresses that one list of networks, or one DNS name, stands for: sorted disjoint ranges.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressSet {
    /// First and last address of each range of IPv4.
    v4: Vec<(u32, u32)>,
    /// The same of IPv6.
    v6: Vec<(u128, u128)>,
    /// Whose addresses count.
    pub covers: Covers,
}

impl AddressSet {
    /// From ranges (first and last address) in any order; they may overlap.
    #[must_use]
    pub fn new(covers: Covers, v4: Vec<(u32, u32)>, v6: Vec<(u128, u128)>) -> Self {
        Self { v4: merge(v4), v6: merge(v6), covers }
    }

    /// Whether the address is in one of the ranges.
    #[must_use]
    pub fn contains(&self, address: Address) -> bool {
        match address.as_v4_bits() {
            Some(bits) => holds(&self.v4, bits),
            None => holds(&self.v6, address.bits()),
        }
    }
}

fn holds<N: Copy + PartialOrd>(ranges: &[(N, N)], bits: N) -> bool {
    let after = ranges.partition_point(|range| range.0 <= bits);
    after > 0 && bits <= ranges[after - 1].1
}

fn merge<N: Copy + Ord>(mut ranges: Vec<(N, N)>) -> Vec<(N, N)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlaps = next.0 <= kept.1;
        if overlaps {
            kept.1 = kept.1.max(next.1);
        }
        overlaps
    });
    ranges
}
