//! CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy, `cilium.io/v2`
//! (cilium `pkg/policy/api/{rule,ingress,egress,cidr,entity,rule_validation}.go`).
//!
//! Where Cilium's documentation and its code differ, the code is followed.

use super::cilium_peers::{CiliumPeer, parse_peers};
use super::cilium_ports::Ports;
use super::selector::{KeySyntax, LabelSelector};
use crate::fields::{Field, Object};

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
    /// `enableDefaultDeny.ingress`; the default is whether there are rules for ingress.
    pub default_deny_ingress: Option<bool>,
    /// `enableDefaultDeny.egress`; the default is whether there are rules for egress.
    pub default_deny_egress: Option<bool>,
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
    /// Who may be at the other end. `None` when no field names peers; an empty list when one does
    /// and lists nobody, which matches nobody.
    pub peers: Option<Vec<CiliumPeer>>,
    /// On which ports.
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

    /// Whether it is about flows to the selected endpoints.
    #[must_use]
    pub const fn is_ingress(self) -> bool {
        matches!(self, Self::Ingress | Self::IngressDeny)
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
            root.refuse("needs a spec or specs");
        }
        let mut policy = Self::default();
        if let Some(spec) = spec {
            policy.specs.extend(CiliumSpec::parse(&spec));
        }
        if let Some(specs) = specs {
            policy.specs.extend(specs.list(CiliumSpec::parse)?);
        }
        Some(policy)
    }
}

impl CiliumSpec {
    fn parse(field: &Field<'_>) -> Option<Self> {
        let mut spec = field.object()?;
        check_metadata(&mut spec);
        spec.refuse_fields(&[("nodeSelector", "policies for nodes are not enforced")]);
        let endpoint_selector = match spec.take("endpointSelector") {
            Some(field) => LabelSelector::parse(&field, KeySyntax::Cilium)?,
            None => {
                field.refuse_with_fix("has no endpointSelector", "write {} to select every pod");
                return None;
            }
        };
        let (default_deny_ingress, default_deny_egress) = match spec.take("enableDefaultDeny") {
            Some(field) => parse_default_deny(&field)?,
            None => (None, None),
        };
        let mut present = false;
        let mut section = |section: RuleSection| {
            let Some(field) = spec.take(section.field()) else { return Vec::new() };
            present = true;
            field.list(|rule| CiliumRule::parse(rule, section)).unwrap_or_default()
        };
        let parsed = Self {
            field: field.path(),
            endpoint_selector,
            default_deny_ingress,
            default_deny_egress,
            ingress: section(RuleSection::Ingress),
            ingress_deny: section(RuleSection::IngressDeny),
            egress: section(RuleSection::Egress),
            egress_deny: section(RuleSection::EgressDeny),
        };
        // Newer versions of Cilium also refuse four empty lists. They say nothing, so they are let be.
        if !present {
            field.refuse("needs one of ingress, ingressDeny, egress and egressDeny");
        }
        spec.finish();
        Some(parsed)
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

    /// Whether this specification isolates the endpoints that it selects, for ingress or egress:
    /// what is not allowed is then denied.
    #[must_use]
    pub fn default_deny(&self, ingress: bool) -> bool {
        let (explicit, allow, deny) = match ingress {
            true => (self.default_deny_ingress, &self.ingress, &self.ingress_deny),
            false => (self.default_deny_egress, &self.egress, &self.egress_deny),
        };
        explicit.unwrap_or(!allow.is_empty() || !deny.is_empty())
    }
}

fn parse_default_deny(field: &Field<'_>) -> Option<(Option<bool>, Option<bool>)> {
    let mut object = field.object()?;
    let (ingress, egress) = (object.take("ingress"), object.take("egress"));
    object.finish();
    let read = |field: Option<Field<'_>>| field.as_ref().and_then(Field::boolean);
    Some((read(ingress), read(egress)))
}

impl CiliumRule {
    fn parse(field: &Field<'_>, section: RuleSection) -> Option<Self> {
        let mut rule = field.object()?;
        if !section.is_deny()
            && let Some(authentication) = rule.take("authentication")
        {
            refuse_authentication(&authentication);
        }
        let peers = parse_peers(&mut rule, section);
        let ports = Ports::parse(&mut rule, section);
        rule.finish();
        Some(Self { peers, ports: ports? })
    }
}

fn refuse_authentication(field: &Field<'_>) {
    let Some(mut object) = field.object() else { return };
    let mode = object.take("mode");
    object.finish();
    match mode {
        None => field.refuse("has no mode"),
        Some(mode) if mode.value() != "disabled" => mode.refuse_with_fix(
            "mutual authentication is not enforced",
            "write disabled, or leave out authentication",
        ),
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
        value.refuse(format!("must be at most {LOG_MAX} characters that can be printed"));
    }
}
