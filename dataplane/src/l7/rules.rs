//! The HTTP rules of a policy, compiled, and how one request is held against them.
//!
//! # What a rule matches
//! Method, path and host are regular expressions over bytes that must match *all* of the value:
//! ASCII classes, case-sensitive, `.` matches anything but a line feed. That is what Cilium's rules
//! mean, which Envoy evaluates as RE2 full matches. The path is HTTP/2's `:path`, query included;
//! the host is `:authority`, port included, as the client wrote it.
//!
//! # Paths in normal form
//! A server decodes and resolves a path before it uses it, so two spellings may name one resource.
//! A rule with a path therefore matches only paths that are their own normal form (see
//! `http1/target.rs` for the rule); a rule without one does not care.
//!
//! # Why dense automata and nothing else
//! A pattern becomes one deterministic automaton when the policy is compiled. Matching then takes
//! one table look-up a byte and no memory, whatever the pattern and whatever the pod sends, and the
//! tables are shared by all workers. The price is size: a few patterns (such as `(a|b)*a(a|b){20}`)
//! need exponentially many states. Those are refused with [`RuleError`], where the author of the
//! policy sees it, rather than handed to a second engine that would need scratch memory for each
//! flow.

use std::fmt;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::{start, syntax};
use regex_automata::{Anchored, MatchKind};

/// Longest pattern accepted, bytes.
const PATTERN_MAX: usize = 4096;
/// Largest automaton of one pattern, bytes.
const AUTOMATON_MAX: usize = 512 * 1024;
/// Memory that building one automaton may use, bytes.
const BUILD_MAX: usize = 4 * 1024 * 1024;
/// Deepest nesting of groups in a pattern.
const NESTING_MAX: u32 = 100;

/// The L7 rules of one policy entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct L7Rules {
    http: Vec<HttpRule>,
}

impl L7Rules {
    /// HTTP requests must match one of `rules`; with no rule at all none is allowed.
    #[must_use]
    pub const fn http(rules: Vec<HttpRule>) -> Self {
        Self { http: rules }
    }

    /// Whether some rule matches the request.
    #[must_use]
    pub fn allows(&self, request: &Request<'_>) -> bool {
        self.http.iter().any(|rule| rule.matches(request))
    }
}

/// A request as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method.
    pub method: &'a [u8],
    /// Path and query, as HTTP/2's `:path`.
    pub path: &'a [u8],
    /// Whether the path is its own normal form.
    pub path_is_normal: bool,
    /// Host and port, as HTTP/2's `:authority`; empty when an HTTP/1.0 request names none.
    pub host: &'a [u8],
    /// Header fields, in order.
    pub headers: &'a [httparse::Header<'a>],
}

/// The source of an [`HttpRule`]: the fields of Cilium's `PortRuleHTTP`
/// (cilium `pkg/policy/api/http.go`). A missing or empty field matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRuleSpec {
    /// Pattern of the method.
    pub method: Option<String>,
    /// Pattern of path and query.
    pub path: Option<String>,
    /// Pattern of the host.
    pub host: Option<String>,
    /// `Name` for presence, `Name: value` for an exact value.
    pub headers: Vec<String>,
}

/// One compiled rule: a request matches if everything that the rule names matches.
///
/// Two rules are equal if their sources are.
#[derive(Clone)]
pub struct HttpRule {
    spec: HttpRuleSpec,
    method: Option<Pattern>,
    path: Option<Pattern>,
    host: Option<Pattern>,
    headers: Vec<HeaderRule>,
}

impl HttpRule {
    /// Compiles a rule.
    ///
    /// # Errors
    /// [`RuleError`] names the first field that can't be compiled.
    pub fn new(spec: HttpRuleSpec) -> Result<Self, RuleError> {
        let method = Pattern::optional(spec.method.as_deref(), RuleField::Method)?;
        let path = Pattern::optional(spec.path.as_deref(), RuleField::Path)?;
        let host = Pattern::optional(spec.host.as_deref(), RuleField::Host)?;
        let headers = spec
            .headers
            .iter()
            .enumerate()
            .map(|(index, header)| HeaderRule::parse(header, RuleField::Header(index)))
            .collect::<Result<_, _>>()?;
        Ok(Self { spec, method, path, host, headers })
    }

