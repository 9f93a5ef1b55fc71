//! Messages about endpoints: which pod is behind which link.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use podgate_names::PodName;
use serde::{Deserialize, Serialize};

/// An endpoint as it is attached: a pod and its link. In an [`EndpointStatus`], `P` is
/// `Option<PodName>`, because the pod of a link may be unknown.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec<P = PodName> {
    /// The host's end of the pod's veth pair.
    pub link: String,
    /// The pod that has the other end.
    pub pod: P,
    /// The pod's network namespace, where the MAC address and the MTU are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// MAC address of the pod's end; read in `netns` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// MTU that both ends of the link are given when it is attached; needs `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<PodMtu>,
    /// Addresses that a network plugin assigned to the pod. They are the pod's until the status of
    /// its object names addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub assigned: Vec<IpAddr>,
}

impl EndpointSpec {
    /// The same for an [`EndpointStatus`].
    #[must_use]
    pub fn known(self) -> EndpointSpec<Option<PodName>> {
        let Self { link, pod, netns, mac, mtu, assigned } = self;
        EndpointSpec { link, pod: Some(pod), netns, mac, mtu, assigned }
    }
}

/// MTU of a pod's link, bytes.
///
/// IPv6 needs 1280 (RFC 8200, section 5); no IPv4 packet, and no veth, has more than 65535. Native
/// XDP with packets in several buffers takes less than 73,459 (`veth_xdp_set`,
/// `drivers/net/veth.c`), and AF_XDP 18 frames of 3840 bytes, so both take all of this.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(try_from = "u32", into = "u32")]
pub struct PodMtu(u32);

impl PodMtu {
    /// The least there can be.
    pub const MIN: Self = Self(1280);
    /// The most there can be.
    pub const MAX: Self = Self(65535);
}

impl TryFrom<u32> for PodMtu {
    type Error = String;

    fn try_from(mtu: u32) -> Result<Self, Self::Error> {
        let (PodMtu(min), PodMtu(max)) = (Self::MIN, Self::MAX);
        if (min..=max).contains(&mtu) {
            Ok(Self(mtu))
        } else {
            Err(format!("a pod's MTU is {min} to {max} bytes, not {mtu}"))
        }
    }
}

impl From<PodMtu> for u32 {
    fn from(PodMtu(mtu): PodMtu) -> Self {
        mtu
    }
}

impl FromStr for PodMtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<u32>().map_err(|error| error.to_string())?.try_into()
    }
}

/// An Ethernet address, written as six hexadecimal pairs with colons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write the address as six pairs, like 02:00:00:00:00:01";
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next().filter(|pair| pair.len() == 2).ok_or(FORM)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| FORM)?;
        }
        if pairs.next().is_some() {
            return Err(FORM);
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err("this is not an address of a single interface");
        }
        Ok(Self(bytes))
    }
}

impl Serialize for MacAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// State of one endpoint.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct EndpointStatus {
    /// The endpoint; without a pod if its record was lost.
    #[serde(flatten)]
    pub spec: EndpointSpec<Option<PodName>>,
    /// State.
    pub state: EndpointState,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Addresses of the pod.
    pub addresses: Vec<IpAddr>,
    /// Identity number, while the pod is known.
    pub identity: Option<u32>,
    /// Whether some policy puts the pod's ingress into default deny.
    pub ingress_enforced: bool,
    /// Whether some policy puts the pod's egress into default deny.
    pub egress_enforced: bool,
}

/// The states of an endpoint.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// Under policy.
    Ready,
    /// Attached, but its pod is not known or has no address: cut off. Or another process detached a
    /// program: no policy applies. The reason tells which.
    Waiting,
    /// Its link vanished.
    Gone,
}

impl fmt::Display for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::Waiting => "waiting",
            Self::Gone => "gone",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_the_spec_are_fields_of_the_status() {
        let known = EndpointSpec {
            link: "veth0".into(),
            pod: "shop/cart-0".parse::<PodName>().unwrap(),
            netns: None,
            mac: None,
            mtu: Some(PodMtu::MAX),
            assigned: Vec::new(),
        };
        let mut status = EndpointStatus {
            spec: known.known(),
            state: EndpointState::Waiting,
            reason: None,
            addresses: Vec::new(),
            identity: None,
            ingress_enforced: false,
            egress_enforced: false,
        };
        let json = serde_json::to_string(&status).unwrap();
        let expected = r#"{"link":"veth0","pod":"shop/cart-0","mtu":65535,"state":"waiting","#;
        assert!(json.starts_with(expected), "{json}");
        assert_eq!(serde_json::from_str::<EndpointStatus>(&json).unwrap(), status);
        status.spec.pod = None;
        let json = serde_json::to_string(&status).unwrap();
        assert!(json.starts_with(r#"{"link":"veth0","pod":null,"mtu":65535,"#), "{json}");
        assert_eq!(serde_json::from_str::<EndpointStatus>(&json).unwrap(), status);
    }

    #[test]
    fn a_spec_needs_a_pod_and_knows_no_other_fields() {
        assert!(serde_json::from_str::<EndpointSpec>(r#"{"link":"veth0"}"#).is_err());
        let unknown = r#"{"link":"veth0","pod":"shop/cart-0","vlan":1}"#;
        assert!(serde_json::from_str::<EndpointSpec>(unknown).is_err());
    }
}
