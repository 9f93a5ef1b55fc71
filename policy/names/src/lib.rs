//! Names of Kubernetes objects, as requests and files have them.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A pod's name; as text, `NAMESPACE/NAME`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PodName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for PodName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if is_dns_name(namespace) && is_dns_name(name) => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err("write the pod as NAMESPACE/NAME"),
        }
    }
}

impl Serialize for PodName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PodName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Whether `text` can be the name of a Kubernetes object (an RFC 1123 subdomain).
fn is_dns_name(text: &str) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(|b| is_alphanumeric(*b))
                && bytes.last().is_some_and(|b| is_alphanumeric(*b))
                && bytes.iter().all(|b| is_alphanumeric(*b) || *b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_as_itself_and_is_checked() {
        let pod: PodName = "kube-system/core.dns-0".parse().unwrap();
        assert_eq!((&*pod.namespace, &*pod.name), ("kube-system", "core.dns-0"));
        let json = serde_json::to_string(&pod).unwrap();
        assert_eq!(json, r#""kube-system/core.dns-0""#);
        assert_eq!(serde_json::from_str::<PodName>(&json).unwrap(), pod);
        for bad in ["a", "a/", "/a", "a/b/c", "A/b", "a/-b", "a/b\n", "a/b..c"] {
            assert!(bad.parse::<PodName>().is_err(), "{bad:?}");
        }
    }
}
