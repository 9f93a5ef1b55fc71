//! Reads a message field by field, as its bytes arrive.

use super::Malformed;
use super::schema::{Field, Kind, List, Role};

/// Deepest nesting of structures, the message included.
pub(super) const DEPTH_MAX: usize = 6;
/// Longest value that is read as a whole, bytes. Names of topics have 249 at most.
const VALUE_MAX: usize = 1024;

/// What a [`Walker`] finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found<'a> {
    /// A list with this many elements begins.
    List(List, u32),
    /// An element of a list begins.
    Element(List),
    /// The value of a field that has a role. `None` is null.
    Value(Role, Option<&'a [u8]>),
    /// The end of what is read.
    End,
}

/// The result of reading one field, or the end of a structure.
enum Progress<'a> {
    /// More bytes are needed.
    More,
    /// A field without a role.
    On,
    /// An element, or a field with a role.
    Found(Found<'a>),
}

/// A position in a message.
#[derive(Clone, Copy, Debug)]
pub struct Walker {
    version: i16,
    flexible: bool,
    levels: [Level; DEPTH_MAX],
    depth: usize,
    /// Offset in the frame.
    at: usize,
    /// Length of the frame.
    end: usize,
}

/// A structure that is being read.
#[derive(Clone, Copy, Debug)]
struct Level {
    fields: &'static [Field],
    next: usize,
    list: List,
    scalars: bool,
    /// Elements of the array that follow.
    left: u32,
    /// Tagged fields that follow, once their number is known.
    tags: Option<u32>,
}

impl Level {
    const fn new(fields: &'static [Field]) -> Self {
        Self { fields, next: 0, list: List::Other, scalars: false, left: 0, tags: None }
    }
}

impl Walker {
    /// At the first of these fields of a message, which begins `at` bytes into its frame of `end`
    /// bytes. From `first_flexible` on, versions have compact lengths and tagged fields.
    #[must_use]
    pub const fn new(
        first_flexible: i16,
        version: i16,
        fields: &'static [Field],
        at: usize,
        end: usize,
    ) -> Self {
        let levels = [Level::new(fields); DEPTH_MAX];
        Self { version, flexible: version >= first_flexible, levels, depth: 0, at, end }
    }

    /// At tagged fields, which end the header of a message.
    pub(super) const fn of_tags(at: usize, end: usize) -> Self {
        let levels = [Level::new(&[]); DEPTH_MAX];
        Self { version: 0, flexible: true, levels, depth: 0, at, end }
    }