    /// What the rule was made of.
    #[must_use]
    pub const fn spec(&self) -> &HttpRuleSpec {
        &self.spec
    }

    fn matches(&self, request: &Request<'_>) -> bool {
        let fits = |pattern: &Option<Pattern>, value| {
            pattern.as_ref().is_none_or(|pattern| pattern.matches(value))
        };
        fits(&self.method, request.method)
            && (self.path.is_none() || request.path_is_normal)
            && fits(&self.path, request.path)
            && fits(&self.host, request.host)
            && self.headers.iter().all(|rule| rule.matches(request.headers))
    }
}

impl PartialEq for HttpRule {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

impl Eq for HttpRule {}

impl fmt::Debug for HttpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spec.fmt(f)
    }
}

/// A rule can't be compiled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct RuleError {
    /// The field at fault.
    pub field: RuleField,
    /// What is wrong with it, for the author of the policy.
    pub reason: String,
}

/// A field of [`HttpRuleSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleField {
    /// `method`.
    Method,
    /// `path`.
    Path,
    /// `host`.
    Host,
    /// `headers[i]`.
    Header(usize),
}

impl fmt::Display for RuleField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("method"),
            Self::Path => f.write_str("path"),
            Self::Host => f.write_str("host"),
            Self::Header(index) => write!(f, "headers[{index}]"),
        }
    }
}

/// A regular expression that matches whole values.
#[derive(Clone)]
struct Pattern(dense::DFA<Vec<u32>>);

impl Pattern {
    fn optional(source: Option<&str>, field: RuleField) -> Result<Option<Self>, RuleError> {
        source.filter(|source| !source.is_empty()).map(|s| Self::new(s, field)).transpose()
    }

    fn new(source: &str, field: RuleField) -> Result<Self, RuleError> {
        let error = |reason| RuleError { field, reason };
        if source.len() > PATTERN_MAX {
            return Err(error(format!("the pattern is longer than {PATTERN_MAX} bytes")));
        }
        let syntax = syntax::Config::new().unicode(false).utf8(false).nest_limit(NESTING_MAX);
        let hir = syntax::parse_with(source, &syntax).map_err(|e| {
            let text = e.to_string();
            // The parser draws the pattern on several lines and tells the cause on the last.
            let cause = text.lines().last().unwrap_or_default();
            error(format!("not a regular expression: {}", cause.trim_start_matches("error: ")))
        })?;
        let too_large = || error("the pattern needs too many states; simplify it".to_owned());
        let nfa = thompson::Compiler::new()
            .configure(
                thompson::Config::new()
                    .utf8(false)
                    .which_captures(thompson::WhichCaptures::None)
                    .nfa_size_limit(Some(BUILD_MAX)),
            )
            .build_from_hir(&hir)
            .map_err(|_| too_large())?;
        // All matches and not the first alternative's: `a|ab` matches the whole of "ab".
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Anchored)
            .dfa_size_limit(Some(AUTOMATON_MAX))
            .determinize_size_limit(Some(BUILD_MAX));
        dense::Builder::new()
            .configure(config)
            .build_from_nfa(&nfa)
            .map(Self)
            .map_err(|_| too_large())
    }

    /// Whether the pattern matches all of `value`, from its first byte to its last.
    fn matches(&self, value: &[u8]) -> bool {
        let Self(dfa) = self;
        let Ok(mut state) = dfa.start_state(&start::Config::new().anchored(Anchored::Yes)) else {
            // Only for automata that stop at certain bytes, which ours are not built to.
            return false;
        };
        for &byte in value {
            state = dfa.next_state(state, byte);
            if dfa.is_dead_state(state) || dfa.is_quit_state(state) {
                return false;
            }
        }
        dfa.is_match_state(dfa.next_eoi_state(state))
    }
}

/// A header that must be there, and its value if the rule gives one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HeaderRule {
    name: String,
    value: Option<String>,
}

