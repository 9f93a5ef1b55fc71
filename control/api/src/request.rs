//! What a client asks for.

use std::net::IpAddr;

use podgate_policy::explain::Query;
use podgate_socket::{Answering, ApiError, Command, EndpointSpec, ErrorCode, VERSION};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::capture::CaptureRequest;
use crate::flow_table::FlowSelector;
use crate::policy::PolicyFilter;

/// Longest timeout of [`Request::PolicyWait`], seconds.
pub const WAIT_MAX_S: u32 = 3600;

/// Which clients may send a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAccess {
    /// Those of either socket: it only reads.
    ReadOnly,
    /// Those of the admin's socket.
    Admin,
}

/// Declares [`Request`], the list of its commands, and what holds for each: `=> access, answering`.
macro_rules! requests {
    ($($(#[$attribute:meta])* $command:literal: $variant:ident $arguments:tt
        => $access:ident, $answering:ident $(($field:ident))?;)*) => {
        /// What a client asks for.
        #[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
        #[serde(tag = "command", deny_unknown_fields)]
        pub enum Request {
            $($(#[$attribute])* #[serde(rename = $command)] $variant $arguments,)*
        }

        /// Every value of `command`.
        const COMMANDS: &[&str] = &[$($command),*];

        impl Request {
            /// Which clients may send it.
            #[must_use]
            pub const fn access(&self) -> ClientAccess {
                match self {
                    $(Self::$variant { .. } => ClientAccess::$access,)*
                }
            }

            /// When it is answered.
            #[must_use]
            pub const fn answering(&self) -> Answering {
                match self {
                    $(Self::$variant { $($field,)? .. } => Answering::$answering $((*$field))?,)*
                }
            }
        }
    };
}

requests! {
    /// Readiness and counters; answered by [`Status`](crate::Status).
    "status": Status {} => ReadOnly, AtOnce;
    /// Attach a pod; answered by its [`EndpointStatus`](crate::EndpointStatus).
    "endpoint-add": EndpointAdd(EndpointSpec) => Admin, AtOnce;
    /// Detach a pod; answered by `null`.
    "endpoint-remove": EndpointRemove {
        /// Name of the link.
        link: String,
    } => Admin, AtOnce;
    /// Answered by a list of [`EndpointStatus`](crate::EndpointStatus).
    "endpoint-list": EndpointList {} => ReadOnly, AtOnce;
    /// Answered by a list of [`EndpointLogEntry`](crate::EndpointLogEntry)s, oldest first.
    "endpoint-log": EndpointLog {
        /// The endpoint's link, or its pod as `NAMESPACE/NAME`.
        endpoint: String,
    } => ReadOnly, AtOnce;
    /// Answered by a [`PolicyList`](crate::PolicyList).
    "policy-list": PolicyList {} => ReadOnly, AtOnce;
    /// Answered by a list of [`PolicyDetail`](crate::PolicyDetail).
    "policy-get": PolicyGet(PolicyFilter) => ReadOnly, AtOnce;
    /// Answered by [`Explained`](crate::Explained).
    "policy-explain": PolicyExplain {
        /// The flow.
        query: Query,
        /// Evaluate policy for both ends, as if both were endpoints of this node.
        #[serde(default)]
        both_sides: bool,
    } => ReadOnly, AtOnce;
    /// Answered by a list of [`podgate_policy::explain::SelectorInfo`].
    "policy-selectors": PolicySelectors {} => ReadOnly, AtOnce;
    /// Answered by [`EndpointTable`](crate::EndpointTable).
    "table-policy-get": TablePolicyGet {
        /// The endpoint's link, or its pod as `NAMESPACE/NAME`.
        endpoint: String,
    } => ReadOnly, AtOnce;
    /// Answered by a [`FlowList`](crate::FlowList).
    "table-flow-list": TableFlowList(FlowSelector) => ReadOnly, AtOnce;
    /// Removes entries of the flow tables; answered by their number.
    "table-flow-flush": TableFlowFlush(FlowSelector) => Admin, AtOnce;
    /// Answered by [`CaptureItem`](crate::CaptureItem)s.
    "capture": Capture(CaptureRequest) => Admin, Streams;
    /// Answered by [`PolicyWaited`](crate::PolicyWaited).
    "policy-wait": PolicyWait {
        /// The epoch to wait for.
        epoch: u64,
        /// Timeout, seconds; at most [`WAIT_MAX_S`].
        timeout_s: u32,
    } => ReadOnly, Waits(timeout_s);
    /// Answered by [`FlowItem`](crate::FlowItem)s.
    "flows": Flows {
        /// Send new records instead of ending.
        #[serde(default)]
        follow: bool,
        /// How many past records to send first, at most.
        #[serde(default)]
        last: u32,
    } => ReadOnly, Follows(follow);
    /// Answered by a list of [`FqdnEntry`](crate::FqdnEntry).
    "fqdn-list": FqdnList {
        /// Only names that match, as in a policy's `matchPattern`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pattern: Option<String>,
    } => ReadOnly, AtOnce;
    /// Answered by the number of addresses that were removed.
    "fqdn-clean": FqdnClean {
        /// Only names that match, as in a policy's `matchPattern`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pattern: Option<String>,
    } => Admin, AtOnce;
    /// Answered by a list of [`podgate_policy::explain::ServiceEntry`].
    "service-list": ServiceList {} => ReadOnly, AtOnce;
    /// Answered by a list of [`IpEntry`](crate::IpEntry).
    "ip-list": IpList {
        /// Only this address, whether it is known or not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<IpAddr>,
    } => ReadOnly, AtOnce;
    /// Answered by a list of [`IdentityEntry`](crate::IdentityEntry).
    "identity-list": IdentityList {} => ReadOnly, AtOnce;
    /// Answered by a list of [`NodeEntry`](crate::NodeEntry).
    "node-list": NodeList {} => ReadOnly, AtOnce;
    /// Answered by a list of [`Family`](crate::Family).
    "metrics": Metrics {} => ReadOnly, AtOnce;
    /// Answered by a list of [`ConfigOption`](crate::ConfigOption).
    "config": Config {} => ReadOnly, AtOnce;
}

impl Request {
    /// Reads one line.
    ///
    /// # Errors
    /// When the line is no request of this version.
    pub fn parse(line: &[u8]) -> Result<Self, ApiError> {
        let bad = |error: serde_json::Error| {
            ApiError::new(ErrorCode::BadRequest, format!("the request can't be read: {error}"))
        };
        let mut value: Value = serde_json::from_slice(line).map_err(bad)?;
        let Some(object) = value.as_object_mut() else {
            return Err(ApiError::new(ErrorCode::BadRequest, "a request is a JSON object"));
        };
        match object.remove("version") {
            Some(version) if version == VERSION => {}
            Some(version) => {
                let message = format!("version {version} is not supported, {VERSION} is");
                return Err(ApiError::new(ErrorCode::UnsupportedVersion, message));
            }
            None => {
                let message = format!("the request has no version; {VERSION} is supported");
                return Err(ApiError::new(ErrorCode::UnsupportedVersion, message));
            }
        }
        match object.get("command").and_then(Value::as_str) {
            Some(command) if COMMANDS.contains(&command) => {}
            Some(command) => {
                let message = format!("there is no command {command:?}");
                return Err(ApiError::new(ErrorCode::UnknownCommand, message));
            }
            None => {
                return Err(ApiError::new(ErrorCode::BadRequest, "the request names no command"));
            }
        }
        serde_json::from_value(value).map_err(bad)
    }

    /// The line to send, with its newline.
    #[must_use]
    pub fn to_line(&self) -> String {
        podgate_socket::to_line(self)
    }
}

impl Command for Request {
    fn answering(&self) -> Answering {
        Self::answering(self)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use podgate_policy::explain::RequestSpec;
    use podgate_socket::{Answer, MacAddress, PluginRequest, PodMtu};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn code(line: &str) -> ErrorCode {
        Request::parse(line.as_bytes()).unwrap_err().code
    }

    fn query() -> Query {
        let http = "GET /docs".parse().unwrap();
        Query {
            from: "shop/cart-0".parse().unwrap(),
            to: "fd00::1".parse().unwrap(),
            port: Some("80/TCP".parse().unwrap()),
            request: Some(RequestSpec::Http(http)),
            misses_max: usize::MAX,
        }
    }

    fn selector() -> FlowSelector {
        FlowSelector { endpoint: Some("shop/cart-0".into()), port: Some(80), ..Default::default() }
    }

    /// Seeds of the fuzz target for requests (`fuzz/src/requests.rs`).
    #[test]
    fn every_command_has_a_seed_for_fuzzing() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/requests");
        for command in COMMANDS {
            let seed = fs::read(seeds.join(command)).unwrap_or_default();
            let request = Request::parse(seed.trim_ascii()).map_err(|error| error.message);
            let request = serde_json::to_value(request.expect(command)).unwrap();
            assert_eq!(request["command"], *command);
        }
    }

    #[test]
    fn every_request_reads_back_as_itself() {
        let spec = EndpointSpec {
            link: "veth0".into(),
            pod: "a/b".parse().unwrap(),
            netns: Some("/run/netns/a".into()),
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            mtu: Some(PodMtu::MAX),
            assigned: vec!["10.0.0.1".parse().unwrap()],
        };
        let requests = [
            Request::Status {},
            Request::EndpointAdd(spec),
            Request::EndpointRemove { link: "veth0".into() },
            Request::EndpointList {},
            Request::EndpointLog { endpoint: "shop/cart-0".into() },
            Request::PolicyList {},
            Request::PolicyGet(PolicyFilter {
                kind: Some("NetworkPolicy".into()),
                namespace: None,
                name: Some("web".into()),
                pod: "shop/web-0".parse().ok(),
            }),
            Request::PolicyExplain { query: query(), both_sides: true },
            Request::PolicySelectors {},
            Request::TablePolicyGet { endpoint: "veth0".into() },
            Request::TableFlowList(selector()),
            Request::TableFlowFlush(selector()),
            Request::Capture(CaptureRequest {
                pods: vec!["shop/cart-0".parse().unwrap()],
                filters: vec!["protocol=tcp,port=80".parse().unwrap()],
                snap_len: 65_535,
                packets: 10_000,
                bytes: 1 << 28,
                seconds: 60,
            }),
            Request::PolicyWait { epoch: 7, timeout_s: 60 },
            Request::Flows { follow: true, last: 7 },
            Request::FqdnList { pattern: Some("*.example".into()) },
            Request::FqdnClean { pattern: None },
            Request::ServiceList {},
            Request::IpList { address: Some("192.0.2.1".parse().unwrap()) },
            Request::IdentityList {},
            Request::NodeList {},
            Request::Config {},
            Request::Metrics {},
        ];
        assert_eq!(requests.len(), COMMANDS.len());
        for request in requests {
            assert_eq!(Request::parse(request.to_line().as_bytes()), Ok(request));
        }
    }

    #[test]
    fn requests_of_network_plugins_are_requests() {
        let spec: EndpointSpec =
            serde_json::from_value(json!({"link": "v", "pod": "a/b"})).unwrap();
        let remove = PluginRequest::EndpointRemove { link: "veth0".into() };
        for (request, expected) in [
            (PluginRequest::Status {}, Request::Status {}),
            (PluginRequest::EndpointAdd(spec.clone()), Request::EndpointAdd(spec)),
            (remove, Request::EndpointRemove { link: "veth0".into() }),
            (PluginRequest::EndpointList {}, Request::EndpointList {}),
        ] {
            let line = podgate_socket::to_line(&request);
            assert_eq!(Request::parse(line.as_bytes()), Ok(expected));
        }
    }

    #[test]
    fn an_mtu_out_of_range_is_an_error() {
        let request = |mtu: &str| {
            let line = format!(
                r#"{{"version":1,"command":"endpoint-add","link":"a","pod":"a/b","mtu":{mtu}}}"#
            );
            Request::parse(line.as_bytes())
        };
        assert!(request("1280").is_ok() && request("65535").is_ok());
        for mtu in ["0", "1279", "65536", "-1"] {
            assert_eq!(request(mtu).unwrap_err().code, ErrorCode::BadRequest, "{mtu}");
        }
        let message = request("65536").unwrap_err().message;
        assert!(message.contains("a pod's MTU is 1280 to 65535 bytes, not 65536"), "{message}");
    }

    #[test]
    fn every_answer_reads_back_as_itself() {
        for answer in [
            Answer::Result(json!([1, "a"])),
            Answer::Item(Value::Null),
            Answer::End(true),
            Answer::Error(ApiError::new(ErrorCode::Busy, "later")),
        ] {
            assert_eq!(Answer::parse(&answer.to_line()), Ok(answer));
        }
    }

    #[test]
    fn each_malformed_request_has_its_error_code() {
        assert_eq!(code("{"), ErrorCode::BadRequest);
        assert_eq!(code("[]"), ErrorCode::BadRequest);
        assert_eq!(code(r#"{"command":"status"}"#), ErrorCode::UnsupportedVersion);
        assert_eq!(code(r#"{"version":2,"command":"status"}"#), ErrorCode::UnsupportedVersion);
        assert_eq!(code(r#"{"version":1,"command":"stop"}"#), ErrorCode::UnknownCommand);
        assert_eq!(code(r#"{"version":1}"#), ErrorCode::BadRequest);
        assert_eq!(code(r#"{"version":1,"command":"status","x":1}"#), ErrorCode::BadRequest);
        assert_eq!(code(r#"{"version":1,"command":"flows","last":-1}"#), ErrorCode::BadRequest);
        let add = r#"{"version":1,"command":"endpoint-add","link":"v","pod":"b"}"#;
        assert_eq!(code(add), ErrorCode::BadRequest);
    }

    #[test]
    fn an_answer_of_another_version_is_an_error() {
        let error = Answer::parse(r#"{"version":2,"result":null}"#).unwrap_err();
        assert_eq!(error.code, ErrorCode::UnsupportedVersion);
    }

    #[test]
    fn an_error_with_an_unknown_code_is_read() {
        let line = r#"{"version":1,"error":{"code":"moon-phase","message":"no"}}"#;
        assert_eq!(Answer::parse(line), Ok(Answer::Error(ApiError::new(ErrorCode::Unknown, "no"))));
    }

    #[test]
    fn mac_addresses_are_checked() {
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "01:00:00:00:00:00"]
        {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&bytes);
        }

        #[test]
        fn a_mac_reads_back_as_itself(bytes in any::<[u8; 6]>()) {
            let unicast = MacAddress([bytes[0] & 0xfe, bytes[1], bytes[2], bytes[3], bytes[4], bytes[5] | 1]);
            prop_assert_eq!(unicast.to_string().parse::<MacAddress>(), Ok(unicast));
        }
    }
}
