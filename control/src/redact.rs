//! Removes secrets from text that leaves the node.

use std::sync::LazyLock;

use regex::Regex;

/// What stands in place of a secret.
const REDACTED: &str = "REDACTED";

/// Patterns, and what replaces their matches. `$1` and so on are kept.
const RULES: &[(&str, &str)] = &[
    // Private keys in PEM (RFC 7468 §10, §11), also with escaped line ends.
    (r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|\z)", REDACTED),
    // Header fields with credentials (RFC 9110 §11, RFC 6265), to the end of the line or string.
    (
        r#"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-auth-token)(\\?["']?\s*[:=]\s*\\?["']?)[^"'\r\n\\]*"#,
        "${1}${2}REDACTED",
    ),
    // The same as two members of a JSON object.
    (
        r#"(?i)("(?:name|key)"\s*:\s*"(?:(?:proxy-)?authorization|(?:set-)?cookie|x-api-key|x-auth-token)"\s*,\s*"value"\s*:\s*")[^"]*"#,
        "${1}REDACTED",
    ),
    (r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}", "$1 REDACTED"),
    // JSON Web Tokens (RFC 7519).
    (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", REDACTED),
    // Members of a kubeconfig, and what programs call their secrets.
    (
        r#"(?i)("?\b(?:[a-z0-9_-]*(?:token|password|passwd|secret)|client-key-data|client-certificate-data|certificate-authority-data)"?\s*[:=]\s*"?)[^\s"',}\]]+"#,
        "${1}REDACTED",
    ),
    // Users and queries of URLs (RFC 3986 §3.2.1, §3.4).
    (r#"([a-z][a-z0-9+.-]*://)[^/\s"'@]+@"#, "${1}REDACTED@"),
    (r#"((?:[a-z][a-z0-9+.-]*:/)?/[^\s"'?]*)\?[^\s"']+"#, "$1?REDACTED"),
];

static COMPILED: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let compiled = RULES.iter().map(|(pattern, replacement)| match Regex::new(pattern) {
        Ok(regex) => (regex, *replacement),
        Err(error) => unreachable!("the patterns are constants: {error}"),
    });
    compiled.collect()
});

/// The text without secrets.
#[must_use]
pub(crate) fn redact(text: &str) -> String {
    COMPILED.iter().fold(text.to_owned(), |text, (regex, replacement)| {
        regex.replace_all(&text, *replacement).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No secret remains, and what is around it does.
    #[test]
    fn each_secret_is_replaced() {
        for (text, expected) in [
            ("token: abc.def", "token: REDACTED"),
            (r#"{"token":"s3cr3t","user":"me"}"#, r#"{"token":"REDACTED","user":"me"}"#),
            ("client-key-data: LS0tLS1C", "client-key-data: REDACTED"),
            ("client-certificate-data: LS0tLS1C\n", "client-certificate-data: REDACTED\n"),
            ("DB_PASSWORD=hunter2 next", "DB_PASSWORD=REDACTED next"),
            ("Authorization: Bearer abc123==\r\nHost: a", "Authorization: REDACTED\r\nHost: a"),
            ("Cookie: a=b; c=d\nX: y", "Cookie: REDACTED\nX: y"),
            ("set-cookie: id=7; Path=/\n", "set-cookie: REDACTED\n"),
            (r#"{"Authorization":"Basic dXNlcjpwYXNz"}"#, r#"{"Authorization":"REDACTED"}"#),
            (
                r#"{"name":"Cookie","value":"id=7"},{"name":"A","value":"b"}"#,
                r#"{"name":"Cookie","value":"REDACTED"},{"name":"A","value":"b"}"#,
            ),
            ("with bearer abcdefgh12345", "with bearer REDACTED"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "REDACTED"),
            (
                "kubernetes https://me:pass@10.0.0.1:6443/",
                "kubernetes https://REDACTED@10.0.0.1:6443/",
            ),
            ("GET https://a.example/p?key=1&b=2 ok", "GET https://a.example/p?REDACTED ok"),
            (
                r#"{"path":"/search?q=me","status":200}"#,
                r#"{"path":"/search?REDACTED","status":200}"#,
            ),
            (
                "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----\nend",
                "REDACTED\nend",
            ),
            ("-----BEGIN PRIVATE KEY-----\\nMHcCAQ", "REDACTED"),
        ] {
            assert_eq!(redact(text), expected);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "NetworkPolicy shop/web spec.ingress[0]",
            "podgate_rule_hits_total{policy=\"NetworkPolicy shop/web\"} 5",
            r#"{"path":"/docs","status":200,"labels":["k8s:app=web"]}"#,
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "why? because /docs",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