impl HeaderRule {
    fn parse(source: &str, field: RuleField) -> Result<Self, RuleError> {
        let (name, value) = match source.split_once(':') {
            Some((name, value)) => (name, Some(value.trim_matches([' ', '\t']).to_owned())),
            None => (source, None),
        };
        let error = |reason: &str| RuleError { field, reason: reason.to_owned() };
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(error("not of the form \"Name\" or \"Name: value\""));
        }
        if value.as_deref().is_some_and(|v| v.bytes().any(|b| b.is_ascii_control() && b != b'\t')) {
            return Err(error("control characters in the value"));
        }
        Ok(Self { name: name.to_owned(), value })
    }

    /// A field that occurs more than once has no one value: its parts are joined by some servers
    /// and picked by others (RFC 9110 §5.3), so it equals none.
    fn matches(&self, headers: &[httparse::Header<'_>]) -> bool {
        let mut same = headers.iter().filter(|h| h.name.eq_ignore_ascii_case(&self.name));
        match (same.next(), &self.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(one), Some(value)) => one.value == value.as_bytes() && same.next().is_none(),
        }
    }
}

/// A character of a `token` (RFC 9110 §5.6.2).
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(method: &str, path: &str, host: &str, headers: &[&str]) -> HttpRuleSpec {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        HttpRuleSpec {
            method: some(method),
            path: some(path),
            host: some(host),
            headers: headers.iter().map(|h| (*h).to_owned()).collect(),
        }
    }

    fn rule(method: &str, path: &str, host: &str, headers: &[&str]) -> HttpRule {
        HttpRule::new(spec(method, path, host, headers)).unwrap()
    }

    fn header<'a>(name: &'a str, value: &'a str) -> httparse::Header<'a> {
        httparse::Header { name, value: value.as_bytes() }
    }

    fn request<'a>(method: &'a str, path: &'a str, host: &'a str) -> Request<'a> {
        Request {
            method: method.as_bytes(),
            path: path.as_bytes(),
            path_is_normal: true,
            host: host.as_bytes(),
            headers: &[],
        }
    }

    fn whole(pattern: &str, value: &str) -> bool {
        Pattern::new(pattern, RuleField::Path).unwrap().matches(value.as_bytes())
    }

    #[test]
    fn a_pattern_matches_the_whole_value_or_not_at_all() {
        // The pattern `/status` and a query: cilium issue 13280.
        for (pattern, value, expected) in [
            ("/docs", "/docs", true),
            ("/docs", "/docs/", false),
            ("/docs", "/docs2", false),
            ("/docs", "x/docs", false),
            ("/status", "/status?full=1", false),
            ("/status.*", "/status?full=1", true),
            ("/api/v1/.*", "/api/v1/", true),
            ("/api/v1/.*", "/api/v1", false),
            ("/api/v1/.*", "/secret/api/v1/x", false),
            ("a|ab", "ab", true),
            ("a|b", "ab", false),
            ("/a|/b", "/b", true),
            ("^/a$", "/a", true),
            ("/public|.*", "/anything", true),
            ("GET", "get", false),
            ("(?i)get", "GeT", true),
            ("/.", "/\n", false),
            ("/.*", "/a\nb", false),
            ("(?s)/.*", "/a\nb", true),
            ("/a$", "/a\n", false),
            (r"\d+", "٣", false),
            (r"/\d+", "/17", true),
            (r"/\w+", "/é", false),
            (r"/\bx", "/x", true),
            ("/é", "/é", true),
            ("", "", true),
        ] {
            assert_eq!(whole(pattern, value), expected, "{pattern:?} against {value:?}");
        }
    }

    #[test]
    fn a_pattern_cannot_break_out_of_its_anchors() {
        for pattern in ["/a)|(.*", "/a)|(?:.*", "(?x)/a #", "/a\\"] {
            match Pattern::new(pattern, RuleField::Path) {
                Ok(pattern) => assert!(!pattern.matches(b"/secret")),
                Err(error) => assert_eq!(error.field, RuleField::Path),
            }
        }
    }

    #[test]
    fn errors_name_the_field_and_the_cause() {
        for (spec, text) in [
            (spec("(", "", "", &[]), "method: not a regular expression: unclosed group"),
            (spec("", "a**b{", "", &[]), "path: not a regular expression: "),
            (spec("", "", r"\p{Greek}", &[]), "host: not a regular expression: "),
            (spec("", "", "", &["A", "X Y"]), "headers[1]: not of the form"),
            (spec("", "", "", &[""]), "headers[0]: not of the form"),
            (spec("", "", "", &[":path: /"]), "headers[0]: not of the form"),
            (spec("", "", "", &["A: b\r\nC: d"]), "headers[0]: control characters"),
            (spec("", "(a|b)*a(a|b){24}", "", &[]), "path: the pattern needs too many states"),
            (spec("", "((a{0,500}){0,500}){0,500}", "", &[]), "path: the pattern needs too many"),
            (spec("", &"a".repeat(5000), "", &[]), "path: the pattern is longer than 4096 bytes"),
            (spec("", &"(".repeat(2000), "", &[]), "path: not a regular expression"),
        ] {
            let error = HttpRule::new(spec).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error:?} does not start with {text:?}");
        }
    }

    #[test]
    fn everything_that_a_rule_names_has_to_match() {
        let rule = rule("GET|HEAD", "/v[0-9]+/.*", r"api\.example(:80)?", &["X-Key: 1", "X-Any"]);
        let headers = [header("x-key", "1"), header("X-ANY", "")];
        let good = Request { headers: &headers, ..request("GET", "/v1/x", "api.example:80") };
        assert!(rule.matches(&good));
        assert!(!rule.matches(&Request { method: b"POST", ..good }));
        assert!(!rule.matches(&Request { path: b"/v/x", ..good }));
        assert!(!rule.matches(&Request { host: b"api.example:81", ..good }));
        assert!(!rule.matches(&Request { headers: &headers[..1], ..good }));
        assert!(!rule.matches(&Request { path_is_normal: false, ..good }));
    }

    #[test]
    fn a_rule_without_a_path_does_not_ask_for_its_form() {
        let odd = Request { path_is_normal: false, ..request("GET", "/a/../b", "h") };
        assert!(rule("GET", "", "", &[]).matches(&odd));
        assert!(!rule("GET", ".*", "", &[]).matches(&odd));
    }

    #[test]
    fn a_header_value_is_exact_and_stands_once() {
        let rule = rule("", "", "", &["X-Role:  admin "]);
        let with = |headers: &[httparse::Header<'_>]| {
            rule.matches(&Request { headers, ..request("GET", "/", "h") })
        };
        assert!(with(&[header("x-role", "admin")]));
        assert!(!with(&[header("x-role", "Admin")]));
        assert!(!with(&[header("x-role", "admin,x")]));
        assert!(!with(&[header("x-role", "admin"), header("X-Role", "user")]));
        assert!(!with(&[header("x-role", "user"), header("X-Role", "admin")]));
        assert!(!with(&[header("x_role", "admin")]));
    }

    #[test]
    fn no_rule_allows_nothing_and_an_empty_rule_everything() {
        let any = request("BREW", "/pot", "");
        assert!(!L7Rules::http(Vec::new()).allows(&any));
        assert!(L7Rules::http(vec![HttpRule::new(HttpRuleSpec::default()).unwrap()]).allows(&any));
        let one_of_two = vec![rule("GET", "", "", &[]), rule("BREW", "", "", &[])];
        assert!(L7Rules::http(one_of_two).allows(&any));
    }

    #[test]
    fn rules_are_equal_by_their_source() {
        assert_eq!(rule("GET", "/a", "", &[]), rule("GET", "/a", "", &[]));
        assert_ne!(rule("GET", "/a", "", &[]), rule("GET", "/(a)", "", &[]));
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_meta_engine_on_anchored_patterns(
            pattern in "[ab.|()*+?\\[\\]^$]{0,10}", value in "[ab\n]{0,8}",
        ) {
            let Ok(ours) = Pattern::new(&pattern, RuleField::Path) else { return Ok(()) };
            let theirs = regex_automata::meta::Builder::new()
                .syntax(syntax::Config::new().unicode(false).utf8(false))
                .build(&format!(r"\A(?:{pattern})\z"))
                .unwrap();
            prop_assert_eq!(ours.matches(value.as_bytes()), theirs.is_match(value.as_bytes()));
        }

        #[test]
        fn no_pattern_and_no_value_panics(pattern in ".{0,40}", value: Vec<u8>) {
            if let Ok(pattern) = Pattern::new(&pattern, RuleField::Host) {
                let _ = pattern.matches(&value);
            }
        }
    }
}
