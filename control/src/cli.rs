//! The command line: what `podgate --help` shows.

mod capture;
mod cni;
mod flow_table;
mod fqdn;
mod inventory;
mod monitor;
mod observe;
mod policy;
mod service;
mod top;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use podgate_api::{ConfigOption, EndpointSpec, PodMtu};
use podgate_tables::l7::http1::{FIELDS_CEILING, HttpLimits};

pub use podgate_replay::Output;

pub use self::capture::CaptureArgs;
use self::capture::{CAPTURE_ABOUT, CAPTURE_EXAMPLES};
pub use self::cni::{CniCommand, CniInstallArgs, CniMode, CniRemoveArgs};
pub use self::flow_table::{
    FlowSelectorArgs, TableFlowCommand, TableFlowFlushArgs, TableFlowListArgs,
};
pub use self::fqdn::{FqdnArgs, FqdnCommand};
pub use self::inventory::{IdentityCommand, IdentityGetArgs, IpCommand, IpGetArgs, NodeCommand};
use self::monitor::{MONITOR_ABOUT, MONITOR_EXAMPLES};
pub use self::monitor::{MonitorArgs, MonitorType};
pub use self::observe::{ColorChoice, ObserveArgs, ObserveOutput, SourceArgs as ObserveSource};
use self::observe::{FLOWS_ABOUT, FLOWS_EXAMPLES, OBSERVE_ABOUT, OBSERVE_EXAMPLES};
pub use self::policy::{
    Expect, ExplainArgs, PolicyCommand, PolicyGetArgs, PolicyWaitArgs, TableCommand,
    TablePolicyCommand, TablePolicyGetArgs, ValidateArgs,
};
pub use self::service::{ServiceCommand, Services};
use self::top::{TOP_ABOUT, TOP_EXAMPLES};
pub use self::top::{Tab, TopArgs};

/// The default state directory.
pub const STATE_DIR: &str = "/run/podgate";

/// Name of the control socket in the state directory.
pub const SOCKET_NAME: &str = "podgate.sock";

/// The default path of the read-only socket. The state directory is only for root.
pub const READ_SOCKET: &str = "/run/podgate-read.sock";

/// Name of the socket of Hubble's API in the state directory.
pub const HUBBLE_SOCKET_NAME: &str = "hubble.sock";

