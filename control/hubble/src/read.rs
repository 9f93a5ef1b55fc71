//! Flows for one client: past ones, then new ones.
//!
//! Flows are made of records one by one, when the client has read those before, so a client costs
//! little memory whatever it asks for. One that reads too slowly loses records and learns how many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use podgate_api::FlowItem;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tonic::Status;

use crate::field_mask::FieldMask;
use crate::filter::Filters;
use crate::flow::{Translator, timestamp};
use crate::proto::flow::{Flow, LostEvent, LostEventSource};
use crate::proto::observer::get_flows_response::ResponseTypes;
use crate::proto::observer::{GetFlowsRequest, GetFlowsResponse};
use crate::source::{FlowSource, Observed};

/// Time after which other tasks may run: how long a record takes depends on the filters.
const TURN: Duration = Duration::from_micros(500);

/// What one client asked for.
pub(crate) struct Query {
    range: Range,
    filters: Filters,
    mask: Option<FieldMask>,
}

/// How many events, which, and of what time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// Most past events.
    pub(crate) number: usize,
    /// Whether these are the oldest ones.
    pub(crate) first: bool,
    /// Whether new ones follow.
    pub(crate) follow: bool,
    /// No earlier ones.
    pub(crate) since: Option<Timestamp>,
    /// No later ones.
    pub(crate) until: Option<Timestamp>,
}

/// `number`, `first`, `follow`, `since` and `until` of any of the requests.
macro_rules! range {
    ($request:expr) => {
        $crate::read::Range::new(
            $request.number,
            [$request.first, $request.follow],
            [$request.since.as_ref(), $request.until.as_ref()],
        )
    };
}
pub(crate) use range;

impl Range {
    /// Checks the fields of a request.
    pub(crate) fn new(
        number: u64,
        [first, follow]: [bool; 2],
        times: [Option<&prost_types::Timestamp>; 2],
    ) -> Result<Self, Status> {
        if first && follow {
            return Err(Status::invalid_argument("first and follow exclude each other"));
        }
        let [since, until] = times.map(|time| {
            let invalid = |_| Status::invalid_argument("since or until is not a valid time");
            time.map(|time| Timestamp::new(time.seconds, time.nanos).map_err(invalid)).transpose()
        });
        let (since, until) = (since?, until?);
        let number = match number {
            // Clients that follow ask for no past events in this way.
            0 if follow && since.is_none() => 0,
            0 => usize::MAX,
            number => usize::try_from(number).unwrap_or(usize::MAX),
        };
        Ok(Self { number, first, follow, since, until })
    }

    /// Whether an event of this time is wanted.
    pub(crate) fn contains(&self, time: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= time) && !self.is_over(time)
    }

    fn is_over(&self, time: Timestamp) -> bool {
        self.until.is_some_and(|until| time > until)
    }

    /// Whether past events are counted from the oldest on.
    pub(crate) fn starts_at_oldest(&self) -> bool {
        self.first || self.since.is_some()
    }
}

/// Where past flows begin: an item, and how many of its flows are left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Start {
    item: usize,
    flows: usize,
}

impl Query {
    /// Checks a request.
    pub(crate) fn new(request: &GetFlowsRequest) -> Result<Self, Status> {
        let filters = Filters::new(&request.whitelist, &request.blacklist);
        let experimental = request.experimental.as_ref().and_then(|e| e.field_mask.as_ref());
        let paths = request.field_mask.as_ref().filter(|mask| !mask.paths.is_empty());
        let mask = match paths.or(experimental) {
            Some(mask) => FieldMask::new(&mask.paths).map_err(Status::invalid_argument)?,
            None => None,
        };
        let range = range!(request)?;
        Ok(Self { range, filters: filters.map_err(Status::invalid_argument)?, mask })
    }

    /// The flows of an item that the client wants.
    fn flows(&self, observed: &Observed, translator: &Translator) -> Vec<Flow> {
        match &observed.item {
            FlowItem::Flow(record) if self.range.contains(observed.time) => {
                let mut flows = translator.flows(observed, record);
                flows.retain(|flow| self.filters.match_flow(flow));
                flows
            }
            _ => Vec::new(),
        }
    }

    /// Where the last `number` flows begin.
    async fn start(&self, items: &[Arc<Observed>], translator: &Translator) -> Start {
        let mut turn = Turn::default();
        let mut left = self.range.number;
        for (item, observed) in items.iter().enumerate().rev() {
            if left == 0 {
                return Start { item: item + 1, flows: 0 };
            }
            let count = self.flows(observed, translator).len();
            if count >= left {
                return Start { item, flows: count - left };
            }
            left -= count;
            turn.yield_when_over().await;
        }
        Start { item: if left == 0 { items.len() } else { 0 }, flows: 0 }
    }

