//! HTTP rules.
//!
//! # What a rule matches
//! Method, path and host are regular expressions that must match the *whole* value: case-sensitive,
//! with ASCII classes, and `.` matches any character but a line feed. These are the semantics of
//! Cilium's rules, which Envoy evaluates as RE2 full matches; the language is RE2's
//! (`re2/mod.rs`). The path is HTTP/2's `:path`, including the query; the host is `:authority`,
//! including the port, as the client sent it.
//!
//! # Paths in normal form
//! A server decodes and resolves a path before it uses it, so that several paths may name one
//! resource. A rule with a path therefore matches only paths in normal form (defined in
//! `http1/target.rs`); a rule without one matches any path.
//!
//! # Tunnels
//! What passes in the tunnel that `CONNECT` opens is not inspected, whatever host and fields the
//! requests in it have. So a rule matches `CONNECT` only if it names a method, or restricts
//! nothing.

use std::fmt;

use super::super::http1::{HttpRequest, is_token};
use super::pattern::{Pattern, PatternBudget};
use super::{RuleError, RuleField};

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
    /// `headerMatches`.
    pub header_matches: Vec<HeaderMatch>,
}

/// An element of `headerMatches` (cilium `pkg/policy/api/http.go`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMatch {
    /// The field's name.
    pub name: String,
    /// The exact value. Without one, or with an empty one, the field must be there.
    pub value: Option<String>,
    /// Treatment of a request that does not match.
    pub mismatch: Mismatch,
}

/// Treatment of a request that does not match an element of `headerMatches`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mismatch {
    /// The rule does not match.
    #[default]
    Fail,
    /// The rule matches nevertheless (`LOG`).
    Log,
}

/// A compiled rule: a request matches if all fields of the rule match.
///
/// Two rules are equal if their sources are.
#[derive(Clone)]
pub struct HttpRule {
    spec: HttpRuleSpec,
    pub(super) method: Option<Pattern>,
    pub(super) path: Option<Pattern>,
    pub(super) host: Option<Pattern>,
    headers: Vec<HeaderRule>,
}

impl HttpRule {
    /// Compiles a rule with a budget of its own.
    ///
    /// # Errors
    /// [`RuleError`] names the first field that can't be compiled.
    pub fn new(spec: HttpRuleSpec) -> Result<Self, RuleError> {
        Self::with_budget(&mut PatternBudget::default(), spec)
    }

    /// Compiles one of several rules that share a budget.
    ///
    /// # Errors
    /// [`RuleError`] names the first field that can't be compiled.
    pub fn with_budget(budget: &mut PatternBudget, spec: HttpRuleSpec) -> Result<Self, RuleError> {
        let method = Pattern::optional(spec.method.as_deref(), RuleField::Method, budget)?;
        let path = Pattern::optional(spec.path.as_deref(), RuleField::Path, budget)?;
        let host = Pattern::optional(spec.host.as_deref(), RuleField::Host, budget)?;
        let mut headers = Vec::new();
        for (index, source) in spec.headers.iter().enumerate() {
            headers.push(HeaderRule::parse(source, RuleField::Header(index))?);
        }
        for (index, HeaderMatch { name, value, mismatch }) in spec.header_matches.iter().enumerate()
        {
            let field = RuleField::HeaderMatch(index);
            let rule = HeaderRule::of_match(name, value.as_deref(), field)?;
            // With `Log` it decides nothing, but must be valid.
            headers.extend((*mismatch == Mismatch::Fail).then_some(rule));
        }
        Ok(Self { spec, method, path, host, headers })
    }

    /// The source of the rule.
    #[must_use]
    pub const fn spec(&self) -> &HttpRuleSpec {
        &self.spec
    }

    /// The fields of the rule that the request does not match, for `explain`.
    #[must_use]
    pub fn failed_fields(&self, request: &HttpRequest<'_>) -> Vec<RuleField> {
        self.failed_criteria(request).collect()
    }

    pub(super) fn matches(&self, request: &HttpRequest<'_>) -> bool {
        self.failed_criteria(request).next().is_none()
    }