/// Examples, then the exit codes, for the end of a command's help. A command with a code of its own
/// names it last.
macro_rules! examples {
    ($($line:literal)+ $(; 4 => $four:literal)?) => {
        examples! { $($line)+; codes "
  0  the command did what it says
  1  it failed; one line on stderr says why
  2  the command line is wrong
  3  the agent can't be reached, or is not ready" $("\n  4  ", $four)? }
    };
    ($($line:literal)+; codes $($codes:literal $(,)?)+) => {
        concat!("Examples:\n", $("  ", $line, "\n",)+ "\nExit codes:", $($codes,)+)
    };
}
pub(crate) use examples;

const EXAMPLES: &str = examples! {
    "podgate run --manifests ./policies --endpoints endpoints.yaml"
    "podgate run --kubeconfig /etc/kubernetes/admin.conf --workers 2"
    "podgate endpoint add --link veth1a --pod shop/cart-0 --netns /run/netns/cart"
    "podgate status --brief && echo ready"
    "podgate flows --follow"
    "podgate policy list -o json"
    "podgate policy explain --from shop/cart-0 --to shop/db-0 --port 5432/TCP"
};

/// Network policy for the pods of this node, enforced in userspace over AF_XDP.
#[derive(Parser, Debug)]
#[command(name = "podgate", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, propagate_version = false)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the agent until SIGTERM or SIGINT.
    #[command(long_about = RUN_ABOUT, after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Show whether the agent is ready, and its counters.
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// Attach pods to the dataplane, detach them, list them.
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Explain verdicts; show enforced policies and rejected objects.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Show the addresses that DNS names stand for in policy, or forget them.
    #[command(subcommand)]
    Fqdn(FqdnCommand),
    /// List services.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Show the tables in which workers look up policy.
    #[command(subcommand)]
    Table(TableCommand),
    /// Show the addresses that policy knows, with their identities.
    #[command(subcommand)]
    Ip(IpCommand),
    /// Show identities: the sets of labels that policy decides by.
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Show nodes.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show flows as `hubble observe` does.
    #[command(long_about = OBSERVE_ABOUT, after_help = OBSERVE_EXAMPLES)]
    Observe(ObserveArgs),
    /// Show flows: verdicts, drops, requests and responses; the short form of `observe`.
    #[command(long_about = FLOWS_ABOUT, after_help = FLOWS_EXAMPLES)]
    Flows(ObserveArgs),
    /// Show what the workers report, as `cilium-dbg monitor` does.
    #[command(long_about = MONITOR_ABOUT, after_help = MONITOR_EXAMPLES)]
    Monitor(MonitorArgs),
    /// Write packets of pods to a file, with their verdicts.
    #[command(long_about = CAPTURE_ABOUT, after_help = CAPTURE_EXAMPLES)]
    Capture(CaptureArgs),
    /// Show rates of endpoints and rules, drops, slow requests and the workers' load.
    #[command(long_about = TOP_ABOUT, after_help = TOP_EXAMPLES)]
    Top(TopArgs),
    /// Print all counters in the Prometheus text format.
    #[command(after_help = METRICS_EXAMPLES)]
    Metrics(MetricsArgs),
    /// Evaluate policy for a packet capture without an agent, and measure performance.
    Replay(podgate_replay::Args),
    /// Show each option of the agent, and where its value is from.
    #[command(long_about = CONFIG_ABOUT, after_help = CONFIG_EXAMPLES)]
    Config(ClientArgs),
    /// Print the CustomResourceDefinitions of the kinds of policy that podgate reads.
    #[command(long_about = CRDS_ABOUT, after_help = CRDS_EXAMPLES)]
    Crds(CrdsArgs),
    /// Install the CNI plugin and its configuration on this node, or remove the configuration.
    #[command(subcommand)]
    Cni(CniCommand),
    /// Detach everything that a stopped agent left attached.
    #[command(long_about = CLEANUP_ABOUT, after_help = CLEANUP_EXAMPLES)]
    Cleanup(CleanupArgs),
    /// Collect what helps to find a fault into one archive, without secrets.
    #[command(long_about = SYSDUMP_ABOUT, after_help = SYSDUMP_EXAMPLES)]
    Sysdump(SysdumpArgs),
    /// Print the version.
    #[command(after_help = VERSION_EXAMPLES)]
    Version(VersionArgs),
    /// Print a shell's completion script.
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion(CompletionArgs),
    /// Write the man pages, one for each command.
    #[command(hide = true, after_help = MAN_EXAMPLES)]
    Man(ManArgs),
}

const STATUS_EXAMPLES: &str = examples! {
    "podgate status"
    "podgate status --verbose"
    "podgate status --wait --wait-duration 90s --brief"
    "podgate status --live"
    "podgate status -o json | jq .drops"
};

const CONFIG_ABOUT: &str = "\
Show each option of the agent, and where its value is from.

An option of `podgate run` is set by its flag, else by an environment variable (PODGATE_ and its \
name, as PODGATE_MAX_ENDPOINTS for --max-endpoints), else in the file of --config, else it has its \
default.";

const CONFIG_EXAMPLES: &str = examples! {
    "podgate config"
    "podgate config -o json | jq '.[] | select(.origin != \"default\")'"
};

const CRDS_ABOUT: &str = "\
Print the CustomResourceDefinitions of the kinds of policy that podgate reads.

These are CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, CiliumCIDRGroup and \
ClusterNetworkPolicy. Fields that a schema doesn't know are stored, so that podgate rejects a policy \
with such a field instead of enforcing a part of it. Where another program installed a definition, \
leave that in place.";

const CRDS_EXAMPLES: &str = examples! {
    "podgate crds | kubectl apply -f -"
    "podgate crds -o json | jq -r '.[].metadata.name'"
};

const METRICS_EXAMPLES: &str = examples! {
    "podgate metrics > /var/lib/node_exporter/podgate.prom"
    "podgate metrics -o json | jq '.[] | select(.name == \"podgate_epoch\")'"
};

const SYSDUMP_ABOUT: &str = "\
Collect what helps to find a fault into one archive, without secrets.

