//! HTTP/2 (RFC 9113): so far its header compression.

pub mod hpack;
