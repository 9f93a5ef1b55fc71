//! The position in a text of each value of a document.
//!
//! Computed only for documents with rejections.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::yaml_options;
use crate::fields::{FieldPath, Step};

/// Line and column in a text, from 1; columns count characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Position {
    pub(super) line: u32,
    pub(super) column: u32,
}

impl Position {
    /// Where a text begins.
    pub(super) const START: Self = Self { line: 1, column: 1 };

    /// Where `text` ends if it begins here.
    pub(super) fn after(self, text: &str) -> Self {
        let lines = text.bytes().filter(|byte| *byte == b'\n').count() as u32;
        let last = text.rsplit('\n').next().unwrap_or_default().chars().count() as u32;
        self.then(Self { line: 1 + lines, column: 1 + last })
    }

    /// The position in the whole text of what is at `inner` in a part that begins here.
    pub(super) const fn then(self, inner: Self) -> Self {
        let column = if inner.line == 1 { self.column - 1 + inner.column } else { inner.column };
        Self { line: self.line - 1 + inner.line, column }
    }
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        // The library counts in 32 bits.
        Self { line: location.line() as u32, column: location.column() as u32 }
    }
}

/// A value: where it begins, and what lies within.
#[derive(Debug)]
pub(super) struct Places {
    at: Position,
    below: Below,
}

#[derive(Debug)]
enum Below {
    Nothing,
    Items(Vec<Places>),
    /// The position of each key, and its value.
    Entries(Vec<(Box<str>, Position, Places)>),
}

impl Places {
    /// Of one YAML or JSON document. `None` if it can't be read.
    pub(super) fn of(text: &str) -> Option<Self> {
        // What aliases and merge keys repeat is where it was written first: there it can be put
        // right.
        serde_saphyr::from_str_with_options(text, yaml_options()).ok()
    }

    /// The element of a list, or the value of a key, and where that begins.
    fn step(&self, step: &Step) -> Option<(Position, &Self)> {
        match (&self.below, step) {
            (Below::Items(items), Step::Index(index)) => {
                items.get(*index).map(|item| (item.at, item))
            }
            (Below::Entries(entries), Step::Key(key)) => {
                let (_, at, value) = entries.iter().find(|(name, ..)| **name == **key)?;
                Some((*at, value))
            }
            _ => None,
        }
    }

    /// The value of `items[i]`, and on from there for each further index.
    pub(super) fn item(&self, indices: &[usize]) -> Option<&Self> {
        let items = Step::Key("items".to_owned());
        indices.iter().try_fold(self, |place, index| {
            let (_, items) = place.step(&items)?;
            Some(items.step(&Step::Index(*index))?.1)
        })
    }

    /// Where the value of the field begins, if it is there.
    pub(super) fn value(&self, path: &FieldPath) -> Option<Position> {
        let value = path.steps().iter().try_fold(self, |place, step| Some(place.step(step)?.1));
        value.map(|place| place.at)
    }

    /// Where the field is, or the innermost of the fields around it that are there.
    pub(super) fn find(&self, path: &FieldPath) -> Position {
        let (mut place, mut at) = (self, self.at);
        for step in path.steps() {
            let Some((next_at, next)) = place.step(step) else { break };
            (at, place) = (next_at, next);
        }
        at
    }
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value: below, defined, .. } = Spanned::deserialize(deserializer)?;
        Ok(Self { at: defined.into(), below })
    }
}

impl<'de> Deserialize<'de> for Below {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BelowVisitor)
    }
}

struct BelowVisitor;

/// Scalars hold no further place.
macro_rules! nothing_below {
    ($($name:ident($type:ty)),+) => {
        $(fn $name<E: Error>(self, _value: $type) -> Result<Below, E> {
            Ok(Below::Nothing)
        })+
    };
}

impl<'de> Visitor<'de> for BelowVisitor {
    type Value = Below;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    nothing_below!(
        visit_bool(bool),
        visit_i64(i64),
        visit_u64(u64),
        visit_f64(f64),
        visit_str(&str)
    );

    fn visit_none<E: Error>(self) -> Result<Below, E> {
        Ok(Below::Nothing)
    }

    fn visit_unit<E: Error>(self) -> Result<Below, E> {
        Ok(Below::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Below, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Below::Nothing)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Below, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Below::Items(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Below, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, place)) = mapping.next_entry::<Spanned<String>, Places>()? {
            entries.push((key.value.into(), key.defined.into(), place));
        }
        Ok(Below::Entries(entries))
    }
}