It has the status, options, metrics, endpoints with their tables, policies, identities, addresses, \
nodes, DNS names, flow records, versions, and what the kernel says about itself and podgate's links. What \
can't be collected is a line of errors.txt. Tokens, passwords, private keys, credentials and queries \
of URLs, and the values of Authorization and Cookie header fields are replaced by REDACTED. Names of \
pods, policies and hosts remain.";

const SYSDUMP_EXAMPLES: &str = examples! {
    "podgate sysdump"
    "podgate sysdump --file /tmp/node-1.tar.gz --flows 10000"
};

/// Arguments of `podgate sysdump`.
#[derive(Args, Debug, Clone)]
pub struct SysdumpArgs {
    /// How to reach the agent.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The archive, which must not exist [default: podgate-sysdump-TIME.tar.gz].
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Number of flow records.
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub flows: u32,
}

/// Exit codes of commands that ask no agent.
macro_rules! local_examples {
    ($($line:literal)+) => {
        examples! { $($line)+; codes "
  0  the command did what it says
  1  it failed; one line on stderr says why
  2  the command line is wrong" }
    };
}

const VERSION_EXAMPLES: &str = local_examples! {
    "podgate version"
    "podgate version -o json"
};

const COMPLETION_EXAMPLES: &str = local_examples! {
    "podgate completion bash > /etc/bash_completion.d/podgate"
    "podgate completion zsh > /usr/share/zsh/site-functions/_podgate"
    "podgate completion fish > ~/.config/fish/completions/podgate.fish"
};

const MAN_EXAMPLES: &str = local_examples! {
    "podgate man /usr/share/man/man1"
};

/// Arguments of `podgate version`.
#[derive(Args, Debug, Clone)]
pub struct VersionArgs {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `podgate completion`.
#[derive(Args, Debug, Clone)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Shells with completion.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// Arguments of `podgate man`.
#[derive(Args, Debug, Clone)]
pub struct ManArgs {
    /// The directory to write to.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

const CLEANUP_EXAMPLES: &str = examples! {
    "podgate cleanup"
    "podgate cleanup --state-dir /run/podgate-test"
};

const CLEANUP_ABOUT: &str = "\
Detach everything that a stopped agent left attached.

A stopped agent leaves its XDP programs attached, so that pods stay cut off rather than \
unprotected. This command removes the programs, the pg-host/pg-xsk pair with its routes, and the \
contents of the state directory, and restores the pods' TX checksum offload. Afterwards no policy \
applies to pods. If something can't be removed, it is listed, and the exit code is 1.";

const RUN_EXAMPLES: &str = examples! {
    "podgate run --manifests ./policies --endpoints endpoints.yaml"
    "podgate run --kubeconfig /etc/kubernetes/admin.conf --workers 2 --poll busy"
    "podgate run --manifests ./policies --pod-mtu 65000 --pod-checksums leave"
};

const RUN_ABOUT: &str = "\
Run the agent until SIGTERM or SIGINT.

Each option can also be set by an environment variable, or in the file of --config:
  max-endpoints: 250
  hubble-listen: 127.0.0.1:4244
A flag counts more than a variable, and a variable more than the file; `podgate config` shows what \
is in force.

The file of --endpoints lists endpoints to attach at the start:
  endpoints:
    - {link: hv-admin, pod: admin/adminapp, netns: /run/netns/admin}

XDP disables segmentation offload of pods, so the throughput of a TCP stream depends on its packet \
size: between pods of one node, --pod-mtu 65000 has several times the throughput of 1500. The MTU \
is set at both ends of a link when it is attached with its netns, and remains after cleanup. For \
links with a smaller MTU, the MSS in TCP SYNs is lowered, and other packets cause ICMP errors (path \
MTU discovery).

If a manifest becomes empty, unreadable or a dangling symlink, its objects stay in force until it can \
be read again or is removed. They are saved in the state directory for the next start. If a manifest \
can't be read at the start and none of its objects are saved, pods stay cut off, and \
`podgate status` names the file.

SIGHUP reads all manifests again, and the file of --log @FILE. SIGTERM and SIGINT stop the agent \
within a second.

When the agent stops, its XDP programs stay attached and pods are cut off until it runs again; \
`podgate cleanup` detaches them. Connections without L7 inspection survive if the agent runs again \
within ten minutes and policy still allows them; others are reset when one of their ends sends.";

/// The kube client logs errors that podgate logs, too, and the netlink library logs each message
/// for an abandoned request.
const LOG_DEFAULT: &str = "info,kube_client=off,netlink_proto=off";

const HTTP: HttpLimits = HttpLimits::DEFAULT;

/// Arguments of `podgate run`.
#[derive(Args, Debug, Clone)]
pub struct RunArgs {
    /// File of options: a YAML map of their names, without dashes before them, and values.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// All options, and where their values are from.
    #[arg(skip)]
    pub options: Vec<ConfigOption>,
    /// Source of objects.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Whether the status of policies at the API server is written, and Events of rejected ones.
    #[arg(long, value_enum, default_value_t = PolicyStatus::On)]
    pub policy_status: PolicyStatus,
    /// Endpoints to attach at the start (YAML).
    #[arg(long = "endpoints", alias = "lab", value_name = "FILE")]
    pub endpoint_file: Option<PathBuf>,
    /// Worker threads, each pinned to a core.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: u16,
    /// How workers wait for packets.
    #[arg(long, value_enum, default_value_t = Poll::Adaptive)]
    pub poll: Poll,
    /// How unexpected system calls are handled once the agent has started. `log` and `off` are for
    /// debugging.
    #[arg(long, value_enum, default_value_t = Seccomp::Enforce)]
    pub seccomp: Seccomp,
    /// Number of frames of 4096 bytes that all links share; half of them are in fill rings.
    #[arg(long, value_name = "N", default_value_t = 65536,
          value_parser = clap::value_parser!(u32).range(1024..=4_194_304))]
    pub frames: u32,
    /// Maximum number of endpoints, which share the frames. The limit of open files is raised as
    /// needed.
    #[arg(long, value_name = "N", default_value_t = 31,
          value_parser = clap::value_parser!(u16).range(1..=4095))]
    pub max_endpoints: u16,
    /// Maximum number of flows per worker: 136 bytes of memory each (34 MiB by default), allocated
    /// at the start. A pod, or all sources outside of the node together, may have as many as are
    /// free.
    #[arg(long, value_name = "N", default_value_t = 262_144,
          value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub flows: u32,
    /// Maximum number of them with L7 inspection: about 1 KiB each, and up to 16 KiB of stream
    /// buffers (272 MiB by default). A pod may have as many as are free, and one source outside of
    /// the node about a third.
    #[arg(long, value_name = "N", default_value_t = 16_384,
          value_parser = clap::value_parser!(u32).range(64..=1_048_576))]
    pub inspected: u32,
    /// How queries that DNS rules deny are answered.
    #[arg(long, value_enum, default_value_t = DnsDenied::Refused)]
    pub dns_denied: DnsDenied,
    /// Longest head of an HTTP/1 request, bytes; longer ones are answered 431.
    #[arg(long, value_name = "N", default_value_t = HTTP.head,
          value_parser = clap::value_parser!(u32).range(1024..=1_048_576))]
    pub http_max_head: u32,
    /// Maximum number of header fields of an HTTP/1 request; one with more is answered 431.
    #[arg(long, value_name = "N", default_value_t = HTTP.fields,
          value_parser = clap::value_parser!(u16).range(1..=FIELDS_CEILING as i64))]
    pub http_max_headers: u16,
    /// Longest line with the size of a chunk of an HTTP/1 request, bytes; a body with a longer one
    /// is answered 400.
    #[arg(long, value_name = "N", default_value_t = HTTP.chunk_line,
          value_parser = clap::value_parser!(u16).range(16..=4096))]
    pub http_max_chunk_line: u16,
    /// Maximum number of HTTP/1 requests of a connection that wait for their responses at once;
    /// further ones are not read meanwhile.
    #[arg(long, value_name = "N", default_value_t = HTTP.requests,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub http_max_requests: u16,
    /// Number of flow records that are stored for `podgate flows` and for clients of Hubble's API.
    #[arg(long, value_name = "N", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub flow_log: u32,
    /// Least TTL of addresses from DNS answers, seconds: shorter ones count as this.
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=604_800))]
    pub dns_min_ttl: u32,
    /// Who translates packets of pods to the cluster IPs of services.
    #[arg(long, value_enum, default_value_t = Services::On)]
    pub services: Services,
    /// Hubble's API.
    #[command(flatten)]
    pub hubble: HubbleArgs,
    /// Group whose members may read status, policies, flows and metrics, at a socket of its own
    /// (--read-socket). Only root may change anything.
    #[arg(long, value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Path of the socket for --socket-group.
    #[arg(long, value_name = "PATH", default_value = READ_SOCKET)]
    pub read_socket: PathBuf,
    /// Serve metrics for Prometheus at http://ADDRESS:PORT/metrics [default: off]. Whoever reaches
    /// the port can read names of pods, policies and links: there is neither TLS nor a login.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// MTU to set at both ends of attached links, 1280 to 65535 bytes, or `keep`.
    #[arg(long, value_name = "N|keep", default_value = "keep")]
    pub pod_mtu: MtuChoice,
    /// Who completes the TX checksums of pods whose namespaces podgate can enter.
    #[arg(long, value_enum, default_value_t = PodChecksums::Whole)]
    pub pod_checksums: PodChecksums,
    /// Directory of the control socket, the endpoint list, the pinned programs and the last good
    /// objects of manifests.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Directory for the pinned programs, on a mounted bpffs such as /sys/fs/bpf. For agents in a
    /// container, whose own mounts end with it [default: bpf in the state directory, where the
    /// agent mounts one].
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// How long a manifest must be unchanged, or gone, before objects that it no longer contains
    /// are removed: `3s`, `500ms`. Added and changed objects apply at once.
    #[arg(long, value_name = "TIME", default_value = "3s")]
    pub manifests_settle: Settle,
    /// Log filter for stderr: a level, directives such as `info,podgate::sources=debug`, or `@FILE`
    /// with them, which is read again on SIGHUP.
    #[arg(long, value_name = "FILTER", env = "PODGATE_LOG", default_value = LOG_DEFAULT)]
    pub log: String,
}

