//! How much one HTTP/1 connection may ask for.

/// Most header fields that [`HttpLimits::fields`] may allow.
pub const FIELDS_CEILING: usize = 512;

/// Limits of an HTTP/1 connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpLimits {
    /// Longest request head, bytes, line ends included. A longer one is answered 431.
    pub head: u32,
    /// Most header fields of a request, up to [`FIELDS_CEILING`]. One with more is answered 431.
    pub fields: u16,
    /// Longest line with the size of a chunk, bytes, extensions and line end included. A body with
    /// a longer one is answered 400.
    pub chunk_line: u16,
    /// Requests that may wait for their responses at once. Further ones are not read until the
    /// server has answered one.
    pub requests: u16,
}

impl HttpLimits {
    /// Head and fields are Envoy's defaults (`max_request_headers_kb`, `max_headers_count`). Only
    /// attacks have long chunk extensions, and browsers and load generators stay far below that
    /// many requests.
    pub const DEFAULT: Self = Self { head: 60 * 1024, fields: 100, chunk_line: 256, requests: 128 };
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