    /// Offset in the frame of what is read next.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.at
    }

    /// Continues up to the next element or field with a role; `None` if more bytes are needed.
    /// `bytes` are those of the frame from the offset `base` on that have arrived.
    ///
    /// # Errors
    /// [`Malformed`] if the frame is not what its API says.
    pub fn read<'a>(
        &mut self,
        bytes: &'a [u8],
        base: usize,
    ) -> Result<Option<Found<'a>>, Malformed> {
        let bytes = Bytes { bytes, base, end: self.end };
        loop {
            let level = &mut self.levels[self.depth];
            let Some(field) = level.fields.get(level.next).copied() else {
                match self.end_of_structure(&bytes)? {
                    Progress::More => return Ok(None),
                    Progress::Found(found) => return Ok(Some(found)),
                    Progress::On => continue,
                }
            };
            if !field.is_in(self.version) {
                level.next += 1;
                continue;
            }
            match self.field(&field, &bytes)? {
                Progress::More => return Ok(None),
                Progress::Found(found) => return Ok(Some(found)),
                Progress::On => {}
            }
        }
    }

    /// Reads one field.
    fn field<'a>(&mut self, field: &Field, bytes: &Bytes<'a>) -> Result<Progress<'a>, Malformed> {
        let (value, end) = match field.kind {
            Kind::Fixed(len) => {
                let len = usize::from(len);
                match field.role {
                    Role::None => (None, self.at + len),
                    _ => match bytes.take(self.at, len)? {
                        Some(value) => (Some(value), self.at + len),
                        None => return Ok(Progress::More),
                    },
                }
            }
            Kind::String | Kind::Bytes => {
                let is_string = matches!(field.kind, Kind::String);
                let Some((len, at)) = self.length(bytes, is_string)? else {
                    return Ok(Progress::More);
                };
                let end = at + len.unwrap_or(0);
                match (field.role, len) {
                    (Role::None, _) | (_, None) => (None, end),
                    (_, Some(len)) if len > VALUE_MAX => return Err(Malformed),
                    (_, Some(len)) => match bytes.take(at, len)? {
                        Some(value) => (Some(value), end),
                        None => return Ok(Progress::More),
                    },
                }
            }
            Kind::Array { fields, list, scalars } => {
                return self.array(fields, list, scalars, bytes);
            }
            Kind::Unread | Kind::UnreadStruct => return self.unread(field.kind, bytes),
        };
        if end > self.end {
            return Err(Malformed);
        }
        self.at = end;
        self.levels[self.depth].next += 1;
        Ok(match field.role {
            Role::None => Progress::On,
            role => Progress::Found(Found::Value(role, value)),
        })
    }

    fn array<'a>(
        &mut self,
        fields: &'static [Field],
        list: List,
        scalars: bool,
        bytes: &Bytes<'_>,
    ) -> Result<Progress<'a>, Malformed> {
        let Some((count, at)) = self.length(bytes, false)? else { return Ok(Progress::More) };
        let count = count.unwrap_or(0);
        // An element has at least one byte.
        if count > self.end.saturating_sub(at) || self.depth + 1 >= DEPTH_MAX {
            return Err(Malformed);
        }
        self.at = at;
        self.levels[self.depth].next += 1;
        if count > 0 {
            self.depth += 1;
            let (next, left) = (fields.len(), count as u32);
            self.levels[self.depth] = Level { fields, next, list, scalars, left, tags: Some(0) };
        }
        Ok(match list {
            List::Other => Progress::On,
            list => Progress::Found(Found::List(list, count as u32)),
        })
    }

    fn unread<'a>(&mut self, kind: Kind, bytes: &Bytes<'_>) -> Result<Progress<'a>, Malformed> {
        let (is_empty, at) = match kind {
            Kind::UnreadStruct => match bytes.take(self.at, 1)? {
                Some(marker) => (marker == [0xff], self.at + 1),
                None => return Ok(Progress::More),
            },
            _ => match self.length(bytes, false)? {
                Some((count, at)) => (count.unwrap_or(0) == 0, at),
                None => return Ok(Progress::More),
            },
        };
        if !is_empty {
            return Ok(Progress::Found(Found::End));
        }
        self.at = at;
        self.levels[self.depth].next += 1;
        Ok(Progress::On)
    }

    /// Reads tagged fields, and goes to the next element or back to the outer structure.
    fn end_of_structure<'a>(&mut self, bytes: &Bytes<'_>) -> Result<Progress<'a>, Malformed> {
        let level = &mut self.levels[self.depth];
        if self.flexible && !level.scalars {
            let mut left = match level.tags {
                Some(left) => left,
                None => {
                    let Some((count, at)) = bytes.varint(self.at)? else {
                        return Ok(Progress::More);
                    };
                    self.at = at;
                    *level.tags.insert(count)
                }
            };
            while left > 0 {
                let Some((_, at)) = bytes.varint(self.at)? else { return Ok(Progress::More) };
                let Some((size, at)) = bytes.varint(at)? else { return Ok(Progress::More) };
                let end = at.saturating_add(size as usize);
                if end > self.end {
                    return Err(Malformed);
                }
                self.at = end;
                left -= 1;
                level.tags = Some(left);
            }
        }
        if level.left > 0 {
            (level.left, level.next, level.tags) = (level.left - 1, 0, None);
            return Ok(match level.list {
                List::Other => Progress::On,
                list => Progress::Found(Found::Element(list)),
            });
        }
        if self.depth == 0 {
            return Ok(Progress::Found(Found::End));
        }
        self.depth -= 1;
        Ok(Progress::On)
    }

    /// The length in front of a string, of bytes or of an array, `None` for null, and where they
    /// begin.
    fn length(
        &self,
        bytes: &Bytes<'_>,
        is_string: bool,
    ) -> Result<Option<(Option<usize>, usize)>, Malformed> {
        if self.flexible {
            let found = bytes.varint(self.at)?;
            return Ok(found.map(|(len, at)| ((len as usize).checked_sub(1), at)));
        }
        let size = if is_string { 2 } else { 4 };
        let Some(field) = bytes.take(self.at, size)? else { return Ok(None) };
        let len = match field {
            [high, low] => i32::from(i16::from_be_bytes([*high, *low])),
            _ => field.first_chunk().map_or(0, |four| i32::from_be_bytes(*four)),
        };
        match len {
            -1 => Ok(Some((None, self.at + size))),
            _ => {
                let len = usize::try_from(len).map_err(|_| Malformed)?;
                Ok(Some((Some(len), self.at + size)))
            }
        }
    }
}

/// Bytes of a frame that have arrived.
struct Bytes<'a> {
    bytes: &'a [u8],
    base: usize,
    end: usize,
}

impl<'a> Bytes<'a> {
    /// `len` bytes at an offset of the frame; `None` if they have not arrived.
    fn take(&self, at: usize, len: usize) -> Result<Option<&'a [u8]>, Malformed> {
        let end = at.saturating_add(len);
        if end > self.end || at < self.base {
            return Err(Malformed);
        }
        Ok(self.bytes.get(at - self.base..end - self.base))
    }

    /// An unsigned number of variable length (KIP-482), and where it ends.
    fn varint(&self, mut at: usize) -> Result<Option<(u32, usize)>, Malformed> {
        let mut number = 0;
        for shift in [0, 7, 14, 21, 28] {
            let Some(&[byte]) = self.take(at, 1)? else { return Ok(None) };
            at += 1;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let number = u32::try_from(number).map_err(|_| Malformed)?;
                return Ok(Some((number, at)));
            }
        }
        Err(Malformed)
    }
}