/// Hubble's API: where it is served, and the node's name in it.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Hubble's API")]
pub struct HubbleArgs {
    /// Unix socket, which only root may open [default: hubble.sock in the state directory, which is
    /// /var/run/podgate/hubble.sock]. `hubble --server unix:///var/run/podgate/hubble.sock observe`
    /// reads flows.
    #[arg(long = "hubble-socket", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// TCP port to listen on, too, such as 192.0.2.1:4244. Without TLS only on loopback addresses.
    #[arg(long = "hubble-listen", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Certificate of the server, with those that signed it (PEM). A relay expects the name
    /// NODE.default.hubble-grpc.cilium.io.
    #[arg(long = "hubble-tls-cert", value_name = "FILE", requires_all = ["listen", "tls_key"])]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long = "hubble-tls-key", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificates (PEM) of which one must have signed a client's certificate. Without them
    /// clients need none.
    #[arg(long = "hubble-tls-client-ca", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Name of this node [default: the host's name].
    #[arg(long, value_name = "NAME", env = "K8S_NODE_NAME")]
    pub node_name: Option<String>,
}

/// How long a manifest must be unchanged before removed objects are deleted: 100 ms to an hour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settle(pub Duration);

impl FromStr for Settle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = match text.strip_suffix("ms") {
            Some(number) => (number, 1),
            None => (text.strip_suffix('s').unwrap_or(text), 1000),
        };
        let number: u64 = number.parse().map_err(|_| "write seconds, such as 3s".to_owned())?;
        let time = Duration::from_millis(number.saturating_mul(unit));
        match (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&time) {
            true => Ok(Self(time)),
            false => Err("must be 100ms to 3600s".to_owned()),
        }
    }
}

