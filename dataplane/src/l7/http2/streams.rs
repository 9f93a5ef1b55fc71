//! The streams of a connection that are open at both ends.

use podgate_tables::time::Nanos;

use crate::l7::heap::grown;

/// Streams that may be open at once; further ones are refused. Servers allow 100 to 250; gRPC
/// servers any number.
pub const STREAMS_MAX: usize = 1024;
/// Capacity kept while few streams are open.
const KEPT: usize = 64;

/// No content length was announced.
const ANY_LENGTH: u64 = u64::MAX;

/// An allowed stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// When the request passed.
    pub(super) released: Nanos,
    /// Bytes that the content must still have, or [`ANY_LENGTH`].
    left: u64,
    pub(super) is_grpc: bool,
    /// The client has ended its side: only frames that end a stream early may follow.
    pub(super) client_ended: bool,
    pub(super) server_ended: bool,
    /// The server has reset it; frames of the client may be on their way.
    pub(super) is_reset: bool,
}

impl Stream {
    /// A stream whose request has content of this length, if that was announced.
    pub(super) fn new(id: u32, released: Nanos, length: Option<u64>) -> Self {
        Self { id, released, left: length.unwrap_or(ANY_LENGTH), ..Self::default() }
    }

    /// Takes content. False if there is more than was announced.
    pub(super) const fn take(&mut self, bytes: u64) -> bool {
        if self.left == ANY_LENGTH {
            return true;
        }
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => return false,
        }
        true
    }

    /// Whether the content may end here.
    pub(super) const fn may_end(&self) -> bool {
        matches!(self.left, 0 | ANY_LENGTH)
    }

    const fn is_over(&self) -> bool {
        self.client_ended && (self.server_ended || self.is_reset)
    }
}

/// The streams, by id.
#[derive(Debug, Default)]
pub(super) struct Streams {
    list: Vec<Stream>,
}

impl Streams {
    /// Adds a stream, whose id is larger than all others. False if there are too many.
    pub(super) fn add(&mut self, stream: Stream) -> bool {
        if self.list.len() >= STREAMS_MAX {
            self.list.retain(|stream| !stream.is_reset);
        }
        if self.list.len() >= STREAMS_MAX {
            return false;
        }
        let capacity = grown(self.list.capacity(), self.list.len() + 1);
        self.list.reserve_exact(capacity - self.list.len());
        self.list.push(stream);
        true
    }

    pub(super) fn get(&mut self, id: u32) -> Option<&mut Stream> {
        let index = self.index(id)?;
        Some(&mut self.list[index])
    }

    fn index(&self, id: u32) -> Option<usize> {
        // Most frames are of the newest stream.
        match self.list.last() {
            Some(last) if last.id == id => Some(self.list.len() - 1),
            _ => self.list.binary_search_by_key(&id, |stream| stream.id).ok(),
        }
    }

    /// Changes a stream, and removes it if it is over then.
    pub(super) fn update(&mut self, id: u32, change: impl FnOnce(&mut Stream)) {
        let Some(index) = self.index(id) else { return };
        change(&mut self.list[index]);
        if self.list[index].is_over() {
            self.remove_at(index);
        }
    }

    /// Removes a stream. Returns whether it was there.
    pub(super) fn remove(&mut self, id: u32) -> bool {
        let index = self.index(id);
        if let Some(index) = index {
            self.remove_at(index);
        }
        index.is_some()
    }

    fn remove_at(&mut self, index: usize) {
        self.list.remove(index);
        if self.list.is_empty() {
            self.list.shrink_to(KEPT);
        }
    }

    /// Frees all memory that is not in use.
    pub(super) fn shrink_to_fit(&mut self) {
        self.list.shrink_to_fit();
    }

    /// Bytes on the heap.
    pub(super) fn heap(&self) -> usize {
        self.list.capacity() * size_of::<Stream>()
    }

    /// Upper bound of [`Self::heap`] after one more stream was added.
    pub(super) fn heap_with_one(&self) -> usize {
        grown(self.list.capacity(), self.list.len() + 1) * size_of::<Stream>()
    }
}
