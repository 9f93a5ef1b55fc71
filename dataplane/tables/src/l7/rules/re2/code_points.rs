//! Sets of code points.

/// The largest code point.
pub(super) const MAX: u32 = 0x10_ffff;

/// A set of code points. As in RE2, surrogates are code points like others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct CodePoints {
    /// First and last code points of ranges: sorted, and at least one code point apart.
    ranges: Vec<(u32, u32)>,
}

impl CodePoints {
    /// The union of ranges in any order, each from its first to its last code point.
    pub(super) fn new(ranges: impl IntoIterator<Item = (u32, u32)>) -> Self {
        let mut set = Self { ranges: ranges.into_iter().collect() };
        set.normalize();
        set
    }

    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        &self.ranges
    }

    pub(super) fn contains(&self, point: u32) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= point);
        after.checked_sub(1).is_some_and(|index| point <= self.ranges[index].1)
    }

    /// Whether all code points from U+0080 on are in the set.
    pub(super) fn has_all_beyond_ascii(&self) -> bool {
        self.ranges.last().is_some_and(|(first, last)| *first <= 0x80 && *last == MAX)
    }

    pub(super) fn union(&mut self, other: &Self) {
        self.ranges.extend_from_slice(&other.ranges);
        self.normalize();
    }

    /// All other code points.
    pub(super) fn complement(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 1);
        let mut next = 0;
        for (first, last) in &self.ranges {
            if next < *first {
                ranges.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= MAX {
            ranges.push((next, MAX));
        }
        Self { ranges }
    }

    pub(super) fn intersect(&self, other: &Self) -> Self {
        let mut excluded = self.complement();
        excluded.union(&other.complement());
        excluded.complement()
    }

    /// Adds to each code point its others in `folds`, sorted pairs.
    pub(super) fn fold(&mut self, folds: &[(u32, u32)]) {
        let mut others = Vec::new();
        for (first, last) in &self.ranges {
            let begin = folds.partition_point(|(from, _)| from < first);
            let within = folds[begin..].iter().take_while(|(from, _)| from <= last);
            others.extend(within.map(|(_, to)| (*to, *to)));
        }
        if !others.is_empty() {
            self.ranges.extend(others);
            self.normalize();
        }
    }

    fn normalize(&mut self) {
        if self.ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0) {
            return;
        }
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, previous| {
            let joins = next.0 <= previous.1 + 1;
            if joins {
                previous.1 = previous.1.max(next.1);
            }
            joins
        });
    }
}
