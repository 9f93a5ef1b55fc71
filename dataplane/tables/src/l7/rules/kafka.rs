//! Kafka rules (cilium `pkg/policy/api/kafka.go`, `proxylib/kafka/parser.go`, up to 1.19).
//!
//! A request for several topics is allowed only if each of them is allowed, by any of the rules. A
//! request without topics matches a rule regardless of the rule's topic.

use super::{RuleError, RuleField};

/// Longest topic of a rule, bytes.
const TOPIC_MAX: usize = 255;

/// Names of the API keys 0 to 33, in order (cilium `KafkaAPIKeyMap`).
const API_KEYS: [&str; 34] = [
    "produce",
    "fetch",
    "offsets",
    "metadata",
    "leaderandisr",
    "stopreplica",
    "updatemetadata",
    "controlledshutdown",
    "offsetcommit",
    "offsetfetch",
    "findcoordinator",
    "joingroup",
    "heartbeat",
    "leavegroup",
    "syncgroup",
    "describegroups",
    "listgroups",
    "saslhandshake",
    "apiversions",
    "createtopics",
    "deletetopics",
    "deleterecords",
    "initproducerid",
    "offsetforleaderepoch",
    "addpartitionstotxn",
    "addoffsetstotxn",
    "endtxn",
    "writetxnmarkers",
    "txnoffsetcommit",
    "describeacls",
    "createacls",
    "deleteacls",
    "describeconfigs",
    "alterconfigs",
];

/// The API key with this name, in any case.
#[must_use]
pub fn api_key(name: &str) -> Option<i16> {
    let key = API_KEYS.iter().position(|known| known.eq_ignore_ascii_case(name))?;
    i16::try_from(key).ok()
}

/// The name of an API key, if it has one.
#[must_use]
pub fn api_key_name(key: i16) -> Option<&'static str> {
    API_KEYS.get(usize::try_from(key).ok()?).copied()
}

/// API keys of the role `produce`.
const PRODUCE: ApiKeys = ApiKeys::of(&[0, 3, 18]);
/// API keys of the role `consume`.
const CONSUME: ApiKeys = ApiKeys::of(&[1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18]);

/// A parsed request, as rules match it.
#[derive(Clone, Copy, Debug)]
pub struct KafkaRequest<'a> {
    /// API key (<https://kafka.apache.org/protocol#protocol_api_keys>).
    pub api_key: i16,
    /// API version.
    pub api_version: i16,
    /// Client id, if the request has one.
    pub client_id: Option<&'a [u8]>,
    /// All topics of the request. A request whose topics can't be parsed must not be decided.
    pub topics: &'a [&'a [u8]],
}

impl<'a> KafkaRequest<'a> {
    /// The request for each of its topics alone.
    pub(super) fn by_topic(self) -> impl Iterator<Item = Self> {
        self.topics.chunks(1).map(move |topics| Self { topics, ..self })
    }
}

/// The source of a [`KafkaRule`]: the fields of Cilium's `PortRuleKafka`. A missing or empty field
/// matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaRuleSpec {
    /// `produce` or `consume`, in any case: stands for several API keys. Excludes `api_key`.
    pub role: Option<String>,
    /// Name of an API key, in any case.
    pub api_key: Option<String>,
    /// API version, a decimal number.
    pub api_version: Option<String>,
    /// Client id.
    pub client_id: Option<String>,
    /// Topic.
    pub topic: Option<String>,
}

/// A compiled rule: a request matches if all fields of the rule match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaRule {
    spec: KafkaRuleSpec,
    api_keys: Option<(RuleField, ApiKeys)>,
    api_version: Option<i16>,
    client_id: Option<String>,
    topic: Option<String>,
}

