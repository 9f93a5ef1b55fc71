//! The control socket's messages: one JSON object a line, each with the protocol's version.
//!
//! A request names its `command`; its arguments stand beside it:
//!
//! ```json
//! {"version":1,"command":"flows","follow":true,"last":20}
//! ```
//!
//! An answer has exactly one of `result` (the only line), `item` (any number of lines), `end`
//! (after the last item) and `error` (the last line):
//!
//! ```json
//! {"version":1,"error":{"code":"unknown-command","message":"there is no command \"flow\""}}
//! ```
//!
//! A connection takes one request after the other.

mod policy;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use podgate_policy::explain::Query;
use podgate_policy::record::FlowRecord;
use podgate_policy::{Rejection, rejection_line};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) use self::policy::refused_note;
pub use self::policy::{
    EndpointTable, Explained, PolicyDetail, PolicyFilter, PolicyWaited, PortsDetail, RuleDetail,
    RuleSetDetail,
};

/// The version that this program speaks.
pub const VERSION: u64 = 1;

/// Longest request that is read, bytes with the newline.
pub const REQUEST_MAX: usize = 64 * 1024;

/// Most flow records that one request may ask to begin with.
pub const LAST_MAX: u32 = 1 << 20;

/// What a client asks for.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Readiness and counters; answered by [`Status`].
    Status {},
    /// Attach a pod; answered by its [`EndpointStatus`].
    EndpointAdd(EndpointSpec),
    /// Detach a pod; answered by `null`.
    EndpointRemove {
        /// Name of the link.
        link: String,
    },
    /// Answered by a list of [`EndpointStatus`].
    EndpointList {},
    /// Answered by a [`PolicyList`].
    PolicyList {},
    /// Answered by a list of [`PolicyDetail`].
    PolicyGet(PolicyFilter),
    /// Answered by [`Explained`].
    PolicyExplain {
        /// The flow.
        query: Query,
        /// Judge both ends, as if both were endpoints of this node.
        #[serde(default)]
        both_sides: bool,
    },
    /// Answered by a list of [`podgate_policy::explain::SelectorInfo`].
    PolicySelectors {},
    /// Answered by [`EndpointTable`].
    TablePolicyGet {
        /// The endpoint's link, or its pod as `NAMESPACE/NAME`.
        endpoint: String,
    },
    /// Answered by [`PolicyWaited`].
    PolicyWait {
        /// The epoch that is to be in force.
        revision: u32,
        /// How long to wait at most, seconds.
        timeout_s: u32,
    },
    /// Answered by [`FlowItem`]s.
    Flows {
        /// Go on with new records instead of ending.
        #[serde(default)]
        follow: bool,
        /// How many past records to begin with, at most.
        #[serde(default)]
        last: u32,
    },
    /// Answered by a list of [`crate::metrics::Family`].
    Metrics {},
}

const COMMANDS: &[&str] = &[
    "status",
    "endpoint-add",
    "endpoint-remove",
    "endpoint-list",
    "policy-list",
    "policy-get",
    "policy-explain",
    "policy-selectors",
    "table-policy-get",
    "policy-wait",
    "flows",
    "metrics",
];

/// Why a request was not carried out.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// For programs.
    pub code: Code,
    /// For people: one line.
    pub message: String,
}

/// The kinds of refusal.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request is not of version [`VERSION`].
    UnsupportedVersion,
    /// The command is not known.
    UnknownCommand,
    /// The request is no JSON object of the command's form.
    BadRequest,
    /// The request is longer than [`REQUEST_MAX`].
    TooLong,
    /// Too many clients, or the agent is stopping.
    Busy,
    /// The command was tried and failed.
    Failed,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

impl Refused {
    /// A refusal for `code`.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The command was tried and failed for this reason.
    #[must_use]
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::new(Code::Failed, error.to_string())
    }
}

impl Request {
    /// Reads one line.
    ///
    /// # Errors
    /// When the line is no request of this version.
    pub fn parse(line: &[u8]) -> Result<Self, Refused> {
        let bad = |error: serde_json::Error| {
            Refused::new(Code::BadRequest, format!("the request can't be read: {error}"))
        };
        let mut value: Value = serde_json::from_slice(line).map_err(bad)?;
        let Some(object) = value.as_object_mut() else {
            return Err(Refused::new(Code::BadRequest, "a request is a JSON object"));
        };
        match object.remove("version") {
            Some(version) if version == VERSION => {}
            Some(version) => {
                let message = format!("version {version} is not supported, {VERSION} is");
                return Err(Refused::new(Code::UnsupportedVersion, message));
            }
            None => {
                let message = format!("the request has no version; {VERSION} is supported");
                return Err(Refused::new(Code::UnsupportedVersion, message));
            }
        }
        match object.get("command").and_then(Value::as_str) {
            Some(command) if COMMANDS.contains(&command) => {}
            Some(command) => {
                let message = format!("there is no command {command:?}");
                return Err(Refused::new(Code::UnknownCommand, message));
            }
            None => return Err(Refused::new(Code::BadRequest, "the request names no command")),
        }
        serde_json::from_value(value).map_err(bad)
    }

