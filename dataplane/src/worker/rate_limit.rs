//! Rate limits of what packets cause: ICMP errors, TCP resets, and events about dropped packets.

use podgate_tables::address::Address;
use podgate_tables::ids::LinkId;
use podgate_tables::time::Nanos;
use podgate_tables::token_bucket::{Rate, TokenBucket};

use crate::flow::{HashKey, SOURCES, source_group};

/// Rate limit of one kind of replies or events: a token bucket for each link that causes them, and
/// for each group of sources outside of the node, which have one link (RFC 1812 §4.3.2.8, RFC 4443
/// §2.4 (f)). Events about dropped packets are limited by link only. There is no common limit,
/// which a few links could use up: the time that replies and events take is charged to the links
/// that cause them.
#[derive(Debug)]
pub(super) struct RateLimit {
    rate: Rate,
    /// By the number of the link.
    links: Vec<TokenBucket>,
    /// By the number of the group.
    sources: [TokenBucket; SOURCES],
    hash_key: HashKey,
}

impl RateLimit {
    /// For ICMP errors, which may be larger than the packet that causes them.
    pub(super) fn icmp_errors() -> Self {
        Self::new(Rate::per_second(100, 50))
    }

    /// For TCP resets, which are no larger than the segment that causes them. After a crash of the
    /// agent each connection needs two, and those of a proxy have one source.
    pub(super) fn tcp_resets() -> Self {
        Self::new(Rate::per_second(1000, 500))
    }

    /// For events about dropped packets whose headers have to be read again: about 25 for each link
    /// in each drain (25 ms). Packets that are dropped for lack of room may be millions, and each
    /// event takes some time.
    pub(super) fn drop_events() -> Self {
        Self::new(Rate::per_second(1000, 1000))
    }

    fn new(rate: Rate) -> Self {
        let sources = [TokenBucket::default(); SOURCES];
        Self { rate, links: Vec::new(), sources, hash_key: HashKey::random() }
    }

    /// Takes a token of `link`. Returns whether there was one.
    pub(super) fn take(&mut self, link: LinkId, now: Nanos) -> bool {
        if self.links.len() <= link.index() {
            self.links.resize(link.index() + 1, TokenBucket::default());
        }
        self.links[link.index()].take(now, self.rate)
    }

    /// Takes a token of a source outside of the node. Returns whether there was one.
    pub(super) fn take_outside(&mut self, source: Address, now: Nanos) -> bool {
        self.sources[source_group(&self.hash_key, source)].take(now, self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_its_own_tokens_which_are_refilled() {
        let mut limit = RateLimit::icmp_errors();
        let mut now = Nanos(5_000_000_000);
        let mut burst = |link, now| (0..1000).filter(|_| limit.take(LinkId(link), now)).count();
        assert_eq!(burst(1, now), 50);
        assert_eq!(burst(2, now), 50, "another link has its own");
        now = now.plus_millis(105);
        assert_eq!(burst(1, now), 10);
        now = now.plus_millis(5);
        assert_eq!(burst(1, now), 1, "fractions are not lost");
        assert_eq!(burst(1, now.plus_secs(3600)), 50, "and never more than the burst");
    }

    #[test]
    fn whoever_uses_up_its_tokens_takes_none_of_others() {
        let (mut limit, now) = (RateLimit::icmp_errors(), Nanos(1));
        for link in 0..100 {
            assert_eq!((0..1000).filter(|_| limit.take(LinkId(link), now)).count(), 50);
        }
        let mut burst = |source, times| {
            let source = Address::v4(source);
            (0..times).filter(|_| limit.take_outside(source, now)).count()
        };
        assert_eq!(burst([192, 0, 2, 1], 1000), 50);
        let others = (0..100).map(|last| burst([198, 51, 100, last], 1)).sum::<usize>();
        assert!(others > 90, "few sources are in the same group, {others} of 100 are not");
    }
}
