//! Flow control beside our own content, of which the server does not know (RFC 9113 §5.2).

use std::collections::BTreeMap;

use super::*;

/// What every connection begins with, bytes.
const WINDOW: i64 = 65_535;
/// The body of a 403.
const BODY: &[u8] = b"Access denied\r\n";

/// A frame: kind, flags, stream, payload.
type Frame = (u8, u8, u32, Vec<u8>);

/// The frames in `bytes`, the last of which may be incomplete; the length of the whole ones.
fn whole_frames(bytes: &[u8]) -> (Vec<Frame>, usize) {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some(header) = bytes[at..].first_chunk::<9>() {
        let end = at + 9 + u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let Some(payload) = bytes.get(at + 9..end) else { break };
        let stream = u32::from_be_bytes(header[5..].try_into().unwrap());
        frames.push((header[3], header[4], stream, payload.to_vec()));
        at = end;
    }
    (frames, at)
}

/// The DATA frames that the client has got of a stream: flags and length of the payload.
fn data_frames(http: &Http, stream: u32) -> Vec<(u8, usize)> {
    let (frames, len) = whole_frames(&http.responses.received);
    assert_eq!(len, http.responses.received.len(), "only whole frames were received");
    let data = frames.into_iter().filter(|frame| (frame.0, frame.2) == (DATA, stream));
    data.map(|(_, flags, _, payload)| (flags, payload.len())).collect()
}

fn content(frame: &Frame) -> &[u8] {
    match frame.1 & PADDED {
        0 => &frame.3,
        _ => &frame.3[1..frame.3.len() - usize::from(frame.3[0])],
    }
}

/// A denied request, and an allowed one, whose response begins.
fn denied_and_allowed() -> (Http, Writer, Writer) {
    let (mut http, mut client, mut server) = connected();
    client.get(1, "/secret");
    client.get(3, "/docs");
    http.send(Original, &client.take(), &docs_only());
    server.headers(3, 0, &[(":status", "200")]);
    http.send(Reply, &server.take(), &docs_only());
    assert_eq!(data_frames(&http, 1), [(END_STREAM, BODY.len())]);
    (http, client, server)
}

fn update_window(http: &mut Http, client: &mut Writer, increment: u32) {
    client.frame(WINDOW_UPDATE, 0, 0, &increment.to_be_bytes());
    http.send(Original, &client.take(), &docs_only());
}

/// The sum of the credit that the server has got.
fn credit_at_server(http: &Http) -> u32 {
    let updates = at_server(http).others.into_iter().filter(|other| other.0 == WINDOW_UPDATE);
    updates.map(|(.., payload)| u32::from_be_bytes(payload.try_into().unwrap())).sum()
}

/// A client returns credit when it has received half of its window, or all of it. If a frame
/// waited as a whole, nothing would ever come of it.
#[test]
fn a_frame_that_the_window_has_no_room_for_passes_in_parts() {
    for sizes in [&[65_535][..], &[32_768, 32_767], &[16_384, 16_384, 16_384, 16_383]] {
        let (mut http, mut client, mut server) = denied_and_allowed();
        let sent: Vec<u8> = (0..65_535_u32).map(|at| at as u8).collect();
        let mut rest = &sent[..];
        for size in sizes {
            let (payload, behind) = rest.split_at(*size);
            server.frame(DATA, if behind.is_empty() { END_STREAM } else { 0 }, 3, payload);
            rest = behind;
        }
        http.send(Reply, &server.take(), &docs_only());
        let (last, before) = sizes.split_last().unwrap();
        let mut expected: Vec<_> = before.iter().map(|size| (0, *size)).collect();
        expected.push((0, last - BODY.len()));
        assert_eq!(data_frames(&http, 3), expected, "all that there is room for");
        // An answer may stand between the parts; there is no room for its content.
        client.get(5, "/secret");
        http.send(Original, &client.take(), &docs_only());
        assert_eq!(data_frames(&http, 5), []);
        update_window(&mut http, &mut client, 4);
        update_window(&mut http, &mut client, 65_531);
        expected.extend([(0, 4), (END_STREAM, BODY.len() - 4)]);
        assert_eq!(data_frames(&http, 3), expected);
        assert_eq!(at_client(&http).streams(), [1, 3, 5]);
        let (frames, _) = whole_frames(&http.responses.received);
        let data = frames.iter().filter(|frame| (frame.0, frame.2) == (DATA, 3));
        assert!(data.flat_map(content).eq(&sent));
        assert_eq!(credit_at_server(&http), 65_535 - BODY.len() as u32);
        assert_eq!(http.reset, None);
    }
}

