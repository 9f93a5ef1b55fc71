//! Frames written and read by an independent encoder and decoder of header blocks.

use podgate_dataplane::l7::http2::PREFACE;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

pub(super) type Fields = Vec<(String, String)>;

/// What an end has read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Header lists, by stream; whether the stream ended with them.
    pub(super) headers: Vec<(u32, Fields, bool)>,
    /// Content, by stream.
    pub(super) data: Vec<(u32, Vec<u8>)>,
    /// Other frames: kind, flags, stream, payload.
    pub(super) others: Vec<(u8, u8, u32, Vec<u8>)>,
}

impl Seen {
    /// What an end with its own decoder reads.
    pub(super) fn read(mut bytes: &[u8]) -> Self {
        let mut decoder = loona_hpack::Decoder::new();
        let (mut seen, mut block) = (Self::default(), Vec::new());
        let mut ends = false;
        while !bytes.is_empty() {
            let len = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
            let (kind, flags) = (bytes[3], bytes[4]);
            let stream = u32::from_be_bytes(bytes[5..9].try_into().unwrap());
            let payload = &bytes[9..9 + len];
            bytes = &bytes[9 + len..];
            match kind {
                HEADERS | CONTINUATION => {
                    ends |= kind == HEADERS && flags & END_STREAM != 0;
                    block.extend_from_slice(payload);
                    if flags & END_HEADERS != 0 {
                        let fields = decoder.decode(&block).unwrap();
                        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
                        let fields = fields.into_iter().map(|(n, v)| (text(n), text(v))).collect();
                        seen.headers.push((stream, fields, ends));
                        block.clear();
                        ends = false;
                    }
                }
                DATA => seen.data.push((stream, payload.to_vec())),
                _ => seen.others.push((kind, flags, stream, payload.to_vec())),
            }
        }
        assert!(block.is_empty(), "a block without its end");
        seen
    }

    pub(super) fn streams(&self) -> Vec<u32> {
        self.headers.iter().map(|(stream, ..)| *stream).collect()
    }

    pub(super) fn has_stream(&self, wanted: u32) -> bool {
        let others = self.others.iter().map(|(_, _, stream, _)| *stream);
        let data = self.data.iter().map(|(stream, _)| *stream);
        self.streams().into_iter().chain(others).chain(data).any(|stream| stream == wanted)
    }
}

/// Writes one end's frames, with a dynamic table in use.
pub(super) struct Writer {
    pub(super) encoder: loona_hpack::Encoder<'static>,
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn client() -> Self {
        let mut writer = Self { encoder: loona_hpack::Encoder::new(), bytes: PREFACE.to_vec() };
        writer.frame(SETTINGS, 0, 0, &[]);
        writer
    }

    pub(super) fn server() -> Self {
        let mut writer = Self { encoder: loona_hpack::Encoder::new(), bytes: Vec::new() };
        writer.frame(SETTINGS, 0, 0, &[]);
        writer.frame(SETTINGS, ACK, 0, &[]);
        writer
    }

    pub(super) fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.bytes.extend(frame(kind, flags, stream, payload));
    }

    pub(super) fn block(&mut self, fields: &[(&str, &str)]) -> Vec<u8> {
        self.encoder.encode(fields.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())))
    }

    pub(super) fn headers(&mut self, stream: u32, flags: u8, fields: &[(&str, &str)]) {
        let block = self.block(fields);
        self.frame(HEADERS, flags | END_HEADERS, stream, &block);
    }

    pub(super) fn get(&mut self, stream: u32, path: &str) {
        self.headers(stream, END_STREAM, &request("GET", path, &[("x-token", "same for all")]));
    }

    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

pub(super) fn request<'a>(
    method: &'a str,
    path: &'a str,
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let mut fields =
        vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "web:80")];
    fields.extend(more);
    fields
}
