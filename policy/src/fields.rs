//! Access to a JSON document: every value has its path, problems are recorded with the path, and no
//! field is ignored.
//!
//! A parser takes the fields that it knows from an [`Object`] and calls [`Object::finish`], which
//! rejects all others. JSON `null` counts as absent, as it does for the API server.

use std::cell::{Cell, RefCell, RefMut};
use std::fmt;

use podgate_tables::l7::PatternBudget;
use serde_json::{Map, Value};

/// Most problems that are recorded of one object, so that a hostile object can't fill memory.
const PROBLEMS_MAX: usize = 32;

/// One problem of one field.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) field: FieldPath,
    pub(crate) reason: String,
    pub(crate) fix: Option<Fix>,
}

/// What to write instead of a rejected value. It never changes the meaning that the author
/// intended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fix {
    /// In words.
    Text(String),
    /// The value in quotes, as it is in the file: once parsed as a number, `1.10` is the same as
    /// `1.1`. The text is for objects without a file, if it is known to be as written.
    Quotes(Option<String>),
}

/// The way from an object to one of its fields; empty for the object itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldPath(Vec<Step>);

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl FieldPath {
    pub(crate) fn new(steps: impl Into<Vec<Step>>) -> Self {
        Self(steps.into())
    }

    /// Of a field of the object itself.
    pub(crate) fn key(name: &str) -> Self {
        Self(vec![Step::Key(name.to_owned())])
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }
}

/// Such as `spec.ingress[0]`.
impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(&printable(key))?,
                Step::Key(key) => write!(f, ".{}", printable(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// The problems found so far in one object, and the budget that is left for its patterns.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: RefCell<Vec<Problem>>,
    /// Number of problems that were not recorded.
    further: Cell<usize>,
    patterns: RefCell<PatternBudget>,
}

impl Problems {
    pub(crate) fn into_inner(self) -> Vec<Problem> {
        let mut problems = self.found.into_inner();
        if self.further.get() > 0 {
            let reason = format!("{} more problems are not listed", self.further.get());
            problems.push(Problem { field: FieldPath::default(), reason, fix: None });
        }
        problems
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    fn push(&self, problem: Problem) {
        let mut problems = self.found.borrow_mut();
        if problems.contains(&problem) {
            return;
        }
        match problems.len() < PROBLEMS_MAX {
            true => problems.push(problem),
            false => self.further.set(self.further.get() + 1),
        }
    }
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

/// A value in the document.
#[derive(Clone, Copy)]
pub(crate) struct Field<'a> {
    value: &'a Value,
    segment: Segment<'a>,
    parent: Option<&'a Field<'a>>,
    problems: &'a Problems,
}

impl<'a> Field<'a> {
    pub(crate) fn root(value: &'a Value, problems: &'a Problems) -> Self {
        Self { value, segment: Segment::Root, parent: None, problems }
    }

    /// The path as text, such as `spec.ingress[0]`.
    pub(crate) fn path(&self) -> String {
        self.steps().to_string()
    }

    fn steps(&self) -> FieldPath {
        let mut path = self.parent.map(Field::steps).unwrap_or_default();
        match self.segment {
            Segment::Root => {}
            Segment::Key(key) => path.0.push(Step::Key(key.to_owned())),
            Segment::Index(index) => path.0.push(Step::Index(index)),
        }
        path
    }

    /// Rejects this field.
    pub(crate) fn reject(&self, reason: impl Into<String>) {
        self.record(self.steps(), Some(self.value), reason.into(), None);
    }

    /// Like [`Self::reject`], with what to write in its place.
    pub(crate) fn reject_with_fix(&self, reason: impl Into<String>, fix: impl Into<String>) {
        let fix = Some(Fix::Text(fix.into()));
        self.record(self.steps(), Some(self.value), reason.into(), fix);
    }

    /// Records a problem of the field at `field`, which has this value. If the value is an
    /// unrendered template, that is the problem.
    fn record(&self, field: FieldPath, value: Option<&Value>, reason: String, fix: Option<Fix>) {
        let is_template = value.and_then(Value::as_str).is_some_and(is_template);
        let (reason, fix) = match is_template {
            true => (TEMPLATE.to_owned(), Some(Fix::Text(RENDER.to_owned()))),
            false => (reason, fix),
        };
        self.problems.push(Problem { field, reason, fix });
    }

    /// Rejects something below this field: `name` or `name[index]`.
    pub(crate) fn reject_below(&self, below: &str, reason: String) {
        let (name, index) = match below.strip_suffix(']').and_then(|below| below.split_once('[')) {
            Some((name, index)) => (name, index.parse().ok()),
            None => (below, None),
        };
        let mut field = self.steps();
        field.0.push(Step::Key(name.to_owned()));
        field.0.extend(index.map(Step::Index));
        let value = self.value.get(name);
        let value = index.map_or(value, |index: usize| value?.get(index));
        self.record(field, value, reason, None);
    }

    /// How many problems of the object are known so far.
    pub(crate) fn problems(&self) -> usize {
        self.problems.found.borrow().len() + self.problems.further.get()
    }

    /// The budget that is left for patterns of this object.
    pub(crate) fn pattern_budget(&self) -> RefMut<'_, PatternBudget> {
        self.problems.patterns.borrow_mut()
    }

    fn expected(&self, what: &str) {
        let found = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "a mapping",
        };
        self.reject(format!("must be {what}, but is {found}"));
    }

    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    pub(crate) fn is_empty_list(&self) -> bool {
        self.value.as_array().is_some_and(Vec::is_empty)
    }

    pub(crate) fn object(&'a self) -> Option<Object<'a>> {
        match self.value {
            Value::Object(map) => Some(Object { field: self, map, known: Vec::new() }),
            _ => {
                self.expected("a mapping");
                None
            }
        }
    }

    pub(crate) fn string(&self) -> Option<&'a str> {
        match self.value {
            Value::String(text) => Some(text),
            Value::Number(number) => {
                // A fraction may have lost digits.
                let text = number.as_i64().map(|number| number.to_string());
                self.needs_quotes("a number", text);
                None
            }
            Value::Bool(value) => {
                self.needs_quotes("a boolean", Some(value.to_string()));
                None
            }
            _ => {
                self.expected("a string");
                None
            }
        }
    }

    fn needs_quotes(&self, what: &str, text: Option<String>) {
        let reason = format!("must be a string, but is {what}");
        self.record(self.steps(), None, reason, Some(Fix::Quotes(text)));
    }

    /// A string, or nothing at all, which the API takes for an empty one where it is the value of a
    /// label.
    pub(crate) fn label_value(&self) -> Option<&'a str> {
        if self.value.is_null() { Some("") } else { self.string() }
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.expected("true or false");
        }
        value
    }

    /// A whole number of `low..=high`.
    pub(crate) fn integer(&self, low: u16, high: u16) -> Option<u16> {
        let number = match self.value {
            Value::Number(number) => number,
            _ => {
                self.expected("a number");
                return None;
            }
        };
        let value = number.as_u64().and_then(|value| u16::try_from(value).ok());
        let value = value.filter(|value| (low..=high).contains(value));
        if value.is_none() {
            self.reject(format!("must be a whole number from {low} to {high}, but is {number}"));
        }
        value
    }

    /// Reads each element with `read`; elements that can't be read are recorded as problems and
    /// left out.
    pub(crate) fn list<T>(
        &'a self,
        mut read: impl FnMut(&Field<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Array(items) = self.value else {
            self.expected("a list");
            return None;
        };
        let read_item = |(index, value)| {
            let segment = Segment::Index(index);
            read(&Field { value, segment, parent: Some(self), problems: self.problems })
        };
        Some(items.iter().enumerate().filter_map(read_item).collect())
    }

    /// Reads each value of a mapping with `read`.
    pub(crate) fn entries<T>(
        &'a self,
        mut read: impl FnMut(&'a str, &Field<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Value::Object(map) = self.value else {
            self.expected("a mapping");
            return None;
        };
        let read_entry = |(key, value): (&'a String, &'a Value)| {
            let segment = Segment::Key(key);
            read(key, &Field { value, segment, parent: Some(self), problems: self.problems })
        };
        Some(map.iter().filter_map(read_entry).collect())
    }
}

