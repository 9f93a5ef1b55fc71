//! The stream editor between two real TCP stacks (smoltcp), over a network that loses, repeats,
//! reorders, delays and corrupts packets.
//!
//! Each connection has a seed, from which everything follows: both streams, what the inspector does
//! with them, windows, options, and what happens to each packet. What the two applications read
//! must be the streams with the dropped spans taken out and the inserted ones put in.
//!
//! A single seed: `EDITOR_SEED=1234 cargo test -p podgate-dataplane --test editor_model`.
#![allow(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::cell::Cell;
use std::env;

use podgate_dataplane::l7::editor::{Editor, Progress};
use podgate_dataplane::l7::inspector::{
    AfterInjection, Injection, InspectCtx, Inspector, Op, Step,
};
use podgate_dataplane::packet::parse;
use podgate_tables::drop_reason::DropReason;
use podgate_tables::l7::L7Policy;
use podgate_tables::time::Nanos;
use podgate_tables::tuple::FlowDirection;
use podgate_test_support::lossy::{Hop, Impairment};
use podgate_test_support::tcp_stack::End;
use podgate_test_support::{Random, RecordingIo, make_partial};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant;

/// What the model inspector does with the next bytes of a stream.
#[derive(Clone, Debug)]
enum Span {
    Pass(usize),
    Skip(usize),
    Drop(usize),
    Insert(Vec<u8>),
}

/// One direction: its bytes and its spans, after which everything passes.
#[derive(Clone, Debug)]
struct Script {
    stream: Vec<u8>,
    spans: Vec<Span>,
}

impl Script {
    fn new(random: &mut Random) -> Self {
        // The longer the stream, the longer its spans.
        let (longest, most) =
            [(0, 1), (10, 3), (200, 3), (1_000, 40), (5_000, 700), (20_000, 5_000)]
                [random.below(6)];
        let len = random.below(longest + 1);
        let stream = random.bytes(len);
        let (mut spans, mut at) = (Vec::new(), 0);
        let edits = [0, 2, 5, 9][random.below(4)];
        loop {
            let len = 1 + random.below(most);
            let span = match random.below(10) {
                n if n < edits && n % 2 == 0 => {
                    let len = 1 + random.below(300);
                    spans.push(Span::Insert(random.bytes(len)));
                    continue;
                }
                n if n < edits => Span::Drop(len),
                n if n % 2 == 0 => Span::Pass(len.min(4_000)),
                _ => Span::Skip(len),
            };
            at += len;
            if at > stream.len() {
                return Self { stream, spans };
            }
            spans.push(span);
        }
    }

    /// What the receiver reads.
    fn expected(&self) -> Vec<u8> {
        let (mut expected, mut at) = (Vec::new(), 0);
        for span in &self.spans {
            match span {
                Span::Pass(len) | Span::Skip(len) => {
                    expected.extend(&self.stream[at..at + len]);
                    at += len;
                }
                Span::Drop(len) => at += len,
                Span::Insert(bytes) => expected.extend(bytes),
            }
        }
        expected.extend(&self.stream[at..]);
        expected
    }
}

thread_local! {
    /// The seed of the connection that is under way; an inspector is made by [`Default`].
    static SEED: Cell<u64> = const { Cell::new(0) };
    /// Whether the editor gave bytes up that a stack did not complete in time.
    static TIMED_OUT: Cell<bool> = const { Cell::new(false) };
}

/// The scripts of a seed: of the client's stream and of the server's.
fn scripts(seed: u64) -> [Script; 2] {
    let mut random = Random(seed);
    [Script::new(&mut random), Script::new(&mut random)]
}

/// An inspector that follows a script in each direction.
#[derive(Debug)]
struct Model {
    scripts: [Script; 2],
    done: [usize; 2],
}

impl Default for Model {
    fn default() -> Self {
        Self { scripts: scripts(SEED.get()), done: [0; 2] }
    }
}

