//! What the runtime asks for: the environment, and the network configuration on standard input.

use std::path::PathBuf;

use ipnet::IpNet;
use podgate_socket::{PodMtu, PodName};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{CniError, Code};
use crate::result::CniResult;
use crate::version::{LATEST, SUPPORTED};

/// Where the agent's socket is unless the configuration says otherwise.
const SOCKET: &str = "/run/podgate/podgate.sock";

/// The commands of the specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

/// One call of the plugin.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) command: Command,
    /// `CNI_CONTAINERID`; empty for STATUS, GC and VERSION.
    pub(crate) container: String,
    /// `CNI_NETNS`; absent if the namespace is gone.
    pub(crate) netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub(crate) interface: String,
    /// The pod, of `CNI_ARGS`.
    pub(crate) pod: Option<PodName>,
    /// `CNI_PATH`: folders of plugins.
    pub(crate) path: Vec<PathBuf>,
    pub(crate) config: NetworkConfig,
    /// The configuration as it came, for the plugin that assigns addresses.
    pub(crate) stdin: Vec<u8>,
}

/// The network configuration: members that this plugin knows.
#[derive(Deserialize, Debug)]
pub(crate) struct NetworkConfig {
    /// Version of the specification.
    #[serde(rename = "cniVersion", default = "first_version")]
    pub(crate) cni_version: String,
    /// Name of the network.
    #[serde(default)]
    pub(crate) name: String,
    /// The plugin that assigns addresses.
    pub(crate) ipam: Option<Ipam>,
    /// The agent's control socket.
    #[serde(default = "socket")]
    pub(crate) socket: PathBuf,
    /// MTU of pods' links, bytes.
    pub(crate) mtu: Option<PodMtu>,
    /// What the plugins before this one did.
    #[serde(rename = "prevResult")]
    pub(crate) prev_result: Option<Value>,
    /// For GC: what is in use.
    #[serde(rename = "cni.dev/valid-attachments", default)]
    pub(crate) valid_attachments: Vec<Attachment>,
}

/// The configuration of the plugin that assigns addresses.
#[derive(Deserialize, Debug)]
pub(crate) struct Ipam {
    /// Name of the plugin.
    #[serde(rename = "type")]
    pub(crate) plugin: String,
    /// Routes that pods get in addition to those of the plugin's result.
    #[serde(default)]
    pub(crate) routes: Vec<RouteConfig>,
}

/// A route of the configuration.
#[derive(Deserialize, Debug)]
pub(crate) struct RouteConfig {
    /// Destination.
    pub(crate) dst: IpNet,
}

/// An attachment that is in use.
#[derive(Deserialize, Debug)]
pub(crate) struct Attachment {
    #[serde(rename = "containerID")]
    pub(crate) container: String,
    pub(crate) ifname: String,
}

/// A configuration without a version is of the first one.
fn first_version() -> String {
    "0.1.0".into()
}

fn socket() -> PathBuf {
    SOCKET.into()
}

impl Call {
    /// Reads a call. `variable` is the environment.
    ///
    /// # Errors
    /// When a variable is missing, or the configuration is wrong.
    pub(crate) fn parse(
        variable: &dyn Fn(&str) -> Option<String>,
        stdin: Vec<u8>,
    ) -> Result<Self, CniError> {
        let command = match variable("CNI_COMMAND").as_deref() {
            Some("ADD") => Command::Add,
            Some("DEL") => Command::Del,
            Some("CHECK") => Command::Check,
            Some("STATUS") => Command::Status,
            Some("GC") => Command::Gc,
            Some("VERSION") => Command::Version,
            Some(other) => {
                let message = format!("CNI_COMMAND is {other:?}, which is not a command");
                return Err(CniError::new(Code::Environment, message));
            }
            None => {
                let message = "CNI_COMMAND is not set: this is a CNI plugin, which container \
                               runtimes run; `podgate` is the program for people";
                return Err(CniError::new(Code::Environment, message));
            }
        };
        let config = NetworkConfig::parse(&stdin, command)?;
        let needs_container = matches!(command, Command::Add | Command::Del | Command::Check);
        let get = |name: &str| variable(name).filter(|value| !value.is_empty());
        let required = |name: &str, needed: bool| match get(name) {
            None if needed => {
                Err(CniError::new(Code::Environment, format!("{name} is not set, or empty")))
            }
            value => Ok(value.unwrap_or_default()),
        };
        let needs_netns = matches!(command, Command::Add | Command::Check);
        let netns = required("CNI_NETNS", needs_netns)?;
        let call = Self {
            command,
            container: required("CNI_CONTAINERID", needs_container)?,
            netns: (!netns.is_empty()).then(|| netns.into()),
            interface: required("CNI_IFNAME", needs_container)?,
            pod: pod_of(&get("CNI_ARGS").unwrap_or_default())?,
            path: std::env::split_paths(&get("CNI_PATH").unwrap_or_default()).collect(),
            config,
            stdin,
        };
        if command == Command::Add && call.pod.is_none() {
            let message = "CNI_ARGS has no K8S_POD_NAMESPACE and K8S_POD_NAME: policy is for pods, \
                           and it is not known which pod this is";
            return Err(CniError::new(Code::Environment, message));
        }
        Ok(call)
    }

