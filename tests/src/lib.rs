//! A [`lab`] of network namespaces around the real `podgate` program, the [`scenario`] that the
//! demo shows and the end-to-end tests assert, and the files of the [`checkout`] that tests run.
#![forbid(unsafe_code)]

pub mod checkout;
pub mod lab;
pub mod scenario;
