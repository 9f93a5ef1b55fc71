//! Patterns of DNS names, for DNS rules, `toFQDNs` and TLS server names (SNI).

use std::fmt;

/// Longest name and longest pattern, bytes (RFC 1035 §2.3.4; cilium
/// `pkg/fqdn/matchpattern/matchpattern.go`, `MaxFQDNLength`).
const NAME_MAX: usize = 255;

/// A pattern of DNS names. Two patterns are equal if their sources are, except for case, a trailing
/// dot, and equivalent runs of stars.
///
/// Matching ignores case and a trailing dot. A name that is longer than 255 bytes, has an empty
/// label, or has characters other than ASCII letters, digits, hyphens and underscores matches only
/// the pattern of all names.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct NamePattern {
    /// Lower case, without a trailing dot; empty is the root. `*` alone matches every name. `**` as
    /// a label matches one or more labels. Any other `*` matches any characters within a label.
    pattern: String,
}

/// Why a text is not a name, or not a pattern of names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It is longer than a name may be.
    #[error("is longer than {NAME_MAX} characters")]
    TooLong,
    /// It has a character that is not allowed.
    #[error(
        "{0:?} is not allowed; names have ASCII letters, digits, '-', '_' and '.', patterns also '*'"
    )]
    Character(char),
    /// It has two dots in a row, or a dot at the beginning.
    #[error("has an empty label")]
    EmptyLabel,
    /// It has several stars in a row that are not a label of two stars. Of server names only.
    #[error("has stars side by side that are not the label \"**\"")]
    Stars,
}

impl NamePattern {
    /// A single name (`matchName`), without stars.
    ///
    /// # Errors
    /// [`NameError`] if it is not a name.
    pub fn name(source: &str) -> Result<Self, NameError> {
        match source.contains('*') {
            true => Err(NameError::Character('*')),
            false => Ok(Self { pattern: normalize(source)? }),
        }
    }

    /// A pattern of DNS names (`matchPattern`; cilium `pkg/fqdn/matchpattern/matchpattern.go`):
    ///
    /// - a pattern of stars only matches every name, including the root;
    /// - two or more stars as the first of several labels match one or more labels;
    /// - any other run of stars matches zero or more characters within a label.
    ///
    /// # Errors
    /// [`NameError`] if it is not a pattern.
    pub fn dns(source: &str) -> Result<Self, NameError> {
        let source = normalize(source)?;
        if !source.is_empty() && source.bytes().all(|b| b == b'*') {
            return Ok(Self { pattern: "*".to_owned() });
        }
        let after_stars = source.trim_start_matches('*');
        let stars = source.len() - after_stars.len();
        let (mut pattern, rest) = match after_stars.strip_prefix('.') {
            Some(rest) if stars >= 2 => ("**.".to_owned(), rest),
            _ => (String::new(), source.as_str()),
        };
        for c in rest.chars() {
            if c != '*' || !pattern.ends_with('*') {
                pattern.push(c);
            }
        }
        Ok(Self { pattern })
    }

    /// A pattern of TLS server names (`serverNames`; cilium proxy `cilium/network_policy.h`,
    /// `SniPattern`):
    ///
    /// - `*` and `**` match every name;
    /// - `**` as a label matches one or more labels;
    /// - any other star matches zero or more characters within a label.
    ///
    /// # Errors
    /// [`NameError`] if it is not a pattern.
    pub fn server_name(source: &str) -> Result<Self, NameError> {
        let mut pattern = normalize(source)?;
        if pattern.is_empty() {
            return Err(NameError::EmptyLabel);
        }
        if pattern.split('.').any(|label| label.contains("**") && label != "**") {
            return Err(NameError::Stars);
        }
        if pattern == "*" {
            pattern.push('*');
        }
        Ok(Self { pattern })
    }

