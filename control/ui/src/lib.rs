//! `podgate ui`: a web page of flows, the service map, explanations and what is not ready.
//!
//! It runs as a process of its own, reads flows from Hubble's API and the rest from the control
//! socket, and changes nothing.
//!
//! | module | topic |
//! |---|---|
//! | `access` | which requests are answered |
//! | `agent` | answers from the control socket |
//! | `assets` | the page's files |
//! | `connections` | connections: their number and their timeouts |
//! | `flows` | flows as a stream of events |
//! | `row` | a flow as the page needs it |
//! | `server` | routes |
#![forbid(unsafe_code)]

mod access;
mod agent;
mod assets;
mod connections;
mod flows;
mod row;
mod server;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use podgate_hubble::client::{Address, ClientTls};
use podgate_hubble::proto::flow::FlowFilter;

pub use access::Exposure;
pub use server::Server;

/// Filters of which a flow must match one, and filters of which it must match none.
pub type FilterLists = (Vec<FlowFilter>, Vec<FlowFilter>);

/// Reads the options of `podgate observe` that filter flows; the error is one line.
pub type ReadFilters = fn(Vec<String>) -> Result<FilterLists, String>;

/// What the page shows, and where it is served.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is served; port 0 is any free one.
    pub listen: SocketAddr,
    /// Which addresses it may be served on.
    pub exposure: Exposure,
    /// Server of Hubble's API.
    pub hubble: Address,
    /// How that is authenticated, if it is.
    pub tls: Option<ClientTls>,
    /// The agent's control socket.
    pub socket: PathBuf,
    /// Reads filters.
    pub read_filters: ReadFilters,
}

/// Why the page can't be served.
#[derive(Debug, thiserror::Error)]
pub enum UiError {
    /// Other machines would reach the address.
    #[error(
        "{0} is not a loopback address, so other machines could reach the page: use an SSH \
         tunnel, or --allow-remote"
    )]
    NotLoopback(SocketAddr),
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system has no random numbers.
    #[error("can't read /dev/urandom: {0}")]
    Random(io::Error),
    /// The server failed.
    #[error("the page can't be served any more: {0}")]
    Serve(io::Error),
}
