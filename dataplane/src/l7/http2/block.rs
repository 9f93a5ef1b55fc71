//! Header blocks: put together from frames, decoded to a list of fields, re-encoded.

use std::cell::RefCell;

use podgate_tables::drop_reason::DropReason;
use podgate_tables::l7::http2::{self, Field};

use super::frame::{self, DEFAULT_FRAME_MAX, FrameHeader, HEADER_LEN, flag, kind};
use super::hpack::encode::{self, Indexing};
use super::hpack::{Decoder, HpackError, Part, Representation};

/// Longest header block of a client with the headers of its frames, bytes, like an HTTP/1 head.
pub const BLOCK_MAX: usize = 60 * 1024;
/// Most frames of a header block; browsers and gRPC need one to four.
pub const FRAMES_MAX: usize = 64;
/// Largest header list, bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts it (RFC 9113 §6.5.2).
pub const LIST_MAX: usize = 60 * 1024;

/// The name of the field that may be cut.
const COOKIE: &[u8] = b"cookie";

/// What a field counts in addition to its name and its value, bytes (RFC 9113 §6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Buffers that every header block needs, and no block keeps.
#[derive(Default)]
pub(super) struct Scratch {
    /// A block of several frames, put together.
    pub(super) assembled: Vec<u8>,
    /// Huffman-coded strings, decoded.
    pub(super) decoded: Vec<u8>,
    pub(super) list: FieldList,
    /// The values of several `cookie` fields, joined.
    pub(super) cookies: Vec<u8>,
    /// A re-encoded block.
    pub(super) written: Vec<u8>,
}

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A HEADERS frame with its CONTINUATION frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderFrames<'a> {
    pub(super) header: FrameHeader,
    /// Length of all frames, bytes.
    pub(super) len: usize,
    priority: &'a [u8],
    first: &'a [u8],
    continuations: &'a [u8],
}

impl<'a> HeaderFrames<'a> {
    /// Reads the frames at the front of `bytes`, of which the first has this header. [`None`] if
    /// they are not complete.
    ///
    /// # Errors
    /// If they are malformed, or too long.
    pub(super) fn read(header: FrameHeader, bytes: &'a [u8]) -> Result<Option<Self>, DropReason> {
        let (mut last, mut len, mut count) = (header, header.frame_len(), 1);
        loop {
            if len > BLOCK_MAX || count > FRAMES_MAX {
                return Err(DropReason::L7Limit);
            }
            if last.has(flag::END_HEADERS) {
                break;
            }
            let rest = bytes.get(len..).unwrap_or_default();
            let Some(next) = FrameHeader::parse(rest) else { return Ok(None) };
            if next.kind != kind::CONTINUATION || next.stream != header.stream {
                return Err(DropReason::L7Malformed);
            }
            last = next;
            len += next.frame_len();
            count += 1;
        }
        let (Some(payload), Some(continuations)) =
            (header.payload(bytes), bytes.get(header.frame_len()..len))
        else {
            return Ok(None);
        };
        let parts = frame::split_headers(header, payload);
        let (priority, first) = parts.ok_or(DropReason::L7Malformed)?;
        Ok(Some(Self { header, len, priority, first, continuations }))
    }

    /// The header block; put together in `assembled` if it has several fragments.
    pub(super) fn block<'b>(&self, assembled: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        if self.continuations.is_empty() {
            return self.first;
        }
        assembled.clear();
        assembled.extend_from_slice(self.first);
        let mut rest = self.continuations;
        while let Some(header) = FrameHeader::parse(rest) {
            assembled.extend_from_slice(header.payload(rest).unwrap_or_default());
            rest = &rest[header.frame_len()..];
        }
        assembled
    }

    /// Appends frames of the same stream and priority that have another block.
    pub(super) fn write_with(&self, block: &[u8], out: &mut Vec<u8>) {
        let frame_max = DEFAULT_FRAME_MAX as usize;
        let (first, rest) = block.split_at(block.len().min(frame_max - self.priority.len()));
        let kept = self.header.flags & (flag::END_STREAM | flag::PRIORITY);
        let end = |is_last: bool| if is_last { flag::END_HEADERS } else { 0 };
        let len = (self.priority.len() + first.len()) as u32;
        let flags = kept | end(rest.is_empty());
        FrameHeader { len, flags, ..self.header }.write(out);
        out.extend_from_slice(self.priority);
        out.extend_from_slice(first);
        let mut fragments = rest.chunks(frame_max).peekable();
        while let Some(fragment) = fragments.next() {
            let (len, kind) = (fragment.len() as u32, kind::CONTINUATION);
            let flags = end(fragments.peek().is_none());
            FrameHeader { len, kind, flags, stream: self.header.stream }.write(out);
            out.extend_from_slice(fragment);
        }
    }

    /// Most bytes that [`Self::write_with`] adds to a block: headers of frames, and the priority.
    pub(super) const OVERHEAD_MAX: usize =
        (LIST_MAX / DEFAULT_FRAME_MAX as usize + 2) * HEADER_LEN + 5;

    /// Most bytes that [`Self::write_with`] appends for a list of fields and sizes of the table.
    pub(super) const WRITTEN_MAX: usize = LIST_MAX + 16 + Self::OVERHEAD_MAX;
}

