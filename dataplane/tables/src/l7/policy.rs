//! The L7 side of one flow's policy: everything that its requests are held against.

use std::sync::Arc;

use super::rules::{L7Protocol, L7Request, L7Rules};
use crate::ids::RuleId;
use crate::proto;

/// One allow that matched the flow at L4.
#[derive(Clone, Debug)]
pub struct L7Entry {
    /// The rule that allows.
    pub rule: RuleId,
    /// Requests must match one of these; `None` allows every request.
    pub rules: Option<Arc<L7Rules>>,
}

/// The rules that the requests of one flow are held against.
///
/// A request needs what the entries of each direction that has any allow together.
#[derive(Clone, Debug, Default)]
pub struct L7Policy {
    /// From the source's egress, in order of precedence; empty is no restriction.
    pub egress: Vec<L7Entry>,
    /// From the destination's ingress, in order of precedence; empty is no restriction.
    pub ingress: Vec<L7Entry>,
}

/// The first entry whose rules are of another protocol than those before it, egress first. Nobody
/// can tell what a flow speaks that has to be two protocols at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conflict {
    /// The entry is the source's.
    Egress(RuleId),
    /// The entry is the destination's.
    Ingress(RuleId),
}

impl L7Policy {
    /// Whether nothing has to be inspected.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.egress.is_empty() && self.ingress.is_empty()
    }

    /// The protocol that the flow has to speak; `None` if every request is allowed.
    ///
    /// # Errors
    /// [`Conflict`] when the entries name more than one, so that the flow must be denied.
    pub fn protocol(&self) -> Result<Option<L7Protocol>, Conflict> {
        let egress = self.egress.iter().map(|entry| (entry, Conflict::Egress(entry.rule)));
        let ingress = self.ingress.iter().map(|entry| (entry, Conflict::Ingress(entry.rule)));
        let mut first = None;
        for (entry, conflict) in egress.chain(ingress) {
            let Some(rules) = &entry.rules else { continue };
            if *first.get_or_insert(rules.protocol()) != rules.protocol() {
                return Err(conflict);
            }
        }
        Ok(first)
    }

    /// Whether there is an inspector for requests of a flow of the IP `protocol` under these rules;
    /// without one, workers refuse the flow whole.
    #[must_use]
    pub fn has_inspector(&self, protocol: u8) -> bool {
        protocol == proto::TCP
            && matches!(self.protocol(), Ok(Some(wanted)) if wanted.has_inspector())
    }

    /// Holds a request against the rules. `Some` if it is allowed, with the rule that allows it at
    /// the destination, or else at the source; of a Kafka request, the rule for its first topic.
    #[must_use]
    pub fn judge(&self, request: &L7Request<'_>) -> Option<Option<RuleId>> {
        // What reads requests of one protocol takes no other for one, not even where a rule without
        // L7 rules stands beside.
        if self.protocol().ok()?.is_some_and(|protocol| protocol != request.protocol()) {
            return None;
        }
        let egress = judge(&self.egress, request)?;
        let ingress = judge(&self.ingress, request)?;
        Some(ingress.or(egress))
    }
}