    fn response(&self, flow: Flow) -> GetFlowsResponse {
        let (time, node_name) = (flow.time, flow.node_name.clone());
        let flow = match &self.mask {
            Some(mask) => mask.apply(&flow),
            None => flow,
        };
        let response_types = Some(ResponseTypes::Flow(flow.into()));
        GetFlowsResponse { response_types, node_name, time }
    }
}

/// The time since other tasks could run.
struct Turn(Instant);

impl Default for Turn {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Turn {
    /// Lets other tasks run, once it has taken its time.
    async fn yield_when_over(&mut self) {
        if self.0.elapsed() >= TURN {
            tokio::task::yield_now().await;
            *self = Self::default();
        }
    }
}

/// One client, and where its flows go.
pub(crate) struct Reader {
    /// What it asked for.
    pub(crate) query: Query,
    /// Makes its flows.
    pub(crate) translator: Arc<Translator>,
    /// Where they go.
    pub(crate) to: mpsc::Sender<Result<GetFlowsResponse, Status>>,
}

/// The client left.
struct ClientGone;

impl Reader {
    /// Sends what the client asked for, until that is all, or it leaves.
    pub(crate) async fn run(self, source: Arc<impl FlowSource>) {
        // It fails only because the client has left, and then there is no one to report it to.
        let _ = self.send_all(&*source).await;
    }

    async fn send_all(&self, source: &impl FlowSource) -> Result<(), ClientGone> {
        let range = &self.query.range;
        let (past, live) = match (range.follow, range.number) {
            // The log makes no records for it.
            (true, 0) => (Vec::new(), Some(source.live())),
            (true, _) => {
                let (past, live) = source.follow();
                (past, Some(live))
            }
            (false, _) => (source.past(), None),
        };
        self.send_past(&past).await?;
        drop(past);
        match live {
            Some(live) => self.send_live(live).await,
            None => Ok(()),
        }
    }

    async fn send_past(&self, past: &[Arc<Observed>]) -> Result<(), ClientGone> {
        let range = &self.query.range;
        let start = match range.starts_at_oldest() {
            true => Start { item: 0, flows: 0 },
            false => self.query.start(past, &self.translator).await,
        };
        let mut left = range.number;
        let mut skip = start.flows;
        let mut turn = Turn::default();
        for observed in past.iter().skip(start.item) {
            // Gaps after the last one are sent only if flows are counted from the newest on.
            if left == 0 && range.starts_at_oldest() {
                break;
            }
            let flows = self.query.flows(observed, &self.translator);
            for flow in flows.into_iter().skip(skip).take(left) {
                self.send(self.query.response(flow)).await?;
                left -= 1;
            }
            skip = 0;
            self.send_gap(observed).await?;
            turn.yield_when_over().await;
        }
        Ok(())
    }

    async fn send_live(
        &self,
        mut live: broadcast::Receiver<Arc<Observed>>,
    ) -> Result<(), ClientGone> {
        let mut turn = Turn::default();
        loop {
            turn.yield_when_over().await;
            let received = tokio::select! {
                received = live.recv() => received,
                () = self.to.closed() => return Err(ClientGone),
            };
            match received {
                Ok(observed) if self.query.range.is_over(observed.time) => return Ok(()),
                Ok(observed) => {
                    for flow in self.query.flows(&observed, &self.translator) {
                        self.send(self.query.response(flow)).await?;
                    }
                    self.send_gap(&observed).await?;
                }
                Err(RecvError::Lagged(count)) => {
                    let now = Timestamp::now();
                    self.send(self.lost(count, LostEventSource::HubbleRingBuffer, now)).await?;
                }
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }

    /// Sends an item that is a gap; filters don't hide gaps.
    async fn send_gap(&self, observed: &Observed) -> Result<(), ClientGone> {
        match observed.item {
            FlowItem::Lost(count) if self.query.range.contains(observed.time) => {
                let source = LostEventSource::ObserverEventsQueue;
                self.send(self.lost(count, source, observed.time)).await
            }
            _ => Ok(()),
        }
    }

    fn lost(&self, count: u64, source: LostEventSource, time: Timestamp) -> GetFlowsResponse {
        let time = Some(timestamp(time));
        let (source, num_events_lost) = (source.into(), count);
        let lost = LostEvent { source, num_events_lost, cpu: None, first: time, last: time };
        GetFlowsResponse {
            response_types: Some(ResponseTypes::LostEvents(lost)),
            node_name: self.translator.node().to_owned(),
            time,
        }
    }

    async fn send(&self, response: GetFlowsResponse) -> Result<(), ClientGone> {
        self.to.send(Ok(response)).await.map_err(|_| ClientGone)
    }
}

#[cfg(test)]
pub(crate) mod tests;