/// Who completes the TX checksums of pods.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodChecksums {
    /// The pod: its TX checksum offload is turned off.
    Whole,
    /// The receiver; between pods of one node nobody has to. Faster for bulk TCP, but wrong for
    /// pods that send tunnel packets (VXLAN, GRE, IPIP), whose inner checksums would stay
    /// incomplete. Before Linux 6.11 the same as `whole`.
    Leave,
}

/// How queries that DNS rules deny are answered.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DnsDenied {
    /// By REFUSED. Most clients then ask the next server of their list.
    Refused,
    /// By NXDOMAIN: clients take it that the name doesn't exist, and ask nobody else.
    Nxdomain,
}

/// The environment variable that Kubernetes sets in each pod, with the API server's address.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// The sources of objects. In a pod the API server of its cluster is the default.
#[derive(Args, Debug, Clone)]
#[group(required = std::env::var_os(IN_CLUSTER).is_none(), multiple = false)]
pub struct SourceArgs {
    /// Read objects from the YAML and JSON files of a directory, and again when they change.
    /// At most 10,000 files of 64 MiB each, and 256 MiB together; 60 MB of policies take up to 2.7
    /// GB of memory.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Watch objects at the API server of this kubeconfig.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Watch objects at the API server of the cluster in which this runs as a pod, with the token
    /// of the pod's service account. This is the default in a pod.
    #[arg(long)]
    pub in_cluster: bool,
}

