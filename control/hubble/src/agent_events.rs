//! Events of the agent: the last ones, and new ones for clients that follow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::broadcast;

use crate::flow::timestamp;
use crate::proto::flow::agent_event::Notification;
use crate::proto::flow::{
    AgentEvent, AgentEventType, EndpointUpdateNotification, PolicyUpdateNotification,
    TimeNotification,
};

/// Most events that are stored.
const EVENTS_MAX: usize = 256;

/// An event, and when it happened.
pub(crate) type Timed = (Timestamp, AgentEvent);

/// The last events of the agent.
#[derive(Debug)]
pub struct AgentEvents {
    last: Mutex<VecDeque<Timed>>,
    live: broadcast::Sender<Arc<Timed>>,
}

impl Default for AgentEvents {
    fn default() -> Self {
        Self { last: Mutex::default(), live: broadcast::Sender::new(EVENTS_MAX) }
    }
}

impl AgentEvents {
    /// The agent started.
    pub fn started(&self, time: Timestamp) {
        let notification = TimeNotification { time: Some(timestamp(time)) };
        self.push(time, AgentEventType::AgentStarted, Notification::AgentStart(notification));
    }

    /// Tables with `policies` policies are in force; `epoch` is their number.
    pub fn policy_updated(&self, time: Timestamp, epoch: u64, policies: usize) {
        let notification = PolicyUpdateNotification {
            labels: Vec::new(),
            revision: epoch,
            rule_count: i64::try_from(policies).unwrap_or(i64::MAX),
        };
        self.push(time, AgentEventType::PolicyUpdated, Notification::PolicyUpdate(notification));
    }

    /// A pod was attached.
    pub fn endpoint_created(&self, time: Timestamp, namespace: &str, pod: &str) {
        self.endpoint(time, AgentEventType::EndpointCreated, namespace, pod);
    }

    /// A pod was detached.
    pub fn endpoint_deleted(&self, time: Timestamp, namespace: &str, pod: &str) {
        self.endpoint(time, AgentEventType::EndpointDeleted, namespace, pod);
    }

    fn endpoint(&self, time: Timestamp, kind: AgentEventType, namespace: &str, pod: &str) {
        let notification = EndpointUpdateNotification {
            pod_name: pod.to_owned(),
            namespace: namespace.to_owned(),
            ..EndpointUpdateNotification::default()
        };
        self.push(time, kind, Notification::EndpointUpdate(notification));
    }

    fn push(&self, time: Timestamp, kind: AgentEventType, notification: Notification) {
        let event = AgentEvent { r#type: kind.into(), notification: Some(notification) };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == EVENTS_MAX {
            last.pop_front();
        }
        last.push_back((time, event.clone()));
        // Fails without followers.
        let _ = self.live.send(Arc::new((time, event)));
    }

    /// The stored events, oldest first, and all new ones.
    pub(crate) fn follow(&self) -> (Vec<Timed>, broadcast::Receiver<Arc<Timed>>) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        (last.iter().cloned().collect(), self.live.subscribe())
    }
}
