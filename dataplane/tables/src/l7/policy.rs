//! The L7 rules of one flow, and the verdict on a request.

use std::sync::Arc;

use super::rules::{L7Protocol, L7Request, L7Rules};
use crate::ids::RuleId;

/// An allow entry that matches the flow at L4.
#[derive(Clone, Debug)]
pub struct L7Entry {
    /// The policy rule of the entry.
    pub rule: RuleId,
    /// Requests must match one of these; `None` allows every request.
    pub rules: Option<Arc<L7Rules>>,
}

/// The L7 rules of one flow.
///
/// A request must be allowed at both ends: by the entries of the source's egress, and by those of
/// the destination's ingress. An end without entries allows every request.
#[derive(Clone, Debug, Default)]
pub struct L7Policy {
    /// Entries of the source's egress, in order of precedence.
    pub egress: Vec<L7Entry>,
    /// Entries of the destination's ingress, in order of precedence.
    pub ingress: Vec<L7Entry>,
}

/// Entries of a flow have rules of different L7 protocols. This is the first rule whose protocol
/// differs from the rules before it; egress comes before ingress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conflict {
    /// A rule of the source's egress.
    Egress(RuleId),
    /// A rule of the destination's ingress.
    Ingress(RuleId),
}

/// The verdict on a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L7Verdict {
    /// The request is allowed.
    Allow {
        /// The rule that allows it at the destination, or else at the source. `None` if no entry
        /// restricts the requests of the flow. For a Kafka request, the rule that allows its first
        /// topic.
        rule: Option<RuleId>,
    },
    /// No rule allows the request at one of the ends.
    Deny,
}

