//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, `cilium.io/v2`
//! (cilium `pkg/policy/api/{rule,ingress,egress,cidr,entity,rule_validation}.go`).
//!
//! Where Cilium's documentation and its code differ, the code is followed.

mod l7;
mod peers;
mod ports;

pub use self::peers::{CiliumPeer, Entity, GroupReference, ServiceReference, ServiceSelection};
pub use self::ports::{PortRule, Ports};

use self::peers::parse_peers;
use super::selector::{KeySyntax, LabelSelector};
use crate::fields::{Field, FieldPath, Fix, Object, Problem, Step, quote};
use crate::labels::LabelKey;
use crate::rules::{PerDirection, TrafficDirection};

/// A Cilium policy: its `spec` and the elements of its `specs`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct CiliumPolicy {
    /// In the order of the document, `spec` first.
    pub specs: Vec<CiliumSpec>,
}

/// One rule of Cilium's API: who is selected and what applies to them.
#[derive(Clone, PartialEq, Debug)]
pub struct CiliumSpec {
    /// Path of this specification, `spec` or `specs[i]`.
    pub field: String,
    /// Which endpoints (of the policy's namespace, if it has one).
    pub endpoint_selector: LabelSelector,
    /// `enableDefaultDeny`; the default is whether there are rules for the direction.
    pub default_deny: PerDirection<Option<bool>>,
    /// `ingress`.
    pub ingress: Vec<CiliumRule>,
    /// `ingressDeny`.
    pub ingress_deny: Vec<CiliumRule>,
    /// `egress`.
    pub egress: Vec<CiliumRule>,
    /// `egressDeny`.
    pub egress_deny: Vec<CiliumRule>,
}

/// One element of the four lists of rules.
#[derive(Clone, PartialEq, Debug)]
pub struct CiliumRule {
    /// Peers that match. `None` if the rule has no field for peers; an empty list, which matches
    /// no peer, if that field is empty.
    pub peers: Option<Vec<CiliumPeer>>,
    /// Ports that match.
    pub ports: Ports,
}

/// The four lists of rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleSection {
    /// `ingress`.
    Ingress,
    /// `ingressDeny`.
    IngressDeny,
    /// `egress`.
    Egress,
    /// `egressDeny`.
    EgressDeny,
}

impl RuleSection {
    /// All sections.
    pub const ALL: [Self; 4] = [Self::Ingress, Self::IngressDeny, Self::Egress, Self::EgressDeny];

    /// Name of the field.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::IngressDeny => "ingressDeny",
            Self::Egress => "egress",
            Self::EgressDeny => "egressDeny",
        }
    }

    /// The direction of the selected endpoints that its rules apply to.
    #[must_use]
    pub const fn direction(self) -> TrafficDirection {
        match self {
            Self::Ingress | Self::IngressDeny => TrafficDirection::Ingress,
            Self::Egress | Self::EgressDeny => TrafficDirection::Egress,
        }
    }

    /// Whether its rules deny.
    #[must_use]
    pub const fn is_deny(self) -> bool {
        matches!(self, Self::IngressDeny | Self::EgressDeny)
    }
}

impl CiliumPolicy {
    pub(super) fn parse(root: &Field<'_>) -> Option<Self> {
        let mut object = root.object()?;
        object.skip(&["apiVersion", "kind", "metadata", "status"]);
        let (spec, specs) = (object.take("spec"), object.take("specs"));
        object.finish();
        if spec.is_none() && specs.is_none() {
            root.reject("needs a spec or specs");
        }
        let mut policy = Self::default();
        if let Some(spec) = spec {
            policy.specs.extend(CiliumSpec::parse(&spec));
        }
        if let Some(specs) = specs {
            policy.specs.extend(specs.list(CiliumSpec::parse).unwrap_or_default());
        }
        Some(policy)
    }

