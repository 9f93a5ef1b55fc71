//! Rate limits of what packets cause: ICMP errors, TCP resets, and events about dropped packets.

use podgate_tables::ids::LinkId;
use podgate_tables::time::Nanos;
use podgate_tables::token_bucket::{Rate, TokenBucket};

/// Rate limit of one kind of replies or events: a token bucket for each link that causes them, so
/// that no pod uses up those of others, and one for the worker (RFC 1812 §4.3.2.8, RFC 4443 §2.4
/// (f)).
#[derive(Debug)]
pub(super) struct RateLimit {
    link_rate: Rate,
    worker_rate: Rate,
    worker: TokenBucket,
    links: Vec<TokenBucket>,
}

impl RateLimit {
    /// For ICMP errors, which may be larger than the packet that causes them.
    pub(super) fn icmp_errors() -> Self {
        let link_rate = Rate::per_second(100, 50);
        Self::new(link_rate, Rate::per_second(1000, 200))
    }

    /// For TCP resets, which are no larger than the segment that causes them. After a crash of the
    /// agent each connection needs two, and all clients outside of the node share one link.
    pub(super) fn tcp_resets() -> Self {
        let link_rate = Rate::per_second(1000, 500);
        Self::new(link_rate, Rate::per_second(5000, 2000))
    }

    /// For events about dropped packets of which the headers have to be read again: about 25 for
    /// each link in each drain (25 ms). What is dropped for lack of room is dropped by the
    /// millions, and each event takes some time.
    pub(super) fn drop_events() -> Self {
        let link_rate = Rate::per_second(1000, 1000);
        Self::new(link_rate, Rate::per_second(20_000, 20_000))
    }

    fn new(link_rate: Rate, worker_rate: Rate) -> Self {
        Self { link_rate, worker_rate, worker: TokenBucket::default(), links: Vec::new() }
    }

    /// Takes a token of `link`. Returns whether there was one.
    pub(super) fn take(&mut self, link: LinkId, now: Nanos) -> bool {
        if self.links.len() <= link.index() {
            self.links.resize(link.index() + 1, TokenBucket::default());
        }
        self.links[link.index()].take(now, self.link_rate)
            && self.worker.take(now, self.worker_rate)
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
    fn all_links_together_use_the_workers_tokens() {
        let mut limit = RateLimit::icmp_errors();
        let sent = (0..100).flat_map(|link| [link; 50]);
        let sent = sent.filter(|link| limit.take(LinkId(*link), Nanos(1))).count();
        assert_eq!(sent, 200);
    }
}