    /// The pod's name.
    ///
    /// # Errors
    /// When the runtime did not say it.
    pub(crate) fn pod(&self) -> Result<&PodName, CniError> {
        self.pod.as_ref().ok_or_else(|| CniError::new(Code::Environment, "CNI_ARGS names no pod"))
    }

    /// The result of the plugins before this one, if there are any.
    ///
    /// # Errors
    /// When it is no result.
    pub(crate) fn prev_result(&self) -> Result<Option<CniResult>, CniError> {
        self.config.prev_result.as_ref().map(CniResult::parse).transpose()
    }
}

impl NetworkConfig {
    fn parse(stdin: &[u8], command: Command) -> Result<Self, CniError> {
        let text = match (command, stdin.trim_ascii()) {
            // VERSION needs none.
            (Command::Version, []) => format!(r#"{{"cniVersion":"{LATEST}"}}"#).into_bytes(),
            (_, text) => text.to_vec(),
        };
        let config: Self = serde_json::from_slice(&text).map_err(|error| {
            let code = if error.is_data() { Code::Config } else { Code::Decode };
            CniError::new(code, format!("the network configuration is wrong: {error}"))
        })?;
        if command != Command::Version && !SUPPORTED.contains(&config.cni_version.as_str()) {
            let message = format!(
                "cniVersion {} is not supported; these are: {}",
                config.cni_version,
                SUPPORTED.join(", ")
            );
            return Err(CniError::new(Code::Version, message));
        }
        Ok(config)
    }
}

/// The pod of `CNI_ARGS` (`KEY=VALUE;…`), as kubelet's runtimes name it.
fn pod_of(args: &str) -> Result<Option<PodName>, CniError> {
    let value = |wanted: &str| {
        let pairs = args.split(';').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == wanted).map(|(_, value)| value).next()
    };
    let (Some(namespace), Some(name)) = (value("K8S_POD_NAMESPACE"), value("K8S_POD_NAME")) else {
        return Ok(None);
    };
    match format!("{namespace}/{name}").parse() {
        Ok(pod) => Ok(Some(pod)),
        Err(error) => Err(CniError::new(Code::Environment, format!("CNI_ARGS: {error}"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    const POD: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=cart-0;X=y";

    fn parse(variables: &[(&str, &str)], config: &str) -> Result<Call, CniError> {
        let variable = |name: &str| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Call::parse(&variable, config.as_bytes().to_vec())
    }

    fn add(args: &'static str) -> Vec<(&'static str, &'static str)> {
        vec![
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/c1"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", args),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
        ]
    }

    #[test]
    fn a_call_has_what_kubelet_says() {
        let config = r#"{"cniVersion":"1.0.0","name":"pods","type":"podgate-cni","mtu":9000,
                         "ipam":{"type":"host-local","routes":[{"dst":"0.0.0.0/0"}]}}"#;
        let call = parse(&add(POD), config).unwrap();
        assert_eq!(call.pod().unwrap().to_string(), "shop/cart-0");
        assert_eq!(call.path.len(), 2);
        assert_eq!(call.config.socket.to_str(), Some(SOCKET));
        assert_eq!(call.config.mtu, PodMtu::try_from(9000).ok());
        assert_eq!(call.config.ipam.unwrap().plugin, "host-local");
    }

    #[test]
    fn each_wrong_call_has_its_code() {
        let config = r#"{"cniVersion":"1.0.0","name":"pods"}"#;
        let code = |variables: &[_], config: &str| parse(variables, config).unwrap_err().code;
        assert_eq!(code(&[], config), 4);
        assert_eq!(code(&[("CNI_COMMAND", "FLY")], config), 4);
        assert_eq!(code(&add("K8S_POD_NAME=cart-0"), config), 4);
        assert_eq!(code(&add("K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=c"), config), 4);
        assert_eq!(code(&add(POD)[..3], config), 4);
        assert_eq!(code(&add(POD), "{"), 6);
        assert_eq!(code(&add(POD), r#"{"cniVersion":"1.0.0","mtu":100}"#), 7);
        assert_eq!(code(&add(POD), r#"{"cniVersion":"9.0.0"}"#), 1);
        assert_eq!(code(&add(POD), "{}"), 1, "version 0.1.0");
        assert!(parse(&[("CNI_COMMAND", "VERSION")], "").is_ok());
        assert!(parse(&[("CNI_COMMAND", "STATUS")], config).is_ok());
    }
}