impl Model {
    fn next(&self, direction: FlowDirection) -> Option<&Span> {
        let index = usize::from(direction.is_reply());
        self.scripts[index].spans.get(self.done[index])
    }

    fn step(&mut self, direction: FlowDirection) {
        self.done[usize::from(direction.is_reply())] += 1;
    }
}

impl Inspector for Model {
    fn inspect(&mut self, _: &InspectCtx<'_>, direction: FlowDirection, bytes: &[u8]) -> Step {
        let op = match self.next(direction) {
            Some(Span::Pass(len)) if bytes.len() < *len => Op::More,
            Some(Span::Pass(len)) => Op::Pass(*len),
            // There was no room for the edit.
            Some(Span::Insert(_)) => Op::Stall,
            Some(Span::Skip(_) | Span::Drop(_)) => unreachable!("it was known ahead"),
            None => Op::Skip(u64::MAX),
        };
        if let Op::Pass(_) = op {
            self.step(direction);
        }
        op.into()
    }

    fn ahead(&mut self, direction: FlowDirection) -> Option<Op> {
        let op = match self.next(direction)? {
            Span::Skip(len) => Op::Skip(*len as u64),
            Span::Drop(len) => Op::Drop(*len as u64),
            _ => return None,
        };
        self.step(direction);
        Some(op)
    }

    fn end(&mut self, _: &InspectCtx<'_>, _: FlowDirection, undecided: usize) -> Step {
        assert_eq!(undecided, 0, "a script ends before its stream");
        Op::Pass(0).into()
    }

    fn timed_out(&mut self) -> Step {
        TIMED_OUT.set(true);
        Op::Reset(DropReason::L7Malformed).into()
    }

    fn injection(&self, direction: FlowDirection) -> Option<Injection<'_>> {
        match self.next(direction) {
            Some(Span::Insert(bytes)) => Some(Injection { bytes, then: AfterInjection::Continue }),
            _ => None,
        }
    }

    fn injected(&mut self, direction: FlowDirection) {
        self.step(direction);
    }

    fn heap(&self) -> usize {
        0
    }

    fn heap_with(&self, _: FlowDirection, _: usize) -> usize {
        0
    }
}

/// A connection under way.
struct World {
    random: Random,
    impairment: Impairment,
    ends: [End; 2],
    editor: Editor<Model>,
    io: RecordingIo,
    /// The ends leave checksums to their devices.
    has_offload: bool,
    /// From each end to the editor, and from it to each end.
    inward: [Hop; 2],
    outward: [Hop; 2],
    now_ms: u64,
    last_packet_ms: u64,
}

const DIRECTIONS: [FlowDirection; 2] = [FlowDirection::Original, FlowDirection::Reply];

impl World {
    fn new(seed: u64) -> Self {
        SEED.set(seed);
        TIMED_OUT.set(false);
        let expected = scripts(seed).map(|script| script.expected().len());
        let [original, reply] = scripts(seed).map(|script| script.stream);
        let mut random = Random(seed ^ 0x5eed);
        let rough = random.percent(70);
        let impairment = Impairment {
            lost: if rough { random.below(12) } else { 0 },
            repeated: if rough { random.below(12) } else { 0 },
            corrupted: if rough { random.below(4) } else { 0 },
            delay_ms: [0, 3, 30][random.below(3)],
        };
        let mut ends = [
            End::new(1, original, expected[1], &mut random),
            End::new(2, reply, expected[0], &mut random),
        ];
        ends[1].socket().listen(80).unwrap();
        ends[0].connect(2, 80);
        Self {
            random,
            impairment,
            ends,
            editor: Editor::default(),
            io: RecordingIo::new(4_096),
            has_offload: seed.is_multiple_of(3),
            inward: Default::default(),
            outward: Default::default(),
            now_ms: 1_000,
            last_packet_ms: 0,
        }
    }

