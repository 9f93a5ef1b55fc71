//! `podgate endpoint …`.

use std::path::{PathBuf, absolute};

use clap::{Args, Subcommand};
use podgate_api::{EndpointSpec, PodMtu};

use super::{ClientArgs, examples};

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
    #[arg(value_name = "NS/POD|LINK")]
    pub endpoint: String,
}

/// Arguments of `podgate endpoint add`.
#[derive(Args, Debug, Clone)]
pub struct EndpointAddArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Name of the host's end of the pod's veth pair.
    #[arg(long, value_name = "LINK")]
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
            // The agent has another working directory, also after a restart. Fails only for an
            // empty path, or if there is no working directory; then the agent rejects it.
            netns: self.netns.as_ref().map(|path| absolute(path).unwrap_or_else(|_| path.clone())),
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
    #[arg(long, value_name = "LINK")]
    pub link: String,
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::Cli;
    use super::EndpointAddArgs;
    use clap::{Args, FromArgMatches, Parser};

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

    #[test]
    fn the_agent_is_given_an_absolute_path_of_the_namespace() {
        let netns = |path: &str| {
            let add = ["add", "--link", "veth0", "--pod", "a/b", "--netns", path];
            let command = EndpointAddArgs::augment_args(clap::Command::new("add"));
            let matches = command.try_get_matches_from(add).unwrap();
            EndpointAddArgs::from_arg_matches(&matches).unwrap().spec().netns.unwrap()
        };
        assert_eq!(netns("/run/netns/a"), Path::new("/run/netns/a"));
        let here: PathBuf = std::env::current_dir().unwrap();
        assert_eq!(netns("../netns/a"), here.join("../netns/a"));
    }
}