/// MTU of attached links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MtuChoice {
    /// Unchanged.
    Keep,
    /// This one, at both ends.
    Set(PodMtu),
}

impl FromStr for MtuChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "keep" { Ok(Self::Keep) } else { text.parse().map(Self::Set) }
    }
}

/// How a worker waits for packets.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Poll {
    /// Never sleep: lowest latency, one core each.
    Busy,
    /// Poll briefly, then sleep until a packet comes. During request-response traffic, poll for up
    /// to 100 µs, which can use most of an idle core.
    Adaptive,
}

/// Whether the status of policies is written.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum PolicyStatus {
    /// It is, as far as the agent has the rights.
    On,
    /// Nothing is written at the API server.
    Off,
}

/// How unexpected system calls are handled.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seccomp {
    /// They fail with EPERM.
    Enforce,
    /// They are carried out and logged by the kernel.
    Log,
    /// They are carried out.
    Off,
}

/// How to reach the agent.
#[derive(Args, Debug, Clone)]
pub struct SocketArgs {
    /// The agent's control socket.
    #[arg(
        long,
        value_name = "PATH",
        env = "PODGATE_SOCKET",
        default_value = "/run/podgate/podgate.sock"
    )]
    pub socket: PathBuf,
}

/// Arguments that all client commands share.
#[derive(Args, Debug, Clone)]
pub struct ClientArgs {
    /// How to reach the agent.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `podgate status`.
#[derive(Args, Debug, Clone)]
pub struct StatusArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Print one line only.
    #[arg(long, conflicts_with = "verbose")]
    pub brief: bool,
    /// Print all tables, threads, links, rejected objects and endpoints that are not ready.
    #[arg(long)]
    pub verbose: bool,
    /// Wait until the agent is ready.
    #[arg(long)]
    pub wait: bool,
    /// Longest time that --wait waits, such as 90s, 5m or 1h.
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub wait_duration: WaitDuration,
    /// Exit with 0 if the agent answers, even if it is not ready.
    #[arg(long)]
    pub live: bool,
}

impl StatusArgs {
    /// How long to wait for the agent to be ready.
    #[must_use]
    pub fn wait_for(&self) -> Duration {
        if self.wait { self.wait_duration.0 } else { Duration::ZERO }
    }
}

/// A time to wait: a number with the unit s, m or h; up to a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitDuration(pub Duration);

impl FromStr for WaitDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("s", 1), ("m", 60), ("h", 3600)];
        let unit =
            units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
        let (number, seconds) = unit.ok_or("write a number and its unit, such as 90s or 5m")?;
        let number: u64 =
            number.parse().map_err(|_| "write a number before the unit".to_owned())?;
        let time = Duration::from_secs(number.saturating_mul(*seconds));
        match time <= Duration::from_secs(24 * 3600) {
            true => Ok(Self(time)),
            false => Err("must be at most 24h".to_owned()),
        }
    }
}