#[test]
fn the_padding_of_a_frame_is_of_its_last_part() {
    // The room is 65,520 bytes: less than the content, as much, and it ends within the padding.
    for (content_len, padding, first, last) in [
        (65_534, 0, 65_520, 15),
        (65_530, 4, 65_520, 15),
        (65_520, 14, 65_520, 15),
        (65_519, 15, 65_519, 16),
        (65_284, 250, 65_284, 251),
    ] {
        let (mut http, mut client, mut server) = denied_and_allowed();
        let sent: Vec<u8> = (0..content_len).map(|at| at as u8).collect();
        let payload = [&[padding][..], &sent, &vec![0; padding.into()]].concat();
        assert_eq!(payload.len(), 65_535);
        server.frame(DATA, PADDED | END_STREAM, 3, &payload);
        http.send(Reply, &server.take(), &docs_only());
        assert_eq!(data_frames(&http, 3), [(0, first)], "{padding} bytes of padding");
        update_window(&mut http, &mut client, 65_535);
        assert_eq!(data_frames(&http, 3), [(0, first), (PADDED | END_STREAM, last)]);
        let (frames, _) = whole_frames(&http.responses.received);
        let data = frames.iter().filter(|frame| (frame.0, frame.2) == (DATA, 3));
        assert!(data.flat_map(content).eq(&sent), "{padding} bytes of padding");
    }
    // Longer than the frame: the client is to see that.
    let (mut http, mut client, mut server) = denied_and_allowed();
    server.frame(DATA, 0, 3, &[0; 65_500]);
    server.frame(DATA, PADDED, 3, &[200; 30]);
    http.send(Reply, &server.take(), &docs_only());
    assert_eq!(data_frames(&http, 3), [(0, 65_500)]);
    update_window(&mut http, &mut client, 65_535);
    assert_eq!(data_frames(&http, 3), [(0, 65_500), (PADDED, 30)]);
}

#[test]
fn a_frame_is_divided_wherever_its_bytes_are_cut() {
    for padding in [None, Some(7)] {
        let mut payload = vec![1; 65_535];
        let mut flags = END_STREAM;
        if let Some(padding) = padding {
            payload[0] = padding;
            flags |= PADDED;
        }
        let bytes = frame(DATA, flags, 3, &payload);
        let run = |cuts: &[usize]| {
            let (mut http, mut client, _) = denied_and_allowed();
            let mut at = 0;
            for cut in cuts.iter().chain(&[bytes.len()]) {
                http.send(Reply, &bytes[at..*cut], &docs_only());
                at = *cut;
            }
            update_window(&mut http, &mut client, 65_535);
            assert_eq!((http.reset, http.responses.undecided.len()), (None, 0));
            http.responses.received
        };
        let whole = run(&[]);
        for cut in (1..30).chain(65_500..bytes.len()) {
            assert_eq!(run(&[cut]), whole, "cut at {cut}");
        }
        assert_eq!(run(&(1..30).collect::<Vec<_>>()), whole);
    }
}

/// The length of a frame whose header has passed in part can't be changed any more.
#[test]
fn an_answer_within_the_header_of_a_large_frame_has_no_content() {
    for (kind, len, cut, has_content) in [
        (DATA, 65_535, 1, false),
        (DATA, 65_535, 3, false),
        (DATA, 65_535, 8, false),
        (DATA, 65_520, 3, true),
        (DATA, 65_521, 3, false),
        (DATA, 100, 1, false),
        (DATA, 100, 2, true),
        (DATA, 100, 8, true),
        (PING, 8, 1, false),
        (0x77, 65_535, 3, false),
        (0x77, 65_535, 4, true),
    ] {
        let (mut http, mut client, mut server) = connected();
        client.get(1, "/docs");
        http.send(Original, &client.take(), &docs_only());
        server.headers(1, 0, &[(":status", "200")]);
        http.send(Reply, &server.take(), &docs_only());
        let stream = if kind == PING { 0 } else { 1 };
        let bytes = frame(kind, 0, stream, &vec![1; len]);
        let before = http.responses.received.len();
        http.send(Reply, &bytes[..cut], &docs_only());
        client.get(3, "/secret");
        http.send(Original, &client.take(), &docs_only());
        http.send(Reply, &bytes[cut..], &docs_only());
        let case = format!("{len} bytes of kind {kind}, cut at {cut}");
        assert!(http.responses.received[before..].starts_with(&bytes), "{case}");
        assert_eq!(at_client(&http).streams(), [1, 3], "{case}");
        assert_eq!(!data_frames(&http, 3).is_empty(), has_content, "{case}");
        assert_eq!(http.reset, None, "{case}");
    }
}