    /// The line to send, with its newline.
    #[must_use]
    pub fn to_line(&self) -> String {
        let mut value = json!(self);
        value["version"] = json!(VERSION);
        format!("{value}\n")
    }
}

/// One line of an answer.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The whole answer.
    Result(Value),
    /// One of several.
    Item(Value),
    /// No more items follow.
    End(bool),
    /// Nothing, or nothing more.
    Error(Refused),
}

#[derive(Serialize, Deserialize)]
struct AnswerLine {
    version: u64,
    #[serde(flatten)]
    answer: Answer,
}

impl Answer {
    /// The line to send, with its newline.
    #[must_use]
    pub fn to_line(&self) -> String {
        let line = AnswerLine { version: VERSION, answer: self.clone() };
        format!("{}\n", json!(line))
    }

    /// Reads one line.
    ///
    /// # Errors
    /// When the line is no answer of this version.
    pub fn parse(line: &str) -> Result<Self, Refused> {
        let bad = |error: serde_json::Error| {
            Refused::new(Code::BadRequest, format!("the answer can't be read: {error}"))
        };
        let value: Value = serde_json::from_str(line).map_err(bad)?;
        if value["version"] != VERSION {
            let message = format!("the agent speaks version {}, not {VERSION}", value["version"]);
            return Err(Refused::new(Code::UnsupportedVersion, message));
        }
        serde_json::from_value::<AnswerLine>(value).map(|line| line.answer).map_err(bad)
    }
}

/// What is to be attached.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// The host's end of the pod's veth pair.
    pub link: String,
    /// The pod behind it.
    pub pod: PodName,
    /// The pod's network namespace, where the MAC address and the MTU are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// MAC address of the pod's end; read in `netns` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// MTU that both ends of the link are given when it is attached; needs `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<PodMtu>,
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

/// A pod's namespace and name, written `NS/NAME`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for PodName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if is_dns_name(namespace) && is_dns_name(name) => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err("write the pod as NAMESPACE/NAME"),
        }
    }
}

/// Whether `text` can be the name of a Kubernetes object (RFC 1123 subdomain).
fn is_dns_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 253
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.first().is_some_and(|b| inner(*b))
                && bytes.last().is_some_and(|b| inner(*b))
                && bytes.iter().all(|b| inner(*b) || *b == b'-')
        })
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
            return Err("this is no address of a single interface");
        }
        Ok(Self(bytes))
    }
}

/// Serde by `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(PodName);
serde_as_text!(MacAddress);

/// Readiness and counters of the agent.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Whether policy is in force for all attached endpoints.
    pub ready: bool,
    /// Why not, one line each.
    pub not_ready: Vec<String>,
    /// Seconds since the agent started.
    pub uptime_s: u64,
    /// Generation of the published snapshot; zero before the first.
    pub epoch: u32,
    /// Where objects come from.
    pub source: SourceStatus,
    /// What is wrong with the node or the agent's own files, one line each.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Policies in force.
    pub policies: usize,
    /// Objects that were refused.
    pub refused: usize,
    /// Number of endpoints by state.
    pub endpoints: EndpointCounts,
    /// One for each worker.
    pub workers: Vec<WorkerStatus>,
    /// Packets dropped, by reason; reasons with none are left out.
    pub drops: Vec<DropCount>,
    /// What each link sent and lost, the host's first; without those that vanished.
    #[serde(default)]
    pub links: Vec<LinkCounts>,
    /// Flow records lost because a ring was full.
    pub flow_records_lost: u64,
    /// Flows of the agent before, at this one's start.
    #[serde(default)]
    pub flows_taken_over: FlowsTakenOver,
}

/// What became of the flows that the agent before wrote down when it stopped.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowsTakenOver {
    /// Flows that go on.
    pub taken: usize,
    /// Flows that don't: policy no longer allows them plainly, their pod or link is gone, or they
    /// were silent for too long.
    pub left_out: usize,
    /// Why none goes on, if something was wrong with the file.
    pub problem: Option<String>,
}

/// Where objects come from, and whether they are complete.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct SourceStatus {
    /// `manifests DIR` or `kubernetes URL`.
    pub name: String,
    /// Whether every kind was read once.
    pub synced: bool,
    /// What is wrong now, one line each.
    pub problems: Vec<String>,
}

