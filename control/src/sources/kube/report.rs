//! What a policy's status says, and whether this node has to write it.
//!
//! There are two conditions. `Valid` is one for the whole cluster, written under the field manager
//! `podgate` by whichever node finds it missing or wrong. `podgate/NODE` is this node's, written
//! under `podgate-NODE`. A node writes only what differs from what the server reported last.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use podgate_policy::{Kind, ObjectKey, PolicyState, PolicyStatus};
use serde_json::{Value, json};

use super::object::Object;

/// Field manager of the condition `Valid`.
pub(super) const MANAGER: &str = "podgate";
/// Type of the condition that all nodes share, as Cilium calls it.
const VALID: &str = "Valid";
/// In larger clusters nodes write no conditions of their own: one policy would have too many.
pub(super) const NODE_CONDITIONS_MAX: usize = 100;
/// Longest message, characters; that of an event may have 1024 (events.k8s.io/v1).
const MESSAGE_MAX: usize = 1000;
/// Longest name of an object, bytes (RFC 1123 subdomain).
const NAME_MAX: usize = 253;

/// Times that a condition may vanish before it is no longer written, at one generation of a policy.
const LOST_MAX: u32 = 3;

/// A condition in a policy's status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Condition {
    pub(super) status: String,
    pub(super) message: String,
    /// When `status` changed last, RFC 3339.
    transition: String,
    /// The generation of the object that it was written for, where the kind has this field.
    generation: Option<i64>,
}

/// What the server reported of a policy last.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Present {
    pub(super) uid: String,
    generation: Option<i64>,
    valid: Option<Condition>,
    node: Option<Condition>,
    /// The Event that this agent wrote of the object last: the hash in its name.
    written_event: Option<u64>,
    /// Times that a condition of this generation vanished.
    lost: u32,
}

impl Present {
    /// Reads the metadata and the status of `object`.
    pub(super) fn read(object: &Object, node: &str, former: Option<&Self>) -> Self {
        let uid = object.metadata("uid").unwrap_or_default().to_owned();
        let own = node_condition(node);
        let former = former.filter(|former| former.uid == uid);
        let mut present = Self {
            generation: object.generation(),
            valid: condition(object, VALID),
            node: condition(object, &own),
            written_event: former.and_then(|former| former.written_event),
            uid,
            lost: 0,
        };
        if let Some(former) = former.filter(|former| former.generation == present.generation) {
            let lost = (former.valid.is_some() && present.valid.is_none())
                || (former.node.is_some() && present.node.is_none());
            present.lost = former.lost + u32::from(lost);
        }
        present
    }

    /// Whether the policy's conditions are no longer written, because others' writes remove them:
    /// each write would cause another one, for ever. API servers do that to a kind whose schema
    /// they can't merge by.
    pub(super) const fn is_given_up(&self) -> bool {
        self.lost >= LOST_MAX
    }
}

fn node_condition(node: &str) -> String {
    format!("podgate/{node}")
}

fn condition(object: &Object, r#type: &str) -> Option<Condition> {
    let conditions = object.value()["status"]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == r#type)?;
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    Some(Condition {
        status: text("status"),
        message: text("message"),
        transition: text("lastTransitionTime"),
        generation: found["observedGeneration"].as_i64(),
    })
}

/// One request that changes something at the API server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Write {
    /// A server-side apply of the object's status, under this field manager.
    Status { manager: String, body: Value },
    /// An Event in a namespace.
    Event { namespace: String, body: Value },
}

impl Write {
    /// What it is, for messages: `statuses`, `Events`.
    pub(super) const fn what(&self) -> &'static str {
        match self {
            Self::Status { .. } => "statuses",
            Self::Event { .. } => "Events",
        }
    }
}

/// The node that writes, and what it knows of the others.
pub(super) struct Author<'a> {
    /// Its name.
    pub(super) node: &'a str,
    /// Number of nodes in the cluster.
    pub(super) nodes: usize,
    /// Whether a node of this name exists.
    pub(super) is_node: &'a dyn Fn(&str) -> bool,
    /// The time of the day.
    pub(super) now: Timestamp,
}