/// A server that ends in the middle of a frame's header ends for the client as well.
#[test]
fn the_start_of_a_frame_passes_at_the_end_of_the_stream() {
    let (mut http, ..) = denied_and_allowed();
    let before = http.responses.received.len();
    http.send(Reply, &[0, 0, 9], &docs_only());
    http.end(Reply, &docs_only());
    assert_eq!(http.responses.received[before..], [0, 0, 9]);
    assert_eq!(http.reset, None);
}

/// How the server answers a request.
#[derive(Clone, Copy, Debug)]
struct Response {
    len: usize,
    /// Payload of a frame at most, bytes.
    frame: usize,
    padding: Option<u8>,
}

fn byte_at(stream: u32, at: usize) -> u8 {
    (at as u32).wrapping_mul(0x9e37_79b1).wrapping_add(stream).to_be_bytes()[0]
}

/// A client that returns credit when it has received some share of its window.
struct Client {
    writer: Writer,
    /// What it has read of the connection's bytes.
    read: usize,
    next_stream: u32,
    /// What may be sent to it, bytes.
    window: i64,
    /// What it does not return, as its window is to be smaller than that of the protocol.
    kept: i64,
    /// What it has to return.
    owed: i64,
    threshold: i64,
    received: BTreeMap<u32, (Vec<u8>, bool)>,
}

impl Client {
    fn request(&mut self, http: &mut Http, path: &str) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        self.writer.get(stream, path);
        http.send(Original, &self.writer.take(), &docs_only());
        stream
    }

    fn read(&mut self, http: &mut Http) {
        let (frames, len) = whole_frames(&http.responses.received[self.read..]);
        self.read += len;
        for frame in frames {
            let received = self.received.entry(frame.2).or_default();
            if frame.0 == DATA {
                assert!(!received.1, "content behind the end of stream {}", frame.2);
                self.window -= frame.3.len() as i64;
                assert!(self.window >= 0, "more than the client's window");
                received.0.extend(content(&frame));
                let kept = self.kept.min(frame.3.len() as i64);
                self.kept -= kept;
                self.owed += frame.3.len() as i64 - kept;
            }
            received.1 |= matches!(frame.0, DATA | HEADERS) && frame.1 & END_STREAM != 0;
        }
        if self.owed >= self.threshold {
            self.window += self.owed;
            let increment = std::mem::take(&mut self.owed) as u32;
            update_window(http, &mut self.writer, increment);
        }
    }
}

/// A server that sends as much as the client's window allows, as far as it knows.
struct Server {
    writer: Writer,
    read: usize,
    window: i64,
    open: Vec<(u32, Response, usize)>,
    /// What it has written, and what of it is sent next.
    written: Vec<u8>,
    cuts: Vec<usize>,
    next_cut: usize,
}

impl Server {
    fn read(&mut self, http: &Http, responses: &BTreeMap<u32, Response>) {
        let (frames, len) = whole_frames(&http.requests.received[self.read..]);
        self.read += len;
        for (kind, _, stream, payload) in frames {
            match kind {
                HEADERS => {
                    self.writer.headers(stream, 0, &[(":status", "200")]);
                    self.open.push((stream, responses[&stream], 0));
                }
                WINDOW_UPDATE => {
                    self.window += i64::from(u32::from_be_bytes(payload.try_into().unwrap()));
                }
                _ => {}
            }
        }
    }

    /// Writes a frame of each stream, as far as there is room.
    fn write(&mut self) {
        for (stream, response, sent) in &mut self.open {
            let most = response.frame.min(self.window as usize);
            let overhead = response.padding.map_or(0, |padding| 1 + usize::from(padding));
            let padding = response.padding.filter(|_| overhead < most);
            let overhead = if padding.is_some() { overhead } else { 0 };
            let len = (most - overhead).min(response.len - *sent);
            let ends = *sent + len == response.len;
            if len == 0 && !ends {
                continue;
            }
            let mut payload: Vec<_> = padding.into_iter().collect();
            payload.extend((*sent..*sent + len).map(|at| byte_at(*stream, at)));
            payload.resize(len + overhead, 0);
            let padded = if padding.is_some() { PADDED } else { 0 };
            self.writer.frame(DATA, padded | u8::from(ends), *stream, &payload);
            self.window -= payload.len() as i64;
            *sent += len;
        }
        self.open.retain(|(_, response, sent)| *sent < response.len);
        self.written.extend(self.writer.take());
    }

