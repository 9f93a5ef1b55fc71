//! `podgate policy …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use podgate_api::WAIT_MAX_S;
use podgate_policy::explain::{EndName, HttpSpec, KafkaSpec, RequestSpec, Transport};

use super::{ClientArgs, Output, TableFlowCommand, examples};

/// `podgate policy …`.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// List policies, and rejected objects with the field and the reason.
    #[command(after_help = LIST_EXAMPLES)]
    List(ClientArgs),
    /// Show policies as enforced: the pods that they select, and their rules in words.
    #[command(long_about = GET_ABOUT, after_help = GET_EXAMPLES)]
    Get(PolicyGetArgs),
    /// List the selectors of rules' peers, with the rules that use them and the pods that match.
    #[command(after_help = SELECTORS_EXAMPLES)]
    Selectors(ClientArgs),
    /// Explain why a flow, or a request on it, is allowed or denied.
    #[command(long_about = EXPLAIN_ABOUT, after_help = EXPLAIN_EXAMPLES)]
    Explain(Box<ExplainArgs>),
    /// Wait until an epoch of policy is in force.
    #[command(long_about = WAIT_ABOUT, after_help = WAIT_EXAMPLES)]
    Wait(PolicyWaitArgs),
    /// Check without an agent whether every object in manifests is enforceable.
    #[command(long_about = VALIDATE_ABOUT, after_help = VALIDATE_EXAMPLES)]
    Validate(ValidateArgs),
}

const VALIDATE_ABOUT: &str = "\
Check without an agent whether every object in manifests is enforceable.

Each rejected field is printed in one line: file, line, object, field, reason and, if there is only \
one, the replacement. A policy that is enforceable but probably not intended as written gets a hint. \
Objects that policies refer to, such as services, need not be in the files. Objects of kinds that no \
verdict depends on are skipped.";

const VALIDATE_EXAMPLES: &str = examples! {
    "podgate policy validate ./policies"
    "podgate policy validate web.yaml store.json"
    "kustomize build . | podgate policy validate -"
    "podgate policy validate ./policies -o json | jq -r '.rejected[].source.line'";
    codes "
  0  every object can be enforced
  1  an object is rejected, or a file can't be read
  2  the command line is wrong"
};

/// Arguments of `podgate policy validate`.
#[derive(Args, Debug, Clone)]
pub struct ValidateArgs {
    /// YAML or JSON files, or directories of them (not recursive); `-` is standard input.
    #[arg(required = true, value_name = "FILE|DIR")]
    pub paths: Vec<PathBuf>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

const LIST_EXAMPLES: &str = examples! {
    "podgate policy list"
    "podgate policy list -o json | jq '.rejected[]'"
};

const GET_ABOUT: &str = "\
Show policies as enforced: the pods that they select, and their rules in words.

With a name, only those of that name are shown, of any kind and namespace unless these are given.";

const GET_EXAMPLES: &str = examples! {
    "podgate policy get"
    "podgate policy get shop/web"
    "podgate policy get NetworkPolicy shop/web -o json"
};

const SELECTORS_EXAMPLES: &str = examples! {
    "podgate policy selectors"
    "podgate policy selectors -o json | jq '.[] | select(.pods == 0)'"
};

const EXPLAIN_ABOUT: &str = "\
Explain why a flow, or a request on it, is allowed or denied.

The verdict is from the tables of the workers. For each direction the output has the rule, or the \
policies, that decide, the other rules that match, and the nearest misses: rules with another \
verdict, each with the criteria that the flow fails.

The running agent answers. It evaluates policy for pods that are endpoints of its node, as its \
workers do; the other end is evaluated on its own node, unless --both-sides is given.

With --manifests no agent is needed, and policy is evaluated for both ends. This node is then that of \
--node, else the node of the pod in question (spec.nodeName), else the only node. Traffic between \
its pods and its own addresses (InternalIPs, and status.hostIPs of its pods) is always allowed. All \
other nodes are remote.

Policies apply to pods. For a flow to a Service, or to its cluster IP, node port or external address, \
the backends are shown with the verdict on each; the rest of the output explains one of them: a denied \
one, if there is any. An address that workers don't translate is evaluated as a plain one.

Packets that workers drop or reject before they evaluate policy are denied, with the reason: to \
multicast, broadcast, loopback and unspecified addresses, and to a Service without this port or \
without a ready backend.";

const EXPLAIN_EXAMPLES: &str = examples! {
    "podgate policy explain --from shop/cart-0 --to shop/db-0 --port 5432/TCP"
    "podgate policy explain --from 192.0.2.7 --to web-0 --port 80 --http 'GET /docs' --host web"
    "podgate policy explain --from cart-0 --to kafka-0 --port 9092 --kafka topic=orders,api=produce"
    "podgate policy explain --from shop/cart-0 --to shop/db:5432"
    "podgate policy explain --from cart-0 --to db-0 --port icmp --manifests ./policies"
    "podgate policy explain --from cart-0 --to db-0 --port 22 --manifests ./policies --expect deny"
    "podgate policy explain --from 10.0.0.1 --to db-0 --port 80 --manifests ./dump --node worker-1"
    ; 4 => "the verdict is not what --expect says"
};

const WAIT_ABOUT: &str = "\
Wait until an epoch of policy is in force.

Each change that verdicts depend on creates a new epoch; `podgate policy list` and `podgate status` \
show its number. The command returns when the agent has published this epoch, or a later one, and \
every worker uses it.";

const WAIT_EXAMPLES: &str = examples! {
    "podgate policy wait 7"
    "podgate policy wait 7 --timeout 5 -o json"
    ; 4 => "the epoch was not in force in time"
};

/// `podgate table …`.
#[derive(Subcommand, Debug)]
pub enum TableCommand {
    /// Policy tables.
    #[command(subcommand)]
    Policy(TablePolicyCommand),
    /// Flow tables: tracked connections.
    #[command(subcommand)]
    Flow(TableFlowCommand),
}

/// `podgate table policy …`.
#[derive(Subcommand, Debug)]
pub enum TablePolicyCommand {
    /// Show the compiled policy table of an endpoint, in which workers look up verdicts.
    #[command(long_about = TABLE_ABOUT, after_help = TABLE_EXAMPLES)]
    Get(TablePolicyGetArgs),
}

const TABLE_ABOUT: &str = "\
Show the compiled policy table of an endpoint, in which workers look up verdicts.

Rows are in order of precedence. The first match decides, except for allow rules of one tier and \
priority with L7 rules: a request may match any of these. Without a match the default applies.";

const TABLE_EXAMPLES: &str = examples! {
    "podgate table policy get shop/cart-0"
    "podgate table policy get veth1a -o json"
};

/// Arguments of `podgate table policy get`.
#[derive(Args, Debug, Clone)]
pub struct TablePolicyGetArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The endpoint: its pod or its link.
    #[arg(value_name = "NS/POD|LINK")]
    pub endpoint: String,
}

