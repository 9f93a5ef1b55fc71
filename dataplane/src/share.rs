//! Shares of a bounded store: what one link takes leaves places for others.

use podgate_tables::ids::LinkId;

/// How many places of a bounded store each link took since the store was last empty.
///
/// A link may take one more only while more places are free than it took already: one greedy link
/// leaves half of them free, two leave a third. (New flows have places by the same rule.)
#[derive(Debug, Default)]
pub struct Shares {
    /// By the number of the link: in which turn it took how many.
    taken: Vec<(u32, u32)>,
    turn: u32,
}

impl Shares {
    /// Notes that the store is empty.
    pub fn start_over(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    /// Whether `link` may take one of `free` places; if so, it has.
    pub fn take(&mut self, link: LinkId, free: usize) -> bool {
        if self.taken.len() <= link.index() {
            self.taken.resize(link.index() + 1, (self.turn, 0));
        }
        let (turn, taken) = &mut self.taken[link.index()];
        if *turn != self.turn {
            (*turn, *taken) = (self.turn, 0);
        }
        let may = (*taken as usize) < free;
        *taken += u32::from(may);
        may
    }
}

/// What each link holds of a bounded store, whose places come back one by one; by the same rule.
#[derive(Debug)]
pub struct Holdings {
    limit: usize,
    held: usize,
    /// By the number of the link.
    by_link: Vec<usize>,
}

impl Holdings {
    /// Nothing is held of a store of `limit` places.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, held: 0, by_link: Vec::new() }
    }

    /// Places that all links hold.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.held
    }

    /// Whether `link`, with `places` more, holds no more than is then left; if so, it has them.
    pub fn take(&mut self, link: LinkId, places: usize) -> bool {
        let free = self.limit.saturating_sub(self.held);
        let of_link = self.of(link);
        let may = *of_link + 2 * places <= free;
        if may {
            *of_link += places;
            self.held += places;
        }
        may
    }

    /// Notes that `link` holds `places` less.
    pub fn give_back(&mut self, link: LinkId, places: usize) {
        *self.of(link) -= places;
        self.held -= places;
    }

    /// Notes that one link holds `places` from here on that another one held, whatever its share.
    pub fn pass(&mut self, [from, to]: [LinkId; 2], places: usize) {
        *self.of(from) -= places;
        *self.of(to) += places;
    }

    fn of(&mut self, link: LinkId) -> &mut usize {
        if self.by_link.len() <= link.index() {
            self.by_link.resize(link.index() + 1, 0);
        }
        &mut self.by_link[link.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_greedy_link_leaves_half_and_two_leave_a_third() {
        let mut shares = Shares::default();
        let mut take = |free: &mut usize, links: &[u16], times| {
            let mut taken = 0;
            for link in links.iter().cycle().take(times) {
                if shares.take(LinkId(*link), *free) {
                    *free -= 1;
                    taken += 1;
                }
            }
            shares.start_over();
            taken
        };
        assert_eq!(take(&mut 90, &[1], 1000), 45);
        assert_eq!(take(&mut 90, &[1, 2], 1000), 60);
        let mut free = 90;
        // Whoever comes late has a place all the same.
        assert_eq!(take(&mut free, &[7], 1000), 45);
        assert!(take(&mut free, &[8], 10) == 10);
        assert_eq!(take(&mut 0, &[1], 10), 0);
    }

    #[test]
    fn what_is_held_is_shared_alike_and_comes_back() {
        let [greedy, late] = [LinkId(1), LinkId(7)];
        let mut holdings = Holdings::new(90);
        let take = |holdings: &mut Holdings, link| {
            std::iter::from_fn(|| holdings.take(link, 5).then_some(5)).sum::<usize>()
        };
        assert_eq!(take(&mut holdings, greedy), 45);
        assert_eq!(take(&mut holdings, late), 20);
        assert_eq!(holdings.total(), 65);
        holdings.pass([greedy, late], 45);
        assert!(!holdings.take(late, 1), "all of it counts as the other one's now");
        assert!(holdings.take(greedy, 10));
        holdings.give_back(late, 65);
        holdings.give_back(greedy, 10);
        assert_eq!((holdings.total(), take(&mut holdings, late)), (0, 45));
    }
}
