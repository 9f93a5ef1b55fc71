//! The compiled tables that workers look up, and the plain values in them.
//!
//! [`policy`] decides flows and [`l7`] their requests; [`route`] says where packets go and [`tunnel`]
//! which of them would leave policy's sight. [`event`] and [`drop_reason`] are what a worker reports.
//! The rest are the values that these are made of.
//!
//! Everything here is data: no sockets, no frames, no threads, no clock. Text does not occur either;
//! the names behind a [`ids::RuleId`] are in the catalogue of the compiler.

#![forbid(unsafe_code)]

pub mod address;
pub mod drop_reason;
pub mod event;
pub mod ids;
pub mod l7;
pub mod policy;
pub mod proto;
pub mod route;
pub mod tcp_flags;
pub mod time;
pub mod tunnel;
pub mod tuple;
