//! Names in filters: pods and services by prefix, DNS names and nodes by pattern.

use crate::flow::CLUSTER;

/// A prefix of a name, in one namespace or in all.
#[derive(Debug)]
pub(super) struct NamespacedPrefix {
    namespace: Option<String>,
    prefix: String,
}

impl NamespacedPrefix {
    /// `PREFIX` (in the namespace `default`), `NAMESPACE/PREFIX`, `NAMESPACE/`, `/PREFIX` (in all
    /// namespaces), or `/` (all there are).
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (namespace, prefix) = text.split_once('/').unwrap_or(("default", text));
        if text.is_empty() {
            return Err("must be NAME, NAMESPACE/NAME or NAMESPACE/".to_owned());
        }
        let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
        Ok(Self { namespace, prefix: prefix.to_owned() })
    }

    /// Whether a name in a namespace matches; an absent one doesn't.
    pub(super) fn matches(&self, namespace: &str, name: &str) -> bool {
        let named = !(namespace.is_empty() && name.is_empty());
        let in_namespace = self.namespace.as_ref().is_none_or(|wanted| wanted == namespace);
        named && in_namespace && name.starts_with(&self.prefix)
    }
}

/// A name in which `*` stands for any characters of a name. It has no others than those.
#[derive(Debug)]
pub(super) struct NamePattern(Box<str>);

impl NamePattern {
    /// Reads a pattern, in either case.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let name = text.trim().to_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        if name.is_empty() || name.ends_with('.') {
            return Err("is an empty pattern, or ends with several dots".to_owned());
        }
        match name.chars().find(|c| *c != '*' && !is_of_name(*c)) {
            Some(c) => Err(format!("has {c:?}, which no name has")),
            None => Ok(Self(name.into())),
        }
    }

    /// Whether the whole name matches, in a time linear in its length and that of the pattern.
    pub(super) fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else { return *self.0 == *name };
        let (inner, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        let ends = name.strip_prefix(first).and_then(|name| name.strip_suffix(last));
        let Some(mut left) = ends else { return false };
        let mut has = |part: &str| match left.find(part) {
            // The first place leaves the most for the parts that follow.
            Some(at) => {
                left = &left[at + part.len()..];
                true
            }
            None => false,
        };
        name.chars().all(is_of_name) && inner.split('*').all(&mut has)
    }
}

/// Whether names may have this character.
fn is_of_name(character: char) -> bool {
    matches!(character, '-' | '_' | '.' | '0'..='9' | 'a'..='z')
}

/// The name of a node and that of its cluster, each with `*` or any.
#[derive(Debug)]
pub(super) struct NodePattern {
    cluster: Option<NamePattern>,
    node: Option<NamePattern>,
}

impl NodePattern {
    /// `NODE`, `CLUSTER/NODE`, `CLUSTER/` or `/`, each with `*`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (cluster, node) = text.split_once('/').unwrap_or(("", text));
        if text.is_empty() {
            return Err("is an empty pattern".to_owned());
        }
        if node.contains('/') {
            return Err("has more than one slash".to_owned());
        }
        let part = |text: &str| (!text.is_empty()).then(|| NamePattern::parse(text)).transpose();
        Ok(Self { cluster: part(cluster)?, node: part(node)? })
    }

    /// Whether `NODE` or `CLUSTER/NODE` matches.
    pub(super) fn matches(&self, name: &str) -> bool {
        // A node without a cluster is one of the default cluster.
        let (cluster, node) = name.split_once('/').unwrap_or((CLUSTER, name));
        let any = |name: &str| !name.is_empty() && name.chars().all(is_of_name);
        let matches = |pattern: &Option<NamePattern>, name: &str| match pattern {
            Some(pattern) => pattern.matches(name),
            None => any(name),
        };
        matches(&self.cluster, cluster) && matches(&self.node, node)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::string::string_regex;
    use regex::Regex;

    use super::*;

    /// What the patterns mean, as regular expressions, as Cilium has them.
    fn fqdn_regex(text: &str) -> String {
        let name = text.trim().to_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        name.replace('.', "\\.").replace('*', "[-_.0-9a-z]*")
    }

    fn node_regex(text: &str) -> String {
        let (cluster, node) = text.split_once('/').unwrap_or(("", text));
        let part = |part: &str| match part.is_empty() {
            true => "[-_.0-9a-z]+".to_owned(),
            false => fqdn_regex(part),
        };
        format!("{}/{}", part(cluster), part(node))
    }

    fn is_match(pattern: &str, name: &str) -> bool {
        Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(name)
    }

    /// A part of a pattern: few characters, so that names match.
    const PART: &str = "[ab*A-]{0,6}(\\.[a*]{1,3}){0,2}\\.?";
    /// Names, and what is none.
    const NAME: &str = "[ab.-]{0,9}|[abA*é\n.]{0,4}";

    /// The same for nodes with their clusters.
    fn node_names() -> String {
        format!("{NAME}|default|(default|{NAME})/({NAME})|a/b/a")
    }

    proptest! {
        #[test]
        fn a_name_matches_as_the_regular_expression(text in PART, name in NAME) {
            if let Ok(pattern) = NamePattern::parse(&text) {
                let expected = is_match(&fqdn_regex(&text), &name);
                prop_assert_eq!(pattern.matches(&name), expected);
            }
        }

        #[test]
        fn a_node_matches_as_the_regular_expression(
            text in string_regex(&format!("{PART}|({PART})/({PART})|/")).unwrap(),
            name in string_regex(&node_names()).unwrap(),
        ) {
            if let Ok(pattern) = NodePattern::parse(&text) {
                let named = match name.contains('/') {
                    true => name.clone(),
                    false => format!("default/{name}"),
                };
                let expected = is_match(&node_regex(&text), &named);
                prop_assert_eq!(pattern.matches(&name), expected);
            }
        }
    }

    #[test]
    fn stars_match_any_part_of_a_name() {
        let matches =
            |pattern: &str, name: &str| NamePattern::parse(pattern).unwrap().matches(name);
        for pattern in ["*", "**", "a*", "*c", "a*c", "*b*", "a*b*c", "abc*", "*abc", "ABC.", "abc"]
        {
            assert!(matches(pattern, "abc"), "{pattern}");
        }
        for pattern in ["abc*c", "a*a", "*b", "b*", "*c*b*", "abc*abc", "ab", "a.c"] {
            assert!(!matches(pattern, "abc"), "{pattern}");
        }
        assert!(matches("*", "") && !matches("*", "A") && !matches("*", "a b"));
        assert!(matches(&"*".repeat(10_000), &"a".repeat(10_000)));
        assert!(!matches(&"*a".repeat(9_999), &"a".repeat(9_998)));
    }
}