impl KafkaRule {
    /// Compiles a rule.
    ///
    /// # Errors
    /// [`RuleError`] names the first field that is invalid.
    pub fn new(spec: KafkaRuleSpec) -> Result<Self, RuleError> {
        let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        let api_keys = match (given(&spec.role), given(&spec.api_key)) {
            (Some(_), Some(_)) => {
                return Err(RuleField::ApiKey.error("excludes role; set only one of them"));
            }
            (Some(role), None) => Some((RuleField::Role, ApiKeys::of_role(&role)?)),
            (None, Some(name)) => Some((RuleField::ApiKey, ApiKeys::named(&name)?)),
            (None, None) => None,
        };
        let api_version = given(&spec.api_version).map(|text| parse_version(&text)).transpose()?;
        let topic = given(&spec.topic);
        topic.as_deref().map_or(Ok(()), check_topic)?;
        let client_id = given(&spec.client_id);
        Ok(Self { spec, api_keys, api_version, client_id, topic })
    }

    /// The source of the rule.
    #[must_use]
    pub const fn spec(&self) -> &KafkaRuleSpec {
        &self.spec
    }

    /// The fields of the rule that the request does not match, for `explain`. A request for several
    /// topics does not match the topic of one rule, even if several rules together allow it.
    #[must_use]
    pub fn failed_fields(&self, request: &KafkaRequest<'_>) -> Vec<RuleField> {
        self.failed_criteria(request).collect()
    }

    pub(super) fn matches(&self, request: &KafkaRequest<'_>) -> bool {
        self.failed_criteria(request).next().is_none()
    }

    fn failed_criteria(&self, request: &KafkaRequest<'_>) -> impl Iterator<Item = RuleField> {
        let client_id = |id: &String| request.client_id == Some(id.as_bytes());
        let topics = |topic: &String| request.topics.iter().all(|t| *t == topic.as_bytes());
        let api_key = self.api_keys.filter(|(_, keys)| !keys.contains(request.api_key));
        let others = [
            (RuleField::ApiVersion, self.api_version.is_none_or(|v| v == request.api_version)),
            (RuleField::ClientId, self.client_id.as_ref().is_none_or(client_id)),
            (RuleField::Topic, self.topic.as_ref().is_none_or(topics)),
        ];
        let others = others.into_iter().filter(|(_, matches)| !matches).map(|(field, _)| field);
        api_key.map(|(field, _)| field).into_iter().chain(others)
    }
}

fn parse_version(text: &str) -> Result<i16, RuleError> {
    let version = text.parse().ok().filter(|version| *version >= 0);
    version.ok_or_else(|| RuleField::ApiVersion.error("not a number from 0 to 32767"))
}

fn check_topic(topic: &str) -> Result<(), RuleError> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if topic.len() > TOPIC_MAX {
        return Err(RuleField::Topic.error(format!("longer than {TOPIC_MAX} bytes")));
    }
    if !topic.bytes().all(is_allowed) {
        let reason = "topics have letters, digits, periods, underscores and hyphens only";
        return Err(RuleField::Topic.error(reason));
    }
    Ok(())
}

/// A set of API keys below 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ApiKeys(u64);

impl ApiKeys {
    const fn of(keys: &[usize]) -> Self {
        let (mut bits, mut index) = (0, 0);
        while index < keys.len() {
            bits |= 1 << keys[index];
            index += 1;
        }
        Self(bits)
    }

    fn of_role(role: &str) -> Result<Self, RuleError> {
        match role.to_ascii_lowercase().as_str() {
            "produce" => Ok(PRODUCE),
            "consume" => Ok(CONSUME),
            _ => Err(RuleField::Role.error("neither produce nor consume")),
        }
    }

    fn named(name: &str) -> Result<Self, RuleError> {
        match api_key(name) {
            Some(key) => Ok(Self::of(&[key as usize])),
            None => Err(RuleField::ApiKey.error("not the name of a Kafka API key, such as fetch")),
        }
    }