    /// Whether `name` matches, in any case and with or without a trailing dot.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        let name = name.strip_suffix(b".").unwrap_or(name);
        if self.pattern == "*" {
            return true;
        }
        if name.is_empty() || self.pattern.is_empty() {
            return name.is_empty() && self.pattern.is_empty();
        }
        is_valid(name) && labels_match(self.pattern.as_bytes(), name)
    }

    /// The labels at its end that have no star, in lower case, without a dot at the ends. Names
    /// that match end with these labels; with an empty suffix, any name may match.
    #[must_use]
    pub fn suffix(&self) -> &str {
        let Some(star) = self.pattern.rfind('*') else { return &self.pattern };
        self.pattern[star..].split_once('.').map_or("", |(_, suffix)| suffix)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.pattern.is_empty() { "." } else { &self.pattern })
    }
}

/// Checks what holds for all kinds of patterns. Returns the pattern in lower case, without a
/// trailing dot.
fn normalize(source: &str) -> Result<String, NameError> {
    if source.is_empty() {
        return Err(NameError::Empty);
    }
    if source.len() > NAME_MAX {
        return Err(NameError::TooLong);
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
    if let Some(c) = source.chars().find(|c| !is_allowed(*c)) {
        return Err(NameError::Character(c));
    }
    let name = source.strip_suffix('.').unwrap_or(source);
    if !name.is_empty() && name.split('.').any(str::is_empty) {
        return Err(NameError::EmptyLabel);
    }
    Ok(name.to_ascii_lowercase())
}

/// Whether a name, without its trailing dot, can match patterns other than that of all names.
fn is_valid(name: &[u8]) -> bool {
    let is_inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_label = |label: &[u8]| !label.is_empty() && label.iter().all(is_inner);
    name.len() <= NAME_MAX && name.split(is_dot).all(is_label)
}

const fn is_dot(byte: &u8) -> bool {
    *byte == b'.'
}

/// Matches label by label. On a mismatch it backtracks: the last `**` takes one more label.
fn labels_match(pattern: &[u8], name: &[u8]) -> bool {
    let (mut pattern, mut name) = (pattern.split(is_dot), name.split(is_dot));
    let mut retry = None;
    loop {
        match (pattern.next(), name.next()) {
            (None, None) => return true,
            (Some(b"**"), Some(_)) => retry = Some((pattern.clone(), name.clone())),
            (Some(glob), Some(label)) if label_matches(glob, label) => {}
            _ => {
                let Some((after, rest)) = &mut retry else { return false };
                if rest.next().is_none() {
                    return false;
                }
                (pattern, name) = (after.clone(), rest.clone());
            }
        }
    }
}

/// Matches one label. On a mismatch it backtracks: the last star takes one more character.
fn label_matches(glob: &[u8], label: &[u8]) -> bool {
    let (mut g, mut l) = (0, 0);
    let mut retry = None;
    while l < label.len() {
        if glob.get(g) == Some(&b'*') {
            g += 1;
            retry = Some((g, l));
        } else if glob.get(g).is_some_and(|b| b.eq_ignore_ascii_case(&label[l])) {
            (g, l) = (g + 1, l + 1);
        } else if let Some((after, taken)) = &mut retry {
            *taken += 1;
            (g, l) = (*after, *taken);
        } else {
            return false;
        }
    }
    glob[g..].iter().all(|b| *b == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pattern: &NamePattern, matching: &[&str], others: &[&str]) {
        for name in matching {
            assert!(pattern.matches(name.as_bytes()), "{pattern} and {name:?}");
        }
        for name in others {
            assert!(!pattern.matches(name.as_bytes()), "{pattern} and {name:?}");
        }
    }

    fn dns(source: &str) -> NamePattern {
        NamePattern::dns(source).unwrap()
    }

    fn server_name(source: &str) -> NamePattern {
        NamePattern::server_name(source).unwrap()
    }

    #[test]
    fn a_name_matches_itself_in_any_case_and_with_a_trailing_dot() {
        for pattern in ["Cilium.IO", "cilium.io."] {
            for pattern in [NamePattern::name(pattern).unwrap(), dns(pattern)] {
                let others = ["", ".", "a.cilium.io", "cilium.io.x", "xcilium.io", "cilium..io"];
                check(&pattern, &["cilium.io", "cilium.io.", "CiLiUm.Io"], &others);
            }
        }
        check(&dns("_foo._tcp.x-y.io"), &["_foo._tcp.x-y.io"], &["foo._tcp.x-y.io"]);
        check(&dns("."), &[".", ""], &["a", "a."]);
    }

    #[test]
    fn only_stars_match_every_name() {
        for pattern in ["*", "*.", "**", "**.", "***"] {
            check(&dns(pattern), &["", ".", "io", "cilium.io.", "_s._tcp.x.io", "a b.ü"], &[]);
            assert_eq!(dns(pattern), dns("*"));
        }
    }

    #[test]
    fn two_stars_as_the_first_label_match_one_or_more_labels() {
        for pattern in ["**.cilium.io", "***.cilium.io."] {
            let others = ["cilium.io", ".cilium.io", "a..cilium.io", "a b.cilium.io", "xcilium.io"];
            check(&dns(pattern), &["a.cilium.io", "a.b.cilium.io"], &others);
        }
        check(&dns("**.*.io"), &["a.b.io", "a.b.c.io"], &["b.io", "io"]);
    }

    #[test]
    fn any_other_stars_match_within_one_label() {
        check(&dns("*.cilium.io"), &["a.cilium.io"], &["cilium.io", "a.b.cilium.io", ".cilium.io"]);
        check(&dns("*cilium.io"), &["cilium.io", "subcilium.io"], &["a.cilium.io"]);
        check(&dns("sub*.x.io"), &["sub.x.io", "sub-1_a.x.io"], &["su.x.io", "sub.a.x.io"]);
        check(&dns("**b.x"), &["b.x", "ab.x"], &["a.b.x"]);
        check(&dns("a.**.io"), &["a.b.io"], &["a.b.c.io", "a.io"]);
        check(&dns("a**b*a.x"), &["aba.x", "a-bb-a.x"], &["ab.x", "a.ba.x"]);
        assert_eq!(dns("a.**.b**c"), dns("A.*.b*c."));
    }

    #[test]
    fn the_suffix_is_what_follows_the_last_label_with_a_star() {
        let suffixes = [
            ("*", ""),
            (".", ""),
            ("a*", ""),
            ("*.Cilium.io.", "cilium.io"),
            ("**.io", "io"),
            ("a.*b.c.d", "c.d"),
            ("www.cilium.io", "www.cilium.io"),
        ];
        for (pattern, suffix) in suffixes {
            assert_eq!(dns(pattern).suffix(), suffix, "{pattern}");
        }
    }

    #[test]
    fn two_stars_as_any_label_of_a_server_name_match_one_or_more_labels() {
        check(&server_name("*"), &["io", "cilium.io"], &["", "a b", "a..b"]);
        assert_eq!(server_name("*"), server_name("**"));
        check(&server_name("*.cilium.io"), &["a.cilium.io"], &["cilium.io", "a.b.cilium.io"]);
        check(&server_name("a.**.io"), &["a.b.io", "a.b.c.io"], &["a.io"]);
        check(&server_name("**.a.**"), &["x.a.y", "a.a.a", "x.y.a.b.a"], &["a.a", "x.a", "a.x"]);
        check(&server_name("*cilium.io"), &["cilium.io", "subcilium.io"], &["www.cilium.io"]);
    }

    #[test]
    fn invalid_patterns_are_rejected_with_the_reason() {
        let long = "a".repeat(256);
        let common = [
            ("", NameError::Empty),
            (".a", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            ("..", NameError::EmptyLabel),
            ("a b", NameError::Character(' ')),
            ("a[.]b", NameError::Character('[')),
            ("bücher.example", NameError::Character('ü')),
            (long.as_str(), NameError::TooLong),
        ];
        for (source, error) in common {
            assert_eq!(NamePattern::name(source), Err(error));
            assert_eq!(NamePattern::dns(source), Err(error));
            assert_eq!(NamePattern::server_name(source), Err(error));
        }
        assert_eq!(NamePattern::name("*.a"), Err(NameError::Character('*')));
        assert_eq!(NamePattern::server_name("."), Err(NameError::EmptyLabel));
        for source in ["***", "***.a", "a**.b", "a.b**", "**a"] {
            assert_eq!(NamePattern::server_name(source), Err(NameError::Stars), "{source}");
        }
    }

    /// cilium `pkg/fqdn/matchpattern/matchpattern_test.go`, over names without trailing dot.
    fn regex_of_dns(source: &str) -> regex::bytes::Regex {
        let stars_to = |text: &str| stars(text, |_| "[-a-z0-9_]*");
        let source = source.strip_suffix('.').unwrap_or(source);
        let text = source.trim_start_matches('*');
        let leading = source.len() - text.len();
        let regex = match text.strip_prefix('.') {
            _ if text.is_empty() => r"(?s-u:.)*".to_owned(),
            Some(rest) if leading >= 2 => format!(r"([-a-z0-9_]+\.)+{}", stars_to(rest)),
            _ => stars_to(source),
        };
        regex::bytes::Regex::new(&format!(r"\A(?i-u:{regex})\z")).unwrap()
    }

    fn regex_of_server_name(source: &str) -> regex::bytes::Regex {
        let label = "[-a-z0-9_]+";
        let labels = format!(r"{label}(\.{label})*");
        let regex = match source {
            "*" => labels,
            _ => stars(source, |stars| if stars == 2 { &labels } else { "[-a-z0-9_]*" }),
        };
        regex::bytes::Regex::new(&format!(r"\A(?i-u:{regex})\z")).unwrap()
    }

    /// `text` as a regular expression; `with` translates a run of stars by its length.
    fn stars<'a>(text: &str, with: impl Fn(usize) -> &'a str) -> String {
        let mut regex = String::new();
        let mut rest = text;
        while let Some(start) = rest.find('*') {
            let after = rest[start..].trim_start_matches('*');
            regex += &rest[..start].replace('.', "[.]");
            regex += with(rest.len() - start - after.len());
            rest = after;
        }
        regex + &rest.replace('.', "[.]")
    }

    proptest! {
        #[test]
        fn dns_patterns_agree_with_regular_expressions(
            pattern in r"[ab*]{1,3}(\.[ab*]{1,3}){0,3}\.?", name in r"[abA_]{1,3}(\.[abB-]{1,3}){0,4}",
        ) {
            let expected = regex_of_dns(&pattern).is_match(name.as_bytes());
            prop_assert_eq!(dns(&pattern).matches(name.as_bytes()), expected);
        }

        #[test]
        fn server_names_agree_with_regular_expressions(
            pattern in r"([ab]?\*?[ab]?\*?|\*\*)(\.([ab]?\*?[ab]?\*?|\*\*)){0,4}",
            name in r"[abA_]{1,3}(\.[abB-]{1,3}){0,5}",
        ) {
            let Ok(ours) = NamePattern::server_name(&pattern) else { return Ok(()) };
            let pattern = pattern.strip_suffix('.').unwrap_or(&pattern);
            let expected = regex_of_server_name(pattern).is_match(name.as_bytes());
            prop_assert_eq!(ours.matches(name.as_bytes()), expected);
        }

        #[test]
        fn arbitrary_patterns_and_names_do_not_panic(source in ".{0,20}|[a.*]{0,20}", name: Vec<u8>) {
            for pattern in [NamePattern::name, NamePattern::dns, NamePattern::server_name] {
                let _ = pattern(&source).map(|pattern| pattern.matches(&name));
            }
        }

        #[test]
        fn a_displayed_pattern_parses_to_an_equal_pattern(source in "[ab*.]{1,9}") {
            if let Ok(pattern) = NamePattern::dns(&source) {
                prop_assert_eq!(NamePattern::dns(&pattern.to_string()), Ok(pattern));
            }
            if let Ok(pattern) = NamePattern::server_name(&source) {
                prop_assert_eq!(NamePattern::server_name(&pattern.to_string()), Ok(pattern));
            }
        }
    }
}
