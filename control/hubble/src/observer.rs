//! The service of flows, `observer.Observer`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use podgate_api::FlowItem;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::agent_events::{AgentEvents, Timed};
use crate::flow::{Translator, timestamp};
use crate::peers::{Node, node_of};
use crate::proto::Responses;
use crate::proto::observer::observer_server::Observer;
use crate::proto::observer::{
    GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
    GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse,
    GetNodesRequest, GetNodesResponse, Namespace, ServerStatusRequest, ServerStatusResponse,
};
use crate::read::{Query, Range, Reader, range};
use crate::source::{FlowSource, Observed};

/// Most streams of a socket at a time.
pub(crate) const STREAMS_MAX: usize = 64;
/// Responses that are made before a client has read those before.
const RESPONSES_AHEAD: usize = 64;
/// The time over which the rate of flows is measured.
const RATE_PERIOD: Duration = Duration::from_secs(60);

/// The service.
pub(crate) struct ObserverService<S> {
    pub(crate) source: Arc<S>,
    pub(crate) agent_events: Arc<AgentEvents>,
    pub(crate) translator: Arc<Translator>,
    /// All nodes, this one among them.
    pub(crate) nodes: watch::Receiver<Vec<Node>>,
    pub(crate) version: String,
    pub(crate) started: Instant,
    pub(crate) streams: Arc<Semaphore>,
}

/// The metadata with the server's version, which clients compare with theirs.
const VERSION_HEADER: &str = "hubble-server-version";

impl<S: FlowSource> ObserverService<S> {
    fn place(&self) -> Result<OwnedSemaphorePermit, Status> {
        let place = Arc::clone(&self.streams).try_acquire_owned();
        place.map_err(|_| {
            Status::resource_exhausted(format!("{STREAMS_MAX} streams are open already"))
        })
    }

    /// A message with the server's version in its metadata.
    fn answer<T>(&self, message: T) -> Result<Response<T>, Status> {
        let mut response = Response::new(message);
        let number = self.version.rsplit_once(" v").map_or(&*self.version, |(_, number)| number);
        if let Ok(number) = number.parse() {
            response.metadata_mut().insert(VERSION_HEADER, number);
        }
        Ok(response)
    }

    fn uptime_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Records per second in the last minute, of those that the log has.
fn rate(past: &[Arc<Observed>], now: Timestamp) -> f64 {
    let begin = now - RATE_PERIOD;
    let recent = past.iter().filter(|observed| observed.time >= begin);
    let records = recent.filter(|observed| matches!(observed.item, FlowItem::Flow(_)));
    // A log that is shorter than the period shows the rate over its own time.
    let oldest = past.first().map_or(now, |observed| observed.time.max(begin));
    let seconds = now.duration_since(oldest).as_secs_f64();
    records.count() as f64 / if seconds > 1.0 { seconds } else { 1.0 }
}

#[tonic::async_trait]
impl<S: FlowSource> Observer for ObserverService<S> {
    type GetFlowsStream = Responses<GetFlowsResponse>;
    type GetAgentEventsStream = Responses<GetAgentEventsResponse>;
    type GetDebugEventsStream = Responses<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let query = Query::new(request.get_ref())?;
        let place = self.place()?;
        let (to, responses) = mpsc::channel(RESPONSES_AHEAD);
        let reader = Reader { query, translator: Arc::clone(&self.translator), to };
        let source = Arc::clone(&self.source);
        tokio::spawn(async move {
            reader.run(source).await;
            drop(place);
        });
        self.answer(Box::pin(ReceiverStream::new(responses)))
    }

    async fn get_agent_events(
        &self,
        request: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        let range = range!(request.get_ref())?;
        let place = self.place()?;
        let (to, responses) = mpsc::channel(RESPONSES_AHEAD);
        let (events, node) = (Arc::clone(&self.agent_events), self.translator.node().to_owned());
        tokio::spawn(async move {
            send_agent_events(range, &events, node, &to).await;
            drop(place);
        });
        self.answer(Box::pin(ReceiverStream::new(responses)))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("podgate has no debug events"))
    }

    async fn get_nodes(
        &self,
        _: Request<GetNodesRequest>,
    ) -> Result<Response<GetNodesResponse>, Status> {
        let (counts, uptime_ns) = (self.source.counts(), self.uptime_ns());
        let nodes = self.nodes.borrow();
        let own = nodes.iter().filter(|node| node.name == self.translator.node());
        let nodes = own.map(|node| node_of(node, &self.version, uptime_ns, counts)).collect();
        self.answer(GetNodesResponse { nodes })
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let mut namespaces = BTreeSet::new();
        for observed in self.source.past() {
            if let FlowItem::Flow(record) = &observed.item {
                let ends = [&record.source, &record.destination];
                namespaces.extend(ends.into_iter().filter_map(|end| end.namespace.clone()));
            }
        }
        let namespaces = namespaces.into_iter();
        let namespaces = namespaces
            .map(|namespace| Namespace { cluster: crate::flow::CLUSTER.to_owned(), namespace });
        self.answer(GetNamespacesResponse { namespaces: namespaces.collect() })
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        let counts = self.source.counts();
        self.answer(ServerStatusResponse {
            num_flows: counts.stored,
            max_flows: counts.capacity,
            seen_flows: counts.seen,
            uptime_ns: self.uptime_ns(),
            version: self.version.clone(),
            flows_rate: rate(&self.source.past(), Timestamp::now()),
            ..ServerStatusResponse::default()
        })
    }
}

/// Sends events of the agent until that is all, or the client leaves.
async fn send_agent_events(
    range: Range,
    events: &AgentEvents,
    node: String,
    to: &mpsc::Sender<Result<GetAgentEventsResponse, Status>>,
) {
    let (mut past, mut live) = events.follow();
    past.retain(|(time, _)| range.contains(*time));
    if !range.starts_at_oldest() {
        past.drain(..past.len().saturating_sub(range.number));
    }
    past.truncate(range.number);
    let response = |(time, event): &Timed| GetAgentEventsResponse {
        agent_event: Some(event.clone()),
        node_name: node.clone(),
        time: Some(timestamp(*time)),
    };
    for event in &past {
        if to.send(Ok(response(event))).await.is_err() {
            return;
        }
    }
    if !range.follow {
        return;
    }
    loop {
        let received = tokio::select! {
            received = live.recv() => received,
            () = to.closed() => return,
        };
        match received {
            Ok(event) if !range.contains(event.0) => return,
            Ok(event) => {
                if to.send(Ok(response(&event))).await.is_err() {
                    return;
                }
            }
            // There is no message for lost events of the agent.
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}