    const fn contains(self, key: i16) -> bool {
        0 <= key && key < u64::BITS as i16 && self.0 & (1 << key) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(fields: [&str; 5]) -> Result<KafkaRule, RuleError> {
        let [role, api_key, api_version, client_id, topic] = fields.map(|f| Some(f.to_owned()));
        KafkaRule::new(KafkaRuleSpec { role, api_key, api_version, client_id, topic })
    }

    fn request<'a>(api_key: i16, topics: &'a [&'a [u8]]) -> KafkaRequest<'a> {
        KafkaRequest { api_key, api_version: 3, client_id: Some(b"me"), topics }
    }

    fn keys_of(fields: [&str; 5]) -> Vec<i16> {
        let rule = rule(fields).unwrap();
        (i16::MIN..=i16::MAX).filter(|key| rule.matches(&request(*key, &[]))).collect()
    }

    #[test]
    fn roles_and_names_map_to_api_keys_in_any_case() {
        assert_eq!(keys_of(["produce", "", "", "", ""]), [0, 3, 18]);
        let consume = [1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 18];
        assert_eq!(keys_of(["CONSUME", "", "", "", ""]), consume);
        for (key, name) in API_KEYS.iter().enumerate() {
            assert_eq!(keys_of(["", &name.to_uppercase(), "", "", ""]), [key as i16]);
        }
        assert_eq!(keys_of([""; 5]).len(), 1 << 16);
    }

    #[test]
    fn all_fields_of_a_rule_must_match() {
        let rule = rule(["", "fetch", "3", "me", "t"]).unwrap();
        let good = request(1, &[b"t"]);
        assert!(rule.matches(&good) && rule.failed_fields(&good).is_empty());
        for (bad, field) in [
            (KafkaRequest { api_key: 0, ..good }, RuleField::ApiKey),
            (KafkaRequest { api_version: 4, ..good }, RuleField::ApiVersion),
            (KafkaRequest { client_id: Some(b"Me"), ..good }, RuleField::ClientId),
            (KafkaRequest { client_id: None, ..good }, RuleField::ClientId),
            (KafkaRequest { topics: &[b"T"], ..good }, RuleField::Topic),
        ] {
            assert!(!rule.matches(&bad));
            assert_eq!(rule.failed_fields(&bad), [field]);
        }
        let bad =
            KafkaRequest { api_key: 2, api_version: 2, client_id: None, topics: &[b"", b"t"] };
        let all = [RuleField::ApiKey, RuleField::ApiVersion, RuleField::ClientId, RuleField::Topic];
        assert_eq!(rule.failed_fields(&bad), all);
    }

    #[test]
    fn a_request_without_topics_matches_any_topic_of_a_rule() {
        assert!(rule(["", "", "", "", "t"]).unwrap().matches(&request(12, &[])));
    }

    #[test]
    fn errors_name_the_field_and_the_cause() {
        let long = "t".repeat(256);
        for (fields, text) in [
            (["produce", "fetch", "", "", ""], "apiKey: excludes role"),
            (["admin", "", "", "", ""], "role: neither produce nor consume"),
            (["", "createtopic", "", "", ""], "apiKey: not the name of a Kafka API key"),
            (["", "3", "", "", ""], "apiKey: not the name of a Kafka API key"),
            (["", "", "-1", "", ""], "apiVersion: not a number from 0 to 32767"),
            (["", "", "32768", "", ""], "apiVersion: not a number from 0 to 32767"),
            (["", "", "v1", "", ""], "apiVersion: not a number from 0 to 32767"),
            (["", "", "", "", "a b"], "topic: topics have letters, digits"),
            (["", "", "", "", "té"], "topic: topics have letters, digits"),
            (["", "", "", "", &long], "topic: longer than 255 bytes"),
        ] {
            let error = rule(fields).unwrap_err().to_string();
            assert!(error.starts_with(text), "{error:?} does not start with {text:?}");
        }
        assert!(rule(["", "", "0", "any £ name", &long[1..]]).is_ok());
    }
}