/// What this node has to write of a policy. `epoch` is the epoch whose tables have it.
pub(super) fn writes(
    policy: &PolicyStatus<'_>,
    present: &mut Present,
    epoch: u64,
    author: &Author<'_>,
) -> Vec<Write> {
    let mut writes = Vec::new();
    let key = policy.key;
    let reasons = reasons(policy);
    if key.kind != Kind::NetworkPolicy && !present.is_given_up() {
        let valid = valid_condition(policy, &reasons, author.node);
        if must_write_valid(&valid, present, author) {
            let body = valid.to_json(VALID, present.valid.as_ref(), present, key, author);
            writes.push(Write::Status { manager: MANAGER.into(), body });
        }
        let own = own_condition(policy, present, epoch);
        if author.nodes <= NODE_CONDITIONS_MAX && must_write_own(&own, present) {
            let name = node_condition(author.node);
            let body = own.to_json(&name, present.node.as_ref(), present, key, author);
            writes.push(Write::Status { manager: format!("podgate-{}", author.node), body });
        }
    }
    writes.extend(event(policy, &reasons, present, author));
    writes
}

/// Whether the policy, or a part of it, is not enforced as written.
fn is_rejected(policy: &PolicyStatus<'_>) -> bool {
    policy.state != PolicyState::Enforced || !policy.warnings.is_empty()
}

/// Why the policy is not enforced as written, as one line.
fn reasons(policy: &PolicyStatus<'_>) -> String {
    let reasons = policy.rejections.iter().chain(policy.warnings).map(|rejection| {
        let fix = rejection.fix.as_ref().map(|fix| format!("; {fix}")).unwrap_or_default();
        match rejection.field.as_str() {
            "" => format!("{}{fix}", rejection.reason),
            field => format!("{field}: {}{fix}", rejection.reason),
        }
    });
    reasons.collect::<Vec<_>>().join(". ")
}

fn shorten(text: &str) -> String {
    text.chars().take(MESSAGE_MAX).collect()
}

/// A condition that is to be written.
struct NewCondition {
    status: &'static str,
    reason: &'static str,
    message: String,
}

fn valid_condition(policy: &PolicyStatus<'_>, reasons: &str, node: &str) -> NewCondition {
    if is_rejected(policy) {
        let message = shorten(&format!("rejected by node {node}: {reasons}"));
        return NewCondition { status: "False", reason: "Rejected", message };
    }
    let message = "every field can be enforced".into();
    NewCondition { status: "True", reason: "Accepted", message }
}

fn own_condition(policy: &PolicyStatus<'_>, present: &Present, epoch: u64) -> NewCondition {
    let generation = present.generation.unwrap_or(0);
    let (status, reason, message) = match policy.state {
        PolicyState::Enforced if is_rejected(policy) => (
            "False",
            "Stricter",
            format!("generation {generation} in force, stricter than written, epoch {epoch}"),
        ),
        PolicyState::Enforced => {
            ("True", "Enforced", format!("generation {generation} in force, epoch {epoch}"))
        }
        PolicyState::Outdated => (
            "False",
            "Rejected",
            format!("generation {generation} rejected, an earlier one stays in force"),
        ),
        PolicyState::Rejected => {
            ("False", "Rejected", format!("generation {generation} rejected, nothing in force"))
        }
    };
    NewCondition { status, reason, message }
}

impl NewCondition {
    /// The body of a server-side apply that sets this condition and nothing else.
    fn to_json(
        &self,
        r#type: &str,
        present: Option<&Condition>,
        object: &Present,
        key: &ObjectKey,
        author: &Author<'_>,
    ) -> Value {
        let transition = present
            .filter(|present| present.status == self.status && !present.transition.is_empty())
            .map(|present| present.transition.clone())
            .unwrap_or_else(|| seconds(author.now));
        let mut condition = json!({
            "type": r#type, "status": self.status, "reason": self.reason,
            "message": self.message, "lastTransitionTime": transition,
        });
        // Cilium's conditions don't have this field.
        if key.kind == Kind::ClusterNetworkPolicy
            && let Some(generation) = object.generation
        {
            condition["observedGeneration"] = generation.into();
        }
        let mut metadata = json!({"name": key.name, "uid": object.uid});
        if let Some(namespace) = &key.namespace {
            metadata["namespace"] = namespace.as_str().into();
        }
        json!({
            "apiVersion": key.kind.api_version(), "kind": key.kind.name(), "metadata": metadata,
            "status": {"conditions": [condition]},
        })
    }
}