    /// Hints at specifications that have no rules, or select no pod.
    pub(crate) fn hints(&self, namespace: Option<&str>) -> Vec<Problem> {
        let mut hints = Vec::new();
        for spec in &self.specs {
            let mut hint = |below: Vec<Step>, reason: String, fix: Option<&str>| {
                let field = FieldPath::new([spec.steps(), below].concat());
                let fix = fix.map(|fix| Fix::Text(fix.to_owned()));
                hints.push(Problem { field, reason, fix });
            };
            if let Some((other, way)) = spec.other_namespace(namespace) {
                let below = [vec!["endpointSelector".into()], way].concat();
                let own = namespace.unwrap_or_default();
                let reason = format!(
                    "selects no pod: a policy of namespace {own} applies to pods of {own}, and none \
                     of them is in {}",
                    quote(other)
                );
                let fix = "put the policy into that namespace, or write a \
                           CiliumClusterwideNetworkPolicy";
                hint(below, reason, Some(fix));
            }
            let is_empty = RuleSection::ALL.iter().all(|section| spec.section(*section).is_empty());
            if is_empty
                && !TrafficDirection::ALL.into_iter().any(|direction| spec.isolates(direction))
            {
                let reason = "has no rule, so it neither allows nor denies anything, and isolates \
                              no pod (newer versions of Cilium reject it)";
                hint(Vec::new(), reason.to_owned(), None);
            }
        }
        hints
    }
}

/// Fields of other kinds of policies, and what to do with them here.
const SPEC_ADVICE: &[(&str, &str)] = &[
    ("podSelector", "write endpointSelector"),
    ("selector", "write endpointSelector"),
    ("subject", "write endpointSelector"),
    (
        "policyTypes",
        "write ingress or egress instead: one that has a rule isolates, and egress: [{}] isolates \
         and allows nothing",
    ),
];
const INGRESS_ADVICE: &[(&str, &str)] = &[
    ("from", "write fromEndpoints, fromCIDRSet or fromEntities"),
    ("ports", "write toPorts, with ports in each element"),
    ("toEndpoints", "in ingress, write fromEndpoints"),
    ("toCIDR", "in ingress, write fromCIDR"),
    ("toCIDRSet", "in ingress, write fromCIDRSet"),
    ("toEntities", "in ingress, write fromEntities"),
    ("fromPorts", "write toPorts"),
];
const EGRESS_ADVICE: &[(&str, &str)] = &[
    ("to", "write toEndpoints, toCIDRSet or toEntities"),
    ("ports", "write toPorts, with ports in each element"),
    ("fromEndpoints", "in egress, write toEndpoints"),
    ("fromCIDR", "in egress, write toCIDR"),
    ("fromCIDRSet", "in egress, write toCIDRSet"),
    ("fromEntities", "in egress, write toEntities"),
];

/// Fields that stand where `endpointSelector` does, in other kinds of policies or for other ends.
const NOT_SELECTORS: &[&str] = &["nodeSelector", "podSelector", "selector", "subject"];

impl CiliumSpec {
    fn parse(field: &Field<'_>) -> Option<Self> {
        let mut spec = field.object()?;
        check_metadata(&mut spec);
        spec.reject_fields(&[("nodeSelector", "policies for nodes are not enforced")]);
        let selector = spec.take("endpointSelector");
        // A selector under another name is reported by itself.
        let is_elsewhere = NOT_SELECTORS.iter().any(|name| spec.has(name));
        if selector.is_none() && !is_elsewhere {
            field.reject("has no endpointSelector, which selects its pods");
        }
        let selector = selector.and_then(|field| LabelSelector::parse(&field, KeySyntax::Cilium));
        let default_deny = spec.take("enableDefaultDeny");
        let default_deny = default_deny.and_then(|field| parse_default_deny(&field));
        let default_deny = default_deny.unwrap_or_default();
        let mut present = false;
        let mut section = |section: RuleSection| {
            let Some(field) = spec.take(section.field()) else { return Vec::new() };
            present = true;
            field.list(|rule| CiliumRule::parse(rule, section)).unwrap_or_default()
        };
        let parsed = Self {
            field: field.path(),
            endpoint_selector: selector.unwrap_or_default(),
            default_deny,
            ingress: section(RuleSection::Ingress),
            ingress_deny: section(RuleSection::IngressDeny),
            egress: section(RuleSection::Egress),
            egress_deny: section(RuleSection::EgressDeny),
        };
        // Newer versions of Cilium also reject four empty lists. Here they get a hint.
        if !present {
            field.reject("needs one of ingress, ingressDeny, egress and egressDeny");
        }
        spec.finish_with(SPEC_ADVICE);
        Some(parsed)
    }

