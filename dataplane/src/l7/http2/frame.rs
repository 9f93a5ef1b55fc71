//! Frames (RFC 9113 §4.1, §6).

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length of a frame's header, bytes.
pub(super) const HEADER_LEN: usize = 9;
/// Largest payload until SETTINGS_MAX_FRAME_SIZE sets another one, bytes; any receiver accepts it.
pub(super) const DEFAULT_FRAME_MAX: u32 = 16_384;
/// Flow-control window until SETTINGS_INITIAL_WINDOW_SIZE sets another one, bytes.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;

/// Frame types.
pub(super) mod kind {
    pub(in super::super) const DATA: u8 = 0;
    pub(in super::super) const HEADERS: u8 = 1;
    pub(in super::super) const PRIORITY: u8 = 2;
    pub(in super::super) const RST_STREAM: u8 = 3;
    pub(in super::super) const SETTINGS: u8 = 4;
    pub(in super::super) const PUSH_PROMISE: u8 = 5;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const GOAWAY: u8 = 7;
    pub(in super::super) const WINDOW_UPDATE: u8 = 8;
    pub(in super::super) const CONTINUATION: u8 = 9;
    /// RFC 9218 §7.1.
    pub(in super::super) const PRIORITY_UPDATE: u8 = 0x10;
}

/// Flags of frames.
pub(super) mod flag {
    pub(in super::super) const END_STREAM: u8 = 1;
    /// Of SETTINGS and PING.
    pub(in super::super) const ACK: u8 = 1;
    pub(in super::super) const END_HEADERS: u8 = 4;
    pub(in super::super) const PADDED: u8 = 8;
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

/// Error codes (RFC 9113 §7).
pub(super) mod error {
    pub(in super::super) const NO_ERROR: u32 = 0;
    pub(in super::super) const PROTOCOL_ERROR: u32 = 1;
    pub(in super::super) const REFUSED_STREAM: u32 = 7;
}

/// The header of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameHeader {
    /// Length of the payload, bytes.
    pub(super) len: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    /// With the reserved bit.
    pub(super) stream: u32,
}

impl FrameHeader {
    /// [`None`] if there are less than [`HEADER_LEN`] bytes.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, stream @ ..] = bytes.first_chunk::<HEADER_LEN>()?;
        let (kind, flags) = (*kind, *flags);
        let len = u32::from_be_bytes([0, *a, *b, *c]);
        Some(Self { len, kind, flags, stream: u32::from_be_bytes(*stream) })
    }

    pub(super) const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) const fn payload_len(self) -> usize {
        self.len as usize
    }

    /// Length of the frame, bytes.
    pub(super) const fn frame_len(self) -> usize {
        HEADER_LEN + self.len as usize
    }

    /// The frame's payload, if it is all in `bytes`, which begin with the frame.
    pub(super) fn payload(self, bytes: &[u8]) -> Option<&[u8]> {
        bytes.get(HEADER_LEN..self.frame_len())
    }

    pub(super) const fn bytes(self) -> [u8; HEADER_LEN] {
        let [_, a, b, c] = self.len.to_be_bytes();
        let [d, e, f, g] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, d, e, f, g]
    }

    pub(super) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
    }
}

/// Appends a RST_STREAM frame.
pub(super) fn write_rst_stream(out: &mut Vec<u8>, stream: u32, code: u32) {
    FrameHeader { len: 4, kind: kind::RST_STREAM, flags: 0, stream }.write(out);
    out.extend_from_slice(&code.to_be_bytes());
}

/// Appends a WINDOW_UPDATE frame of the connection.
pub(super) fn write_window_update(out: &mut Vec<u8>, increment: u32) {
    FrameHeader { len: 4, kind: kind::WINDOW_UPDATE, flags: 0, stream: 0 }.write(out);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// What a SETTINGS frame says, as far as it concerns us (RFC 9113 §6.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Settings {
    /// The least SETTINGS_HEADER_TABLE_SIZE, and the last.
    pub(super) table_size: Option<(u32, u32)>,
    /// The last SETTINGS_INITIAL_WINDOW_SIZE.
    pub(super) initial_window: Option<u32>,
    /// The largest SETTINGS_MAX_FRAME_SIZE.
    pub(super) frame_max: Option<u32>,
}

impl Settings {
    /// From a payload whose length is a multiple of six.
    pub(super) fn parse(payload: &[u8]) -> Self {
        let mut settings = Self::default();
        for setting in payload.as_chunks::<6>().0 {
            let [a, b, value @ ..] = setting;
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                1 => {
                    let least = settings.table_size.map_or(value, |(least, _)| least.min(value));
                    settings.table_size = Some((least, value));
                }
                4 => settings.initial_window = Some(value),
                5 => settings.frame_max = settings.frame_max.max(Some(value)),
                _ => {}
            }
        }
        settings
    }
}

/// The part of a HEADERS frame's payload that is not padding: priority fields, if there are any,
/// and the fragment of the header block. [`None`] if the padding is longer than the payload.
pub(super) fn split_headers(header: FrameHeader, payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let payload = without_padding(header, payload)?;
    let priority = if header.has(flag::PRIORITY) { 5 } else { 0 };
    payload.split_at_checked(priority)
}

/// A payload without its padding (RFC 9113 §6.1).
pub(super) fn without_padding(header: FrameHeader, payload: &[u8]) -> Option<&[u8]> {
    if !header.has(flag::PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(*padding))?)
}