/// Sizes of the table that an encoder has signalled: the least, and the last (RFC 7541 §4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TableSizes {
    least: u32,
    last: u32,
}

impl TableSizes {
    /// First `earlier`, and then `later`.
    pub(super) fn join(earlier: Option<Self>, later: Option<Self>) -> Option<Self> {
        match (earlier, later) {
            (Some(a), Some(b)) => Some(Self { least: a.least.min(b.least), last: b.last }),
            (sizes, None) | (None, sizes) => sizes,
        }
    }
}

/// What a header block does besides its fields.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Decoded {
    /// It adds entries to the dynamic table.
    pub(super) inserts: bool,
    /// It refers to entries of the dynamic table.
    pub(super) is_dynamic: bool,
    pub(super) sizes: Option<TableSizes>,
    /// The list is larger than [`LIST_MAX`], and not complete.
    pub(super) is_too_large: bool,
}

#[derive(Clone, Copy)]
struct Span {
    start: u32,
    name_len: u32,
    value_len: u32,
    indexing: Indexing,
}

/// The fields of a header block.
#[derive(Default)]
pub(super) struct FieldList {
    text: Vec<u8>,
    spans: Vec<Span>,
    /// `cookie` fields among them.
    cookies: usize,
}

impl FieldList {
    /// Decodes a block. Afterwards the list has the fields of the block.
    ///
    /// # Errors
    /// [`HpackError`]: the decoder can't be used any more.
    pub(super) fn decode(
        &mut self,
        decoder: &mut Decoder,
        block: &[u8],
        buffer: &mut Vec<u8>,
    ) -> Result<Decoded, HpackError> {
        self.text.clear();
        self.spans.clear();
        self.cookies = 0;
        let mut decoded = Decoded::default();
        let mut size = 0;
        decoder.decode(block, buffer, |part| match part {
            Part::TableSize(size) => {
                let this = Some(TableSizes { least: size, last: size });
                decoded.sizes = TableSizes::join(decoded.sizes, this);
            }
            Part::Field { name, value, representation, is_dynamic } => {
                decoded.inserts |= representation == Representation::Incremental;
                decoded.is_dynamic |= is_dynamic;
                size += name.len() + value.len() + FIELD_OVERHEAD;
                decoded.is_too_large |= size > LIST_MAX;
                if !decoded.is_too_large {
                    self.push(name, value, representation);
                }
            }
        })?;
        Ok(decoded)
    }

    fn push(&mut self, name: &[u8], value: &[u8], representation: Representation) {
        let indexing = match representation {
            Representation::NeverIndexed => Indexing::Never,
            _ => Indexing::Allowed,
        };
        self.cookies += usize::from(name == COOKIE);
        let start = self.text.len() as u32;
        let (name_len, value_len) = (name.len() as u32, value.len() as u32);
        self.spans.push(Span { start, name_len, value_len, indexing });
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(value);
    }

    fn field(&self, span: &Span) -> Field<'_> {
        let text = &self.text[span.start as usize..];
        text[..(span.name_len + span.value_len) as usize].split_at(span.name_len as usize)
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        self.spans.iter().map(|span| self.field(span))
    }

    /// The fields as a request in HTTP/1 has them: a client may have split its cookie into several
    /// fields, which become one in the place of the first (RFC 9113 §8.2.3). Their values are
    /// joined in `joined`.
    pub(super) fn fields_with_one_cookie<'a>(
        &'a self,
        joined: &'a mut Vec<u8>,
    ) -> impl Iterator<Item = Field<'a>> {
        let cookies = || self.fields().filter(|field| field.0 == COOKIE).map(|field| field.1);
        // An invalid one must not become a part of a valid one.
        let are_joined = self.cookies > 1 && cookies().all(http2::is_value);
        joined.clear();
        if are_joined {
            for (index, value) in cookies().enumerate() {
                let separator: &[u8] = if index == 0 { b"" } else { b"; " };
                joined.extend_from_slice(separator);
                joined.extend_from_slice(value);
            }
        }
        let (joined, mut is_first) = (&*joined, true);
        self.fields().filter_map(move |field| match field {
            (COOKIE, _) if are_joined => {
                std::mem::take(&mut is_first).then_some((COOKIE, &joined[..]))
            }
            field => Some(field),
        })
    }

    /// The first value of a field.
    pub(super) fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields().find(|field| field.0 == name).map(|field| field.1)
    }

    /// Writes the fields as a block that refers to no dynamic table.
    pub(super) fn write(&self, sizes: Option<TableSizes>, block: &mut Vec<u8>) {
        block.clear();
        if let Some(TableSizes { least, last }) = sizes {
            if least < last {
                encode::table_size(block, least);
            }
            encode::table_size(block, last);
        }
        for span in &self.spans {
            let (name, value) = self.field(span);
            encode::field(block, name, value, span.indexing);
        }
    }
}
