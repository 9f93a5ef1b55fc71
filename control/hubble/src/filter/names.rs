//! Names in filters: pods and services by prefix, DNS names and nodes by pattern.

use regex::Regex;

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

/// A DNS name in which `*` stands for any characters of a name.
pub(super) fn fqdn_pattern(text: &str) -> Result<Regex, String> {
    let mut pattern = String::new();
    push_fqdn(&mut pattern, text)?;
    whole(&pattern)
}

/// `NODE`, `CLUSTER/NODE`, `CLUSTER/` or `/`, each with `*`.
pub(super) fn node_pattern(text: &str) -> Result<Regex, String> {
    const ANY: &str = "[-_.0-9a-z]+";
    let (cluster, node) = text.split_once('/').unwrap_or(("", text));
    if text.is_empty() {
        return Err("is an empty pattern".to_owned());
    }
    if node.contains('/') {
        return Err("has more than one slash".to_owned());
    }
    let mut pattern = String::new();
    for (part, separator) in [(cluster, "/"), (node, "")] {
        match part.is_empty() {
            true => pattern.push_str(ANY),
            false => push_fqdn(&mut pattern, part)?,
        }
        pattern.push_str(separator);
    }
    whole(&pattern)
}

fn push_fqdn(pattern: &mut String, text: &str) -> Result<(), String> {
    let name = text.trim().to_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    if name.is_empty() || name.ends_with('.') {
        return Err("is an empty pattern, or ends with several dots".to_owned());
    }
    for character in name.chars() {
        match character {
            '.' => pattern.push_str("\\."),
            '*' => pattern.push_str("[-_.0-9a-z]*"),
            '-' | '_' | '0'..='9' | 'a'..='z' => pattern.push(character),
            _ => return Err(format!("has {character:?}, which no name has")),
        }
    }
    Ok(())
}

fn whole(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| error.to_string())
}
