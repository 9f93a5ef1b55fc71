//! Flows as a stream of events (server-sent events, WHATWG HTML 9.2).
//!
//! A task reads Hubble's API as fast as it sends, and puts flows into a bounded queue, in batches.
//! A browser that reads too slowly loses batches: they are counted, and the next one says how many
//! flows it missed.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::response::sse::Event;
use podgate_hubble::client::{Client, ClientError};
use podgate_hubble::proto::observer::get_flows_response::ResponseTypes;
use podgate_hubble::proto::observer::{GetFlowsRequest, GetFlowsResponse};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::Stream;

use crate::Config;
use crate::row::Row;

/// How long flows wait for others before they are sent.
const PERIOD: Duration = Duration::from_millis(100);
/// Most flows of a batch.
const BATCH_MAX: usize = 1000;
/// Most batches that wait for the browser.
const QUEUE_MAX: usize = 16;
/// When the browser connects again after the end.
const RETRY: Duration = Duration::from_secs(2);

/// What the page is sent.
#[derive(Debug)]
pub(crate) enum Message {
    /// Flows follow.
    Hello,
    /// Some flows.
    Batch(Batch),
    /// There are no flows now; connecting again may help.
    Problem(String),
    /// The filter can't be understood; nothing follows.
    Rejected(String),
}

/// Some flows.
#[derive(Serialize, Default, Debug)]
pub(crate) struct Batch {
    /// The flows, oldest first.
    flows: Vec<Row>,
    /// Flows before these that the browser was too slow for.
    skipped: u64,
    /// Flows that the server lost.
    lost: u64,
}

impl Message {
    /// As an event of the stream.
    pub(crate) fn event(self) -> Event {
        let text = |name: &str, text: String| Event::default().event(name).data(one_line(&text));
        match self {
            Self::Hello => text("hello", now_ms().to_string()).retry(RETRY),
            Self::Problem(reason) => text("problem", reason).retry(RETRY),
            Self::Rejected(reason) => text("rejected", reason),
            // Rows are plain data, which always has a JSON form.
            Self::Batch(batch) => text("flows", serde_json::to_string(&batch).unwrap_or_default()),
        }
    }
}

/// Milliseconds since 1970: the browser's clock may be another.
fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// An event's data must not have line ends of its own.
fn one_line(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

/// The flows that a request asks for, until the browser goes away. The permit is returned then.
pub(crate) fn follow(
    config: Config,
    request: GetFlowsRequest,
    permit: OwnedSemaphorePermit,
) -> Receiver<Message> {
    let (to, messages) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(async move {
        if let Err(reason) = read(&config, request, &to).await {
            // The browser may be gone.
            let _ = to.send(Message::Problem(reason)).await;
        }
        drop(permit);
    });
    messages
}

/// Messages as the body of a response.
pub(crate) fn events(messages: Receiver<Message>) -> impl Stream<Item = Result<Event, Infallible>> {
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    tokio_stream::StreamExt::map(messages, |message| Ok(message.event()))
}

async fn read(
    config: &Config,
    request: GetFlowsRequest,
    to: &Sender<Message>,
) -> Result<(), String> {
    let text = |error: ClientError| error.to_string();
    let mut client = Client::connect(&config.hubble, config.tls.as_ref()).await.map_err(text)?;
    let mut flows = match client.flows(request).await {
        Ok(flows) => flows,
        Err(ClientError::Server(reason)) => {
            let _ = to.send(Message::Rejected(reason)).await;
            return Ok(());
        }
        Err(error) => return Err(error.to_string()),
    };
    if to.send(Message::Hello).await.is_err() {
        return Ok(());
    }
    let mut batcher = Batcher::default();
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            next = flows.next() => match next.map_err(text)? {
                Some(response) => batcher.add(response, to),
                None => return Err("the server has ended the stream of flows".to_owned()),
            },
            _ = ticks.tick() => batcher.flush(to),
            () = to.closed() => return Ok(()),
        }
    }
}

/// Flows that wait for others.
#[derive(Default)]
struct Batcher {
    batch: Batch,
}

impl Batcher {
    fn add(&mut self, response: GetFlowsResponse, to: &Sender<Message>) {
        match response.response_types {
            Some(ResponseTypes::Flow(flow)) => self.batch.flows.push(Row::of(*flow)),
            Some(ResponseTypes::LostEvents(lost)) => {
                self.batch.lost = self.batch.lost.saturating_add(lost.num_events_lost);
            }
            Some(ResponseTypes::NodeStatus(_)) | None => {}
        }
        if self.batch.flows.len() >= BATCH_MAX {
            self.flush(to);
        }
    }

    /// Sends what there is. If the queue is full, the flows are dropped and counted.
    fn flush(&mut self, to: &Sender<Message>) {
        let Batch { flows, skipped, lost } = &self.batch;
        if flows.is_empty() && *skipped == 0 && *lost == 0 {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        if let Err(mpsc::error::TrySendError::Full(Message::Batch(batch))) =
            to.try_send(Message::Batch(batch))
        {
            self.batch.skipped = batch.skipped + batch.flows.len() as u64;
            self.batch.lost = batch.lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use podgate_hubble::proto::flow::LostEvent;

    use super::*;

    fn flow() -> GetFlowsResponse {
        let response_types = Some(ResponseTypes::Flow(Box::default()));
        GetFlowsResponse { response_types, ..GetFlowsResponse::default() }
    }

    fn batch(message: Option<Message>) -> Batch {
        let Some(Message::Batch(batch)) = message else { panic!("{message:?}") };
        batch
    }

    #[test]
    fn a_slow_browser_loses_batches_and_the_next_one_says_how_many() {
        let (to, mut messages) = mpsc::channel(2);
        let mut batcher = Batcher::default();
        for _ in 0..5 * BATCH_MAX {
            batcher.add(flow(), &to);
        }
        assert!(batcher.batch.flows.is_empty() && messages.len() == 2);
        for _ in 0..2 {
            let sent = batch(messages.try_recv().ok());
            assert_eq!((sent.flows.len(), sent.skipped), (BATCH_MAX, 0));
        }
        batcher.add(flow(), &to);
        let lost = LostEvent { num_events_lost: 7, ..LostEvent::default() };
        let response_types = Some(ResponseTypes::LostEvents(lost));
        batcher.add(GetFlowsResponse { response_types, ..GetFlowsResponse::default() }, &to);
        batcher.flush(&to);
        let sent = batch(messages.try_recv().ok());
        assert_eq!((sent.flows.len(), sent.skipped, sent.lost), (1, 3 * BATCH_MAX as u64, 7));
        batcher.flush(&to);
        assert!(messages.try_recv().is_err());
    }

    #[test]
    fn an_event_is_one_line() {
        let message = Message::Problem("a\r\nevent: flows".to_owned());
        // Would panic for a line end.
        let _ = message.event();
        assert_eq!(one_line("a\nb\rc"), "a b c");
    }
}