impl L7Verdict {
    /// Whether the request is allowed.
    #[must_use]
    #[inline]
    pub const fn is_allow(self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

impl L7Policy {
    /// Whether there are no entries, so that the flow needs no inspection.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.egress.is_empty() && self.ingress.is_empty()
    }

    /// The L7 protocol that the flow must speak; `None` if no entry has rules.
    ///
    /// # Errors
    /// [`Conflict`] if there are rules of several protocols, so that the flow must be denied.
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

    /// Whether the entries of both have the same rules in the same order, so that both decide every
    /// request alike. Other rules than those of Kafka are the same only if the policies share them:
    /// nobody needs to know more, and their lists are long.
    #[must_use]
    pub fn has_same_rules(&self, other: &Self) -> bool {
        let same = |one: &[L7Entry], other: &[L7Entry]| {
            let rules = || one.iter().zip(other).map(|(one, other)| (&one.rules, &other.rules));
            one.len() == other.len()
                && rules().all(|pair| match pair {
                    (Some(one), Some(other)) => Arc::ptr_eq(one, other) || are_same(one, other),
                    (one, other) => one.is_none() && other.is_none(),
                })
        };
        same(&self.egress, &other.egress) && same(&self.ingress, &other.ingress)
    }

    /// Whether workers have an inspector for these rules over the IP protocol `protocol`. Without
    /// one they drop all packets of the flow.
    #[must_use]
    pub fn has_inspector(&self, protocol: u8) -> bool {
        matches!(self.protocol(), Ok(Some(wanted)) if wanted.has_inspector(protocol))
    }

    /// Decides a request.
    #[must_use]
    pub fn decide(&self, request: &L7Request<'_>) -> L7Verdict {
        // A request of another protocol, or one that can be read in two ways, is denied even if an
        // entry without rules applies.
        match self.protocol() {
            Ok(Some(protocol)) if protocol != request.protocol() || !request.is_valid() => {
                return L7Verdict::Deny;
            }
            Err(_) => return L7Verdict::Deny,
            Ok(_) => {}
        }
        let L7Verdict::Allow { rule: egress } = decide_at(&self.egress, request) else {
            return L7Verdict::Deny;
        };
        let L7Verdict::Allow { rule: ingress } = decide_at(&self.ingress, request) else {
            return L7Verdict::Deny;
        };
        L7Verdict::Allow { rule: ingress.or(egress) }
    }
}

/// Whether these are the same Kafka rules.
fn are_same(one: &L7Rules, other: &L7Rules) -> bool {
    matches!((one, other), (L7Rules::Kafka(one), L7Rules::Kafka(other)) if one == other)
}

/// The verdict at the end that has these entries.
fn decide_at(entries: &[L7Entry], request: &L7Request<'_>) -> L7Verdict {
    if entries.is_empty() {
        return L7Verdict::Allow { rule: None };
    }
    let mut first = None;
    for part in request.parts() {
        let allows = |entry: &&L7Entry| entry.rules.as_ref().is_none_or(|r| r.allows(&part));
        match entries.iter().find(allows) {
            Some(entry) => first.get_or_insert(entry.rule),
            None => return L7Verdict::Deny,
        };
    }
    L7Verdict::Allow { rule: first }
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

    fn decide(policy: &L7Policy, api_key: i16, topics: &[&str]) -> L7Verdict {
        let topics: Vec<&[u8]> = topics.iter().map(|topic| topic.as_bytes()).collect();
        let request = KafkaRequest { api_key, api_version: 0, client_id: None, topics: &topics };
        policy.decide(&L7Request::Kafka(request))
    }

    fn allowed_by(rule: u32) -> L7Verdict {
        L7Verdict::Allow { rule: Some(RuleId(rule)) }
    }

    #[test]
    fn each_topic_of_a_kafka_request_needs_a_rule_of_any_entry() {
        let entries = vec![kafka(1, &[("produce", "a"), ("consume", "b")]), kafka(2, &[("", "c")])];
        let policy = L7Policy { egress: entries, ingress: Vec::new() };
        assert_eq!(decide(&policy, 0, &["a"]), allowed_by(1));
        assert_eq!(decide(&policy, 0, &["a", "c", "a"]), allowed_by(1));
        assert_eq!(decide(&policy, 0, &["c", "a"]), allowed_by(2));
        assert_eq!(decide(&policy, 1, &["b", "c"]), allowed_by(1));
        assert_eq!(
            decide(&policy, 1, &["a"]),
            L7Verdict::Deny,
            "a may be produced but not consumed"
        );
        assert_eq!(decide(&policy, 0, &["a", "d"]), L7Verdict::Deny);
        assert_eq!(decide(&policy, 18, &[]), allowed_by(1));
    }

    #[test]
    fn both_ends_must_allow_every_topic_of_a_request() {
        let policy = L7Policy {
            egress: vec![kafka(1, &[("", "a")]), kafka(2, &[("", "b")])],
            ingress: vec![kafka(3, &[("", "b")]), kafka(4, &[("", "c")])],
        };
        assert_eq!(decide(&policy, 0, &["b"]), allowed_by(3));
        for topics in [&["a"] as &[_], &["c"], &["a", "b"], &["b", "c"]] {
            assert_eq!(decide(&policy, 0, topics), L7Verdict::Deny);
        }
    }

    #[test]
    fn an_entry_without_rules_allows_every_request() {
        let policy = L7Policy {
            egress: vec![kafka(1, &[("", "a")]), plain(2)],
            ingress: vec![kafka(3, &[("", "a"), ("", "b")])],
        };
        assert_eq!(decide(&policy, 0, &["a"]), allowed_by(3));
        assert_eq!(decide(&policy, 0, &["a", "b"]), allowed_by(3));
        assert_eq!(decide(&policy, 0, &["c"]), L7Verdict::Deny);
        assert_eq!(decide(&L7Policy::default(), 0, &["c"]), L7Verdict::Allow { rule: None });
    }

    #[test]
    fn policies_have_the_same_rules_whichever_objects_they_come_from() {
        let policy = |egress, ingress| L7Policy { egress, ingress };
        let (a, b) = (|rule| kafka(rule, &[("", "a")]), |rule| kafka(rule, &[("", "b")]));
        let both = policy(vec![a(1), plain(2)], vec![b(3)]);
        assert!(both.has_same_rules(&both.clone()));
        assert!(both.has_same_rules(&policy(vec![a(4), plain(5)], vec![b(6)])));
        for other in [
            policy(vec![a(1), plain(2)], vec![a(3)]),
            policy(vec![a(1), plain(2)], vec![b(3), b(4)]),
            policy(vec![plain(1), a(2)], vec![b(3)]),
            policy(vec![a(1)], vec![b(3)]),
            policy(vec![b(3)], vec![a(1), plain(2)]),
            policy(vec![a(1), plain(2)], vec![kafka(3, &[("consume", "b")])]),
            policy(vec![a(1), plain(2)], vec![dns(3)]),
            L7Policy::default(),
        ] {
            assert!(!both.has_same_rules(&other) && !other.has_same_rules(&both), "{other:?}");
        }
        let names = policy(vec![dns(1)], vec![]);
        assert!(names.has_same_rules(&names.clone()));
        assert!(!names.has_same_rules(&policy(vec![dns(1)], vec![])), "they are not shared");
    }

    #[test]
    fn rules_of_one_flow_must_have_one_protocol() {
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

    /// Entries: a role and a topic for each rule; `None` is an entry without rules.
    type Entries = Vec<Option<Vec<(&'static str, &'static str)>>>;

    fn entries() -> impl Strategy<Value = Entries> {
        let rule = (select(vec!["", "produce", "consume"]), select(vec!["", "a", "a", "b", "b"]));
        let rules = prop::collection::vec(rule, 0..3);
        prop::collection::vec(prop::option::weighted(0.9, rules), 0..4)
    }

    /// A naive evaluation, for the API keys produce (0), fetch (1) and describe groups (15).
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
        // Few random requests need several entries at once, which are the interesting cases.
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn kafka_verdicts_agree_with_a_naive_evaluation(
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
            prop_assert_eq!(decide(&policy, api_key, &topics).is_allow(), expected);
        }
    }
}