    fn failed_criteria(&self, request: &HttpRequest<'_>) -> impl Iterator<Item = RuleField> {
        let patterns = [
            (RuleField::Method, &self.method, request.method, true),
            (RuleField::Path, &self.path, request.path, request.path_is_normal),
            (RuleField::Host, &self.host, request.host, true),
        ];
        let patterns = patterns.into_iter().filter_map(|(field, pattern, value, may_match)| {
            let pattern = pattern.as_ref()?;
            (!may_match || !pattern.matches(value)).then_some(field)
        });
        let headers = self.headers.iter().filter(|rule| !rule.matches(request.headers));
        let tunnel = self.excludes_tunnels() && request.method == b"CONNECT";
        let tunnel = tunnel.then_some(RuleField::Method);
        patterns.chain(headers.map(|rule| rule.field)).chain(tunnel)
    }

    const fn excludes_tunnels(&self) -> bool {
        let restricts = self.path.is_some() || self.host.is_some() || !self.headers.is_empty();
        self.method.is_none() && restricts
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

/// A header field that a request must have, and its value if the rule has one.
#[derive(Clone)]
struct HeaderRule {
    /// The field of the rule.
    field: RuleField,
    name: String,
    value: Option<String>,
}

impl HeaderRule {
    /// From `Name` or `Name: value`.
    fn parse(source: &str, field: RuleField) -> Result<Self, RuleError> {
        let (name, value) = match source.split_once(':') {
            Some((name, value)) => (name, Some(value.trim_matches([' ', '\t']))),
            None => (source, None),
        };
        if !is_field_name(name) {
            return Err(field.error("not of the form \"Name\" or \"Name: value\""));
        }
        Self::new(name, value, field)
    }

    /// From an element of `headerMatches`, where an empty value means no value.
    fn of_match(name: &str, value: Option<&str>, field: RuleField) -> Result<Self, RuleError> {
        if !is_field_name(name) {
            return Err(field.error("name is not the name of a header field"));
        }
        Self::new(name, value.filter(|value| !value.is_empty()), field)
    }

    fn new(name: &str, value: Option<&str>, field: RuleField) -> Result<Self, RuleError> {
        let is_control = |b: u8| b.is_ascii_control() && b != b'\t';
        if value.is_some_and(|value| value.bytes().any(is_control)) {
            return Err(field.error("value has control characters"));
        }
        if value.is_some_and(|value| value.trim_matches([' ', '\t']) != value) {
            return Err(field.error("value has leading or trailing space, which no request has"));
        }
        Ok(Self { field, name: name.to_owned(), value: value.map(str::to_owned) })
    }

    /// A header field that occurs more than once has no exact value, since some servers join its
    /// values and others use one of them (RFC 9110 §5.3). A name that differs by underscores counts
    /// as the same there: gateways of CGI give programs both as one (RFC 3875 §4.1.18).
    fn matches(&self, headers: &[httparse::Header<'_>]) -> bool {
        let mut same = headers.iter().filter(|h| h.name.eq_ignore_ascii_case(&self.name));
        match (same.next(), &self.value) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(one), Some(value)) => {
                let like = headers.iter().filter(|h| is_one_for_cgi(h.name, &self.name));
                equal(one.value, value.as_bytes()) && like.count() == 1
            }
        }
    }
}

/// Whether two field names are one environment variable for CGI: upper case, underscores for
/// hyphens.
fn is_one_for_cgi(a: &str, b: &str) -> bool {
    let variable = |byte: u8| if byte == b'-' { b'_' } else { byte.to_ascii_uppercase() };
    a.len() == b.len() && a.bytes().map(variable).eq(b.bytes().map(variable))
}

/// Whether two values are equal, in constant time: the time does not reveal how many bytes of a
/// guess are right.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
}

fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(method: &str, path: &str, host: &str, headers: &[&str]) -> HttpRuleSpec {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        HttpRuleSpec {
            method: some(method),
            path: some(path),
            host: some(host),
            headers: headers.iter().map(|h| (*h).to_owned()).collect(),
            ..HttpRuleSpec::default()
        }
    }

    fn rule(method: &str, path: &str, host: &str, headers: &[&str]) -> HttpRule {
        HttpRule::new(spec(method, path, host, headers)).unwrap()
    }

    fn header<'a>(name: &'a str, value: &'a str) -> httparse::Header<'a> {
        httparse::Header { name, value: value.as_bytes() }
    }

    fn request<'a>(method: &'a str, path: &'a str, host: &'a str) -> HttpRequest<'a> {
        HttpRequest {
            method: method.as_bytes(),
            path: path.as_bytes(),
            path_is_normal: true,
            host: host.as_bytes(),
            headers: &[],
        }
    }

    #[test]
    fn errors_name_the_field_and_the_cause() {
        for (spec, text) in [
            (
                spec("(", "", "", &[]),
                "method: not a regular expression of RE2: missing ) at character 1: `(`",
            ),
            (
                spec("", "a)b", "", &[]),
                "path: not a regular expression of RE2: unexpected ) at character 2: `)`",
            ),
            (
                spec("", "a**b", "", &[]),
                "path: not a regular expression of RE2: bad repetition operator at character 2: `**`",
            ),
            (spec("", "", "[Kk]|x", &[]), "host: RE2 matches more than two letters with `[Kk]`"),
            (spec("", "", "", &["A", "X Y"]), "headers[1]: not of the form"),
            (spec("", "", "", &[""]), "headers[0]: not of the form"),
            (spec("", "", "", &[":path: /"]), "headers[0]: not of the form"),
            (spec("", "", "", &["A: b\r\nC: d"]), "headers[0]: value has control characters"),
            (spec("", "(a|b)*a(a|b){24}", "", &[]), "path: the pattern needs too many states"),
            (spec("", "(a{0,500}){0,500}", "", &[]), "path: not a regular expression of RE2: inv"),
            (spec("", &"a".repeat(5000), "", &[]), "path: the pattern is longer than 4096 bytes"),
            (
                spec("", &"(".repeat(2000), "", &[]),
                "path: not a regular expression of RE2: missing )",
            ),
            (
                spec("", &"(a".repeat(300), "", &[]),
                "path: not a regular expression of RE2: missing )",
            ),
            (
                spec("", &format!("{}{}", "(a".repeat(300), ")".repeat(300)), "", &[]),
                "path: the pattern is nested more than 250 deep",
            ),
        ] {
            let error = HttpRule::new(spec).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error:?} does not start with {text:?}");
        }
    }

    #[test]
    fn all_fields_of_a_rule_must_match() {
        let rule = rule("GET|HEAD", "/v[0-9]+/.*", r"api\.example(:80)?", &["X-Key: 1", "X-Any"]);
        let headers = [header("x-key", "1"), header("X-ANY", "")];
        let good = HttpRequest { headers: &headers, ..request("GET", "/v1/x", "api.example:80") };
        assert!(rule.matches(&good) && rule.failed_fields(&good).is_empty());
        for (bad, field) in [
            (HttpRequest { method: b"POST", ..good }, RuleField::Method),
            (HttpRequest { path: b"/v/x", ..good }, RuleField::Path),
            (HttpRequest { path_is_normal: false, ..good }, RuleField::Path),
            (HttpRequest { host: b"api.example:81", ..good }, RuleField::Host),
            (HttpRequest { headers: &headers[1..], ..good }, RuleField::Header(0)),
            (HttpRequest { headers: &headers[..1], ..good }, RuleField::Header(1)),
        ] {
            assert!(!rule.matches(&bad));
            assert_eq!(rule.failed_fields(&bad), [field]);
        }
        let failing = rule.failed_fields(&request("", "", ""));
        let names: Vec<String> = failing.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["method", "path", "host", "headers[0]", "headers[1]"]);
    }

    fn header_match(name: &str, value: Option<&str>, mismatch: Mismatch) -> HttpRuleSpec {
        let (name, value) = (name.to_owned(), value.map(str::to_owned));
        let header_matches = vec![HeaderMatch { name, value, mismatch }];
        HttpRuleSpec { header_matches, ..HttpRuleSpec::default() }
    }

    #[test]
    fn a_header_match_with_log_decides_nothing_but_must_be_valid() {
        let log = |name: &str, value| HttpRule::new(header_match(name, value, Mismatch::Log));
        let rule = log("X-Role", Some("admin")).unwrap();
        for headers in [&[][..], &[header("x-role", "user")], &[header("x-role", "admin")]] {
            assert!(rule.matches(&HttpRequest { headers, ..request("GET", "/", "h") }));
        }
        assert!(log("X Role", None).is_err() && log("X-Role", Some("a ")).is_err());
        assert_ne!(
            rule,
            HttpRule::new(header_match("X-Role", Some("admin"), Mismatch::Fail)).unwrap()
        );
    }

    #[test]
    fn header_matches_require_a_value_or_presence() {
        let rule = |name: &str, value: Option<&str>| {
            HttpRule::new(header_match(name, value, Mismatch::Fail))
        };
        let headers = [header("x-role", "admin"), header("X-Twice", "1"), header("x-twice", "1")];
        let request = HttpRequest { headers: &headers, ..request("GET", "/", "h") };
        for (name, value, expected) in [
            ("X-Role", Some("admin"), true),
            ("X-Role", Some("Admin"), false),
            ("X-Role", Some("admin2"), false),
            ("X-Role", None, true),
            ("X-Role", Some(""), true),
            ("X-Twice", Some("1"), false),
            ("X-Twice", None, true),
            ("X-None", None, false),
        ] {
            let failing = rule(name, value).unwrap().failed_fields(&request);
            assert_eq!(failing.is_empty(), expected, "{name} {value:?}");
            assert!(failing.iter().all(|field| field.to_string() == "headerMatches[0]"));
        }
        for (name, value, text) in [
            ("", None, "headerMatches[0]: name is not the name of a header field"),
            (":path", Some("/"), "headerMatches[0]: name is not the name of a header field"),
            ("A", Some("b\r\nC: d"), "headerMatches[0]: value has control characters"),
            ("A", Some("b "), "headerMatches[0]: value has leading or trailing space"),
        ] {
            let error = rule(name, value).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error:?} does not start with {text:?}");
        }
    }

    #[test]
    fn a_rule_without_a_path_matches_paths_that_are_not_in_normal_form() {
        let not_normal = HttpRequest { path_is_normal: false, ..request("GET", "/a/../b", "h") };
        assert!(rule("GET", "", "", &[]).matches(&not_normal));
        assert!(!rule("GET", ".*", "", &[]).matches(&not_normal));
    }

    #[test]
    fn connect_needs_a_rule_that_names_a_method_or_restricts_nothing() {
        let connect = HttpRequest { path_is_normal: false, ..request("CONNECT", "", "h:80") };
        for (rule, expected) in [
            (rule("", "", "", &[]), true),
            (rule("CONNECT", "", "", &[]), true),
            (rule(".*", "", "h:80", &[]), true),
            (rule("GET", "", "", &[]), false),
            (rule("", "", "h:80", &[]), false),
            (rule("CONNECT", ".*", "", &[]), false),
            (rule("CONNECT", "", "h", &[]), false),
        ] {
            assert_eq!(rule.matches(&connect), expected, "{rule:?}");
        }
        assert!(rule("", "", "h:80", &[]).matches(&request("GET", "/", "h:80")));
    }

    #[test]
    fn a_header_value_is_exact_and_occurs_once() {
        let rule = rule("", "", "", &["X-Role:  admin "]);
        let with = |headers: &[httparse::Header<'_>]| {
            rule.matches(&HttpRequest { headers, ..request("GET", "/", "h") })
        };
        assert!(with(&[header("x-role", "admin")]));
        assert!(!with(&[header("x-role", "Admin")]));
        assert!(!with(&[header("x-role", "admin,x")]));
        assert!(!with(&[header("x-role", "admin"), header("X-Role", "user")]));
        assert!(!with(&[header("x-role", "user"), header("X-Role", "admin")]));
        assert!(!with(&[header("x_role", "admin")]));
        // Of one name for CGI.
        assert!(!with(&[header("X-Role", "admin"), header("x_role", "user")]));
        assert!(with(&[header("X-Role", "admin"), header("x.role", "user")]));
    }

    #[test]
    fn rules_are_equal_by_their_source() {
        assert_eq!(rule("GET", "/a", "", &[]), rule("GET", "/a", "", &[]));
        assert_ne!(rule("GET", "/a", "", &[]), rule("GET", "/(a)", "", &[]));
    }
}
