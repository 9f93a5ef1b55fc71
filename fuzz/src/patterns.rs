//! Patterns of HTTP rules, and values against them.

use podgate_tables::l7::http1::HttpRequest;
use podgate_tables::l7::{HttpRule, HttpRuleSpec};

fn rule(pattern: String) -> Option<HttpRule> {
    HttpRule::new(HttpRuleSpec { path: Some(pattern), ..HttpRuleSpec::default() }).ok()
}

fn matches(rule: &HttpRule, path: &[u8]) -> bool {
    let request = HttpRequest { method: b"", path, path_is_normal: true, host: b"", headers: &[] };
    rule.failed_fields(&request).is_empty()
}

/// Input: a pattern, and values after it, between null bytes.
///
/// A pattern means the same in a group, between anchors, and twice as an alternative.
pub fn patterns(data: &[u8]) {
    let mut parts = data.split(|byte| *byte == 0);
    let pattern = parts.next().and_then(|pattern| std::str::from_utf8(pattern).ok());
    let Some(pattern) = pattern.filter(|pattern| !pattern.is_empty()) else { return };
    let values: Vec<_> = parts.collect();
    let Some(alone) = rule(pattern.to_owned()) else { return };
    for other in [
        format!("(?:{pattern})"),
        format!("({pattern}){{1}}"),
        format!(r"\A(?:{pattern})\z"),
        format!("(?:{pattern})|(?:{pattern})"),
    ] {
        // It is rejected if it is too long or nested too deeply, or if quoted text has no end.
        let Some(same) = rule(other.clone()) else { continue };
        for value in &values {
            let expected = matches(&alone, value);
            assert_eq!(matches(&same, value), expected, "{other:?} {}", value.escape_ascii());
        }
    }
}
