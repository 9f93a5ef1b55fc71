//! A client and two servers: the client's traffic to one of them is inspected, and to the other one
//! it is not.

use anyhow::{Result, ensure};
use podgate_tests::lab::{Agent, Host, Lab, interrupted};

use super::testbed::pods;
use crate::context::Context;
use crate::measure::{Limit, Measurement};

/// What each row is compared with.
const NAME: &str = "no rules";

/// The pods, in a lab of their own.
pub(super) struct Direct {
    pub(super) lab: Lab,
}

impl Direct {
    /// `port` is what the client may connect to on both servers, and `rules` the rest of the
    /// element of `toPorts` for the inspected one. `egress` are more rules of the client.
    pub(super) fn new(port: u16, rules: &str, egress: &str) -> Result<Self> {
        let pods = pods(["client", "inspected", "direct"]);
        let lab = Lab::of(&format!(
            "{pods}{POLICY}
  - toEndpoints: [{{matchLabels: {{app: inspected}}}}]
    toPorts: [{{ports: [{{port: \"{port}\", protocol: ANY}}], {rules}}}]
  - toEndpoints: [{{matchLabels: {{app: direct}}}}]
    toPorts: [{{ports: [{{port: \"{port}\", protocol: ANY}}]}}]
{egress}"
        ))?;
        Ok(Self { lab })
    }

    pub(super) fn start(&self) -> Result<Agent<'_>> {
        Agent::start_with(&self.lab, 1, &[])
    }

    pub(super) fn client(&self) -> Result<&Host> {
        self.lab.host("bench/client")
    }

    /// The server behind rules, and the other one.
    pub(super) fn servers(&self) -> Result<[&Host; 2]> {
        Ok([self.lab.host("bench/inspected")?, self.lab.host("bench/direct")?])
    }
}

/// Measures `rate` of both servers in turns.
pub(super) fn compare(
    context: &Context,
    (id, unit, bar): (&str, &'static str, f64),
    servers: [&Host; 2],
    rate: impl Fn(&Host) -> Result<f64>,
) -> Result<Measurement> {
    let of = |server: &Host| {
        ensure!(!interrupted(), "interrupted");
        rate(server)
    };
    let [inspected, direct] = context.interleave(id, || of(servers[0]), || of(servers[1]))?;
    Ok(Measurement::new(id, unit, inspected)
        .compared_with(NAME, direct)
        .ratio_bar(Limit::AtLeast(bar)))
}

/// The beginning of the client's policy.
const POLICY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client, namespace: bench}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:";