/// Number of endpoints by state.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EndpointCounts {
    /// Under policy.
    pub ready: usize,
    /// Attached, but their pod is not known: cut off.
    pub waiting: usize,
    /// Their link vanished.
    pub gone: usize,
}

/// Counters of one worker.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct WorkerStatus {
    /// Index.
    pub worker: usize,
    /// Packets received.
    pub received: u64,
    /// Packets forwarded.
    pub forwarded: u64,
    /// Packets dropped.
    pub dropped: u64,
    /// Live flows.
    pub flows: u64,
    /// Frames of packets that wait for an L7 verdict.
    pub held_frames: u64,
}

/// What a link sent, what it lost of that before policy looked at it, and what its share refused:
/// who sends more than the node takes is seen here. Counted since the link was attached.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkCounts {
    /// The host's end, or the workers' end of the link to the node.
    pub link: String,
    /// The pod behind it; none for the node and everything outside.
    pub pod: Option<String>,
    /// Packets received.
    pub received: u64,
    /// Packets that the kernel had no frame for, or couldn't deliver.
    pub rx_dropped: u64,
    /// Packets that the kernel dropped because a worker lagged.
    pub rx_ring_full: u64,
    /// Times that the kernel found no frame to receive into.
    pub fill_ring_empty: u64,
    /// Flows refused because the link, or a source behind it, had its share of the table.
    pub refused_flows: u64,
    /// The same for flows to be inspected.
    pub refused_inspected: u64,
    /// Segments and bytes that inspected flows could not keep.
    pub refused_kept: u64,
    /// Packets that could not be passed to the worker that owns their flow.
    pub refused_handoffs: u64,
    /// Flow records that could not be noted.
    pub refused_events: u64,
}

impl LinkCounts {
    /// Packets lost at the link's rings.
    #[must_use]
    pub const fn ring_drops(&self) -> u64 {
        self.rx_dropped + self.rx_ring_full
    }

    /// All that the link's share refused.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused_flows
            + self.refused_inspected
            + self.refused_kept
            + self.refused_handoffs
            + self.refused_events
    }
}

/// Packets dropped for one reason.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct DropCount {
    /// Label of the reason.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// State of one endpoint.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct EndpointStatus {
    /// The host's end of the pod's veth pair.
    pub link: String,
    /// The pod behind it; none if its record was lost.
    pub pod: Option<PodName>,
    /// The pod's network namespace, if it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// MAC address of the pod's end, if it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// MTU that both ends were given, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<PodMtu>,
    /// State.
    pub state: EndpointState,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Addresses of the pod.
    pub addresses: Vec<std::net::IpAddr>,
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
    /// Attached, but its pod is not known or has no address: cut off.
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

/// All policies, and everything that can't be enforced.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PolicyList {
    /// Generation of the tables that these policies are in; [`Request::PolicyWait`] waits for it.
    pub epoch: u32,
    /// Policies by name.
    pub policies: Vec<PolicyStatus>,
    /// What is refused of them and of other objects, field by field.
    pub refused: Vec<RefusedField>,
}

/// A policy and what became of it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PolicyStatus {
    /// Kind.
    pub kind: String,
    /// Namespace; none for cluster-wide kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// What became of it.
    pub state: PolicyState,
    /// Pods that it selects.
    pub pods: usize,
}

/// What became of a policy.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyState {
    /// In force as written.
    Enforced,
    /// The version before is in force: what was written last was refused.
    Outdated,
    /// Not in force.
    Refused,
}

impl fmt::Display for PolicyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforced => "enforced",
            Self::Outdated => "outdated",
            Self::Refused => "refused",
        })
    }
}

/// One reason why an object can't be enforced as it is written.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct RefusedField {
    /// Kind, namespace and name, as far as there are any.
    pub object: String,
    /// Where the field is, when it came from a manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to write instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl From<&Rejection> for RefusedField {
    fn from(refusal: &Rejection) -> Self {
        let source = refusal.source.as_ref().map(|source| Source {
            file: source.file.display().to_string(),
            line: source.line,
            column: source.column,
        });
        Self {
            object: refusal.object.clone(),
            source,
            field: refusal.field.clone(),
            reason: refusal.reason.clone(),
            fix: refusal.fix.clone(),
        }
    }
}

impl fmt::Display for RefusedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, source, field, reason, fix } = self;
        let source = source.as_ref().map(|source| format!("{}:{}", source.file, source.line));
        let line = rejection_line(source.as_deref(), object, field, reason, fix.as_deref());
        f.write_str(&line)
    }
}

/// A place in a manifest.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1, counted in characters.
    pub column: u32,
}

