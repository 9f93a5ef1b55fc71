//! Answers about policies.

use std::collections::BTreeSet;
use std::time::Duration;

use podgate_api::{
    ApiError, EndpointTable, Explained, PodName, PolicyDetail, PolicyFilter, PolicyList,
    PolicyState, PolicyStatus, PortsDetail, RejectedField, RuleDetail, RuleSetDetail, WAIT_MAX_S,
};
use podgate_policy::explain::{
    End, Local, Query, SelectorInfo, ServiceEntry, explain, l7_words, most_similar, selectors,
    service_list, table_rows, tier_name,
};
use podgate_policy::rules::{Rule, RulePorts, RuleSet, TrafficDirection};
use podgate_policy::{Compiled, PolicyState as StoreState, Store};
use podgate_tables::address::Address;
use podgate_tables::ids::Epoch;
use tokio::time::Instant;

use super::super::Agent;
use super::super::endpoints::Endpoint;
use super::super::server::ReplySender;
use crate::explanation::rejected_note;

/// Whose policy an explanation evaluates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sides {
    /// That of ends that are ready endpoints of this node.
    OfThisNode,
    /// That of both ends, wherever they are.
    Both,
}

impl Agent {
    /// Policies with their state, and all rejected fields.
    pub(super) fn policy_list(&self) -> PolicyList {
        let policies = self.plane.store().policies();
        PolicyList {
            epoch: self.plane.epoch().0,
            policies: policies.map(|policy| policy_status(self.plane.store(), &policy)).collect(),
            rejected: self.plane.store().rejections().map(RejectedField::from).collect(),
        }
    }

    /// Details of policies.
    pub(super) fn policy_details(
        &self,
        filter: &PolicyFilter,
    ) -> Result<Vec<PolicyDetail>, ApiError> {
        policy_details(self.plane.store(), filter)
    }

    /// The tables in force.
    pub(super) fn in_force(&self) -> Result<&Compiled, ApiError> {
        self.plane.in_force().ok_or_else(|| ApiError::failed("policy has not been published yet"))
    }

    /// The services that workers translate.
    pub(super) fn services(&self) -> Result<Vec<ServiceEntry>, ApiError> {
        Ok(service_list(self.plane.store(), self.in_force()?))
    }

    /// Selectors of peers.
    pub(super) fn selectors(&self) -> Result<Vec<SelectorInfo>, ApiError> {
        Ok(selectors(self.plane.store(), self.in_force()?))
    }

    /// The table of the endpoint with this link, or this pod.
    pub(super) fn endpoint_table(&self, asked: &str) -> Result<EndpointTable, ApiError> {
        let compiled = self.in_force()?;
        let named = |e: &&Endpoint| e.spec.link == asked || e.spec.pod.to_string() == asked;
        let Some(endpoint) = self.endpoints.iter().map(|(_, endpoint)| endpoint).find(named) else {
            return Err(self.no_such_endpoint(asked));
        };
        let addresses = endpoint.addresses(self.plane.store()).map_err(ApiError::failed)?;
        let address =
            addresses.first().ok_or_else(|| ApiError::failed("the endpoint has no address"))?;
        let address = Address::from(*address);
        Ok(EndpointTable {
            pod: endpoint.spec.pod.clone(),
            link: endpoint.spec.link.clone(),
            identity: compiled.tables.resolve(address).identity.number,
            epoch: self.plane.epoch().0,
            rows: table_rows(compiled, address),
        })
    }

    fn no_such_endpoint(&self, asked: &str) -> ApiError {
        let names = self
            .endpoints
            .iter()
            .flat_map(|(_, endpoint)| [endpoint.spec.pod.to_string(), endpoint.spec.link.clone()]);
        let hint = suggestion(&most_similar(asked, names.map(|name| (name.clone(), name))));
        ApiError::failed(format!("{asked} is neither the pod nor the link of an endpoint{hint}"))
    }

    /// Explains a flow by the tables in force.
    pub(super) fn explain(&self, query: &Query, sides: Sides) -> Result<Explained, ApiError> {
        let (epoch, compiled) = (self.plane.epoch(), self.in_force()?);
        let ready = self.endpoints.iter().filter(|(link, at)| self.why_waiting(link, at).is_none());
        let endpoints =
            ready.filter_map(|(_, endpoint)| endpoint.addresses(self.plane.store()).ok());
        let endpoints: BTreeSet<_> = endpoints.flatten().copied().collect();
        let local = match sides {
            Sides::Both => Local::Both,
            Sides::OfThisNode => Local::Endpoints(&endpoints),
        };
        let explanation =
            explain(self.plane.store(), compiled, query, local).map_err(ApiError::failed)?;
        let (source, destination) = (&explanation.source, &explanation.destination);
        let mut notes: Vec<String> =
            [source, destination].into_iter().filter_map(|end| self.hint_about_end(end)).collect();
        if !source.local && !destination.local {
            let hint = "ask the agent of a node that has one of them, or add --both-sides";
            let why = notes.first().map(|note| format!(" ({note})")).unwrap_or_default();
            return Err(ApiError::failed(format!(
                "neither {} nor {} is a ready endpoint of this node, so no policy applies \
                 here{why}: {hint}",
                query.from, query.to
            )));
        }
        notes.extend(rejected_note(self.plane.store()));
        Ok(Explained { epoch: Some(epoch.0), notes, explanation })
    }