/// The time without fractions of a second, as Kubernetes writes it.
fn seconds(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// Whether `Valid` has to be written. Nodes that disagree about a policy must not undo each other's
/// writes for ever: rejection wins, and only the node that rejected the policy takes it back, or
/// any node once that one is gone.
fn must_write_valid(wanted: &NewCondition, present: &Present, author: &Author<'_>) -> bool {
    let Some(valid) = &present.valid else { return true };
    if valid.generation.is_some() && valid.generation < present.generation {
        return true;
    }
    let other = valid.message.strip_prefix("rejected by node ").and_then(|rest| {
        let (node, _) = rest.split_once(':')?;
        (node != author.node).then_some(node)
    });
    let other_exists = other.is_some_and(|node| (author.is_node)(node));
    match (wanted.status, valid.status.as_str()) {
        ("True", "True") => false,
        ("True", _) => !other_exists,
        ("False", "False") => !other_exists && valid.message != wanted.message,
        _ => true,
    }
}

/// Whether this node's condition has to be written. The epoch alone is no reason: it starts from
/// one when the agent does.
fn must_write_own(wanted: &NewCondition, present: &Present) -> bool {
    let Some(own) = &present.node else { return true };
    own.status != wanted.status || without_epoch(&own.message) != without_epoch(&wanted.message)
}

/// A condition's message without the epoch, which earlier versions called revision.
fn without_epoch(message: &str) -> &str {
    let end = message.find(", epoch").or_else(|| message.find(", revision"));
    end.and_then(|end| message.get(..end)).unwrap_or(message)
}

/// The Event of a policy that was rejected, or is accepted again; none if it was written before.
/// Its name follows from what it says, so that of many nodes that write it one succeeds.
fn event(
    policy: &PolicyStatus<'_>,
    reasons: &str,
    present: &mut Present,
    author: &Author<'_>,
) -> Option<Write> {
    let key = policy.key;
    let mut hasher = DefaultHasher::new();
    (key, &present.uid, present.generation, reasons).hash(&mut hasher);
    let number = hasher.finish();
    let rejected = is_rejected(policy);
    let (r#type, reason, note) = match (rejected, present.written_event) {
        (true, Some(written)) if written == number => return None,
        (true, _) => ("Warning", "PolicyRejected", shorten(&format!("rejected: {reasons}"))),
        (false, Some(_)) => ("Normal", "PolicyAccepted", "every field can be enforced".into()),
        (false, None) => return None,
    };
    present.written_event = rejected.then_some(number);
    let suffix = format!(".{number:016x}");
    let name: String = key.name.chars().take(NAME_MAX - suffix.len()).collect();
    let namespace = key.namespace.clone().unwrap_or_else(|| "default".into());
    let mut regarding = json!({
        "apiVersion": key.kind.api_version(), "kind": key.kind.name(), "name": key.name,
        "uid": present.uid,
    });
    if let Some(namespace) = &key.namespace {
        regarding["namespace"] = namespace.as_str().into();
    }
    let body = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": format!("{name}{suffix}"), "namespace": namespace},
        "eventTime": micros(author.now), "type": r#type, "reason": reason, "action": "Validate",
        "note": note, "regarding": regarding, "reportingController": "podgate",
        "reportingInstance": author.node,
    });
    Some(Write::Event { namespace, body })
}

/// A MicroTime: exactly six digits of a fraction.
fn micros(now: Timestamp) -> String {
    format!("{now:.6}")
}

#[cfg(test)]
mod tests {
    use podgate_policy::Store;

    use super::*;

    /// What node `node` of `n1` and `n2` writes of a policy in `store` when the server has
    /// `object`.
    fn writes_of(store: &Store, object: &Value, node: &str, present: &mut Present) -> Vec<Write> {
        let object = Object::from(object.clone());
        *present = Present::read(&object, node, Some(present));
        let author = Author {
            node,
            nodes: 2,
            is_node: &|name| ["n1", "n2"].contains(&name),
            now: Timestamp::UNIX_EPOCH,
        };
        let kind = Kind::by_name(object.value()["kind"].as_str().unwrap()).unwrap();
        let key = object.key(kind).unwrap();
        writes(&store.policy(&key).unwrap(), present, 7, &author)
    }

    fn policy(kind: &str, spec: &Value) -> Value {
        let group = if kind == "NetworkPolicy" { "networking.k8s.io/v1" } else { "cilium.io/v2" };
        json!({
            "apiVersion": group, "kind": kind, "spec": spec,
            "metadata": {"namespace": "a", "name": "x", "uid": "u", "generation": 3},
        })
    }

