//! How many clients the agent's servers serve at a time, and how long a client may be silent.
//!
//! Clients are not trusted to be well-behaved. Each server bounds its connections, and ends one
//! whose client does not send a request, or does not read its answer, in time. The times are the
//! same everywhere, unless a constant says why not. `docs/operate/running.md` has them for
//! operators.

use std::time::Duration;

/// Limits of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerLimits {
    /// Most connections at a time, of each socket that it listens on. So clients of one socket
    /// don't use up connections of another.
    pub connections: usize,
    /// How long a client may take to send its request, a TLS handshake before it included.
    pub request: Duration,
    /// How long a client may read nothing of its answer, or send nothing while it waits.
    pub silence: Duration,
}

impl ServerLimits {
    const USUAL: Self = Self {
        connections: 64,
        request: Duration::from_secs(10),
        silence: Duration::from_secs(30),
    };

    /// The control sockets, see [`LONG_RUNNING_MAX`].
    pub const CONTROL: Self = Self::USUAL;

    /// Hubble's API. A connection lives as long as its client answers pings of HTTP/2, which come
    /// after [`Self::silence`]; a slow reader loses flows instead of its connection, as with
    /// Cilium's server.
    pub const HUBBLE: Self = Self::USUAL;

    /// Metrics. There are fewer clients, because each takes the text of all metrics, and a scraper
    /// needs one.
    pub const METRICS: Self = Self { connections: 16, ..Self::USUAL };

    /// The web page. Its silence is longer than that of the control socket, whose answer a browser
    /// may be waiting for.
    pub const WEB: Self = Self { silence: Duration::from_secs(60), ..Self::USUAL };
}

/// Most clients of a control socket that follow, capture or wait at a time. The other connections
/// are for short requests, such as an admin's `status` and a network plugin's `endpoint-add`.
pub const LONG_RUNNING_MAX: usize = 48;

/// How long a client of Hubble's API may take to answer a ping.
pub const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a server pauses when it can't accept a connection: probably no file descriptor is free
/// before a client disconnects.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const _: () = assert!(LONG_RUNNING_MAX < ServerLimits::CONTROL.connections);
const _: () =
    assert!(ServerLimits::WEB.silence.as_secs() > ServerLimits::CONTROL.silence.as_secs());