/// Arguments of `podgate policy get`.
#[derive(Args, Debug, Clone)]
pub struct PolicyGetArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// `[KIND] [NAMESPACE/]NAME`; all policies if absent.
    #[arg(value_name = "[KIND] [NS/]NAME", num_args = 0..=2)]
    pub which: Vec<String>,
}

/// Arguments of `podgate policy wait`.
#[derive(Args, Debug, Clone)]
pub struct PolicyWaitArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The epoch.
    #[arg(value_name = "EPOCH")]
    pub epoch: u64,
    /// Timeout in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(WAIT_MAX_S)))]
    pub timeout: u32,
}

/// Arguments of `podgate policy explain`.
#[derive(Args, Debug, Clone)]
pub struct ExplainArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Source of the flow: a pod or an IP address.
    #[arg(long, value_name = "NS/POD|IP")]
    pub from: EndName,
    /// Destination of the flow: a pod, a service's port or an IP address.
    #[arg(long, value_name = "NS/POD|NS/SERVICE:PORT|IP")]
    pub to: EndName,
    /// Destination port and protocol: 80/TCP, 53/UDP, icmp, icmp/TYPE, icmpv6/TYPE, proto/NUMBER.
    /// May be left out for a service's port.
    #[arg(long, value_name = "PORT/PROTO")]
    pub port: Option<Transport>,
    /// The request on the flow.
    #[command(flatten)]
    pub request: RequestArgs,
    /// Use the policies of these files and directories, without an agent.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub manifests: Vec<PathBuf>,
    /// This node's name in the manifests [default: the pod's node, or the only one].
    #[arg(long, value_name = "NAME", requires = "manifests")]
    pub node: Option<String>,
    /// Evaluate policy for both ends, as if both were endpoints of this node.
    #[arg(long, conflicts_with = "manifests")]
    pub both_sides: bool,
    /// List all misses, not only the nearest five.
    #[arg(long)]
    pub all: bool,
    /// Exit with 4 unless the flow, with the request if there is one, is allowed or denied.
    #[arg(long, value_enum, value_name = "VERDICT")]
    pub expect: Option<Expect>,
}

/// A request on the flow.
#[derive(Args, Debug, Clone)]
pub struct RequestArgs {
    /// An HTTP request: method and target.
    #[arg(long, value_name = "'GET /PATH'", group = "request")]
    http: Option<HttpSpec>,
    /// Its Host header field [default: the destination's address and port].
    #[arg(long, value_name = "HOST", requires = "http")]
    host: Option<String>,
    /// A header field of the HTTP request; may be given several times.
    #[arg(long = "header", value_name = "'NAME: VALUE'", requires = "http")]
    headers: Vec<String>,
    /// A DNS query for a name.
    #[arg(long, value_name = "NAME", group = "request")]
    dns: Option<String>,
    /// A Kafka request; version= and client= are optional, topic= may be given several times.
    #[arg(long, value_name = "topic=NAME,api=NAME", group = "request")]
    kafka: Option<KafkaSpec>,
    /// A TLS connection with this server name (SNI).
    #[arg(long, value_name = "NAME", group = "request")]
    sni: Option<String>,
}

impl RequestArgs {
    /// The request, if one is given.
    #[must_use]
    pub fn spec(&self) -> Option<RequestSpec> {
        let (host, headers) = (self.host.clone(), self.headers.clone());
        let http = self.http.clone().map(|http| HttpSpec { host, headers, ..http });
        http.map(RequestSpec::Http)
            .or_else(|| self.dns.clone().map(RequestSpec::Dns))
            .or_else(|| self.kafka.clone().map(RequestSpec::Kafka))
            .or_else(|| self.sni.clone().map(RequestSpec::ServerName))
    }
}

/// An expected verdict.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Allowed.
    Allow,
    /// Denied.
    Deny,
}