    fn good() -> Value {
        json!({"endpointSelector": {}, "ingress": [{}]})
    }

    fn bad() -> Value {
        json!({"endpointSelector": {}, "ingress": [{}], "unknown": 1})
    }

    fn store(object: &Value) -> Store {
        let mut store = Store::new();
        let _ = store.apply(object, None);
        store
    }

    /// Puts the conditions of `writes` into the status of `object`, as the server would.
    fn apply(object: &mut Value, writes: &[Write]) {
        for write in writes {
            let Write::Status { body, .. } = write else { continue };
            let condition = &body["status"]["conditions"][0];
            let mut all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            all.retain(|other| other["type"] != condition["type"]);
            all.push(condition.clone());
            object["status"] = json!({"conditions": all});
        }
    }

    #[test]
    fn an_enforced_policy_gets_two_conditions_and_no_second_write() {
        let mut object = policy("CiliumNetworkPolicy", &good());
        let store = store(&object);
        let mut present = Present::default();
        let writes = writes_of(&store, &object, "n1", &mut present);
        let [Write::Status { manager: all, body: valid }, Write::Status { manager, body }] =
            writes.as_slice()
        else {
            panic!("{writes:?}")
        };
        assert_eq!((all.as_str(), manager.as_str()), ("podgate", "podgate-n1"));
        assert_eq!(
            valid["status"]["conditions"],
            json!([{"type": "Valid", "status": "True", "reason": "Accepted",
                    "message": "every field can be enforced",
                    "lastTransitionTime": "1970-01-01T00:00:00Z"}])
        );
        assert_eq!(valid["metadata"], json!({"name": "x", "namespace": "a", "uid": "u"}));
        let own = &body["status"]["conditions"][0];
        assert_eq!(own["type"], "podgate/n1");
        assert_eq!(own["message"], "generation 3 in force, epoch 7");
        apply(&mut object, &writes);
        assert!(writes_of(&store, &object, "n1", &mut present).is_empty());
        // Another node has to add its own condition only.
        let other = writes_of(&store, &object, "n2", &mut Present::default());
        assert!(matches!(other.as_slice(), [Write::Status { manager, .. }]
                         if manager == "podgate-n2"));
        // The epoch alone, as after a restart, is no reason to write.
        object["status"]["conditions"][1]["message"] = "generation 3 in force, epoch 99".into();
        assert!(writes_of(&store, &object, "n1", &mut present).is_empty());
        // Nor is an upgrade from a version that called it revision.
        object["status"]["conditions"][1]["message"] = "generation 3 in force, revision 9".into();
        assert!(writes_of(&store, &object, "n1", &mut present).is_empty());
        object["status"]["conditions"][1]["message"] = "generation 2 in force, revision 9".into();
        assert_eq!(writes_of(&store, &object, "n1", &mut present).len(), 1);
    }

    #[test]
    fn a_rejected_policy_gets_the_reason_and_one_event() {
        let mut object = policy("CiliumNetworkPolicy", &bad());
        let rejected = store(&object);
        let mut present = Present::default();
        let writes = writes_of(&rejected, &object, "n1", &mut present);
        let [Write::Status { body: valid, .. }, _, Write::Event { namespace, body: event }] =
            writes.as_slice()
        else {
            panic!("{writes:?}")
        };
        let condition = &valid["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("Rejected"))
        );
        let message = condition["message"].as_str().unwrap();
        assert!(message.starts_with("rejected by node n1: spec.unknown: "), "{message}");
        assert_eq!(namespace, "a");
        assert_eq!(event["eventTime"], "1970-01-01T00:00:00.000000Z");
        assert!(event["note"].as_str().unwrap().starts_with("rejected: spec.unknown: "));
        apply(&mut object, &writes);
        assert!(writes_of(&rejected, &object, "n1", &mut present).is_empty());
        // Another node finds an event of the same name, and the condition.
        let other = writes_of(&rejected, &object, "n2", &mut Present::default());
        let [_, Write::Event { body: same, .. }] = other.as_slice() else { panic!("{other:?}") };
        assert_eq!(same["metadata"]["name"], event["metadata"]["name"]);
        // Corrected, it is accepted again.
        object["spec"] = good();
        object["metadata"]["generation"] = 4.into();
        let writes = writes_of(&store(&object), &object, "n1", &mut present);
        let [Write::Status { body, .. }, _, Write::Event { body: event, .. }] = writes.as_slice()
        else {
            panic!("{writes:?}")
        };
        assert_eq!(body["status"]["conditions"][0]["status"], "True");
        assert_eq!(event["reason"], "PolicyAccepted");
    }

