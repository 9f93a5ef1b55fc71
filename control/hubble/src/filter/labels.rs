//! Label selectors as text, in the syntax of Kubernetes
//! (k8s.io/apimachinery `pkg/labels/selector.go`): requirements with commas between them.

/// A selector: all requirements must hold.
#[derive(Debug)]
pub(super) struct LabelSelector(Vec<Requirement>);

#[derive(Debug)]
struct Requirement {
    /// `k8s`, `reserved`, …; none for any source.
    source: Option<String>,
    key: String,
    test: Test,
}

/// What a label must be.
#[derive(Debug)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    /// Absent, or none of these.
    NotIn(Vec<String>),
}

/// Sources of labels, which a key may begin with.
const SOURCES: [&str; 8] =
    ["k8s", "any", "reserved", "cidr", "cidrgroup", "fqdn", "container", "unspec"];

impl LabelSelector {
    /// Reads `a=b, c!=d, e in (f, g), h notin (i), j, !k`; a key may begin with a source, `k8s:a`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let requirements = parts(text)?;
        Ok(Self(requirements.into_iter().map(requirement).collect::<Result<_, _>>()?))
    }

    /// Whether labels of the form `SOURCE:KEY=VALUE` match.
    pub(super) fn matches(&self, labels: &[String]) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &[String]) -> bool {
        let values: Vec<&str> = labels.iter().filter_map(|label| self.value(label)).collect();
        let one_of = |wanted: &[String]| values.iter().any(|v| wanted.iter().any(|w| w == v));
        match &self.test {
            Test::Exists => !values.is_empty(),
            Test::Absent => values.is_empty(),
            Test::In(wanted) => one_of(wanted),
            Test::NotIn(wanted) => !one_of(wanted),
        }
    }

    /// The value of a label, if it has this key.
    fn value<'l>(&self, label: &'l str) -> Option<&'l str> {
        let (source, rest) = split_source(label, ':');
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        let same_source = match (self.source.as_deref(), source) {
            (None, _) => true,
            (Some(wanted), found) => found == Some(wanted),
        };
        (same_source && key == self.key).then_some(value)
    }
}

/// Splits at the commas that are not in parentheses.
fn parts(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut begin, mut inside) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        match character {
            '(' if !inside => inside = true,
            ')' if inside => inside = false,
            '(' | ')' => return Err("has parentheses without their counterparts".to_owned()),
            ',' if !inside => {
                parts.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("has parentheses without their counterparts".to_owned());
    }
    parts.push(text[begin..].trim());
    match parts.iter().any(|part| part.is_empty()) {
        // The empty selector matches everything.
        true if parts.len() == 1 => Ok(Vec::new()),
        true => Err("has an empty requirement".to_owned()),
        false => Ok(parts),
    }
}

fn requirement(text: &str) -> Result<Requirement, String> {
    if let Some(key) = text.strip_prefix('!') {
        return make(key.trim(), Test::Absent);
    }
    if let Some(before) = text.strip_suffix(')') {
        let (head, values) = before.split_once('(').ok_or("has no opening parenthesis")?;
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => make(key, Test::In(values)),
            (Some(key), Some("notin"), None) => make(key, Test::NotIn(values)),
            _ => Err("has a list without KEY in, or KEY notin, before it".to_owned()),
        };
    }
    for (operator, negative) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((key, value)) = text.split_once(operator) {
            let value = value.trim();
            if value.contains(['=', '!']) || value.contains(char::is_whitespace) {
                return Err(format!("{value:?} is not a label value"));
            }
            let values = vec![value.to_owned()];
            let test = if negative { Test::NotIn(values) } else { Test::In(values) };
            return make(key.trim(), test);
        }
    }
    make(text, Test::Exists)
}

fn make(key: &str, test: Test) -> Result<Requirement, String> {
    let (source, key) = match split_source(key, ':') {
        (None, key) => split_source(key, '.'),
        found => found,
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || !key.chars().all(valid) {
        return Err(format!("{key:?} is not a label key"));
    }
    let source = source.filter(|source| *source != "any").map(str::to_owned);
    Ok(Requirement { source, key: key.to_owned(), test })
}

/// The source before `separator`, if it is one, and the rest.
fn split_source(text: &str, separator: char) -> (Option<&str>, &str) {
    match text.split_once(separator) {
        Some((source, rest)) if SOURCES.contains(&source) => (Some(source), rest),
        _ => (None, text),
    }
}