/// `podgate endpoint …`.
#[derive(Subcommand, Debug)]
pub enum EndpointCommand {
    /// Attach a pod's link, so that policy applies to the pod.
    #[command(long_about = ENDPOINT_ADD_ABOUT, after_help = ENDPOINT_ADD_EXAMPLES)]
    Add(EndpointAddArgs),
    /// Detach a link; policy no longer applies to its pod.
    #[command(after_help = ENDPOINT_REMOVE_EXAMPLES)]
    Remove(EndpointRemoveArgs),
    /// List endpoints.
    #[command(after_help = ENDPOINT_LIST_EXAMPLES)]
    List(ClientArgs),
    /// Show one endpoint.
    #[command(after_help = ENDPOINT_GET_EXAMPLES)]
    Get(EndpointGetArgs),
    /// Show whether an endpoint is attached and under policy.
    #[command(after_help = ENDPOINT_HEALTH_EXAMPLES)]
    Health(EndpointGetArgs),
    /// Show the last changes of an endpoint's state.
    #[command(after_help = ENDPOINT_LOG_EXAMPLES)]
    Log(EndpointGetArgs),
}

const ENDPOINT_ADD_ABOUT: &str = "\
Attach a pod's link, so that policy applies to the pod.

With --netns, the pod's MAC address and MTU are read from its namespace, and changes are followed; \
a link that was deleted and created again is attached again. The pod's TX checksum offload is turned \
off, unless the agent runs with --pod-checksums leave, and restored when the endpoint is removed. \
Without --netns, give the MAC address. The pod is cut off until its Pod object is known.";

const ENDPOINT_ADD_EXAMPLES: &str = examples! {
    "podgate endpoint add --link veth1a --pod shop/cart-0 --netns /run/netns/cart"
    "podgate endpoint add --link veth1a --pod shop/cart-0 --netns /run/netns/cart --mtu 65000"
    "podgate endpoint add --link veth1a --pod shop/cart-0 --mac 02:00:00:00:00:01"
};

const ENDPOINT_REMOVE_EXAMPLES: &str = examples! {
    "podgate endpoint remove --link veth1a"
};

const ENDPOINT_LIST_EXAMPLES: &str = examples! {
    "podgate endpoint list"
    "podgate endpoint list -o json | jq '.[] | select(.state != \"ready\")'"
};

const ENDPOINT_GET_EXAMPLES: &str = examples! {
    "podgate endpoint get shop/cart-0"
    "podgate endpoint get veth1a -o json"
};

const ENDPOINT_HEALTH_EXAMPLES: &str = examples! {
    "podgate endpoint health shop/cart-0"
};

const ENDPOINT_LOG_EXAMPLES: &str = examples! {
    "podgate endpoint log shop/cart-0"
};

/// Arguments of `podgate endpoint get`, `health` and `log`.
#[derive(Args, Debug, Clone)]
pub struct EndpointGetArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The endpoint: its pod or its link.
    #[arg(value_name = "NS/POD|IFACE")]
    pub endpoint: String,
}

/// Arguments of `podgate endpoint add`.
#[derive(Args, Debug, Clone)]
pub struct EndpointAddArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Name of the host's end of the pod's veth pair.
    #[arg(long, value_name = "IFACE")]
    pub link: String,
    /// Namespace and name of the pod.
    #[arg(long, value_name = "NS/NAME")]
    pub pod: podgate_api::PodName,
    /// The pod's network namespace; needed unless --mac is given.
    #[arg(long, value_name = "PATH", required_unless_present = "mac")]
    pub netns: Option<PathBuf>,
    /// MAC address of the pod's end.
    #[arg(long)]
    pub mac: Option<podgate_api::MacAddress>,
    /// MTU to set at both ends of the link, 1280 to 65535 bytes [default: that of `run --pod-mtu`].
    #[arg(long, value_name = "N", requires = "netns")]
    pub mtu: Option<PodMtu>,
    /// An address that the network plugin assigned to the pod; may be repeated. Counts until the
    /// status of the pod's object names addresses.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Vec<std::net::IpAddr>,
}

impl EndpointAddArgs {
    /// The request to the agent.
    #[must_use]
    pub fn spec(&self) -> EndpointSpec {
        EndpointSpec {
            link: self.link.clone(),
            pod: self.pod.clone(),
            netns: self.netns.clone(),
            mac: self.mac,
            mtu: self.mtu,
            assigned: self.address.clone(),
        }
    }
}