    /// Sends one segment. False if there is nothing to send.
    fn send(&mut self, http: &mut Http) -> bool {
        let cut = self.cuts[self.next_cut % self.cuts.len()].min(self.written.len());
        self.next_cut += 1;
        let piece: Vec<u8> = self.written.drain(..cut).collect();
        http.send(Reply, &piece, &docs_only());
        !piece.is_empty()
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Denied,
    Allowed(Response),
    /// The server sends that many segments. Whether the client reads.
    Exchange(usize, bool),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let frame = prop_oneof![Just(65_535_usize), Just(65_536), Just(16_384), 1_000_usize..70_000];
    let padding = prop::option::of(any::<u8>());
    let response = (1_usize..150_000, frame, padding);
    let response = response.prop_map(|(len, frame, padding)| Response { len, frame, padding });
    let act = prop_oneof![
        2 => Just(Act::Denied),
        2 => response.prop_map(Act::Allowed),
        3 => (0_usize..5, any::<bool>()).prop_map(|(count, reads)| Act::Exchange(count, reads)),
    ];
    prop::collection::vec(act, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    /// Whatever a server sends arrives once and in order, the client's window is never exceeded,
    /// and nobody waits for ever.
    #[test]
    fn content_arrives_whatever_is_denied_beside_it(
        acts in acts(),
        window in prop_oneof![1_024_i64..65_536, Just(WINDOW), Just(16_384), Just(1 << 20)],
        returns_late: bool,
        cuts in prop::collection::vec(prop_oneof![1_usize..12, 1_000_usize..70_000], 0..6),
    ) {
        let (mut http, mut writer, server) = connected();
        // A client with large windows for streams: only that of the connection counts.
        writer.frame(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
        http.send(Original, &writer.take(), &docs_only());
        if window > WINDOW {
            update_window(&mut http, &mut writer, (window - WINDOW) as u32);
        }
        let mut client = Client {
            writer,
            read: 0,
            next_stream: 1,
            window: window.max(WINDOW),
            kept: (WINDOW - window).max(0),
            owed: 0,
            // Padding is not divided: a client that needs the last bytes of its window to return
            // credit may get none.
            threshold: if returns_late { window - 256 } else { window / 2 },
            received: BTreeMap::new(),
        };
        let mut server = Server {
            writer: server,
            read: PREFACE.len(),
            window: WINDOW,
            open: Vec::new(),
            written: Vec::new(),
            cuts: [cuts, vec![30_000]].concat(),
            next_cut: 0,
        };
        let (mut responses, mut denied) = (BTreeMap::new(), Vec::new());
        for act in acts {
            match act {
                Act::Denied => denied.push(client.request(&mut http, "/secret")),
                Act::Allowed(response) => {
                    responses.insert(client.next_stream, response);
                    client.request(&mut http, "/docs");
                }
                Act::Exchange(segments, reads) => {
                    server.read(&http, &responses);
                    server.write();
                    (0..segments).for_each(|_| { server.send(&mut http); });
                    if reads {
                        client.read(&mut http);
                    }
                }
            }
        }
        let mut idle = 0;
        while idle < 2 {
            server.read(&http, &responses);
            server.write();
            let sent = server.send(&mut http);
            let window = client.window;
            client.read(&mut http);
            idle = if sent || client.window != window { 0 } else { idle + 1 };
        }
        prop_assert_eq!(http.reset, None);
        prop_assert_eq!(http.responses.undecided.len(), 0);
        for (stream, response) in &responses {
            let (content, ended) = &client.received[stream];
            prop_assert!(*ended, "{} of {} bytes", content.len(), response.len);
            let sent = (0..response.len).map(|at| byte_at(*stream, at));
            prop_assert!(content.iter().copied().eq(sent), "stream {stream}");
        }
        for stream in &denied {
            let (content, ended) = &client.received[stream];
            prop_assert!(*ended && (content.is_empty() || content == BODY), "stream {stream}");
        }
        let unknown = server.window - client.window;
        prop_assert!((0..=(denied.len() * BODY.len()) as i64).contains(&unknown), "{unknown}");
    }
}