/// One item of the answer to [`Request::Flows`].
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum FlowItem {
    /// A record.
    Flow(Box<FlowRecord>),
    /// This many records are missing here: the client or the agent was too slow.
    Lost(u64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use podgate_policy::explain::RequestSpec;
    use proptest::prelude::*;

    fn code(line: &str) -> Code {
        Request::parse(line.as_bytes()).unwrap_err().code
    }

    fn query() -> Query {
        let http = "GET /docs".parse().unwrap();
        Query {
            from: "shop/cart-0".parse().unwrap(),
            to: "fd00::1".parse().unwrap(),
            port: "80/TCP".parse().unwrap(),
            request: Some(RequestSpec::Http(http)),
            misses_max: usize::MAX,
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
        };
        let requests = [
            Request::Status {},
            Request::EndpointAdd(spec),
            Request::EndpointRemove { link: "veth0".into() },
            Request::EndpointList {},
            Request::PolicyList {},
            Request::PolicyGet(PolicyFilter {
                kind: Some("NetworkPolicy".into()),
                namespace: None,
                name: Some("web".into()),
            }),
            Request::PolicyExplain { query: query(), both_sides: true },
            Request::PolicySelectors {},
            Request::TablePolicyGet { endpoint: "veth0".into() },
            Request::PolicyWait { revision: 7, timeout_s: 60 },
            Request::Flows { follow: true, last: 7 },
            Request::Metrics {},
        ];
        assert_eq!(requests.len(), COMMANDS.len());
        for request in requests {
            assert_eq!(Request::parse(request.to_line().as_bytes()), Ok(request));
        }
    }

    #[test]
    fn an_mtu_that_no_link_can_have_is_refused() {
        let request = |mtu: &str| {
            let line = format!(
                r#"{{"version":1,"command":"endpoint-add","link":"a","pod":"a/b","mtu":{mtu}}}"#
            );
            Request::parse(line.as_bytes())
        };
        assert!(request("1280").is_ok() && request("65535").is_ok());
        for mtu in ["0", "1279", "65536", "-1"] {
            assert_eq!(request(mtu).unwrap_err().code, Code::BadRequest, "{mtu}");
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
            Answer::Error(Refused::new(Code::Busy, "later")),
        ] {
            assert_eq!(Answer::parse(&answer.to_line()), Ok(answer));
        }
    }

    #[test]
    fn a_request_is_refused_for_what_is_wrong_with_it() {
        assert_eq!(code("{"), Code::BadRequest);
        assert_eq!(code("[]"), Code::BadRequest);
        assert_eq!(code(r#"{"command":"status"}"#), Code::UnsupportedVersion);
        assert_eq!(code(r#"{"version":2,"command":"status"}"#), Code::UnsupportedVersion);
        assert_eq!(code(r#"{"version":1,"command":"stop"}"#), Code::UnknownCommand);
        assert_eq!(code(r#"{"version":1}"#), Code::BadRequest);
        assert_eq!(code(r#"{"version":1,"command":"status","x":1}"#), Code::BadRequest);
        assert_eq!(code(r#"{"version":1,"command":"flows","last":-1}"#), Code::BadRequest);
        let add = r#"{"version":1,"command":"endpoint-add","link":"v","pod":"b"}"#;
        assert_eq!(code(add), Code::BadRequest);
    }

    #[test]
    fn an_answer_of_another_version_is_refused() {
        let error = Answer::parse(r#"{"version":2,"result":null}"#).unwrap_err();
        assert_eq!(error.code, Code::UnsupportedVersion);
    }

    #[test]
    fn a_refusal_with_a_later_code_is_still_read() {
        let line = r#"{"version":1,"error":{"code":"moon-phase","message":"no"}}"#;
        assert_eq!(Answer::parse(line), Ok(Answer::Error(Refused::new(Code::Unknown, "no"))));
    }

    #[test]
    fn names_and_addresses_are_checked() {
        for bad in ["a", "a/", "/a", "a/b/c", "A/b", "a/-b", "a/b\n", "a/b..c"] {
            assert!(bad.parse::<PodName>().is_err(), "{bad:?}");
        }
        assert_eq!("kube-system/core.dns-0".parse::<PodName>().unwrap().name, "core.dns-0");
        for bad in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "2:0:0:0:0:1", "01:00:00:00:00:00"]
        {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Request::parse(&bytes);
        }

        #[test]
        fn a_mac_reads_back_as_itself(bytes in any::<[u8; 6]>()) {
            let unicast = MacAddress([bytes[0] & 0xfe, bytes[1], bytes[2], bytes[3], bytes[4], bytes[5] | 1]);
            prop_assert_eq!(unicast.to_string().parse::<MacAddress>(), Ok(unicast));
        }
    }
}
