//! Places of a server's connections, shared fairly by where they come from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places of a server that listens on one socket.
///
/// While all are taken, a client gets the oldest one of the address that has the most, if its own
/// address has at least two fewer. So no address keeps others out, however many connections it
/// opens. `T` is dropped when its connection loses its place.
#[derive(Debug)]
pub struct Places<T> {
    max: usize,
    taken: Mutex<Taken<T>>,
}

#[derive(Debug)]
struct Taken<T> {
    /// The number of the next place; an older place has a smaller one.
    next: u64,
    places: usize,
    by_source: BTreeMap<Option<IpAddr>, BTreeMap<u64, T>>,
}

/// The place of a connection, free again when this is dropped.
#[derive(Debug)]
pub struct Place<T> {
    places: Arc<Places<T>>,
    source: Option<IpAddr>,
    number: u64,
}

impl<T> Places<T> {
    /// All places, `max` of them.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        let taken = Taken { next: 0, places: 0, by_source: BTreeMap::new() };
        Arc::new(Self { max, taken: Mutex::new(taken) })
    }

    /// A place for a connection from the address `source`, which is `None` for a unix socket.
    /// Returns `None` if all places are taken and no other address has at least two more than the
    /// source.
    #[must_use]
    pub fn take(self: &Arc<Self>, source: Option<IpAddr>, lost: T) -> Option<Place<T>> {
        let mut taken = self.lock();
        if taken.places >= self.max {
            let own = taken.by_source.get(&source).map_or(0, BTreeMap::len);
            let most = taken.by_source.values_mut().max_by_key(|places| places.len())?;
            if most.len() <= own + 1 {
                return None;
            }
            most.pop_first();
            taken.places -= 1;
        }
        let number = taken.next;
        taken.next += 1;
        taken.places += 1;
        taken.by_source.entry(source).or_default().insert(number, lost);
        Some(Place { places: Arc::clone(self), source, number })
    }

    fn lock(&self) -> MutexGuard<'_, Taken<T>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        let Some(of_source) = taken.by_source.get_mut(&self.source) else { return };
        let had_place = of_source.remove(&self.number).is_some();
        if of_source.is_empty() {
            taken.by_source.remove(&self.source);
        }
        taken.places -= usize::from(had_place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn the_source_with_the_most_places_yields_its_oldest() {
        let places = Places::new(4);
        let token = Arc::new(());
        let weak = Arc::downgrade(&token);
        let oldest = places.take(source(1), token).unwrap();
        let others = [1, 1, 1].map(|last| places.take(source(last), Arc::new(())).unwrap());
        assert!(places.take(source(1), Arc::new(())).is_none());
        assert!(weak.upgrade().is_some());
        let second = places.take(source(2), Arc::new(())).unwrap();
        assert!(weak.upgrade().is_none());
        // Three of one and one of another: the next one of the other makes it two each.
        let third = places.take(source(2), Arc::new(())).unwrap();
        assert!(places.take(source(2), Arc::new(())).is_none());
        assert!(places.take(source(1), Arc::new(())).is_none());
        // The lost place is not freed twice.
        drop((oldest, others));
        let more = [3, 4].map(|last| places.take(source(last), Arc::new(())).unwrap());
        assert!(places.take(source(3), Arc::new(())).is_none());
        drop((second, third, more));
        let taken = places.lock();
        assert_eq!((taken.places, taken.by_source.len()), (0, 0));
    }

    #[test]
    fn without_addresses_the_first_ones_keep_their_places() {
        let places = Places::new(2);
        let first = places.take(None, ()).unwrap();
        let _second = places.take(None, ()).unwrap();
        assert!(places.take(None, ()).is_none());
        drop(first);
        assert!(places.take(None, ()).is_some());
    }
}
