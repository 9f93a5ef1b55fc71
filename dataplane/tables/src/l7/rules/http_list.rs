//! A list of HTTP rules: a request must match one of them.

use std::fmt;
use std::ops::Deref;

use super::super::http1::HttpRequest;
use super::http::HttpRule;
use super::index::Index;

/// HTTP rules of one entry, with an index that finds those that may match a request.
///
/// Two lists are equal if their rules are.
#[derive(Clone)]
pub struct HttpRules {
    rules: Vec<HttpRule>,
    index: Box<Index>,
}

impl HttpRules {
    /// Whether some rule matches the request.
    pub(super) fn allow(&self, request: &HttpRequest<'_>) -> bool {
        let matches = |rule: &u32| self.rules[*rule as usize].matches(request);
        self.index.candidates(request).iter().any(matches)
    }
}

impl From<Vec<HttpRule>> for HttpRules {
    fn from(rules: Vec<HttpRule>) -> Self {
        let index = Box::new(Index::new(&rules));
        Self { rules, index }
    }
}

impl Deref for HttpRules {
    type Target = [HttpRule];

    fn deref(&self) -> &[HttpRule] {
        &self.rules
    }
}

impl PartialEq for HttpRules {
    fn eq(&self, other: &Self) -> bool {
        self.rules == other.rules
    }
}

impl Eq for HttpRules {}

impl fmt::Debug for HttpRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rules.fmt(f)
    }
}
