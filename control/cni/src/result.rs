//! Results, as the plugin reads them from others and writes them, in the form of each version of
//! the specification ("Success").

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{CniError, Code};

/// The result of an ADD.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct CniResult {
    #[serde(default)]
    pub(crate) interfaces: Vec<Interface>,
    #[serde(default)]
    pub(crate) ips: Vec<Ip>,
    #[serde(default)]
    pub(crate) routes: Vec<Route>,
    #[serde(default)]
    pub(crate) dns: Value,
}

/// A link, at either end.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    /// The namespace that it is in; absent at the node's end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<String>,
}

/// An address of the pod.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ip {
    pub(crate) address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    /// Index in the list of interfaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
}

/// A route of the pod.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
}

impl CniResult {
    /// Reads a result of any supported version.
    ///
    /// # Errors
    /// When it is none.
    pub(crate) fn parse(value: &Value) -> Result<Self, CniError> {
        Self::deserialize(value).map_err(|error| {
            CniError::new(Code::Decode, format!("the result of another plugin is wrong: {error}"))
        })
    }

    /// The pod's addresses.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.ips.iter().map(|ip| ip.address.addr()).collect()
    }

    /// The result in the form of a version. Before 1.0.0, each address has its IP version.
    pub(crate) fn to_json(&self, version: &str) -> Value {
        let mut value = json!(self);
        value["cniVersion"] = json!(version);
        if version.starts_with("0.") {
            for (json, ip) in value["ips"].as_array_mut().into_iter().flatten().zip(&self.ips) {
                json["version"] = json!(if ip.address.addr().is_ipv4() { "4" } else { "6" });
            }
        }
        if self.dns.is_null() {
            value["dns"] = json!({});
        }
        value
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_read_and_written_in_each_version() {
        let old = json!({
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "cni0", "mac": "02:00:00:00:00:01"},
                           {"name": "eth0", "sandbox": "/run/netns/a"}],
            "ips": [{"version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1},
                    {"version": "6", "address": "fd00::5/64", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
            "dns": {"nameservers": ["10.96.0.10"]},
        });
        let result = CniResult::parse(&old).unwrap();
        assert_eq!(result.to_json("0.4.0"), old);
        let new = result.to_json("1.0.0");
        assert!(new["ips"][0].get("version").is_none());
        assert_eq!(CniResult::parse(&new).unwrap(), result);
        let addresses: [IpAddr; 2] = ["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        assert_eq!(result.addresses(), addresses);
        assert_eq!(CniResult::parse(&json!({"ips": [{"address": "x"}]})).unwrap_err().code, 6);
    }
}