    /// A note on an end that is a pod but no ready endpoint of this node.
    fn hint_about_end(&self, end: &End) -> Option<String> {
        let pod = PodName {
            namespace: end.peer.namespace.as_deref()?.into(),
            name: end.peer.pod.as_deref()?.into(),
        };
        let endpoint = self.endpoints.iter().find(|(_, endpoint)| endpoint.spec.pod == pod);
        match endpoint.map(|(link, endpoint)| (self.why_waiting(link, endpoint), &endpoint.link)) {
            Some((Some(reason), _)) => Some(format!("{pod} is cut off: {reason}")),
            Some((None, Err(gone))) => Some(format!("{pod} is cut off: {gone}")),
            Some((None, Ok(_))) => None,
            None if end.local => None,
            None => Some(format!(
                "{pod} is not an endpoint of this node: its own node applies its policy"
            )),
        }
    }

    /// Answers when the epoch is in force, or after the timeout.
    pub(super) fn wait_for_epoch(&mut self, wanted: Epoch, timeout_s: u32, reply: ReplySender) {
        if timeout_s > WAIT_MAX_S {
            let error = format!("timeout_s is {timeout_s}; it is {WAIT_MAX_S} at most");
            return self.reply(reply, Err(ApiError::failed(error)));
        }
        self.waiting.add(wanted, Duration::from_secs(timeout_s.into()), reply);
        self.answer_waiting();
    }

    /// Answers clients whose epoch is in force, or whose timeout is over.
    pub(in super::super) fn answer_waiting(&mut self) {
        if self.host.routes_are_applied() {
            self.waiting.answer(self.epoch_in_force(), Instant::now());
        }
    }

    /// The oldest epoch that a worker uses.
    pub(in super::super) fn epoch_in_force(&self) -> Epoch {
        let stats = &self.dataplane().shared().stats;
        let epochs = stats.iter().map(|worker| worker.epoch.get());
        Epoch(epochs.min().unwrap_or_default())
    }
}

fn state(state: StoreState) -> PolicyState {
    match state {
        StoreState::Enforced => PolicyState::Enforced,
        StoreState::Outdated => PolicyState::Outdated,
        StoreState::Rejected => PolicyState::Rejected,
    }
}

fn policy_status(store: &Store, policy: &podgate_policy::PolicyStatus<'_>) -> PolicyStatus {
    PolicyStatus {
        kind: policy.key.kind.name().to_owned(),
        namespace: policy.key.namespace.clone(),
        name: policy.key.name.clone(),
        state: state(policy.state),
        pods: store.selected_pods(policy.key).count(),
    }
}

fn policy_details(store: &Store, filter: &PolicyFilter) -> Result<Vec<PolicyDetail>, ApiError> {
    let fits =
        |wanted: &Option<String>, have: &str| wanted.as_deref().is_none_or(|wanted| wanted == have);
    let pod = filter.pod.as_ref().map(|pod| (pod, store.selecting(pod)));
    let chosen = store.policies().filter(|policy| {
        let namespace = policy.key.namespace.as_deref().unwrap_or_default();
        fits(&filter.kind, policy.key.kind.name())
            && fits(&filter.namespace, namespace)
            && fits(&filter.name, &policy.key.name)
            && pod.as_ref().is_none_or(|(_, selected_by)| selected_by(policy.key))
    });
    let selected = |key| match &pod {
        Some((pod, _)) => vec![pod.to_string()],
        None => store.selected_pods(key).map(ToString::to_string).collect(),
    };
    let details: Vec<_> = chosen
        .map(|policy| PolicyDetail {
            status: policy_status(store, &policy),
            rejected: policy
                .rejections
                .iter()
                .chain(policy.warnings)
                .map(RejectedField::from)
                .collect(),
            specs: store
                .rule_sets(policy.key)
                .map_or(&[][..], |sets| sets)
                .iter()
                .map(rule_set)
                .collect(),
            selected: selected(policy.key),
        })
        .collect();
    match &filter.name {
        Some(name) if details.is_empty() => Err(no_such_policy(store, filter, name)),
        _ => Ok(details),
    }
}

fn no_such_policy(store: &Store, filter: &PolicyFilter, name: &str) -> ApiError {
    let policies = store.policies().map(|policy| (policy.key.name.clone(), policy.key));
    let similar = most_similar(name, policies);
    let hint = suggestion(&similar.iter().map(ToString::to_string).collect::<Vec<_>>());
    let kind = filter.kind.as_deref().unwrap_or("policy");
    let place = filter.namespace.as_ref().map(|ns| format!("{ns}/")).unwrap_or_default();
    ApiError::failed(format!("there is no {kind} {place}{name}{hint}"))
}

/// The part of an error message that suggests names.
fn suggestion(similar: &[String]) -> String {
    match similar.is_empty() {
        true => String::new(),
        false => format!("; is {} meant?", similar.join(" or ")),
    }
}

fn rule_set(set: &RuleSet) -> RuleSetDetail {
    let isolates =
        TrafficDirection::ALL.into_iter().filter(|direction| set.default_deny[*direction]);
    RuleSetDetail {
        subject: set.endpoint_selector.to_string(),
        isolates: isolates.map(|direction| direction.to_string()).collect(),
        rules: set.rules.iter().map(rule).collect(),
    }
}

fn rule(rule: &Rule) -> RuleDetail {
    let in_words = |list: &Vec<podgate_policy::rules::PeerSelector>| {
        list.iter().map(ToString::to_string).collect()
    };
    RuleDetail {
        path: rule.field.clone(),
        direction: rule.direction.to_string(),
        effect: rule.action.into(),
        tier: tier_name(rule.precedence.tier).to_owned(),
        priority: rule.precedence.priority,
        peers: rule.peers.as_ref().map(in_words),
        ports: rule.ports.as_ref().map(|list| list.iter().map(ports).collect()),
    }
}

fn ports(element: &RulePorts) -> PortsDetail {
    let l7 = element.l7.as_deref().map(l7_words);
    PortsDetail { ports: element.ports.to_string(), l7 }
}
