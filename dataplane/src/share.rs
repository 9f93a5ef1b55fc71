//! Shares of a bounded store: what one link takes leaves places for others.

use crate::types::LinkId;

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
}