/// A mapping whose fields are taken one by one.
pub(crate) struct Object<'a> {
    field: &'a Field<'a>,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Object<'a> {
    /// The field called `name`, unless it is absent or null.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Field<'a>> {
        self.known.push(name);
        let value = self.map.get(name).filter(|value| !value.is_null())?;
        let segment = Segment::Key(name);
        Some(Field { value, segment, parent: Some(self.field), problems: self.field.problems })
    }

    /// Accepts fields without reading them: no verdict depends on them.
    pub(crate) fn skip(&mut self, names: &[&'static str]) {
        self.known.extend(names);
    }

    /// Rejects known fields that are not enforced, each with its reason.
    pub(crate) fn reject_fields(&mut self, fields: &[(&'static str, &str)]) {
        for (name, reason) in fields {
            if let Some(field) = self.take(name) {
                field.reject(*reason);
            }
        }
    }

    /// Whether the object has a field called `name`, taken or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// Whether there are fields that were not taken.
    pub(crate) fn has_unknown(&self) -> bool {
        self.map.keys().any(|name| !self.known.contains(&name.as_str()))
    }

    /// Rejects every field that was not taken.
    pub(crate) fn finish(self) {
        self.finish_with(&[]);
    }

    /// Like [`Self::finish`], with advice on fields that belong elsewhere: the field, and what to
    /// do with it.
    pub(crate) fn finish_with(self, advice: &[(&str, &str)]) {
        for (name, value) in self.map {
            if self.known.contains(&name.as_str()) {
                continue;
            }
            let segment = Segment::Key(name);
            let parent = Some(self.field);
            let field = Field { value, segment, parent, problems: self.field.problems };
            let similar = self.known.iter().find(|known| known.eq_ignore_ascii_case(name));
            let advice = advice.iter().find(|(field, _)| field == name);
            match (similar, advice) {
                (Some(known), _) => {
                    field.reject_with_fix("unknown field", format!("write {known}"));
                }
                (None, Some((_, advice))) => field.reject_with_fix("unknown field", *advice),
                (None, None) => field.reject("unknown field"),
            }
        }
    }
}

/// What is said of text that a template engine was to fill in.
pub(crate) const TEMPLATE: &str = "is an unrendered Helm template ({{ … }})";
/// What to do about it.
pub(crate) const RENDER: &str = "render it first, such as by helm template";

/// Whether text has a place that a template engine such as Helm's fills in: `{{ .Values.name }}`.
pub(crate) fn is_template(text: &str) -> bool {
    text.split_once("{{").is_some_and(|(_, rest)| rest.contains("}}"))
}

/// An excerpt of a user's text that is safe and short enough to print.
pub(crate) fn printable(text: &str) -> String {
    const SHOWN_MAX: usize = 80;
    let mut shown: String = text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// [`printable`] in quotes.
pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", printable(text))
}
