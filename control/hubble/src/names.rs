//! Hubble's words for numbers in flows, and the other way round.

/// Name of a reserved identity (cilium `pkg/identity/numericidentity.go`).
#[must_use]
pub fn reserved_name(identity: u32) -> Option<&'static str> {
    let index = usize::try_from(identity).ok()?;
    RESERVED_IDENTITIES.get(index).copied()
}

/// The reserved identities by number.
const RESERVED_IDENTITIES: [&str; 12] = [
    "unknown",
    "host",
    "world",
    "unmanaged",
    "health",
    "init",
    "remote-node",
    "kube-apiserver",
    "ingress",
    "world-ipv4",
    "world-ipv6",
    "encrypted-overlay",
];

/// Where a forwarded packet was observed, by the subtype of the event
/// (cilium `pkg/monitor/api/types.go`).
const TRACE_POINTS: [&str; 14] = [
    "to-endpoint",
    "to-proxy",
    "to-host",
    "to-stack",
    "to-overlay",
    "from-endpoint",
    "from-proxy",
    "from-host",
    "from-stack",
    "from-overlay",
    "from-network",
    "to-network",
    "from-crypto",
    "to-crypto",
];

/// Types of events that `--type` names, with their numbers (cilium `pkg/monitor/api/types.go`).
const EVENT_TYPES: [(&str, i32); 7] = [
    ("drop", 1),
    ("debug", 2),
    ("capture", 3),
    ("trace", 4),
    ("policy-verdict", 5),
    ("trace-sock", 7),
    ("l7", 129),
];

/// Number of a reserved identity.
#[must_use]
pub fn reserved_identity(name: &str) -> Option<u32> {
    position(&RESERVED_IDENTITIES, name).and_then(|index| u32::try_from(index).ok())
}

/// Number of a type of events.
#[must_use]
pub fn event_type(name: &str) -> Option<i32> {
    EVENT_TYPES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// Subtype of forwarded packets that were observed there.
#[must_use]
pub fn trace_point(name: &str) -> Option<i32> {
    position(&TRACE_POINTS, name).and_then(|index| i32::try_from(index).ok())
}

fn position(names: &[&str], name: &str) -> Option<usize> {
    names.iter().position(|known| *known == name)
}

/// What of the flow a rule named (cilium `pkg/monitor/api/types.go`).
pub(crate) fn match_type(number: u32) -> String {
    const NAMES: [&str; 7] =
        ["none", "L3-Only", "L3-L4", "L4-Only", "all", "L3-Proto", "Proto-Only"];
    named(&NAMES, number)
}

/// Where a forwarded packet was observed.
pub(crate) fn trace_point_name(sub_type: i32) -> String {
    u32::try_from(sub_type).map_or_else(|_| sub_type.to_string(), |n| named(&TRACE_POINTS, n))
}

fn named(names: &[&str], number: u32) -> String {
    let name = usize::try_from(number).ok().and_then(|index| names.get(index));
    name.map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

/// Why a packet was dropped (cilium `pkg/monitor/api/drop.go`).
pub(crate) fn drop_reason(number: i32) -> String {
    let name = match number {
        130 => "Invalid source mac",
        131 => "Invalid destination mac",
        132 => "Invalid source ip",
        133 => "Policy denied",
        134 => "Invalid packet",
        135 => "CT: Truncated or invalid header",
        136 => "Fragmentation needed",
        137 => "CT: Unknown L4 protocol",
        138 => "CT: Can't create entry from packet",
        139 => "Unsupported L3 protocol",
        140 => "Missed tail call",
        141 => "Error writing to packet",
        142 => "Unknown L4 protocol",
        143 => "Unknown ICMPv4 code",
        144 => "Unknown ICMPv4 type",
        145 => "Unknown ICMPv6 code",
        146 => "Unknown ICMPv6 type",
        150 => "Unknown L3 target address",
        151 => "Stale or unroutable IP",
        152 => "No matching local container found",
        153 => "Error while correcting L3 checksum",
        154 => "Error while correcting L4 checksum",
        155 => "CT: Map insertion failed",
        156 => "Invalid IPv6 extension header",
        157 => "IP fragmentation not supported",
        158 => "Service backend not found",
        160 => "No tunnel/encapsulation endpoint (datapath BUG!)",
        163 => "Unknown connection tracking state",
        164 => "Local host is unreachable",
        165 => "No configuration available to perform policy decision",
        166 => "Unsupported L2 protocol",
        167 => "No mapping for NAT masquerade",
        168 => "Unsupported protocol for NAT masquerade",
        169 => "FIB lookup failed",
        170 => "Encapsulation traffic is prohibited",
        171 => "Invalid identity",
        172 => "Unknown sender",
        173 => "NAT not needed",
        174 => "Is a ClusterIP",
        175 => "First logical datagram fragment not found",
        176 => "Forbidden ICMPv6 message",
        177 => "Denied by LB src range check",
        178 => "Socket lookup failed",
        179 => "Socket assign failed",
        180 => "Proxy redirection not supported for protocol",
        181 => "Policy denied by denylist",
        182 => "VLAN traffic disallowed by VLAN filter",
        189 => "Authentication required",
        194 => "No egress gateway found",
        195 => "Traffic is unencrypted",
        196 => "TTL exceeded",
        197 => "No node ID found",
        198 => "Rate limited",
        202 => "Host datapath not ready",
        203 => "Endpoint policy program not available",
        204 => "No Egress IP configured",
        _ => return number.to_string(),
    };
    name.to_owned()
}
