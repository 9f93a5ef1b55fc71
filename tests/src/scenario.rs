//! The scenario: who asks whom for what, and what must come of it. One list, shown by the demo
//! and asserted by the end-to-end tests.

use std::fmt;

use anyhow::{Result, anyhow};

use crate::lab::{Family, Get, Lab, Outcome};

/// What one host asks of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// An HTTP request: method, port, path.
    Http(&'static str, u16, &'static str),
    /// An ICMP echo request.
    Ping,
}

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The request reaches the server, and its answer the client.
    Passes,
    /// podgate answers in the server's place: 403.
    Refused,
    /// Nobody answers.
    Silence,
}

/// One line of the scenario.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Who asks: a name for [`Lab::host`].
    pub from: &'static str,
    /// Who is asked.
    pub to: &'static str,
    /// For what.
    pub ask: Ask,
    /// With what result.
    pub expected: Expected,
}

/// The folder of the scenario's manifests.
pub const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests");

/// The body of the 403 that podgate gives, as Cilium's proxy would.
pub const REFUSAL: &str = "Access denied\r\n";

const ADMIN: &str = "admin/adminapp";
const USER: &str = "user/userapp";
const STRANGER: &str = "other/stranger";
const NGINX: &str = "backend/nginx";
const STORE: &str = "backend/store";

/// The scenario for the manifests in `tests/manifests`.
pub const ROWS: &[Row] = {
    use Ask::{Http, Ping};
    use Expected::{Passes, Refused, Silence};
    &[
        // CiliumNetworkPolicy allow-api-from-admin.
        row(ADMIN, NGINX, Http("GET", 80, "/docs"), Passes),
        row(ADMIN, NGINX, Http("GET", 80, "/api/v1/users"), Passes),
        row(ADMIN, NGINX, Http("GET", 80, "/secret"), Refused),
        row(ADMIN, NGINX, Http("POST", 80, "/docs"), Refused),
        row(USER, NGINX, Http("GET", 80, "/docs"), Passes),
        row(USER, NGINX, Http("GET", 80, "/api/v1/users"), Refused),
        row(STRANGER, NGINX, Http("GET", 80, "/docs"), Silence),
        row(ADMIN, NGINX, Http("GET", 81, "/docs"), Silence),
        // NetworkPolicy store: no L7 rules, so any request on an allowed connection passes.
        row(ADMIN, STORE, Http("POST", 8080, "/items"), Passes),
        row(ADMIN, STORE, Http("GET", 9090, "/items"), Silence),
        row(USER, STORE, Http("GET", 8080, "/items"), Silence),
        row("office", STORE, Http("GET", 8080, "/items"), Passes),
        row("guest", STORE, Http("GET", 8080, "/items"), Silence),
        // The node itself is always allowed: kubelet probes the pods.
        row("node", NGINX, Http("GET", 80, "/docs"), Passes),
        // Ping follows the policy: TCP rules don't allow it, and no policy selects adminapp.
        row(ADMIN, NGINX, Ping, Silence),
        row(NGINX, ADMIN, Ping, Passes),
        row(STRANGER, ADMIN, Ping, Passes),
        row(ADMIN, "node", Ping, Passes),
    ]
};

const fn row(from: &'static str, to: &'static str, ask: Ask, expected: Expected) -> Row {
    Row { from, to, ask, expected }
}

impl Row {
    /// Asks, and returns what was seen.
    ///
    /// # Errors
    /// When the lab lacks one of the hosts or the client can't be run.
    pub fn play(&self, lab: &Lab, family: Family) -> Result<Outcome> {
        let (from, to) = (lab.host(self.from)?, lab.host(self.to)?);
        match self.ask {
            Ask::Ping => from.ping(to, family),
            Ask::Http(method, port, path) => {
                Get { method, port, ..Get::path(path) }.fetch(from, to, family)
            }
        }
    }

    /// Asks over IPv4 and IPv6 at the same time: silence takes its time.
    ///
    /// # Errors
    /// As [`Self::play`].
    pub fn play_both(&self, lab: &Lab) -> Result<[Outcome; 2]> {
        std::thread::scope(|scope| {
            let v6 = scope.spawn(|| self.play(lab, Family::V6));
            let v4 = self.play(lab, Family::V4)?;
            let v6 = v6.join().map_err(|_| anyhow!("a client's thread panicked"))??;
            Ok([v4, v6])
        })
    }

    /// Whether `seen` is what was expected, to the last byte of the body.
    #[must_use]
    pub fn is_met_by(&self, seen: &Outcome) -> bool {
        match (self.expected, seen, self.ask) {
            (Expected::Silence, Outcome::Silence, _) => true,
            (Expected::Refused, Outcome::Answer(answer), Ask::Http(..)) => {
                answer.status == 403 && answer.body == REFUSAL
            }
            (Expected::Passes, Outcome::Answer(answer), Ask::Http(method, port, path)) => {
                let get = Get { method, port, ..Get::path(path) };
                answer.status == 200 && answer.body == get.expected_body(self.to)
            }
            (Expected::Passes, Outcome::Echo(_), Ask::Ping) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(method, port, path) => f.pad(&format!("{method} :{port}{path}")),
            Self::Ping => f.pad("ping"),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passes => "passes",
            Self::Refused => "403",
            Self::Silence => "no answer",
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}: {} ({})", self.from, self.to, self.ask, self.expected)
    }
}
