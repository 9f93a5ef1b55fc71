//! Places of a server's connections, shared fairly by where they come from.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time in which a client sends its first request, if others wait for a place.
const REQUEST_TIME: Duration = Duration::from_millis(200);

/// The places of a server that listens on one socket.
///
/// They are shared by network, an IPv4 address or an IPv6 /64, and among the addresses of a /64: a
/// host outside may use all of them, but those of a node's pods are often one. While all are taken,
/// a client gets a place
/// - of the network that has the most, if its own network has at least two fewer; or
/// - of the address of its own network that has the most, if its own address has at least two
///   fewer; or
/// - if its address has none, or there are no addresses, of any client that has not sent a request
///   in [`REQUEST_TIME`].
///
/// Of several, the first to go is the oldest without a request in that time, or else the oldest. So
/// no network and no address keeps others out, however many connections it opens, nor do many whose
/// connections stay silent. `T` is dropped when its connection loses its place.
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
    by_source: BTreeMap<Source, BTreeMap<u64, Entry<T>>>,
}

/// `None` for a unix socket.
type Source = Option<IpAddr>;

#[derive(Debug)]
struct Entry<T> {
    since: Instant,
    requested: Requested,
    _lost: T,
}

/// The place of a connection, free again when this is dropped.
#[derive(Debug)]
pub struct Place<T> {
    places: Arc<Places<T>>,
    source: Source,
    number: u64,
    requested: Requested,
}

/// Whether a request came on a connection.
#[derive(Clone, Debug, Default)]
pub struct Requested(Arc<AtomicBool>);

impl Requested {
    /// Records that one came.
    pub fn set(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether one came.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Relaxed)
    }
}

impl<T> Places<T> {
    /// All places, `max` of them.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        let taken = Taken { next: 0, places: 0, by_source: BTreeMap::new() };
        Arc::new(Self { max, taken: Mutex::new(taken) })
    }

    /// A place for a connection from the address `from`, which is `None` for a unix socket.
    /// Returns `None` if all places are taken, and none of them is given to it.
    #[must_use]
    pub fn take(self: &Arc<Self>, from: Option<IpAddr>, lost: T) -> Option<Place<T>> {
        self.take_at(Instant::now(), from, lost)
    }

    fn take_at(self: &Arc<Self>, now: Instant, from: Option<IpAddr>, lost: T) -> Option<Place<T>> {
        let source = from.map(|address| address.to_canonical());
        let mut taken = self.lock();
        if taken.places >= self.max {
            let (of, number) = taken.to_yield(now, source)?;
            taken.remove(of, number);
        }
        let number = taken.next;
        let requested = Requested::default();
        let entry = Entry { since: now, requested: requested.clone(), _lost: lost };
        taken.next += 1;
        taken.places += 1;
        taken.by_source.entry(source).or_default().insert(number, entry);
        Some(Place { places: Arc::clone(self), source, number, requested })
    }

    fn lock(&self) -> MutexGuard<'_, Taken<T>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Taken<T> {
    /// The place that a new connection from `source` is given, if there is one.
    fn to_yield(&self, now: Instant, source: Source) -> Option<(Source, u64)> {
        let is_silent = |entry: &Entry<T>| {
            !entry.requested.get() && now.saturating_duration_since(entry.since) >= REQUEST_TIME
        };
        let (own, own_network) = (self.by_source.get(&source), network(source));
        let own = own.map_or(0, BTreeMap::len);
        let mut networks: BTreeMap<Source, usize> = BTreeMap::from([(own_network, 0)]);
        for (source, places) in &self.by_source {
            *networks.entry(network(*source)).or_default() += places.len();
        }
        let (largest, most) = networks.iter().max_by_key(|(_, places)| **places)?;
        let is_other = *most > networks.get(&own_network)? + 1;
        let from = if is_other { *largest } else { own_network };
        let of_network = self.by_source.iter().filter(|(source, _)| network(**source) == from);
        if let Some((address, places)) = of_network.max_by_key(|(_, places)| places.len())
            && (is_other || places.len() > own + 1)
        {
            let silent = places.iter().find(|(_, entry)| is_silent(entry));
            return silent.or(places.first_key_value()).map(|(number, _)| (*address, *number));
        }
        let all = self.by_source.iter().flat_map(|(source, places)| {
            places.iter().map(move |(number, entry)| (*source, *number, entry))
        });
        // Clients without addresses can't be told apart, so that each may be the first of its own.
        let may_replace = own == 0 || source.is_none();
        let silent = all.filter(|(.., entry)| may_replace && is_silent(entry));
        silent.map(|(source, number, _)| (source, number)).min_by_key(|(_, number)| *number)
    }

    /// Removes a place, unless its connection has lost it.
    fn remove(&mut self, source: Source, number: u64) {
        let Some(of_source) = self.by_source.get_mut(&source) else { return };
        let had_place = of_source.remove(&number).is_some();
        if of_source.is_empty() {
            self.by_source.remove(&source);
        }
        self.places -= usize::from(had_place);
    }
}

