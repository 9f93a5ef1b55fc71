//! `podgate cni …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use podgate_api::PodMtu;

use super::examples;
use super::local::local_examples;

/// `podgate cni …`.
#[derive(Subcommand, Debug)]
pub enum CniCommand {
    /// Install the CNI plugin and its configuration on this node.
    #[command(long_about = INSTALL_ABOUT, after_help = INSTALL_EXAMPLES)]
    Install(CniInstallArgs),
    /// Remove the configuration, so that new pods are not attached any more.
    #[command(long_about = REMOVE_ABOUT, after_help = REMOVE_EXAMPLES)]
    Remove(CniRemoveArgs),
}

const INSTALL_ABOUT: &str = "\
Install the CNI plugin and its configuration on this node.

Each file is written to a temporary name and renamed, the configuration last: a container runtime \
never reads a part of one. With `--mode chained` the configuration is that of the first other plugin \
in --conf-dir, with podgate-cni appended; that plugin's own file stays as it is.";

const INSTALL_EXAMPLES: &str = local_examples! {
    "podgate cni install --pod-cidr 10.244.1.0/24"
    "podgate cni install --mode chained"
    "podgate cni install --node-name node-1 --bin-dir /host/opt/cni/bin --conf-dir /host/etc/cni/net.d"
};

const REMOVE_ABOUT: &str = "\
Remove the configuration, so that new pods are not attached any more.

The plugin itself stays, since the container runtime may run it for pods that were attached before.";

const REMOVE_EXAMPLES: &str = local_examples! {
    "podgate cni remove"
};

/// What the pods' links come from.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum CniMode {
    /// podgate creates them.
    Alone,
    /// Another plugin on this node creates them, and podgate takes them over.
    Chained,
}

/// Where a container runtime reads its CNI configuration.
#[derive(Args, Debug, Clone)]
pub struct CniRemoveArgs {
    /// Directory of CNI configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub conf_dir: PathBuf,
}

/// Arguments of `podgate cni install`.
#[derive(Args, Debug, Clone)]
pub struct CniInstallArgs {
    /// Who creates the pods' links.
    #[arg(long, value_enum, default_value_t = CniMode::Alone)]
    pub mode: CniMode,
    /// Directory of CNI plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub bin_dir: PathBuf,
    /// Where the configuration goes.
    #[command(flatten)]
    pub conf: CniRemoveArgs,
    /// The plugin to install [default: podgate-cni beside this program].
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Networks of this node's pods, alone only [default: podCIDRs of the Node object].
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub pod_cidr: Vec<IpNet>,
    /// Name of this node's object at the cluster's API server.
    #[arg(long, value_name = "NAME", env = "K8S_NODE_NAME")]
    pub node_name: Option<String>,
    /// MTU of pods' links, bytes.
    #[arg(long, value_name = "N")]
    pub mtu: Option<PodMtu>,
    /// The agent's control socket, on the node.
    #[arg(long, value_name = "PATH", default_value = "/run/podgate/podgate.sock")]
    pub agent_socket: PathBuf,
    /// How long to wait for the other plugin's configuration, or the Node's podCIDRs, seconds.
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub timeout: u32,
}
