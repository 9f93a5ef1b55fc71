//! Past and new flows for one client.

use std::sync::Mutex;

use podgate_policy::observe::{Detail, FlowEndpoint, FlowRecord, HttpProtocol, Outcome};
use tokio::runtime::Builder;

use super::*;
use crate::proto::flow::FlowFilter;
use crate::source::Counts;

/// A log of `past` whose new items come from `live`.
struct Log {
    past: Mutex<Vec<Arc<Observed>>>,
    live: broadcast::Sender<Arc<Observed>>,
}

impl FlowSource for Log {
    fn past(&self) -> Vec<Arc<Observed>> {
        self.past.lock().unwrap().clone()
    }

    fn live(&self) -> broadcast::Receiver<Arc<Observed>> {
        self.live.subscribe()
    }

    fn follow(&self) -> (Vec<Arc<Observed>>, broadcast::Receiver<Arc<Observed>>) {
        (self.past(), self.live.subscribe())
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }
}

/// The record of a request to path `/NUMBER` at second NUMBER; every third one is denied.
pub(crate) fn observed(number: u64) -> Arc<Observed> {
    let end = |last: u8| FlowEndpoint {
        address: [10, 0, 0, last].into(),
        port: Some(80),
        identity: 7,
        labels: [].into(),
        namespace: None,
        pod: None,
        workload: None,
        service: None,
        names: Vec::new(),
    };
    let (method, host) = ("GET".into(), "h".into());
    let time = Timestamp::from_second(number as i64).unwrap();
    let record = FlowRecord {
        time,
        verdict: if number.is_multiple_of(3) { Outcome::Dropped } else { Outcome::Forwarded },
        drop_reason: None,
        denied_by: Vec::new(),
        source: end(1),
        destination: end(2),
        service: None,
        protocol: "TCP".into(),
        is_reply: Some(false),
        link: 1,
        epoch: 1,
        detail: Detail::HttpRequest {
            version: HttpProtocol::default(),
            method,
            path: format!("/{number}"),
            host,
            rule: None,
        },
    };
    Arc::new(Observed { number, time, item: FlowItem::Flow(Box::new(record)) })
}

fn gap(number: u64, count: u64) -> Arc<Observed> {
    let time = Timestamp::from_second(number as i64).unwrap();
    Arc::new(Observed { number, time, item: FlowItem::Lost(count) })
}

/// Numbers of flows; gaps as their negative count.
fn shown(response: &GetFlowsResponse) -> i64 {
    match response.response_types.as_ref().unwrap() {
        ResponseTypes::Flow(flow) => flow.time.unwrap().seconds,
        ResponseTypes::LostEvents(lost) => -(lost.num_events_lost as i64),
        ResponseTypes::NodeStatus(_) => panic!("{response:?}"),
    }
}

fn reader(request: &GetFlowsRequest) -> (Reader, mpsc::Receiver<Result<GetFlowsResponse, Status>>) {
    let query = Query::new(request).map_err(|status| panic!("{status}")).unwrap();
    let (to, responses) = mpsc::channel(2);
    let translator = Arc::new(Translator::new("n".into(), 1, 0));
    (Reader { query, translator, to }, responses)
}

/// What a client gets of a log with flows 1 to 9, a gap of 5 after the sixth, and one of 2 at the
/// end.
fn read(request: &GetFlowsRequest) -> Vec<i64> {
    let mut past: Vec<_> = (1..10).map(observed).collect();
    past.insert(6, gap(6, 5));
    past.push(gap(9, 2));
    let log = Arc::new(Log { past: Mutex::new(past), live: broadcast::Sender::new(4) });
    let (reader, mut responses) = reader(request);
    Builder::new_current_thread().build().unwrap().block_on(async {
        tokio::spawn(reader.run(log));
        let mut seen = Vec::new();
        while let Some(response) = responses.recv().await {
            seen.push(shown(&response.unwrap()));
        }
        seen
    })
}

fn denied() -> Vec<FlowFilter> {
    vec![FlowFilter { verdict: vec![2], ..FlowFilter::default() }]
}

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds, nanos: 0 })
}

