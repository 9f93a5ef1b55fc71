//! Responses of our own. Their fields are literals without indexing, or of the static table, so
//! that the client's decoder stays as the server's encoder left it.

use podgate_tables::drop_reason::DropReason;
use podgate_tables::l7::http1::{Denial, DenialResponse};

use super::frame::{self, FrameHeader, error, flag, kind};
use super::hpack::encode::{self, Indexing};

/// Most bytes that an answer has.
pub(super) const ANSWER_MAX: usize = 256;

/// How a stream is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    /// A response with a body.
    Whole,
    /// The response to `HEAD`: without the body that its head describes.
    Head,
    /// A response without a body, because the client's flow-control window has no room for it.
    Empty,
    /// The trailers of a gRPC call (gRPC over HTTP/2, Trailers-Only).
    Grpc,
}

/// The words of an answer.
struct AnswerFields {
    status: &'static str,
    /// gRPC's status code.
    grpc: &'static str,
    text: &'static str,
}

const fn answer_fields(denial: Denial) -> AnswerFields {
    match denial.response {
        DenialResponse::BadRequest(_) => {
            AnswerFields { status: "400", grpc: "13", text: "Bad request" }
        }
        DenialResponse::HeadTooLarge => {
            AnswerFields { status: "431", grpc: "8", text: "Head too large" }
        }
        _ => AnswerFields { status: "403", grpc: "7", text: "Access denied" },
    }
}

/// Length of the body of an answer, bytes.
pub(super) const fn body_len(denial: Denial) -> u32 {
    answer_fields(denial).text.len() as u32 + 2
}

/// Appends the response to a denied request.
pub(super) fn write(out: &mut Vec<u8>, stream: u32, denial: Denial, form: Form) {
    let AnswerFields { status, grpc, text } = answer_fields(denial);
    let at = out.len();
    let end = if form == Form::Whole { 0 } else { flag::END_STREAM };
    let flags = flag::END_HEADERS | end;
    let header = FrameHeader { len: 0, kind: kind::HEADERS, flags, stream };
    header.write(out);
    let start = out.len();
    let mut field = |name: &str, value: &str| {
        encode::field(out, name.as_bytes(), value.as_bytes(), Indexing::Allowed);
    };
    if form == Form::Grpc {
        field(":status", "200");
        field("content-type", "application/grpc");
        field("grpc-status", grpc);
        field("grpc-message", text);
    } else {
        field(":status", status);
        field("content-type", "text/plain");
        if form != Form::Empty {
            field("content-length", &body_len(denial).to_string());
        }
        field("server", "podgate");
    }
    out[at + 2] = (out.len() - start) as u8;
    if form == Form::Whole {
        let (len, kind, flags) = (body_len(denial), kind::DATA, flag::END_STREAM);
        FrameHeader { len, kind, flags, stream }.write(out);
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    debug_assert!(out.len() - at <= ANSWER_MAX);
}

/// Appends that the rest of a request is not wanted (RFC 9113 §8.1), after its response.
pub(super) fn write_unwanted(out: &mut Vec<u8>, stream: u32) {
    frame::write_rst_stream(out, stream, error::NO_ERROR);
}

/// A denial because there are too many streams; the client may send the request again.
pub(super) const REFUSED: Denial = Denial::new(DropReason::L7Limit, DenialResponse::Reset);