/// Arguments of `podgate endpoint remove`.
#[derive(Args, Debug, Clone)]
pub struct EndpointRemoveArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The link to detach.
    #[arg(long, value_name = "IFACE")]
    pub link: String,
}

/// Arguments of `podgate metrics`.
#[derive(Args, Debug, Clone)]
pub struct MetricsArgs {
    /// Shared arguments; as a table, metrics are in the Prometheus text format.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Arguments of `podgate cleanup`.
#[derive(Args, Debug, Clone)]
pub struct CleanupArgs {
    /// The state directory of the stopped agent.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// The agent's --bpffs, if it had one.
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

/// Arguments of `podgate crds`.
#[derive(Args, Debug, Clone)]
pub struct CrdsArgs {
    /// Output format: YAML documents, or one list as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: CrdsOutput,
}

/// Output formats of `podgate crds`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CrdsOutput {
    /// For `kubectl apply -f -`.
    #[default]
    Yaml,
    /// For programs.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The words of a command line, as a shell splits it; a quoted text is one word.
    fn words(line: &str) -> Vec<&str> {
        let parts = line.split('\'').enumerate();
        let words = parts.map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        });
        words.collect::<Vec<_>>().concat()
    }

    #[test]
    fn every_command_has_examples_that_it_accepts() {
        fn check(command: &clap::Command, program: &clap::Command) {
            for command in command.get_subcommands() {
                check(command, program);
            }
            let Some(help) = command.get_after_help().map(ToString::to_string) else {
                let is_leaf = !command.has_subcommands();
                assert!(!is_leaf || ["help"].contains(&command.get_name()));
                return;
            };
            let lines = help.lines().map(str::trim).filter(|line| line.starts_with("podgate "));
            for line in lines {
                let words = words(line);
                let words = words.iter().take_while(|word| !"&&|>".contains(**word));
                let parsed = program.clone().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{line}");
            }
        }
        check(&Cli::command(), &Cli::command());
    }

    #[test]
    fn a_settle_time_has_a_unit_and_bounds() {
        let ms = |text: &str| text.parse().map(|Settle(time)| time.as_millis());
        for (text, expected) in [("3s", 3000), ("3", 3000), ("500ms", 500), ("3600s", 3_600_000)] {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        for bad in ["", "s", "0", "99ms", "3601s", "1m", "-1s", "99999999999999999999s"] {
            assert!(ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_time_to_wait_has_a_unit() {
        let seconds = |text: &str| text.parse().map(|WaitDuration(time)| time.as_secs());
        for (text, expected) in [("0s", 0), ("90s", 90), ("5m", 300), ("24h", 86_400)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1.5m", "25h", "99999999999999999999s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exactly_one_source_is_required() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["podgate", "run"], args].concat());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--manifests", "a", "--kubeconfig", "b"]).is_err());
        assert!(parse(&["--manifests", "a"]).is_ok());
        assert!(parse(&["--kubeconfig", "b"]).is_ok());
        assert!(parse(&["--in-cluster"]).is_ok());
        assert!(parse(&["--in-cluster", "--kubeconfig", "b"]).is_err());
    }

    #[test]
    fn an_endpoint_needs_a_namespace_or_a_mac() {
        let parse = |args: &[&str]| {
            let add = ["podgate", "endpoint", "add", "--link", "veth0", "--pod", "a/b"];
            Cli::try_parse_from([&add[..], args].concat())
        };
        assert!(parse(&[]).is_err());
        assert!(parse(&["--netns", "/run/netns/a"]).is_ok());
        assert!(parse(&["--mac", "02:00:00:00:00:01"]).is_ok());
        assert!(parse(&["--mac", "02:00:00:00:00"]).is_err());
        assert!(parse(&["--netns", "/run/netns/a", "--mtu", "65535"]).is_ok());
        assert!(parse(&["--mac", "02:00:00:00:00:01", "--mtu", "65000"]).is_err());
        for mtu in ["0", "1279", "65536", "keep"] {
            let error = parse(&["--netns", "/run/netns/a", "--mtu", mtu]).unwrap_err().to_string();
            assert!(error.contains("--mtu"), "{error}");
        }
    }
}
