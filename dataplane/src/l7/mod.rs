//! Inline L7 inspection: no proxy, no second connection.
//!
//! [`follower`] follows the TCP stream of one flow in both directions, holds what is undecided and
//! releases or refuses it; [`http1`] is the protocol inspector that it asks, which sees bytes and
//! nothing of TCP; [`reply`] builds the packets that refuse. Rules, and how a request is held
//! against them, are in [`podgate_tables::l7`].

pub mod follower;
mod heap;
pub mod http1;
pub mod http2;
pub mod io;
pub mod reply;