#[test]
fn numbers_and_times_choose_past_flows() {
    let request = GetFlowsRequest::default;
    let all = [1, 2, 3, 4, 5, 6, -5, 7, 8, 9, -2];
    assert_eq!(read(&request()), all);
    assert_eq!(read(&GetFlowsRequest { number: u64::MAX, ..request() }), all);
    assert_eq!(read(&GetFlowsRequest { number: 2, ..request() }), [8, 9, -2]);
    assert_eq!(read(&GetFlowsRequest { number: 4, ..request() }), [6, -5, 7, 8, 9, -2]);
    assert_eq!(read(&GetFlowsRequest { number: 2, first: true, ..request() }), [1, 2]);
    assert_eq!(read(&GetFlowsRequest { since: at(8), ..request() }), [8, 9, -2]);
    assert_eq!(read(&GetFlowsRequest { until: at(2), ..request() }), [1, 2]);
    assert_eq!(read(&GetFlowsRequest { number: 1, until: at(2), ..request() }), [2]);
    assert_eq!(read(&GetFlowsRequest { since: at(4), until: at(5), ..request() }), [4, 5]);
    assert_eq!(read(&GetFlowsRequest { number: 1, since: at(4), ..request() }), [4]);
}

#[test]
fn filters_come_before_numbers_and_leave_gaps() {
    let request = || GetFlowsRequest { whitelist: denied(), ..GetFlowsRequest::default() };
    assert_eq!(read(&request()), [3, 6, -5, 9, -2]);
    assert_eq!(read(&GetFlowsRequest { number: 2, ..request() }), [6, -5, 9, -2]);
    assert_eq!(read(&GetFlowsRequest { number: 1, first: true, ..request() }), [3]);
    let request = GetFlowsRequest { blacklist: denied(), number: 3, ..GetFlowsRequest::default() };
    assert_eq!(read(&request), [5, -5, 7, 8, -2]);
}

#[test]
fn contradictory_requests_are_rejected() {
    let code = |request: GetFlowsRequest| Query::new(&request).err().map(|status| status.code());
    let invalid = Some(tonic::Code::InvalidArgument);
    let request = GetFlowsRequest::default;
    assert_eq!(code(GetFlowsRequest { first: true, follow: true, ..request() }), invalid);
    assert_eq!(code(GetFlowsRequest { since: at(i64::MAX), ..request() }), invalid);
    let paths = vec!["nothing".to_owned()];
    let field_mask = Some(prost_types::FieldMask { paths });
    assert_eq!(code(GetFlowsRequest { field_mask, ..request() }), invalid);
    assert_eq!(code(request()), None);
}

#[test]
fn a_follower_gets_new_flows_and_learns_what_it_lost() {
    Builder::new_current_thread().build().unwrap().block_on(async {
        let live = broadcast::Sender::new(4);
        let log = Arc::new(Log { past: Mutex::new(vec![observed(3), observed(6)]), live });
        let request = GetFlowsRequest {
            follow: true,
            number: 1,
            whitelist: denied(),
            until: at(100),
            ..GetFlowsRequest::default()
        };
        let (reader, mut responses) = reader(&request);
        let running = tokio::spawn(reader.run(Arc::clone(&log) as Arc<Log>));
        let mut next = async || responses.recv().await.map(|response| shown(&response.unwrap()));
        assert_eq!(next().await, Some(6));
        log.live.send(observed(8)).unwrap();
        log.live.send(observed(9)).unwrap();
        assert_eq!(next().await, Some(9));
        // It doesn't read: the channel of responses is full, then that of items, which has four.
        for number in 4..30 {
            log.live.send(observed(3 * number)).unwrap();
        }
        assert_eq!(next().await, Some(-22));
        assert_eq!(next().await, Some(78));
        // What is later than it asked for ends it.
        for number in [81, 84, 87] {
            assert_eq!(next().await, Some(number));
        }
        log.live.send(observed(102)).unwrap();
        assert_eq!(next().await, None);
        running.await.unwrap();
    });
}

#[test]
fn a_follower_that_left_ends() {
    Builder::new_current_thread().build().unwrap().block_on(async {
        let log = Log { past: Mutex::default(), live: broadcast::Sender::new(4) };
        let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
        let (reader, responses) = reader(&request);
        let running = tokio::spawn(reader.run(Arc::new(log)));
        drop(responses);
        running.await.unwrap();
    });
}
