//! Requests: decided, and forwarded or answered.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::event::{EventKind, HttpVersion, RequestLine, RequestRecord, Text};
use podgate_tables::ids::RuleId;
use podgate_tables::l7::http1::{Denial, DenialResponse};
use podgate_tables::l7::http2::{FIELDS_MAX, MALFORMED};
use podgate_tables::l7::{L7Policy, L7Request, L7Verdict, http2};

use super::answer::{self, Form, REFUSED};
use super::block::{Decoded, FieldList, HeaderFrames, Scratch, TableSizes};
use super::client::{EARNED_BY_REQUEST, write};
use super::frame::{self, error, flag};
use super::streams::Stream;
use super::{Http2, InspectCtx, Op, Step};
use crate::l7::heap;

/// An allowed request.
struct Allowed {
    rule: Option<RuleId>,
    length: Option<u64>,
}

/// Decides the request that a list of fields describes.
fn decide(
    list: &FieldList,
    cookies: &mut Vec<u8>,
    decoded: &Decoded,
    ends: bool,
    policy: &L7Policy,
) -> Result<Allowed, Denial> {
    if decoded.is_too_large {
        return Err(Denial::HEAD_TOO_LARGE);
    }
    let mut headers = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let head = http2::parse(list.fields_with_one_cookie(cookies), &mut headers)?;
    let length = head.length;
    if ends && length.is_some_and(|length| length > 0) {
        return Err(MALFORMED);
    }
    match policy.decide(&L7Request::Http(head.request)) {
        L7Verdict::Allow { rule } => Ok(Allowed { rule, length }),
        L7Verdict::Deny if head.request.path_is_normal => Err(Denial::BY_RULES),
        L7Verdict::Deny => Err(Denial::PATH_NOT_NORMAL),
    }
}

impl Http2 {
    /// A header block opens a stream.
    pub(super) fn request(
        &mut self,
        cx: &InspectCtx<'_>,
        frames: &HeaderFrames<'_>,
        decoded: &Decoded,
        scratch: &mut Scratch,
    ) -> Result<Step, DropReason> {
        let (id, ends) = (frames.header.stream, frames.header.has(flag::END_STREAM));
        self.client.highest = id;
        self.client.earn(EARNED_BY_REQUEST);
        let list = &scratch.list;
        let value = |name: &[u8]| list.value(name).unwrap_or_default();
        let line = RequestLine {
            version: HttpVersion::Http2,
            method: Text::new(value(b":method")),
            path: Text::new(value(b":path")),
            host: Text::new(list.value(b":authority").or(list.value(b"host")).unwrap_or_default()),
        };
        let is_head = value(b":method") == b"HEAD";
        let is_grpc = http2::is_grpc(value(b"content-type"));
        let verdict = decide(list, &mut scratch.cookies, decoded, ends, cx.policy);
        let verdict = verdict.and_then(|allowed| {
            let mut stream = Stream::new(id, cx.now, allowed.length);
            (stream.is_grpc, stream.client_ended) = (is_grpc, ends);
            if self.streams.add(stream) { Ok(allowed.rule) } else { Err(REFUSED) }
        });
        let reported = verdict.map_err(|denial| denial.reason);
        let event = Some(EventKind::decided(reported, RequestRecord::Http(line)));
        let op = match verdict {
            Ok(_) => self.forward_block(frames, decoded, scratch),
            // The client does not get HTTP/2 from the server, and can't get it from us.
            Err(denial) if self.server.is_untracked() => Op::Reset(denial.reason),
            Err(denial) => {
                let form = match (is_grpc, is_head) {
                    (true, _) => Form::Grpc,
                    (false, true) => Form::Head,
                    (false, false) => Form::Whole,
                };
                self.answer(id, denial, form);
                if !ends && denial.response != DenialResponse::Reset {
                    write(&mut self.to_client, |out| answer::write_unwanted(out, id));
                }
                self.drop_block(frames, decoded)
            }
        };
        Ok(Step { op, event })
    }

    fn answer(&mut self, id: u32, denial: Denial, form: Form) {
        if denial.response == DenialResponse::Reset {
            let refused = error::REFUSED_STREAM;
            return write(&mut self.to_client, |out| frame::write_rst_stream(out, id, refused));
        }
        // A frame whose header has passed in part might have no room beside our body.
        let (body, begun) = (answer::body_len(denial), self.server.begun_content_max());
        let unacked = self.client.settings.least_window();
        let form = match form {
            Form::Whole if !self.window.reserve_own(body, begun, unacked) => Form::Empty,
            form => form,
        };
        write(&mut self.to_client, |out| answer::write(out, id, denial, form));
    }

    /// A header block is dropped.
    pub(super) fn drop_block(&mut self, frames: &HeaderFrames<'_>, decoded: &Decoded) -> Op {
        let client = &mut self.client;
        client.lost_sizes = TableSizes::join(client.lost_sizes, decoded.sizes);
        client.tables_differ |= decoded.inserts;
        Op::Drop(frames.len as u64)
    }

    /// A header block passes: as it came, if the server's decoder reads the same in it.
    pub(super) fn forward_block(
        &mut self,
        frames: &HeaderFrames<'_>,
        decoded: &Decoded,
        scratch: &mut Scratch,
    ) -> Op {
        let client = &mut self.client;
        if client.lost_sizes.is_none() && !(client.tables_differ && decoded.is_dynamic) {
            return Op::Pass(frames.len);
        }
        client.tables_differ |= decoded.inserts;
        let sizes = TableSizes::join(client.lost_sizes.take(), decoded.sizes);
        scratch.list.write(sizes, &mut scratch.written);
        let most = scratch.written.len() + HeaderFrames::OVERHEAD_MAX;
        let capacity = heap::grown(self.to_server.capacity(), self.to_server.len() + most);
        self.to_server.reserve_exact(capacity - self.to_server.len());
        frames.write_with(&scratch.written, &mut self.to_server);
        Op::Drop(frames.len as u64)
    }
}