    /// The way to this specification: `spec`, or `specs` and an index.
    fn steps(&self) -> Vec<Step> {
        let index = self.field.strip_prefix("specs[").and_then(|rest| rest.strip_suffix(']'));
        match index.and_then(|index| index.parse::<usize>().ok()) {
            Some(index) => vec!["specs".into(), index.into()],
            None => vec!["spec".into()],
        }
    }

    /// A namespace that the selector of a policy of another one asks for, and the way to it.
    fn other_namespace(&self, own: Option<&str>) -> Option<(&str, Vec<Step>)> {
        let labels = &self.endpoint_selector.match_labels;
        let mut names =
            labels.iter().filter(|(key, _)| LabelKey::cilium(key) == LabelKey::Namespace);
        let (key, value) = names.find(|(_, value)| own.is_some_and(|own| own != value.as_str()))?;
        Some((value, vec!["matchLabels".into(), key.as_str().into()]))
    }

    /// The rules of one section.
    #[must_use]
    pub fn section(&self, section: RuleSection) -> &[CiliumRule] {
        match section {
            RuleSection::Ingress => &self.ingress,
            RuleSection::IngressDeny => &self.ingress_deny,
            RuleSection::Egress => &self.egress,
            RuleSection::EgressDeny => &self.egress_deny,
        }
    }

    /// Whether this specification isolates the endpoints that it selects: flows that no rule allows
    /// are denied.
    #[must_use]
    pub fn isolates(&self, direction: TrafficDirection) -> bool {
        let (allow, deny) = match direction {
            TrafficDirection::Ingress => (&self.ingress, &self.ingress_deny),
            TrafficDirection::Egress => (&self.egress, &self.egress_deny),
        };
        self.default_deny[direction].unwrap_or(!allow.is_empty() || !deny.is_empty())
    }
}

fn parse_default_deny(field: &Field<'_>) -> Option<PerDirection<Option<bool>>> {
    let mut object = field.object()?;
    let (ingress, egress) = (object.take("ingress"), object.take("egress"));
    object.finish();
    let read = |field: Option<Field<'_>>| field.as_ref().and_then(Field::boolean);
    Some(PerDirection { egress: read(egress), ingress: read(ingress) })
}

impl CiliumRule {
    fn parse(field: &Field<'_>, section: RuleSection) -> Option<Self> {
        let mut rule = field.object()?;
        if !section.is_deny()
            && let Some(authentication) = rule.take("authentication")
        {
            reject_authentication(&authentication);
        }
        let peers = parse_peers(&mut rule, section);
        let ports = Ports::parse(&mut rule, section);
        rule.finish_with(match section.direction() {
            TrafficDirection::Ingress => INGRESS_ADVICE,
            TrafficDirection::Egress => EGRESS_ADVICE,
        });
        Some(Self { peers, ports: ports? })
    }
}

fn reject_authentication(field: &Field<'_>) {
    let Some(mut object) = field.object() else { return };
    let mode = object.take("mode");
    object.finish();
    match mode {
        None => field.reject("has no mode"),
        Some(mode) if mode.value() != "disabled" => {
            mode.reject("mutual authentication is not enforced");
        }
        Some(_) => {}
    }
}

/// Longest `log.value`, characters.
const LOG_MAX: usize = 32;

/// Checks fields that have no part in any verdict.
fn check_metadata(spec: &mut Object<'_>) {
    if let Some(description) = spec.take("description") {
        description.string();
    }
    if let Some(labels) = spec.take("labels") {
        labels.list(|label| {
            let mut label = label.object()?;
            let fields = ["key", "value", "source"].map(|name| label.take(name));
            label.finish();
            fields.iter().flatten().for_each(|field| {
                field.string();
            });
            Some(())
        });
    }
    let Some(log) = spec.take("log") else { return };
    let Some(mut log) = log.object() else { return };
    let value = log.take("value");
    log.finish();
    if let Some(value) = value
        && let Some(text) = value.string()
        && (text.chars().count() > LOG_MAX || text.contains(char::is_control))
    {
        value.reject(format!("must be at most {LOG_MAX} characters that can be printed"));
    }
}
