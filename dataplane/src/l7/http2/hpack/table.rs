//! The static table and the dynamic one (RFC 7541 §2.3).

use std::collections::VecDeque;

/// What an entry counts in addition to its name and its value, bytes (RFC 7541 §4.1).
const ENTRY_OVERHEAD: usize = 32;

/// An entry of the dynamic table, whose name and value follow each other in the bytes.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Position of the name, counted over all bytes that were ever stored.
    position: u64,
    name: u32,
    value: u32,
}

impl Entry {
    const fn bytes(self) -> usize {
        self.name as usize + self.value as usize
    }
}

/// The name of a new entry.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name<'a> {
    Literal(&'a [u8]),
    /// The name of an entry of the dynamic table, of which the newest has index 0.
    Entry(usize),
}

/// A dynamic table: the newest entries that fit its size.
#[derive(Debug)]
pub(super) struct DynamicTable {
    /// Oldest first.
    entries: VecDeque<Entry>,
    /// Names and values of the entries, after those of some that were evicted.
    bytes: Vec<u8>,
    /// Position of the first of the bytes.
    first: u64,
    /// Sum of the entries' sizes (RFC 7541 §4.1).
    size: usize,
    size_max: usize,
}

impl DynamicTable {
    pub(super) const fn new(size_max: usize) -> Self {
        Self { entries: VecDeque::new(), bytes: Vec::new(), first: 0, size: 0, size_max }
    }

    #[cfg(test)]
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    pub(super) const fn size_max(&self) -> usize {
        self.size_max
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// Frees all memory that no entry takes.
    pub(super) fn shrink_to_fit(&mut self) {
        self.forget_evicted();
        self.bytes.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// Removes the bytes of evicted entries.
    fn forget_evicted(&mut self) {
        let unused = self.unused();
        self.bytes.drain(..unused);
        self.first += unused as u64;
    }

    /// Bytes of evicted entries, before those of all others.
    fn unused(&self) -> usize {
        self.entries.front().map_or(self.bytes.len(), |entry| self.offset(*entry))
    }

    /// Changes the size, and evicts entries that no longer fit.
    pub(super) fn resize(&mut self, size_max: usize) {
        self.evict(size_max);
        *self = match size_max {
            // The encoder does without the table.
            0 => Self::new(0),
            _ => Self { size_max, ..std::mem::replace(self, Self::new(0)) },
        };
    }

    /// Name and value of an entry, of which the newest has index 0.
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let entry = self.entry(index)?;
        let bytes = self.bytes.get(self.offset(entry)..)?.get(..entry.bytes())?;
        bytes.split_at_checked(entry.name as usize)
    }

    fn entry(&self, index: usize) -> Option<Entry> {
        self.entries.get(self.entries.len().checked_sub(index.checked_add(1)?)?).copied()
    }

    const fn offset(&self, entry: Entry) -> usize {
        (entry.position - self.first) as usize
    }

    /// Adds an entry, for which older ones are evicted. One that is larger than the table empties
    /// it (RFC 7541 §4.4).
    pub(super) fn insert(&mut self, name: Name<'_>, value: &[u8]) {
        let (name_len, entry) = match name {
            Name::Literal(name) => (name.len(), None),
            Name::Entry(index) => match self.entry(index) {
                Some(entry) => (entry.name as usize, Some(entry)),
                None => return,
            },
        };
        let added = name_len + value.len();
        let Some(others) = self.size_max.checked_sub(added + ENTRY_OVERHEAD) else {
            return self.evict(0);
        };
        self.reserve(added);
        let position = self.first + self.bytes.len() as u64;
        // The entry of the name may be evicted for the new one, so its name is copied before.
        match (name, entry) {
            (Name::Literal(name), _) => self.bytes.extend_from_slice(name),
            (Name::Entry(_), Some(entry)) => {
                let from = self.offset(entry);
                self.bytes.extend_from_within(from..from + name_len);
            }
            (Name::Entry(_), None) => {}
        }
        self.bytes.extend_from_slice(value);
        self.evict(others);
        self.size += added + ENTRY_OVERHEAD;
        let (name, value) = (name_len as u32, value.len() as u32);
        self.entries.push_back(Entry { position, name, value });
    }

    /// Evicts the oldest entries until the others have at most this size.
    fn evict(&mut self, size: usize) {
        while self.size > size {
            let Some(entry) = self.entries.pop_front() else { break };
            self.size -= entry.bytes() + ENTRY_OVERHEAD;
        }
    }

    /// Makes room for `added` bytes, which are no more than the table's size. The capacity is up to
    /// twice that size, so that the bytes of evicted entries are removed only once in a while.
    fn reserve(&mut self, added: usize) {
        let wanted = self.bytes.len() + added;
        if wanted <= self.bytes.capacity() {
            return;
        }
        let largest = 2 * self.size_max;
        if wanted > largest || 2 * self.unused() >= self.bytes.len() {
            self.forget_evicted();
        }
        let wanted = self.bytes.len() + added;
        if wanted > self.bytes.capacity() {
            let capacity = wanted.max((2 * self.bytes.capacity()).min(largest));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
    }
}

/// The static table (RFC 7541 Appendix A), of which the first entry has index 1.
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
