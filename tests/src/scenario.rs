//! The scenario: requests between hosts of the lab, each with the outcome that policy demands. The
//! demo shows it, and the end-to-end tests assert it.

use std::fmt;

use anyhow::{Result, anyhow};

use crate::lab::{Family, Get, Lab, Outcome};

/// What one host sends to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// An HTTP request: method, port, path.
    Http(&'static str, u16, &'static str),
    /// An ICMP echo request.
    Ping,
}

/// The outcome that policy demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// The request reaches the server, and the answer the client.
    Passes,
    /// podgate answers 403 in the server's place.
    Denied,
    /// No answer comes.
    NoAnswer,
}

/// One line of the scenario.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The client: a name for [`Lab::host`].
    pub from: &'static str,
    /// The server.
    pub to: &'static str,
    /// What the client sends.
    pub probe: Probe,
    /// The outcome.
    pub expected: Expected,
}

/// The folder of the scenario's manifests.
pub const MANIFESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/manifests");

/// Body of podgate's 403, the same as that of Cilium's proxy.
pub const DENIED_BODY: &str = "Access denied\r\n";

const ADMIN: &str = "admin/adminapp";
const USER: &str = "user/userapp";
const STRANGER: &str = "other/stranger";
const NGINX: &str = "backend/nginx";
const STORE: &str = "backend/store";

/// The scenario for the manifests in `tests/manifests`.
pub const ROWS: &[Row] = {
    use Expected::{Denied, NoAnswer, Passes};
    use Probe::{Http, Ping};
    &[
        // CiliumNetworkPolicy allow-api-from-admin.
        row(ADMIN, NGINX, Http("GET", 80, "/docs"), Passes),
        row(ADMIN, NGINX, Http("GET", 80, "/api/v1/users"), Passes),
        row(ADMIN, NGINX, Http("GET", 80, "/secret"), Denied),
        row(ADMIN, NGINX, Http("POST", 80, "/docs"), Denied),
        row(USER, NGINX, Http("GET", 80, "/docs"), Passes),
        row(USER, NGINX, Http("GET", 80, "/api/v1/users"), Denied),
        row(STRANGER, NGINX, Http("GET", 80, "/docs"), NoAnswer),
        row(ADMIN, NGINX, Http("GET", 81, "/docs"), NoAnswer),
        // NetworkPolicy store: no L7 rules, so any request on an allowed connection passes.
        row(ADMIN, STORE, Http("POST", 8080, "/items"), Passes),
        row(ADMIN, STORE, Http("GET", 9090, "/items"), NoAnswer),
        row(USER, STORE, Http("GET", 8080, "/items"), NoAnswer),
        row("office", STORE, Http("GET", 8080, "/items"), Passes),
        row("guest", STORE, Http("GET", 8080, "/items"), NoAnswer),
        // The node is always allowed: kubelet probes the pods.
        row("node", NGINX, Http("GET", 80, "/docs"), Passes),
        // Ping follows the policy: TCP rules don't allow it, and no policy selects adminapp.
        row(ADMIN, NGINX, Ping, NoAnswer),
        row(NGINX, ADMIN, Ping, Passes),
        row(STRANGER, ADMIN, Ping, Passes),
        row(ADMIN, "node", Ping, Passes),
    ]
};

const fn row(from: &'static str, to: &'static str, probe: Probe, expected: Expected) -> Row {
    Row { from, to, probe, expected }
}

impl Row {
    /// Sends the probe and returns its outcome.
    ///
    /// # Errors
    /// When the lab lacks one of the hosts or the client can't be run.
    pub fn run(&self, lab: &Lab, family: Family) -> Result<Outcome> {
        let (from, to) = (lab.host(self.from)?, lab.host(self.to)?);
        match self.probe {
            Probe::Ping => from.ping(to, family),
            Probe::Http(method, port, path) => {
                Get { method, port, ..Get::path(path) }.fetch(from, to, family)
            }
        }
    }

    /// Runs the row over IPv4 and IPv6 at the same time, to wait for timeouts only once.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_both(&self, lab: &Lab) -> Result<[Outcome; 2]> {
        std::thread::scope(|scope| {
            let v6 = scope.spawn(|| self.run(lab, Family::V6));
            let v4 = self.run(lab, Family::V4)?;
            let v6 = v6.join().map_err(|_| anyhow!("a client's thread panicked"))??;
            Ok([v4, v6])
        })
    }

    /// Whether `seen` is the expected outcome, including the body.
    #[must_use]
    pub fn is_met_by(&self, seen: &Outcome) -> bool {
        match (self.expected, seen, self.probe) {
            (Expected::NoAnswer, Outcome::NoAnswer, _) => true,
            (Expected::Denied, Outcome::Answer(answer), Probe::Http(..)) => {
                answer.status == 403 && answer.body == DENIED_BODY
            }
            (Expected::Passes, Outcome::Answer(answer), Probe::Http(method, port, path)) => {
                let get = Get { method, port, ..Get::path(path) };
                answer.status == 200 && answer.body == get.expected_body(self.to)
            }
            (Expected::Passes, Outcome::Echo(_), Probe::Ping) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Probe {
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
            Self::Denied => "403",
            Self::NoAnswer => "no answer",
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}: {} ({})", self.from, self.to, self.probe, self.expected)
    }
}
