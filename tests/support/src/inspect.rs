//! An inspector over bytes of both directions, without TCP: its operations on two plain streams.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use podgate_dataplane::l7::inspector::{AfterInjection, InspectCtx, Inspector, Op};
use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::EventKind;
use podgate_tables::ids::RuleId;
use podgate_tables::l7::http1::HttpLimits;
use podgate_tables::l7::{HttpRule, HttpRuleSpec, L7Entry, L7Policy, L7Rules};
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;

/// What happens to the next bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Inspect,
    Skip(u64),
    Drop(u64),
}

/// One direction.
#[derive(Debug)]
pub struct Stream {
    /// Bytes that the receiver gets, inserted ones included.
    pub received: Vec<u8>,
    /// Bytes of the sender that passed.
    pub passed: usize,
    /// Bytes of the sender that are not decided.
    pub undecided: Vec<u8>,
    /// Nothing more is read until the other direction makes progress.
    pub stalled: bool,
    mode: Mode,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            received: Vec::new(),
            passed: 0,
            undecided: Vec::new(),
            stalled: false,
            mode: Mode::Inspect,
        }
    }
}

/// A connection without TCP.
#[derive(Debug, Default)]
pub struct Connection<I> {
    /// The inspector.
    pub inspector: I,
    /// From the client to the server.
    pub requests: Stream,
    /// From the server to the client.
    pub responses: Stream,
    /// Events, in order.
    pub events: Vec<EventKind>,
    /// Why both ends were reset.
    pub reset: Option<DropReason>,
    /// Both ends were closed after an injection.
    pub closed: bool,
    /// The time.
    pub now: Nanos,
    /// Limits of HTTP/1.
    pub limits: HttpLimits,
}

impl<I: Inspector> Connection<I> {
    /// Sends bytes in a direction.
    pub fn send(&mut self, direction: FlowDirection, bytes: &[u8], policy: &L7Policy) {
        self.stream(direction).undecided.extend_from_slice(bytes);
        self.run(direction, policy);
        self.run(direction.reverse(), policy);
        self.run(direction, policy);
    }

    /// Ends a direction by FIN.
    pub fn end(&mut self, direction: FlowDirection, policy: &L7Policy) {
        let cx = InspectCtx { now: self.now, policy, http: self.limits, may_buffer: true };
        if self.stream(direction).mode == Mode::Inspect && self.reset.is_none() {
            let undecided = self.stream(direction).undecided.len();
            let step = self.inspector.end(&cx, direction, undecided);
            self.apply(direction, step.op);
            self.events.extend(step.event);
            self.run(direction, policy);
            self.run(direction.reverse(), policy);
        }
    }

    /// Whether each request was allowed, in order.
    pub fn verdicts(&self) -> Vec<bool> {
        let verdict = |event: &EventKind| match event {
            EventKind::Request { allowed, .. } => Some(*allowed),
            _ => None,
        };
        self.events.iter().filter_map(verdict).collect()
    }

    fn stream(&mut self, direction: FlowDirection) -> &mut Stream {
        if direction.is_reply() { &mut self.responses } else { &mut self.requests }
    }

    fn run(&mut self, direction: FlowDirection, policy: &L7Policy) {
        let cx = InspectCtx { now: self.now, policy, http: self.limits, may_buffer: true };
        while self.reset.is_none() {
            self.inject(direction);
            if self.stream(direction).mode == Mode::Inspect
                && let Some(op) = self.inspector.ahead(direction)
            {
                self.apply(direction, op);
            }
            let stream = self.stream(direction);
            if stream.undecided.is_empty() {
                break;
            }
            let (before, mode) = (stream.undecided.len(), stream.mode);
            match stream.mode {
                Mode::Inspect => {
                    let bytes = std::mem::take(&mut stream.undecided);
                    let step = self.inspector.inspect(&cx, direction, &bytes);
                    self.stream(direction).undecided = bytes;
                    self.events.extend(step.event);
                    self.apply(direction, step.op);
                    let stalled = step.op == Op::Stall;
                    self.stream(direction).stalled = stalled;
                    if stalled || step.op == Op::More {
                        break;
                    }
                }
                Mode::Skip(count) => {
                    stream.mode = stream.take(count, true).map_or(Mode::Inspect, Mode::Skip);
                }
                Mode::Drop(count) => {
                    stream.mode = stream.take(count, false).map_or(Mode::Inspect, Mode::Drop);
                }
            }
            let stream = self.stream(direction);
            let progress = stream.undecided.len() != before || stream.mode != mode;
            assert!(progress || self.reset.is_some(), "an operation without effect");
        }
    }

    fn apply(&mut self, direction: FlowDirection, op: Op) {
        let stream = self.stream(direction);
        match op {
            Op::More | Op::Stall => {}
            Op::Pass(len) => {
                assert!(stream.take(len as u64, true).is_none(), "it passes what was shown");
            }
            Op::Skip(count) => stream.mode = Mode::Skip(count),
            Op::Drop(count) => stream.mode = Mode::Drop(count),
            Op::Detach => {
                self.requests.mode = Mode::Skip(u64::MAX);
                self.responses.mode = Mode::Skip(u64::MAX);
            }
            Op::Reset(denial) => self.reset = Some(denial),
        }
    }

    fn inject(&mut self, direction: FlowDirection) {
        while self.stream(direction).mode == Mode::Inspect
            && let Some(injection) = self.inspector.injection(direction)
        {
            let then = injection.then;
            let bytes = injection.bytes.to_vec();
            self.stream(direction).received.extend(bytes);
            self.inspector.injected(direction);
            if then == AfterInjection::Close {
                self.closed = true;
                self.requests.mode = Mode::Drop(u64::MAX);
                self.responses.mode = Mode::Drop(u64::MAX);
            }
        }
    }
}

impl Stream {
    /// Takes up to `count` bytes. Returns how many are left to take; `None` if that is none.
    fn take(&mut self, count: u64, pass: bool) -> Option<u64> {
        let taken = usize::try_from(count).unwrap_or(usize::MAX).min(self.undecided.len());
        let bytes = self.undecided.drain(..taken);
        if pass {
            self.received.extend(bytes);
            self.passed += taken;
        }
        match count {
            u64::MAX => Some(u64::MAX),
            _ => Some(count - taken as u64).filter(|left| *left > 0),
        }
    }
}

/// Rules that allow `GET`, `HEAD` and `POST` below `/docs`; the HTTP/1 corpus is written for them.
#[must_use]
pub fn docs_only() -> L7Policy {
    let rule = HttpRule::new(HttpRuleSpec {
        method: Some("GET|HEAD|POST".into()),
        path: Some(r"/docs(/.*)?(\?.*)?".into()),
        ..HttpRuleSpec::default()
    });
    let rules = rule.map(|rule| Some(Arc::new(L7Rules::http(vec![rule]))));
    let rules = rules.expect("the patterns are valid");
    L7Policy { ingress: vec![L7Entry { rule: RuleId(7), rules }], ..L7Policy::default() }
}

/// The streams of one folder of the HTTP/1 corpus (`tests/corpora/http1`), with their names.
///
/// # Panics
/// When the folder can't be read or is empty.
#[must_use]
pub fn http1_corpus(folder: &str) -> Vec<(String, Vec<u8>)> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../corpora/http1").join(folder);
    let files = fs::read_dir(path).expect("the folder").map(|entry| entry.expect("a file").path());
    let streams: Vec<_> = files
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (name, fs::read(path).expect("a file"))
        })
        .collect();
    assert!(!streams.is_empty());
    streams
}
