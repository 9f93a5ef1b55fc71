//! Rows of cells, their order, and their filter.

use podgate_policy::terminal::escape;

use crate::output;

/// A cell.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Cell {
    /// A name; it is escaped.
    Text(String),
    /// A number, as it is printed.
    Number(f64, String),
}

impl Cell {
    /// A name.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(escape(&text.into()))
    }

    /// A count.
    pub(super) fn count(count: u64) -> Self {
        Self::Number(count as f64, count.to_string())
    }

    /// Events per second.
    pub(super) fn rate(rate: f64) -> Self {
        let text = match rate {
            _ if rate == 0.0 => "0".to_owned(),
            _ if rate < 10.0 => format!("{rate:.1}"),
            _ => format!("{rate:.0}"),
        };
        Self::Number(rate, text)
    }

    /// A number that is not known; it counts as zero.
    pub(super) fn none() -> Self {
        Self::Number(0.0, "-".to_owned())
    }

    /// A time, in milliseconds.
    pub(super) fn milliseconds(ns: u64) -> Self {
        let milliseconds = ns as f64 / 1e6;
        Self::Number(milliseconds, format!("{milliseconds:.1}"))
    }

    /// As it is printed.
    pub(super) fn printed(&self) -> &str {
        match self {
            Self::Text(text) | Self::Number(_, text) => text,
        }
    }

    /// Largest numbers first, and names by the alphabet.
    fn order(&self, other: &Self) -> std::cmp::Ordering {
        match (self, other) {
            (Self::Number(one, _), Self::Number(other, _)) => other.total_cmp(one),
            _ => self.printed().cmp(other.printed()),
        }
    }
}

/// A table.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Table {
    pub(super) heading: Vec<&'static str>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// In which direction a table is sorted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Direction {
    /// As the cells of the column are ordered.
    Usual,
    /// The other way round.
    Reversed,
}

impl Direction {
    /// The other one.
    pub(super) const fn reversed(self) -> Self {
        match self {
            Self::Usual => Self::Reversed,
            Self::Reversed => Self::Usual,
        }
    }
}

impl Table {
    /// The rows in the order of a column; those that are equal there by all columns.
    #[must_use]
    pub(super) fn sorted(mut self, column: usize, direction: Direction) -> Self {
        self.rows.sort_by(|one, other| {
            let by_column = match (one.get(column), other.get(column)) {
                (Some(one), Some(other)) => one.order(other),
                _ => std::cmp::Ordering::Equal,
            };
            let by_all = || {
                let pairs = one.iter().zip(other).map(|(one, other)| one.order(other));
                pairs.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
            };
            match direction {
                Direction::Usual => by_column.then_with(by_all),
                Direction::Reversed => by_column.reverse().then_with(by_all),
            }
        });
        self
    }

    /// The rows of which a cell contains `text`, in any case.
    #[must_use]
    pub(super) fn filtered(mut self, text: &str) -> Self {
        let text = text.to_lowercase();
        let matches = |cell: &Cell| cell.printed().to_lowercase().contains(&text);
        self.rows.retain(|row| text.is_empty() || row.iter().any(matches));
        self
    }

    /// Aligned lines of the first `max` rows, and how many more there are.
    pub(super) fn to_text(&self, max: usize) -> String {
        let heading = self.heading.iter().map(|name| (*name).to_owned()).collect();
        let rows = self.rows.iter().take(max);
        let rows = rows.map(|row| row.iter().map(|cell| cell.printed().to_owned()).collect());
        let text = output::table(std::iter::once(heading).chain(rows));
        match self.rows.len().saturating_sub(max) {
            0 => text,
            more => format!("{text}({more} more rows)\n"),
        }
    }
}
