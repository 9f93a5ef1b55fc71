//! Which nodes serve flows (`peer.Peer`), and whether this server works (`grpc.health.v1`).

use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::proto::Responses;
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::health_server::Health;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};
use crate::proto::observer;
use crate::proto::peer::peer_server::Peer;
use crate::proto::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest, Tls};
use crate::proto::relay::NodeState;
use crate::source::Counts;

/// A node that serves flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where it serves them: `ADDRESS:PORT`, or `unix://PATH`.
    pub address: String,
    /// Name in its certificate; none without TLS.
    pub tls_server_name: Option<String>,
}

/// A node with its counters, as clients read it.
pub(crate) fn node_of(
    node: &Node,
    version: &str,
    uptime_ns: u64,
    counts: Counts,
) -> observer::Node {
    observer::Node {
        name: node.name.clone(),
        version: version.to_owned(),
        address: node.address.clone(),
        state: NodeState::NodeConnected.into(),
        tls: Some(observer::Tls {
            enabled: node.tls_server_name.is_some(),
            server_name: node.tls_server_name.clone().unwrap_or_default(),
        }),
        uptime_ns,
        num_flows: counts.stored,
        max_flows: counts.capacity,
        seen_flows: counts.seen,
    }
}

/// The service of peers.
pub(crate) struct PeerService {
    /// All nodes.
    pub(crate) nodes: watch::Receiver<Vec<Node>>,
}

#[tonic::async_trait]
impl Peer for PeerService {
    type NotifyStream = Responses<ChangeNotification>;

    async fn notify(
        &self,
        _: Request<NotifyRequest>,
    ) -> Result<Response<Self::NotifyStream>, Status> {
        let mut nodes = self.nodes.clone();
        let (to, responses) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut known: Vec<Node> = Vec::new();
            loop {
                let now = nodes.borrow_and_update().clone();
                for change in changes(&known, &now) {
                    if to.send(Ok(change)).await.is_err() {
                        return;
                    }
                }
                known = now;
                let changed = tokio::select! {
                    changed = nodes.changed() => changed,
                    () = to.closed() => return,
                };
                if changed.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

/// What changed between two lists of nodes.
fn changes(before: &[Node], now: &[Node]) -> Vec<ChangeNotification> {
    let named = |nodes: &[Node], name: &str| nodes.iter().find(|node| node.name == name).cloned();
    let gone = before.iter().filter(|node| named(now, &node.name).is_none());
    let gone = gone.map(|node| notification(node, ChangeNotificationType::PeerDeleted));
    let new = now.iter().filter_map(|node| match named(before, &node.name) {
        None => Some(notification(node, ChangeNotificationType::PeerAdded)),
        Some(old) if old != *node => Some(notification(node, ChangeNotificationType::PeerUpdated)),
        Some(_) => None,
    });
    gone.chain(new).collect()
}

fn notification(node: &Node, kind: ChangeNotificationType) -> ChangeNotification {
    ChangeNotification {
        name: node.name.clone(),
        address: node.address.clone(),
        r#type: kind.into(),
        tls: node.tls_server_name.clone().map(|server_name| Tls { server_name }),
    }
}

/// The service of health.
pub(crate) struct HealthService;

/// Services that are there; the one before last is what Hubble's clients call the observer.
const SERVICES: [&str; 5] =
    ["", "observer.Observer", "peer.Peer", "hubble.server.Observer", "grpc.health.v1.Health"];

fn health(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Responses<HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match SERVICES.contains(&request.get_ref().service.as_str()) {
            true => Ok(Response::new(health(ServingStatus::Serving))),
            false => Err(Status::not_found("there is no such service")),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = match SERVICES.contains(&request.get_ref().service.as_str()) {
            true => ServingStatus::Serving,
            false => ServingStatus::ServiceUnknown,
        };
        // It doesn't change while the server runs.
        let responses = stream::iter([Ok(health(status))]).chain(stream::pending());
        Ok(Response::new(Box::pin(responses)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_learns_of_each_change_of_nodes() {
        let node = |name: &str, address: &str| Node {
            name: name.into(),
            address: address.into(),
            tls_server_name: Some(format!("{name}.example")),
        };
        let before = [node("a", "192.0.2.1:1"), node("b", "192.0.2.2:1")];
        let now = [node("b", "192.0.2.3:1"), node("c", "192.0.2.4:1")];
        let seen = |changes: Vec<ChangeNotification>| -> Vec<_> {
            changes.into_iter().map(|change| (change.name, change.r#type)).collect()
        };
        let [a, b, c] = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(seen(changes(&[], &before)), [(a.clone(), 1), (b.clone(), 1)]);
        assert_eq!(seen(changes(&before, &now)), [(a, 2), (b, 3), (c, 1)]);
        assert_eq!(changes(&now, &now), []);
    }
}