    /// One millisecond.
    fn step(&mut self, policy: &L7Policy) {
        let now = Instant::from_millis(self.now_ms as i64);
        for end in &mut self.ends {
            end.poll(now, &mut self.random);
        }
        for (from, direction) in DIRECTIONS.into_iter().enumerate() {
            for frame in self.ends[from].take_sent() {
                // Address resolution bypasses the editor.
                match is_tcp(&frame) {
                    false => self.ends[1 - from].receive([frame]),
                    true => {
                        self.inward[from].send(
                            self.now_ms,
                            frame,
                            self.impairment,
                            &mut self.random,
                        );
                    }
                }
            }
            for mut frame in self.inward[from].arrived(self.now_ms) {
                self.trace("->", from, &frame);
                self.last_packet_ms = self.now_ms;
                if self.has_offload {
                    make_partial(&mut frame);
                }
                let packet = self.io.packet(&frame, 1_800).unwrap();
                let head = frame.get(..frame.len().min(1_800)).unwrap();
                match parse(head, frame.len() as u32) {
                    Ok(view) => self.editor.segment(
                        self.clock(),
                        direction,
                        &view,
                        packet,
                        policy,
                        &mut self.io,
                    ),
                    Err(_) => self.io.pool.free_packet(packet),
                }
                self.deliver();
            }
        }
        if self.editor.deadline().is_some_and(|deadline| deadline <= self.clock()) {
            self.editor.tick(self.clock(), policy, &mut self.io);
            self.deliver();
        }
        for to in 0..2 {
            let arrived = self.outward[to].arrived(self.now_ms);
            arrived.iter().for_each(|frame| self.trace("<-", to, frame));
            self.ends[to].receive(arrived);
        }
        // Nothing but timers is left while no packet is under way.
        let is_quiet = self.now_ms - self.last_packet_ms > 100;
        self.now_ms += if is_quiet { 20 } else { 1 };
        self.io.assert_balance(&self.editor);
    }

    /// Prints a packet if a single connection is run.
    fn trace(&self, arrow: &str, end: usize, frame: &[u8]) {
        if env::var("EDITOR_SEED").is_ok() && frame.len() >= 54 {
            let word = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
            let header = 34 + usize::from(frame[46] >> 4) * 4;
            let window = u16::from_be_bytes([frame[48], frame[49]]);
            let len = frame.len().saturating_sub(header);
            let (seq, ack, flags) = (word(38), word(42), frame[47]);
            let now = self.now_ms;
            println!("{now} {end} {arrow} seq {seq} len {len} ack {ack} win {window} {flags:#x}");
        }
    }

    fn clock(&self) -> Nanos {
        Nanos(self.now_ms * 1_000_000)
    }

    fn deliver(&mut self) {
        for sent in std::mem::take(&mut self.io.sent) {
            let to = usize::from(!sent.direction.is_reply());
            self.outward[to].send(self.now_ms, sent.bytes, self.impairment, &mut self.random);
        }
    }
}

fn is_tcp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&6)
}

/// Time without progress of an end after which a connection is given up.
const QUIET_MS: u64 = 200_000;

/// Virtual time in which a connection must be done: two stacks that back off, over a lossy network.
const LIMIT_MS: u64 = 3_000_000;

/// How a connection went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    /// Both applications read the other's stream to its end.
    Whole,
    /// A stack stopped retransmitting what was not acknowledged, or took longer than the editor
    /// waits for bytes that are to be decided together. What was read until then is right.
    ///
    /// smoltcp 0.14 stops its retransmission timer on the third duplicate acknowledgement if it
    /// can't send at once, because the window is closed or only its FIN is left.
    GivenUp,
}

