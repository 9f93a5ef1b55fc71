//! The parts of a JSON text, found without decoding them.
//!
//! `serde_json` decodes nothing of a text with one value that it can't decode, such as one that is
//! nested more than 128 deep. Skipping a value has no such limit, so each part can be decoded by
//! itself. `RawValue` would do that, too, but its feature lets text within `Value`s be decoded as
//! JSON again, so that they have no limit either.

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny};
use serde_json::{Deserializer, Error};

/// The fields of an object, or the items of a list, one after another.
pub(super) struct Parts<'t> {
    rest: &'t [u8],
    is_first: bool,
    end: u8,
}

impl<'t> Parts<'t> {
    /// The fields of an object, for [`Self::next_field`].
    pub(super) fn of_object(text: &'t [u8]) -> Result<Self, Error> {
        Self::of(text, b'{', b'}')
    }

    /// The items of a list, for [`Self::next_item`].
    pub(super) fn of_list(text: &'t [u8]) -> Result<Self, Error> {
        Self::of(text, b'[', b']')
    }

    fn of(text: &'t [u8], begin: u8, end: u8) -> Result<Self, Error> {
        let mut parts = Self { rest: text, is_first: true, end };
        parts.expect(begin)?;
        Ok(parts)
    }

    /// The next field's name, and the text of its value.
    pub(super) fn next_field(&mut self) -> Result<Option<(String, &'t [u8])>, Error> {
        if !self.has_next()? {
            return Ok(None);
        }
        let (name, _) = self.take::<String>()?;
        self.expect(b':')?;
        let (_, text) = self.take::<IgnoredAny>()?;
        Ok(Some((name, text)))
    }

    /// The text of the next item.
    pub(super) fn next_item(&mut self) -> Result<Option<&'t [u8]>, Error> {
        if !self.has_next()? {
            return Ok(None);
        }
        self.take::<IgnoredAny>().map(|(_, text)| Some(text))
    }

    fn has_next(&mut self) -> Result<bool, Error> {
        if self.peek() == Some(self.end) {
            let mut after = Self { rest: &self.rest[1..], ..*self };
            return match after.peek() {
                None => Ok(false),
                Some(_) => Err(Error::custom("trailing characters")),
            };
        }
        if !std::mem::take(&mut self.is_first) {
            self.expect(b',')?;
        }
        Ok(true)
    }

    /// The next byte that is no whitespace.
    fn peek(&mut self) -> Option<u8> {
        let is_space = |byte: &u8| b" \t\r\n".contains(byte);
        let begin = self.rest.iter().position(|byte| !is_space(byte));
        self.rest = &self.rest[begin.unwrap_or(self.rest.len())..];
        self.rest.first().copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), Error> {
        if self.peek() != Some(byte) {
            return Err(Error::custom(format!("expected {:?}", char::from(byte))));
        }
        self.rest = &self.rest[1..];
        Ok(())
    }

    /// Takes one value. Returns also its text.
    fn take<T: Deserialize<'t>>(&mut self) -> Result<(T, &'t [u8]), Error> {
        let mut values = Deserializer::from_slice(self.rest).into_iter::<T>();
        let value = values.next().unwrap_or_else(|| Err(Error::custom("expected a value")))?;
        let (text, rest) = self.rest.split_at(values.byte_offset());
        self.rest = rest;
        Ok((value, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Result<Vec<&str>, Error> {
        let mut parts = Parts::of_list(text.as_bytes())?;
        let mut items = Vec::new();
        while let Some(item) = parts.next_item()? {
            items.push(std::str::from_utf8(item).unwrap().trim());
        }
        Ok(items)
    }

    #[test]
    fn parts_are_found_at_any_depth_and_in_any_layout() {
        let deep = ["[".repeat(100_000), "]".repeat(100_000)].concat();
        let text = format!(" [ 1,-2.5e3 ,null,\"],\\\"\", {{\"a\":[]}} ,{deep}\n] ");
        let expected = ["1", "-2.5e3", "null", r#""],\"""#, r#"{"a":[]}"#, &deep];
        assert_eq!(items(&text).unwrap(), expected);
        assert_eq!(items("[]").unwrap(), [""; 0]);
        let mut fields = Parts::of_object(br#" { "a" : 1 , "\u0062":{"a":2}}"#).unwrap();
        assert_eq!(fields.next_field().unwrap(), Some(("a".into(), &b" 1"[..])));
        assert_eq!(fields.next_field().unwrap(), Some(("b".into(), &br#"{"a":2}"#[..])));
        assert_eq!(fields.next_field().unwrap(), None);
        assert_eq!(fields.next_field().unwrap(), None);
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        for text in
            ["", "{}", "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "[1]2", "[1}", "[\"", "[x]"]
        {
            assert!(items(text).is_err(), "{text}");
        }
        for text in ["{1:2}", "{\"a\"}", "{\"a\":}", "{\"a\":1", "{\"a\" 1}", "{\"a\":1,}"] {
            let mut fields = Parts::of_object(text.as_bytes()).unwrap();
            let mut read = || -> Result<(), Error> {
                while fields.next_field()?.is_some() {}
                Ok(())
            };
            assert!(read().is_err(), "{text}");
        }
    }
}
