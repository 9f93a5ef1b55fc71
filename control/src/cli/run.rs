//! `podgate run`: the agent's options.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use podgate_api::{ConfigOption, PodMtu};
use podgate_tables::l7::http1::{FIELDS_CEILING, HttpLimits};

use super::{READ_SOCKET, STATE_DIR, Services, examples};

pub(super) const RUN_EXAMPLES: &str = examples! {
    "podgate run --manifests ./policies --endpoints endpoints.yaml"
    "podgate run --kubeconfig /etc/kubernetes/admin.conf --workers 2 --poll busy"
    "podgate run --manifests ./policies --pod-mtu 65000 --pod-checksums leave"
};

pub(super) const RUN_ABOUT: &str = "\
Run the agent until SIGTERM or SIGINT.

Each option can also be set by an environment variable, or in the file of --config:
  max-endpoints: 250
  hubble-listen: 127.0.0.1:4244
A flag overrides a variable, and a variable overrides the file; `podgate config` shows what \
is in force.

The file of --endpoints lists endpoints to attach at the start:
  endpoints:
    - {link: hv-admin, pod: admin/adminapp, netns: /run/netns/admin}

XDP disables segmentation offload of pods, so the throughput of a TCP stream depends on its packet \
size: between pods of one node, --pod-mtu 65000 has several times the throughput of 1500. The MTU \
is set at both ends of a link when it is attached with its netns, and remains after cleanup. For \
links with a smaller MTU, the MSS in TCP SYNs is lowered, and other packets cause ICMP errors (path \
MTU discovery).

A manifest that is written in place is read when it is closed. If it becomes empty, unreadable or a \
dangling symlink, its objects stay in force until it can be read again or is removed. They are saved \
in the state directory for the next start. If a manifest can't be read at the start and none of its \
objects are saved, pods stay cut off, and `podgate status` names the file.

SIGHUP reads all manifests again, or the kubeconfig, and the file of --log @FILE. SIGTERM and \
SIGINT stop the agent within a second.

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
    /// Configuration file: a YAML map of option names, without leading dashes, to values.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// All options, and where their values are from.
    #[arg(skip)]
    pub options: Vec<ConfigOption>,
    /// Source of objects.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Whether to write the status of policies, and Events about rejected ones, to the API server.
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
    /// Number of frames of 4096 bytes that all links share. The kernel keeps 128 bytes more of each
    /// frame for each attached link: by default 2 MiB for each pod. More frames are for bursts of
    /// many pods at once.
    #[arg(long, value_name = "N", default_value_t = 16_384,
          value_parser = clap::value_parser!(u32).range(1024..=4_194_304))]
    pub frames: u32,
    /// Maximum number of endpoints, which share the frames; the default is less if there are fewer
    /// than 64 frames for each. The limit of open files is raised as needed.
    #[arg(long, value_name = "N", default_value_t = 250,
          value_parser = clap::value_parser!(u16).range(1..=4095))]
    pub max_endpoints: u16,
    /// Maximum number of flows per worker: 136 bytes of memory each (34 MiB by default), allocated
    /// at the start. A pod, or all sources outside of the node together, may have as many as are
    /// free.
    #[arg(long, value_name = "N", default_value_t = 262_144,
          value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub flows: u32,
    /// Maximum number of inspected flows per worker: about 1 KiB each, and up to 16 KiB of stream
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
    /// Minimum TTL of addresses from DNS answers, seconds; a shorter TTL counts as this one.
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=604_800))]
    pub dns_min_ttl: u32,
    /// Who translates packets of pods to services: their cluster IPs, node ports and external
    /// addresses.
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
    /// Serve metrics for Prometheus at http://ADDRESS:PORT/metrics [default: off]. Any client that
    /// reaches the port can read names of pods, policies and links: there is neither TLS nor a
    /// login.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// MTU to set at both ends of attached links, 1280 to 65535 bytes, or `keep`.
    #[arg(long, value_name = "N|keep", default_value = "keep")]
    pub pod_mtu: MtuChoice,
    /// Who completes the TX checksums of pods whose namespaces podgate can enter.
    #[arg(long, value_enum, default_value_t = PodChecksums::Whole)]
    pub pod_checksums: PodChecksums,
    /// Directory of the control socket, the endpoint list, the pinned programs and the last good
    /// objects of manifests. While it can't be written, the agent runs all the same if its sockets
    /// are elsewhere (--control-socket), and says so in its status.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// Path of the control socket, in a directory that only root may write [default: podgate.sock
    /// in the state directory].
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
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
    /// Path of the unix socket, which only root may open; for example, `hubble --server
    /// unix:///var/run/podgate/hubble.sock observe` reads flows from it [default: hubble.sock in
    /// the directory of the control socket].
    #[arg(long = "hubble-socket", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Address and TCP port to listen on as well, such as 192.0.2.1:4244. Without TLS, it must be a
    /// loopback address.
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
    /// The receiver; between pods of one node no checksum is needed. Faster for bulk TCP, but wrong
    /// for pods that send tunnel packets (VXLAN, GRE, IPIP), whose inner checksums would stay
    /// incomplete. Before Linux 6.11 the same as `whole`.
    Leave,
}

/// How queries that DNS rules deny are answered.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum DnsDenied {
    /// By REFUSED. Most clients then ask the next server of their list.
    Refused,
    /// By NXDOMAIN: clients assume that the name doesn't exist, and ask no other server.
    Nxdomain,
}

/// The environment variable that Kubernetes sets in each pod, with the API server's address.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// The sources of objects. In a pod the API server of its cluster is the default.
#[derive(Args, Debug, Clone)]
#[group(required = std::env::var_os(IN_CLUSTER).is_none(), multiple = false)]
pub struct SourceArgs {
    /// Read objects from the YAML and JSON files of a directory, and again when they change:
    /// `*.yaml`, `*.yml` and `*.json`, unless the name begins with a dot; not in directories below.
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
    /// Both are written, as far as the agent has the rights.
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

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;
    use clap::Parser;

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
    fn exactly_one_source_is_required() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["podgate", "run"], args].concat());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--manifests", "a", "--kubeconfig", "b"]).is_err());
        assert!(parse(&["--manifests", "a"]).is_ok());
        assert!(parse(&["--kubeconfig", "b"]).is_ok());
        assert!(parse(&["--in-cluster"]).is_ok());
        assert!(parse(&["--in-cluster", "--kubeconfig", "b"]).is_err());
    }
}
