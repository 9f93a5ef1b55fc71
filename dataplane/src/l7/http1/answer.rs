//! Responses of our own.

use podgate_tables::l7::http1::{Denial, DenialResponse, Flaw};

use crate::l7::inspector::AfterInjection;

/// A response, and whether the connection continues after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) text: &'static [u8],
    pub(super) then: AfterInjection,
}

/// A response: status, further header lines, parts of the body. Its length has two digits.
macro_rules! response {
    ($status:literal, $further:literal, $($body:literal),+) => {{
        const BODY: &str = concat!($($body,)+ "\r\n");
        const LENGTH: [u8; 2] = two_digits(BODY.len());
        const BEFORE: &str =
            concat!("HTTP/1.1 ", $status, "\r\ncontent-type: text/plain\r\ncontent-length: ");
        const AFTER: &str = concat!("\r\n", $further, "server: podgate\r\n\r\n");
        const LEN: usize = BEFORE.len() + LENGTH.len() + AFTER.len() + BODY.len();
        const TEXT: [u8; LEN] =
            joined([BEFORE.as_bytes(), &LENGTH, AFTER.as_bytes(), BODY.as_bytes()]);
        &TEXT
    }};
}

const fn two_digits(number: usize) -> [u8; 2] {
    assert!(number < 100, "it has more than two digits");
    [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8]
}

/// The parts, which have `LEN` bytes together.
const fn joined<const LEN: usize>(parts: [&[u8]; 4]) -> [u8; LEN] {
    let (mut all, mut len, mut part) = ([0; LEN], 0, 0);
    while part < parts.len() {
        let mut at = 0;
        while at < parts[part].len() {
            all[len] = parts[part][at];
            (len, at) = (len + 1, at + 1);
        }
        part += 1;
    }
    assert!(len == LEN, "the parts fill it");
    all
}

/// A denied request, after which the connection continues. The body is Cilium's (proxy
/// `cilium/l7policy.cc`), so clients that check it need no change; `server` says who answered.
pub const FORBIDDEN: &[u8] = response!("403 Forbidden", "", "Access denied");

/// A denied request, after which the connection ends.
pub const FORBIDDEN_CLOSE: &[u8] =
    response!("403 Forbidden", "connection: close\r\n", "Access denied");

macro_rules! bad_request {
    ($flaw:literal) => {
        response!("400 Bad Request", "connection: close\r\n", "Bad request: ", $flaw)
    };
}

/// An invalid request.
#[must_use]
pub const fn bad_request(flaw: Flaw) -> &'static [u8] {
    match flaw {
        Flaw::RequestLine => bad_request!("invalid request line"),
        Flaw::Target => bad_request!("invalid request target"),
        Flaw::Version => bad_request!("invalid HTTP version"),
        Flaw::FieldName => bad_request!("invalid name of a field"),
        Flaw::FieldValue => bad_request!("invalid value of a field"),
        Flaw::LineEnd => bad_request!("invalid line end"),
        Flaw::EmptyLines => bad_request!("invalid empty line"),
        Flaw::Host => bad_request!("invalid Host"),
        Flaw::BodyLength => bad_request!("invalid length of the body"),
        Flaw::BodyLikeRequest => bad_request!("the body begins like a request"),
        Flaw::ChunkSize => bad_request!("invalid chunk size"),
        Flaw::ChunkEnd => bad_request!("invalid end of a chunk"),
        Flaw::Trailer => bad_request!("invalid trailer"),
        Flaw::Incomplete => bad_request!("incomplete request"),
    }
}

/// A request that was not complete in time.
pub const REQUEST_TIMEOUT: &[u8] =
    response!("408 Request Timeout", "connection: close\r\n", "Request timeout");

/// A request whose head is too long or has too many fields.
pub const HEAD_TOO_LARGE: &[u8] =
    response!("431 Request Header Fields Too Large", "connection: close\r\n", "Head too large");

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
