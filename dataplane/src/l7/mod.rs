//! Inline L7 inspection: no proxy, no second connection.
//!
//! An [`inspector`] sees the bytes of both directions and answers with operations; [`protocol`]
//! lists them, one for each protocol. The [`editor`] executes the operations on the TCP stream of
//! one flow, and knows no protocol above TCP; [`reply`] builds the segments that it sends of its
//! own. [`datagram`] does the same for flows of datagrams. Rules, and how a request is matched with
//! them, are in [`podgate_tables::l7`].

pub mod datagram;
pub mod dns;
pub mod editor;
mod heap;
pub mod http1;
pub mod http2;
pub mod inspector;
pub mod io;
pub mod kafka;
pub mod protocol;
pub mod reply;
pub mod tls;