fn judge(entries: &[L7Entry], request: &L7Request<'_>) -> Option<Option<RuleId>> {
    if entries.is_empty() {
        return Some(None);
    }
    let mut first = None;
    for part in request.parts() {
        let allows = |entry: &&L7Entry| entry.rules.as_ref().is_none_or(|r| r.allows(&part));
        let allowed_by = entries.iter().find(allows)?.rule;
        first.get_or_insert(allowed_by);
    }
    Some(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};

    use super::*;
    use crate::l7::{KafkaRequest, KafkaRule, KafkaRuleSpec, NamePattern};

    /// Kafka rules, one for each pair of a role and a topic.
    fn kafka(rule: u32, rules: &[(&str, &str)]) -> L7Entry {
        let one = |(role, topic): &(&str, &str)| {
            let (role, topic) = (Some((*role).to_owned()), Some((*topic).to_owned()));
            KafkaRule::new(KafkaRuleSpec { role, topic, ..KafkaRuleSpec::default() }).unwrap()
        };
        let rules = L7Rules::Kafka(rules.iter().map(one).collect());
        L7Entry { rule: RuleId(rule), rules: Some(Arc::new(rules)) }
    }

    fn dns(rule: u32) -> L7Entry {
        let rules = L7Rules::Dns(vec![NamePattern::dns("*").unwrap()]);
        L7Entry { rule: RuleId(rule), rules: Some(Arc::new(rules)) }
    }

    fn plain(rule: u32) -> L7Entry {
        L7Entry { rule: RuleId(rule), rules: None }
    }

    fn judge(policy: &L7Policy, api_key: i16, topics: &[&str]) -> Option<Option<u32>> {
        let topics: Vec<&[u8]> = topics.iter().map(|topic| topic.as_bytes()).collect();
        let request = KafkaRequest { api_key, api_version: 0, client_id: None, topics: &topics };
        policy.judge(&L7Request::Kafka(request)).map(|rule| rule.map(|rule| rule.0))
    }

    #[test]
    fn each_topic_of_a_kafka_request_needs_a_rule_of_whatever_entry() {
        let entries = vec![kafka(1, &[("produce", "a"), ("consume", "b")]), kafka(2, &[("", "c")])];
        let policy = L7Policy { egress: entries, ingress: Vec::new() };
        assert_eq!(judge(&policy, 0, &["a"]), Some(Some(1)));
        assert_eq!(judge(&policy, 0, &["a", "c", "a"]), Some(Some(1)));
        assert_eq!(judge(&policy, 0, &["c", "a"]), Some(Some(2)));
        assert_eq!(judge(&policy, 1, &["b", "c"]), Some(Some(1)));
        assert_eq!(judge(&policy, 1, &["a"]), None, "a may be written but not read");
        assert_eq!(judge(&policy, 0, &["a", "d"]), None);
        assert_eq!(judge(&policy, 18, &[]), Some(Some(1)));
    }

    #[test]
    fn each_direction_has_to_allow_all_of_a_request() {
        let policy = L7Policy {
            egress: vec![kafka(1, &[("", "a")]), kafka(2, &[("", "b")])],
            ingress: vec![kafka(3, &[("", "b")]), kafka(4, &[("", "c")])],
        };
        assert_eq!(judge(&policy, 0, &["b"]), Some(Some(3)));
        for topics in [&["a"] as &[_], &["c"], &["a", "b"], &["b", "c"]] {
            assert_eq!(judge(&policy, 0, topics), None);
        }
    }

    #[test]
    fn an_entry_without_rules_allows_what_others_do_not() {
        let policy = L7Policy {
            egress: vec![kafka(1, &[("", "a")]), plain(2)],
            ingress: vec![kafka(3, &[("", "a"), ("", "b")])],
        };
        assert_eq!(judge(&policy, 0, &["a"]), Some(Some(3)));
        assert_eq!(judge(&policy, 0, &["a", "b"]), Some(Some(3)));
        assert_eq!(judge(&policy, 0, &["c"]), None);
        assert_eq!(judge(&L7Policy::default(), 0, &["c"]), Some(None));
    }

    #[test]
    fn the_protocol_is_the_one_that_all_rules_share() {
        let protocol = |egress, ingress| L7Policy { egress, ingress }.protocol();
        let kafka = |rule| kafka(rule, &[]);
        assert_eq!(protocol(vec![], vec![]), Ok(None));
        assert_eq!(protocol(vec![plain(1)], vec![plain(2)]), Ok(None));
        let both = Ok(Some(L7Protocol::Kafka));
        assert_eq!(protocol(vec![plain(1), kafka(2)], vec![kafka(3), plain(4)]), both);
        let second = Err(Conflict::Egress(RuleId(3)));
        assert_eq!(protocol(vec![kafka(1), plain(2), dns(3), dns(4)], vec![dns(5)]), second);
        let across = Err(Conflict::Ingress(RuleId(3)));
        assert_eq!(protocol(vec![plain(1), kafka(2)], vec![dns(3), kafka(4)]), across);
        assert_eq!(protocol(vec![], vec![dns(1), kafka(3)]), across);
    }

    /// Entries as pairs of a role and a topic for each rule; `None` has no rules.
    type Entries = Vec<Option<Vec<(&'static str, &'static str)>>>;

    fn entries() -> impl Strategy<Value = Entries> {
        let rule = (select(vec!["", "produce", "consume"]), select(vec!["", "a", "a", "b", "b"]));
        let rules = prop::collection::vec(rule, 0..3);
        prop::collection::vec(prop::option::weighted(0.9, rules), 0..4)
    }

    /// What rules mean, for the API keys produce (0), fetch (1) and describe groups (15).
    fn naively_allowed(entries: &Entries, api_key: i16, topics: &[&str]) -> bool {
        let rule_allows = |(role, wanted): &(&str, &str), topic: &str| {
            let role = matches!((*role, api_key), ("", _) | ("produce", 0) | ("consume", 1));
            role && (wanted.is_empty() || topic.is_empty() || *wanted == topic)
        };
        let entry_allows = |entry: &Option<Vec<_>>, topic| match entry {
            Some(rules) => rules.iter().any(|rule| rule_allows(rule, topic)),
            None => true,
        };
        let topics = if topics.is_empty() { &[""] } else { topics };
        entries.is_empty()
            || topics.iter().all(|topic| entries.iter().any(|entry| entry_allows(entry, topic)))
    }

    proptest! {
        // Few random requests need several entries at once, and these are the interesting ones.
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_kafka_request_is_allowed_by_all_rules_of_each_direction_together(
            egress in entries(), ingress in entries(),
            api_key in select(vec![0, 1, 15]), topics in subsequence(vec!["a", "b", "c"], 0..=2),
        ) {
            let compiled = |entries: &Entries| {
                let entry = |e: &Option<Vec<_>>| e.as_ref().map_or(plain(1), |rules| kafka(1, rules));
                entries.iter().map(entry).collect()
            };
            let policy = L7Policy { egress: compiled(&egress), ingress: compiled(&ingress) };
            let expected = naively_allowed(&egress, api_key, &topics)
                && naively_allowed(&ingress, api_key, &topics);
            prop_assert_eq!(judge(&policy, api_key, &topics).is_some(), expected);
        }
    }
}
