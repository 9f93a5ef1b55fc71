//! What happened to endpoints: the last changes of each one's state.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use podgate_api::{ApiError, EndpointLogEntry, EndpointState, EndpointStatus};
use tokio::time::Instant;

use super::Agent;

/// Changes of one endpoint that are stored.
const CHANGES_MAX: usize = 64;

/// Endpoints with changes, at most: those without an endpoint any more are forgotten first.
const ENDPOINTS_MAX: usize = 4096;

/// How often states are compared.
const PERIOD: Duration = Duration::from_secs(1);

/// The last changes of endpoints' states.
#[derive(Default)]
pub(super) struct EndpointLog {
    by_link: BTreeMap<String, Log>,
    compared: Option<Instant>,
}

#[derive(Default)]
struct Log {
    pod: Option<String>,
    last: Option<Compared>,
    changes: VecDeque<EndpointLogEntry>,
}

/// What of an endpoint is compared.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Compared {
    state: EndpointState,
    reason: Option<String>,
    identity: Option<u32>,
    enforced: [bool; 2],
}

impl EndpointLog {
    /// Whether states are to be compared now.
    fn is_due(&mut self, now: Instant) -> bool {
        let due = self.compared.is_none_or(|last| now.duration_since(last) >= PERIOD);
        if due {
            self.compared = Some(now);
        }
        due
    }

    /// Compares all endpoints with what was seen last.
    fn compare(&mut self, endpoints: &[EndpointStatus], time: Timestamp) {
        for (link, log) in &mut self.by_link {
            let is_there = endpoints.iter().any(|endpoint| endpoint.spec.link == *link);
            if !is_there && log.last.take().is_some() {
                log.push(time, "OK", "removed", "the endpoint was removed".to_owned());
            }
        }
        for endpoint in endpoints {
            if self.by_link.len() >= ENDPOINTS_MAX
                && !self.by_link.contains_key(&endpoint.spec.link)
            {
                self.by_link.retain(|_, log| log.last.is_some());
            }
            if self.by_link.len() < ENDPOINTS_MAX || self.by_link.contains_key(&endpoint.spec.link)
            {
                self.by_link.entry(endpoint.spec.link.clone()).or_default().see(endpoint, time);
            }
        }
    }

    /// The changes of an endpoint that is named by its link or pod, oldest first.
    fn of(&self, named: &str) -> Option<Vec<EndpointLogEntry>> {
        let by_pod = || self.by_link.values().rev().find(|log| log.pod.as_deref() == Some(named));
        let log = self.by_link.get(named).or_else(by_pod)?;
        Some(log.changes.iter().cloned().collect())
    }
}

impl Log {
    fn see(&mut self, endpoint: &EndpointStatus, time: Timestamp) {
        let seen = Compared {
            state: endpoint.state,
            reason: endpoint.reason.clone(),
            identity: endpoint.identity,
            enforced: [endpoint.ingress_enforced, endpoint.egress_enforced],
        };
        if self.last.as_ref() == Some(&seen) {
            return;
        }
        self.pod = endpoint.spec.pod.as_ref().map(ToString::to_string);
        let status = match seen.state {
            EndpointState::Ready => "OK",
            EndpointState::Waiting => "Waiting",
            EndpointState::Gone => "Failure",
        };
        let message = message(self.last.as_ref(), &seen);
        self.push(time, status, &seen.state.to_string(), message);
        self.last = Some(seen);
    }

    fn push(&mut self, time: Timestamp, status: &str, state: &str, message: String) {
        if self.changes.len() == CHANGES_MAX {
            self.changes.pop_front();
        }
        let (status, state) = (status.to_owned(), state.to_owned());
        self.changes.push_back(EndpointLogEntry {
            time: format!("{time:.0}"),
            status,
            state,
            message,
        });
    }
}

fn message(before: Option<&Compared>, now: &Compared) -> String {
    if let Some(reason) = &now.reason {
        return reason.clone();
    }
    let enforced = match now.enforced {
        [false, false] => "no policy selects it",
        [true, false] => "ingress is enforced",
        [false, true] => "egress is enforced",
        [true, true] => "ingress and egress are enforced",
    };
    let identity = now.identity.map_or_else(String::new, |number| format!("identity {number}, "));
    match before {
        None => format!("attached: {identity}{enforced}"),
        Some(before) if before.state != now.state => {
            format!("now {}: {identity}{enforced}", now.state)
        }
        Some(_) => format!("{identity}{enforced}"),
    }
}

impl Agent {
    /// Compares endpoints with what was seen of them last, if that is due.
    pub(super) fn log_endpoints(&mut self) {
        if self.endpoint_log.is_due(Instant::now()) {
            self.endpoint_log.compare(&self.endpoint_list(), Timestamp::now());
        }
    }

    /// The changes of an endpoint.
    pub(super) fn endpoint_changes(
        &mut self,
        named: &str,
    ) -> Result<Vec<EndpointLogEntry>, ApiError> {
        self.endpoint_log.compare(&self.endpoint_list(), Timestamp::now());
        self.endpoint_log.of(named).ok_or_else(|| {
            ApiError::failed(format!("{named} is neither the pod nor the link of an endpoint"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use podgate_api::EndpointSpec;

    use super::*;

    fn endpoint(state: EndpointState, reason: Option<&str>) -> EndpointStatus {
        let spec = EndpointSpec {
            link: "veth0".into(),
            pod: Some("shop/cart".parse().unwrap()),
            netns: None,
            mac: None,
            mtu: None,
            assigned: Vec::new(),
        };
        EndpointStatus {
            spec,
            state,
            reason: reason.map(str::to_owned),
            addresses: Vec::new(),
            identity: (state == EndpointState::Ready).then_some(300),
            ingress_enforced: state == EndpointState::Ready,
            egress_enforced: false,
        }
    }

    #[test]
    fn an_endpoint_has_an_entry_for_each_change_of_its_state() {
        let mut log = EndpointLog::default();
        let time = Timestamp::UNIX_EPOCH;
        let waiting = endpoint(EndpointState::Waiting, Some("pod shop/cart is not known"));
        let ready = endpoint(EndpointState::Ready, None);
        for list in [Some(&waiting), Some(&waiting), Some(&ready), Some(&ready), None] {
            log.compare(list.map_or(&[][..], slice::from_ref), time);
        }
        let entries = log.of("shop/cart").unwrap();
        assert_eq!(log.of("veth0"), Some(entries.clone()));
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| format!("{} {}: {}", entry.status, entry.state, entry.message))
            .collect();
        assert_eq!(
            entries,
            [
                "Waiting waiting: pod shop/cart is not known",
                "OK ready: now ready: identity 300, ingress is enforced",
                "OK removed: the endpoint was removed",
            ]
        );
        assert_eq!(log.of("shop/web"), None);
    }

    #[test]
    fn the_log_of_an_endpoint_is_bounded() {
        let mut log = EndpointLog::default();
        for number in 0..200 {
            let reason = number.to_string();
            log.compare(&[endpoint(EndpointState::Waiting, Some(&reason))], Timestamp::UNIX_EPOCH);
        }
        let entries = log.of("veth0").unwrap();
        assert_eq!((entries.len(), entries[0].message.as_str()), (CHANGES_MAX, "136"));
    }
}
