//! Responses of our own.

use podgate_tables::l7::http1::{Denial, DenialResponse, Flaw};

use crate::l7::inspector::AfterInjection;

/// A response, and whether the connection continues after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) text: &'static [u8],
    pub(super) then: AfterInjection,
}

/// A response: status, length of the body, further header lines, body.
macro_rules! response {
    ($status:literal, $length:literal, $further:literal, $body:literal) => {
        concat!(
            "HTTP/1.1 ",
            $status,
            "\r\ncontent-type: text/plain\r\ncontent-length: ",
            $length,
            "\r\n",
            $further,
            "server: podgate\r\n\r\n",
            $body,
            "\r\n"
        )
        .as_bytes()
    };
}

/// A denied request, after which the connection continues. The body is Cilium's (proxy
/// `cilium/l7policy.cc`), so clients that check it need no change; `server` says who answered.
pub const FORBIDDEN: &[u8] = response!("403 Forbidden", 15, "", "Access denied");

/// A denied request, after which the connection ends.
pub const FORBIDDEN_CLOSE: &[u8] =
    response!("403 Forbidden", 15, "connection: close\r\n", "Access denied");

macro_rules! bad_request {
    ($length:literal, $flaw:literal) => {
        concat!(
            "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: ",
            $length,
            "\r\nconnection: close\r\nserver: podgate\r\n\r\nBad request: invalid ",
            $flaw,
            "\r\n"
        )
        .as_bytes()
    };
}

/// An invalid request.
#[must_use]
pub const fn bad_request(flaw: Flaw) -> &'static [u8] {
    match flaw {
        Flaw::RequestLine => bad_request!("35", "request line"),
        Flaw::Target => bad_request!("37", "request target"),
        Flaw::Version => bad_request!("35", "HTTP version"),
        Flaw::FieldName => bad_request!("38", "name of a field"),
        Flaw::FieldValue => bad_request!("39", "value of a field"),
        Flaw::LineEnd => bad_request!("31", "line end"),
        Flaw::EmptyLines => bad_request!("33", "empty line"),
        Flaw::Host => bad_request!("27", "Host"),
        Flaw::BodyLength => bad_request!("41", "length of the body"),
        Flaw::BodyLikeRequest => bad_request!("53", "body, it begins like a request"),
        Flaw::ChunkSize => bad_request!("33", "chunk size"),
        Flaw::ChunkEnd => bad_request!("37", "end of a chunk"),
        Flaw::Trailer => bad_request!("30", "trailer"),
        Flaw::Incomplete => bad_request!("46", "end, it is not complete"),
    }
}

/// A request that was not complete in time.
pub const REQUEST_TIMEOUT: &[u8] =
    response!("408 Request Timeout", 17, "connection: close\r\n", "Request timeout");

/// A request whose head is too long or has too many fields.
pub const HEAD_TOO_LARGE: &[u8] =
    response!("431 Request Header Fields Too Large", 16, "connection: close\r\n", "Head too large");

impl Answer {
    /// No response: the connection ends.
    pub(super) const NONE: Self = Self { text: b"", then: AfterInjection::Close };

    /// The response to a denial, without the body if the request was `HEAD`.
    pub(super) fn to(denial: Denial, then: AfterInjection) -> Self {
        let whole = match (denial.response, then) {
            (DenialResponse::Forbidden, AfterInjection::Continue) => FORBIDDEN,
            (DenialResponse::Forbidden, AfterInjection::Close) => FORBIDDEN_CLOSE,
            (DenialResponse::BadRequest(flaw), _) => bad_request(flaw),
            (DenialResponse::Timeout, _) => REQUEST_TIMEOUT,
            (DenialResponse::HeadTooLarge, _) => HEAD_TOO_LARGE,
            (DenialResponse::Reset, _) => b"",
        };
        let head_len = whole.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let text = match head_len {
            Some(len) if denial.head_only => &whole[..len],
            _ => whole,
        };
        Self { text, then }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_403_has_these_bytes() {
        assert_eq!(
            FORBIDDEN,
            b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 15\r\n\
              server: podgate\r\n\r\nAccess denied\r\n"
        );
        assert_eq!(
            FORBIDDEN_CLOSE,
            b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 15\r\n\
              connection: close\r\nserver: podgate\r\n\r\nAccess denied\r\n"
        );
    }

    #[test]
    fn the_length_of_each_body_is_right() {
        let responses = [FORBIDDEN, FORBIDDEN_CLOSE, REQUEST_TIMEOUT, HEAD_TOO_LARGE];
        for response in responses.into_iter().chain(Flaw::ALL.map(bad_request)) {
            let mut fields = [httparse::EMPTY_HEADER; 8];
            let mut parsed = httparse::Response::new(&mut fields);
            let head = parsed.parse(response).unwrap().unwrap();
            let length = parsed.headers.iter().find(|field| field.name == "content-length");
            let length = std::str::from_utf8(length.unwrap().value).unwrap();
            assert_eq!(length, (response.len() - head).to_string());
        }
        let head_only = Denial { head_only: true, ..Denial::BY_RULES };
        let answer = Answer::to(head_only, AfterInjection::Continue);
        assert_eq!(answer.text, &FORBIDDEN[..FORBIDDEN.len() - 15]);
    }
}
