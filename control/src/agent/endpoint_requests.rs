//! Clients' requests about endpoints, from the request to the reply.

use anyhow::Result;
use serde_json::{Value, json};
use tracing::info;

use super::Agent;
use super::endpoints::{
    Admission, AfterRestore, Attached, Completed, Endpoint, EndpointRequest, PodEnd, Prepared,
    Purpose,
};
use super::server::{Reply, ReplySender};
use crate::error::describe;
use jiff::Timestamp;
use podgate_api::{ApiError, EndpointSpec};
use podgate_policy::PodName;

impl Agent {
    /// Carries out a request, or queues it until the operation ends that runs on its link.
    pub(super) fn request_endpoint(&mut self, request: EndpointRequest) {
        match self.endpoints.queue(request) {
            Ok(()) => {}
            Err(EndpointRequest::Add(spec, reply)) => self.add_endpoint(spec, reply),
            Err(EndpointRequest::Remove(link, reply)) => self.remove_endpoint(&link, reply),
        }
    }

    /// Puts a pod's link under policy. If that fails nothing has changed but perhaps the link's
    /// MTU.
    fn add_endpoint(&mut self, spec: EndpointSpec, reply: ReplySender) {
        match self.endpoints.admit(&spec) {
            Ok(Admission::New) => {
                let own = self.host.own();
                self.endpoints.start_prepare(spec, own, Purpose::Add(reply));
            }
            Ok(Admission::Attached) => self.added(&spec.link, Ok(()), reply),
            Err(error) => self.added(&spec.link, Err(error), reply),
        }
    }

    /// Replies to a request to add an endpoint.
    fn added(&mut self, link: &str, result: Result<()>, reply: ReplySender) {
        if result.is_ok() {
            self.save();
        }
        // The reply says what is in force.
        self.publish();
        let answer = result.map(|()| Reply::Value(json!(self.endpoint_status(link))));
        let answer = answer.map_err(|error| ApiError::failed(describe(error.as_ref())));
        let endpoint = self.endpoints.get(link);
        let addresses = endpoint.and_then(|endpoint| endpoint.addresses(self.plane.store()).ok());
        let addresses = addresses.unwrap_or_default().to_vec();
        self.host.after_routes(move |routes| {
            // One route suffices: without IPv6 on the node, for instance, a pod is reached by IPv4.
            let of_all: Option<Vec<_>> =
                addresses.iter().map(|address| routes.failed.get(address)).collect();
            let answer = match of_all.and_then(|reasons| reasons.into_iter().next()) {
                Some(reason) => answer.and(Err(ApiError::failed(format!(
                    "the pod is under policy, but the node has no route to it: {reason}; it is tried \
                     again every second"
                )))),
                None => answer,
            };
            _ = reply.send(answer);
        });
    }

    /// Detaches a pod's link: from here on, no policy applies to the pod.
    fn remove_endpoint(&mut self, link: &str, reply: ReplySender) {
        let Some(Endpoint { spec, link: attached, offload }) = self.endpoints.remove(link) else {
            let removed = self.endpoints.remove_unknown(link);
            let answer = removed.map(|()| Reply::Value(Value::Null));
            let answer = answer.map_err(|error| ApiError::failed(describe(error.as_ref())));
            return self.reply(reply, answer);
        };
        info!("endpoint {} on link {link} removed", spec.pod);
        let PodName { namespace, name } = &spec.pod;
        self.observer.agent_events().endpoint_deleted(Timestamp::now(), namespace, name);
        // First the routes to it are removed, then it is detached.
        self.publish();
        match attached {
            Ok(Attached { slot, .. }) => self.endpoints.detach(slot, link),
            Err(_) => self.endpoints.unpin_unattached(link),
        }
        if offload.is_turned_off() {
            self.endpoints.start_restore(spec, AfterRestore::Removed(reply));
        } else {
            self.removed(reply);
        }
    }

    /// Replies to a request to remove an endpoint.
    fn removed(&mut self, reply: ReplySender) {
        self.save();
        self.reply(reply, Ok(Reply::Value(Value::Null)));
    }

    /// Takes the result of a task.
    pub(super) fn on_completed(&mut self, completed: Completed) {
        match completed {
            Completed::Prepared { spec, purpose, result } => {
                self.on_prepared(spec, purpose, result);
            }
            Completed::StillGone(link) => {
                self.endpoints.still_gone(&link);
                self.operation_ended(&link);
            }
            Completed::Inspected { link, index, result } => {
                let effect = self.endpoints.inspected(&link, index, result);
                if effect.publish {
                    self.plane.request();
                }
                if effect.save {
                    self.save();
                }
                self.operation_ended(&link);
            }
            Completed::OffloadRestored { link, then } => {
                match then {
                    AfterRestore::Removed(reply) => self.removed(reply),
                    AfterRestore::NotAdded(reply, error) => self.added(&link, Err(error), reply),
                    AfterRestore::Nothing => {}
                }
                self.operation_ended(&link);
            }
        }
    }

    fn on_prepared(&mut self, spec: EndpointSpec, purpose: Purpose, result: Result<Prepared>) {
        let link = spec.link.clone();
        let turned_off =
            result.as_ref().is_ok_and(|prepared| prepared.pod_end.offload.is_turned_off());
        let attached = result.and_then(|prepared| self.attach(&spec, prepared));
        let then = match (purpose, attached) {
            (Purpose::Add(reply), Ok((attached, pod_end))) => {
                let PodName { namespace, name } = &spec.pod;
                self.observer.agent_events().endpoint_created(Timestamp::now(), namespace, name);
                self.endpoints.insert(spec, attached, pod_end);
                self.added(&link, Ok(()), reply);
                return self.operation_ended(&link);
            }
            (Purpose::Add(reply), Err(error)) if turned_off => AfterRestore::NotAdded(reply, error),
            (Purpose::Add(reply), Err(error)) => {
                self.added(&link, Err(error), reply);
                return self.operation_ended(&link);
            }
            (Purpose::Reattach, result) => {
                let failed = result.is_err();
                if self.endpoints.reattached(&spec, result) {
                    self.save();
                }
                self.plane.request();
                if !(failed && turned_off) {
                    return self.operation_ended(&link);
                }
                AfterRestore::Nothing
            }
        };
        self.endpoints.start_restore(spec, then);
    }

    fn attach(&mut self, spec: &EndpointSpec, prepared: Prepared) -> Result<(Attached, PodEnd)> {
        // Another request may have added the pod meanwhile.
        self.endpoints.admit(spec)?;
        // The slot may be that of a link that is gone: tables that still know its pod must not be
        // in force when another pod sends by it.
        self.catch_up();
        let pod_end = prepared.pod_end;
        Ok((self.endpoints.attach(prepared)?, pod_end))
    }

    /// Ends the operation on a link: requests that waited for it are carried out.
    fn operation_ended(&mut self, link: &str) {
        let (waiting, changes) = self.endpoints.end_operation(link);
        self.reconcile_changes(link, changes);
        for request in waiting {
            self.request_endpoint(request);
        }
        self.reconcile_waiting();
    }
}
