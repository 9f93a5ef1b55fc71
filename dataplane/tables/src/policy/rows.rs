//! Copy-on-write tables.
//!
//! A snapshot is a copy of the compiler's tables. Copies share their rows: making a copy increments
//! one reference count, and changing a row of a table that has copies copies the row's chunk or
//! shard and the list of chunks or shards, but not the whole table.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};

use crate::address::Address;

/// Rows per chunk.
const CHUNK: usize = 128;

/// A copy-on-write table of rows by number. Rows that were never set have the default value.
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
    /// The row; `None` if it is beyond the last chunk that was allocated.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<&T> {
        let index = index as usize;
        Some(&self.chunks.get(index / CHUNK)?[index % CHUNK])
    }

    /// All rows of the chunks that were allocated.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let rows = self.chunks.iter().flat_map(|chunk| chunk.iter());
        rows.enumerate().map(|(index, row)| (index as u32, row))
    }
}

impl<T: Clone + Default + PartialEq> Rows<T> {
    /// Sets a row. Returns whether that changed it.
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

/// A copy-on-write hash table of rows by exact address.
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

/// The shard of a hash, by bits that the hash table within a shard does not use: it uses the low
/// bits and the seven highest ones.
const fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

impl<T> AddressMap<T> {
    /// The row of `address`.
    #[must_use]
    pub fn get(&self, address: Address) -> Option<&T> {
        let hash = self.hasher.hash_one(address);
        let shard = &self.shards[shard_of(hash)];
        shard.find(hash, |(key, _)| *key == address).map(|(_, row)| row)
    }

    /// All rows, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Address, &T)> {
        let rows = self.shards.iter().flat_map(|shard| shard.iter());
        rows.map(|(address, row)| (*address, row))
    }
}

impl<T: Clone + PartialEq> AddressMap<T> {
    /// Sets a row, or removes it if `row` is `None`. Returns whether that changed it.
    pub fn set(&mut self, address: Address, row: Option<T>) -> bool {
        if self.get(address) == row.as_ref() {
            return false;
        }
        let hash = self.hasher.hash_one(address);
        let shard = Arc::make_mut(&mut Arc::make_mut(&mut self.shards)[shard_of(hash)]);
        let hasher = &self.hasher;
        let place = shard.entry(hash, |(key, _)| *key == address, |(key, _)| hasher.hash_one(key));
        match (place, row) {
            (Entry::Occupied(mut place), Some(row)) => place.get_mut().1 = row,
            (Entry::Occupied(place), None) => drop(place.remove()),
            (Entry::Vacant(place), Some(row)) => drop(place.insert((address, row))),
            (Entry::Vacant(_), None) => {}
        }
        true
    }
}

/// Which addresses an [`AddressSet`] can match. Identities are matched by labels, so a network may
/// or may not include the addresses of pods and nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub enum AddressScope {
    /// Addresses of neither pods nor nodes: Cilium's CIDR rules, and DNS names.
    #[default]
    World,
    /// Addresses of [`Self::World`] and of nodes.
    WorldAndNodes,
    /// All addresses: `ipBlock` of `NetworkPolicy`, networks of `ClusterNetworkPolicy`.
    All,
}

/// The addresses of one list of networks, or of one DNS name: sorted disjoint ranges.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressSet {
    /// First and last address of each IPv4 range.
    v4: Vec<(u32, u32)>,
    /// First and last address of each IPv6 range.
    v6: Vec<(u128, u128)>,
    /// Which addresses the set can match.
    pub scope: AddressScope,
}

impl AddressSet {
    /// A set of ranges (first and last address), which may overlap and be in any order.
    #[must_use]
    pub fn new(scope: AddressScope, v4: Vec<(u32, u32)>, v6: Vec<(u128, u128)>) -> Self {
        Self { v4: merge(v4), v6: merge(v6), scope }
    }

    /// Whether the address is in one of the ranges.
    #[must_use]
    pub fn contains(&self, address: Address) -> bool {
        match address.as_v4_bits() {
            Some(bits) => range_contains(&self.v4, bits),
            None => range_contains(&self.v6, address.bits()),
        }
    }
}

fn range_contains<N: Copy + PartialOrd>(ranges: &[(N, N)], bits: N) -> bool {
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
