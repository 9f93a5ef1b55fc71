//! Patterns of DNS names, for DNS rules, `toFQDNs` and TLS server names.

use std::fmt;

/// A pattern of DNS names. Two patterns are equal if they are written alike, but for case and a
/// trailing dot.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NamePattern {
    /// Lower case, without the trailing dot.
    source: String,
}

impl NamePattern {
    /// A pattern, or a name, which is a pattern without stars.
    ///
    /// A lone `*` is every name. A leading `**.` is one or more labels; any other run of stars is
    /// any number of letters, digits, hyphens and underscores inside one label (cilium
    /// `pkg/fqdn/matchpattern/matchpattern.go`).
    #[must_use]
    pub fn new(source: &str) -> Self {
        Self { source: source.strip_suffix('.').unwrap_or(source).to_ascii_lowercase() }
    }

    /// Whether `name` (in any case, with or without the trailing dot) matches.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        let name = name.strip_suffix(b".").unwrap_or(name);
        if self.source == "*" {
            return true;
        }
        match self.source.strip_prefix("**.") {
            Some(rest) => (0..name.len())
                .filter(|dot| name[*dot] == b'.')
                .any(|dot| labels_match(rest.as_bytes(), &name[dot + 1..]) && dot > 0),
            None => labels_match(self.source.as_bytes(), name),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

fn labels_match(pattern: &[u8], name: &[u8]) -> bool {
    let mut labels = name.split(|b| *b == b'.');
    pattern.split(|b| *b == b'.').all(|p| labels.next().is_some_and(|l| label_matches(p, l)))
        && labels.next().is_none()
}

/// Stars match any run of characters of one label, also none.
fn label_matches(pattern: &[u8], label: &[u8]) -> bool {
    let is_inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let (mut p, mut l) = (0, 0);
    // Where to go on if the last star has to take one more character.
    let mut retry = None;
    while l < label.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p, l));
            p += 1;
        } else if pattern.get(p).is_some_and(|b| b.eq_ignore_ascii_case(&label[l])) {
            (p, l) = (p + 1, l + 1);
        } else if let Some((star, taken)) = retry.filter(|(_, taken)| is_inner(&label[*taken])) {
            retry = Some((star, taken + 1));
            (p, l) = (star + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}