impl<T> Place<T> {
    /// Whether a request came on the connection, to be set by whoever reads it.
    #[must_use]
    pub const fn requested(&self) -> &Requested {
        &self.requested
    }
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        self.places.lock().remove(self.source, self.number);
    }
}

/// The IPv6 /64 of an address, or the IPv4 address.
fn network(source: Source) -> Source {
    source.map(|address| match address {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    })
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
    fn places_are_shared_by_network_and_among_the_addresses_of_one() {
        let places = Places::new(4);
        let take = |text: &str| places.take(Some(text.parse().unwrap()), ());
        let of_host: Vec<_> = (1..5).map(|last| take(&format!("fd00::{last}")).unwrap()).collect();
        assert!(take("fd00::9").is_none(), "each of its addresses has as many");
        let others = ["fd00:0:0:1::1", "::ffff:10.0.0.1"].map(|text| take(text).unwrap());
        let count = |places: &Places<()>| {
            let taken = places.lock();
            taken
                .by_source
                .keys()
                .filter(|source| network(**source) == network(source_v6()))
                .count()
        };
        assert_eq!(count(&places), 2);
        drop((of_host, others));
        // Pods of a node have addresses of one network.
        let hostile: Vec<_> = (0..4).map(|_| take("fd00::1").unwrap()).collect();
        let _relay = take("fd00::2").unwrap();
        assert_eq!(places.lock().by_source.len(), 2);
        drop(hostile);
    }

    fn source_v6() -> Source {
        Some("fd00::1".parse().unwrap())
    }

    #[test]
    fn of_one_source_the_silent_go_first() {
        let places = Places::new(3);
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut taken: Vec<_> =
            (0..3).map(|_| places.take_at(at(0), source(1), ()).unwrap()).collect();
        taken[0].requested().set();
        let _other = places.take_at(at(300), source(2), ()).unwrap();
        let left: Vec<_> = places.lock().by_source[&source(1)].keys().copied().collect();
        assert_eq!(left, [0, 2], "the oldest has requested");
        taken.clear();
    }

    #[test]
    fn many_silent_sources_keep_nobody_out() {
        let places = Places::new(3);
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let busy = places.take_at(at(0), source(1), ()).unwrap();
        busy.requested().set();
        let _silent = places.take_at(at(1), source(2), ()).unwrap();
        let _younger = places.take_at(at(2), source(3), ()).unwrap();
        assert!(places.take_at(at(200), source(4), ()).is_none(), "they may still ask");
        assert!(places.take_at(at(201), source(2), ()).is_none(), "it has one already");
        let newcomer = places.take_at(at(201), source(4), ()).unwrap();
        newcomer.requested().set();
        let sources: Vec<_> = places.lock().by_source.keys().copied().collect();
        assert_eq!(sources, [1, 3, 4].map(source));
        let _another = places.take_at(at(202), source(5), ()).unwrap();
        assert!(places.take_at(at(400), source(6), ()).is_none(), "the others have requested");
    }

    #[test]
    fn without_addresses_the_silent_yield_to_newcomers_and_no_others_do() {
        let places = Places::new(3);
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let busy = places.take_at(at(0), None, ()).unwrap();
        busy.requested().set();
        let _silent = [1, 2].map(|millis| places.take_at(at(millis), None, ()).unwrap());
        assert!(places.take_at(at(200), None, ()).is_none(), "they may still ask");
        let newcomers = [201, 202].map(|millis| places.take_at(at(millis), None, ()).unwrap());
        newcomers.iter().for_each(|newcomer| newcomer.requested().set());
        let left: Vec<_> = places.lock().by_source[&None].keys().copied().collect();
        assert_eq!(left, [0, 3, 4]);
        assert!(places.take_at(at(900), None, ()).is_none(), "all have requested");
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