    #[test]
    fn a_policy_that_is_stricter_than_written_is_not_valid_and_says_what_to_do() {
        let spec = json!({
            "endpointSelector": {},
            "egressDeny": [{"toCIDRSet": [{"cidrGroupRef": "g"}]}],
        });
        let mut object = policy("CiliumNetworkPolicy", &spec);
        let mut store = store(&object);
        store.set_unread(Kind::CiliumCidrGroup, Some("forbidden"));
        let mut present = Present::default();
        let first = writes_of(&store, &object, "n1", &mut present);
        let text = format!("{first:?}");
        for wanted in [
            "rejected by node n1: spec.egressDeny[0]: refers to CiliumCIDRGroup",
            "let podgate list and watch ciliumcidrgroups",
            "generation 3 in force, stricter than written, epoch 7",
            "PolicyRejected",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        apply(&mut object, &first);
        assert!(writes_of(&store, &object, "n1", &mut present).is_empty());
        store.set_unread(Kind::CiliumCidrGroup, None);
        let text = format!("{:?}", writes_of(&store, &object, "n1", &mut present));
        assert!(text.contains("every field can be enforced"), "{text}");
    }

    #[test]
    fn nodes_that_disagree_do_not_undo_each_others_writes() {
        let mut object = policy("CiliumNetworkPolicy", &bad());
        let rejected = store(&object);
        let writes = writes_of(&rejected, &object, "n2", &mut Present::default());
        apply(&mut object, &writes);
        // A node of a later version enforces it.
        let enforced = store(&policy("CiliumNetworkPolicy", &good()));
        let is_valid = |writes: &[Write]| {
            writes
                .iter()
                .any(|write| matches!(write, Write::Status { manager, .. } if manager == MANAGER))
        };
        let present = &mut Present::default();
        assert!(!is_valid(&writes_of(&enforced, &object, "n1", present)));
        assert!(is_valid(&writes_of(&enforced, &object, "n2", present)));
        // The node that rejected it is gone.
        let message = &mut object["status"]["conditions"][0]["message"];
        *message = message.as_str().unwrap().replace("n2", "n3").into();
        assert!(is_valid(&writes_of(&enforced, &object, "n1", present)));
    }

    #[test]
    fn conditions_that_vanish_again_and_again_are_written_no_more() {
        let mut object = policy("CiliumNetworkPolicy", &good());
        let store = store(&object);
        let mut present = Present::default();
        for _ in 0..LOST_MAX {
            let writes = writes_of(&store, &object, "n1", &mut present);
            assert_eq!(writes.len(), 2);
            apply(&mut object, &writes);
            assert!(writes_of(&store, &object, "n1", &mut present).is_empty());
            // The server drops them when another node writes.
            object["status"]["conditions"] = json!([]);
        }
        assert!(!present.is_given_up());
        assert!(writes_of(&store, &object, "n1", &mut present).is_empty());
        assert!(present.is_given_up());
        // A new generation is tried again.
        object["metadata"]["generation"] = 4.into();
        assert_eq!(writes_of(&store, &object, "n1", &mut present).len(), 2);
    }

    #[test]
    fn a_network_policy_has_events_only() {
        let object = policy("NetworkPolicy", &json!({"podSelector": {}}));
        assert!(writes_of(&store(&object), &object, "n1", &mut Present::default()).is_empty());
        let object = policy("NetworkPolicy", &json!({"podSelector": {}, "policyTypes": ["X"]}));
        let writes = writes_of(&store(&object), &object, "n1", &mut Present::default());
        assert!(matches!(writes.as_slice(), [Write::Event { .. }]), "{writes:?}");
    }

    #[test]
    fn wrong_types_in_a_status_are_as_good_as_none() {
        for status in [json!(7), json!({"conditions": {}}), json!({"conditions": [3, {"type": 4}]})]
        {
            let mut object = policy("CiliumNetworkPolicy", &good());
            object["status"] = status;
            let writes = writes_of(&store(&object), &object, "n1", &mut Present::default());
            assert_eq!(writes.len(), 2);
        }
    }
}
