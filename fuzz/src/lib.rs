//! The bodies of the fuzz targets. Each takes any bytes and panics when an invariant is broken.
//!
//! `scripts/fuzz` runs them under libFuzzer; `tests/replay.rs` runs them over the committed corpora
//! in `corpus/TARGET`, in every `cargo test --workspace`.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a panic is what is looked for")]

#[cfg(feature = "captures")]
mod captures;
mod dns;
mod editor;
mod hpack;
mod http1;
mod http2;
mod input;
mod kafka;
#[cfg(feature = "manifests")]
mod manifests;
mod packets;
mod patterns;
#[cfg(feature = "requests")]
mod requests;
mod tls;

#[cfg(feature = "captures")]
pub use captures::captures;
pub use dns::dns;
pub use editor::editor;
pub use hpack::hpack;
pub use http1::http1;
pub use http2::http2;
pub use kafka::kafka;
#[cfg(feature = "manifests")]
pub use manifests::manifests;
pub use packets::packets;
pub use patterns::patterns;
#[cfg(feature = "requests")]
pub use requests::requests;
pub use tls::tls;

/// The body of a target.
pub type Body = fn(&[u8]);

/// Every target that is compiled in, by the name of its program and of its corpus.
pub const TARGETS: &[(&str, Body)] = &[
    ("packets", packets),
    ("http1", http1),
    ("http2", http2),
    ("dns", dns),
    ("editor", editor),
    ("patterns", patterns),
    ("hpack", hpack),
    ("tls", tls),
    ("kafka", kafka),
    #[cfg(feature = "manifests")]
    ("manifests", manifests),
    #[cfg(feature = "captures")]
    ("captures", captures),
    #[cfg(feature = "requests")]
    ("requests", requests),
];
