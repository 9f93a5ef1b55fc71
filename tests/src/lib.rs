//! A [`lab`] of network namespaces around the real `podgate` program, and the [`scenario`] that the
//! demo shows and the end-to-end tests assert.
#![forbid(unsafe_code)]

pub mod lab;
pub mod scenario;