fn run(seed: u64) -> Outcome {
    let policy = L7Policy::default();
    let mut world = World::new(seed);
    let expected = scripts(seed).map(|script| script.expected());
    let (mut progress, mut since) = ([(0, 0, State::Closed); 2], 0);
    while !world.ends.iter_mut().all(End::is_done) {
        world.step(&policy);
        let reached = world.ends.each_mut().map(|end| {
            let state: State = end.socket().state();
            (end.sent, end.read.len(), state)
        });
        if reached != progress {
            (progress, since) = (reached, world.now_ms);
        }
        if world.now_ms - since > QUIET_MS {
            break;
        }
        assert!(world.now_ms < LIMIT_MS, "seed {seed}: not done in time; {}", state(&mut world));
    }
    let is_quiet = world.now_ms - since > QUIET_MS;
    let gave_up = is_quiet || world.editor.progress() == Progress::Reset && TIMED_OUT.get();
    if env::var("EDITOR_SEED").is_ok() {
        let state = state(&mut world);
        println!("{} ms, {state}, {:?}", world.now_ms, world.io.dropped);
    }
    let dropped = &world.io.dropped;
    assert!(gave_up || world.editor.progress() != Progress::Reset, "seed {seed}: {dropped:?}");
    world.editor.close(&mut world.io);
    assert_eq!(world.io.pool.outstanding(), 0);
    let [client, server] = world.ends.map(|end| end.read);
    let is_whole = server.len() == expected[0].len() && client.len() == expected[1].len();
    assert!(is_whole || gave_up, "seed {seed}: streams are cut short");
    let is_right = expected[0].starts_with(&server) && expected[1].starts_with(&client);
    let differences = (difference(&server, &expected[0]), difference(&client, &expected[1]));
    assert!(is_right, "seed {seed}: {differences:?}");
    if is_whole { Outcome::Whole } else { Outcome::GivenUp }
}

fn run_all(seeds: &[u64]) {
    let given_up = seeds.iter().filter(|seed| run(**seed) == Outcome::GivenUp).count();
    println!("{given_up} of {} were given up", seeds.len());
    assert!(given_up <= seeds.len() / 20, "{given_up} of {} were given up", seeds.len());
}

fn state(world: &mut World) -> String {
    let states = world.ends.each_mut().map(|end| {
        let state: State = end.socket().state();
        format!("{state}, sent {}, read {}", end.sent, end.read.len())
    });
    format!("{states:?}, {:?}, {:?}", world.impairment, world.editor)
}

fn difference(got: &[u8], expected: &[u8]) -> String {
    let at = got.iter().zip(expected).position(|(a, b)| a != b);
    format!("{} bytes read of {}, first difference at {at:?}", got.len(), expected.len())
}

/// The seeds of one of `parts` tests, which run in parallel.
fn seeds(part: u64, parts: u64, count: u64) -> Vec<u64> {
    match env::var("EDITOR_SEED") {
        Ok(seed) if part == 0 => vec![seed.parse().unwrap()],
        Ok(_) => vec![],
        Err(_) => (0..count).filter(|seed| seed % parts == part).collect(),
    }
}

#[test]
fn applications_read_the_edited_streams_even_seeds() {
    run_all(&seeds(0, 2, 10_000));
}

#[test]
fn applications_read_the_edited_streams_odd_seeds() {
    run_all(&seeds(1, 2, 10_000));
}

/// One end aborts at some point: what was read until then is right, and no frame is lost.
#[test]
fn a_reset_at_any_point_leaves_nothing_behind() {
    let policy = L7Policy::default();
    for seed in 0..1_000 {
        let mut world = World::new(seed);
        let expected = scripts(seed).map(|script| script.expected());
        let mut random = Random(!seed);
        let aborts = random.below(2);
        let steps = random.below(400);
        for _ in 0..steps {
            world.step(&policy);
        }
        world.ends[aborts].socket().abort();
        for _ in 0..200 {
            world.step(&policy);
        }
        assert!(expected[0].starts_with(&world.ends[1].read), "seed {seed}");
        assert!(expected[1].starts_with(&world.ends[0].read), "seed {seed}");
        world.editor.close(&mut world.io);
        assert_eq!(world.io.pool.outstanding(), 0, "seed {seed}");
    }
}
