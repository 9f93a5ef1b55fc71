//! Package `relay` of `proto/`: generated, see `tests/generated.rs`.

/// A change of the state of nodes.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct NodeStatusEvent {
    /// The new state.
    #[prost(enumeration = "NodeState", tag = "1")]
    pub state_change: i32,
    /// The nodes that have it.
    #[prost(string, repeated, tag = "2")]
    pub node_names: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// For people; empty where there is nothing to say.
    #[prost(string, tag = "3")]
    pub message: ::prost::alloc::string::String,
}
/// Whether flows come from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
#[repr(i32)]
pub enum NodeState {
    /// Not known.
    UnknownNodeState = 0,
    /// Connected: flows come from it.
    NodeConnected = 1,
    /// Not connected; tried again.
    NodeUnavailable = 2,
    /// Removed from the cluster.
    NodeGone = 3,
    /// It answered with an error, and is not asked again.
    NodeError = 4,
}
impl NodeState {
    /// String value of the enum field names used in the ProtoBuf definition.
    ///
    /// The values are not transformed in any way and thus are considered stable
    /// (if the ProtoBuf definition does not change) and safe for programmatic use.
    pub fn as_str_name(&self) -> &'static str {
        match self {
            Self::UnknownNodeState => "UNKNOWN_NODE_STATE",
            Self::NodeConnected => "NODE_CONNECTED",
            Self::NodeUnavailable => "NODE_UNAVAILABLE",
            Self::NodeGone => "NODE_GONE",
            Self::NodeError => "NODE_ERROR",
        }
    }
    /// Creates an enum from field names used in the ProtoBuf definition.
    pub fn from_str_name(value: &str) -> ::core::option::Option<Self> {
        match value {
            "UNKNOWN_NODE_STATE" => Some(Self::UnknownNodeState),
            "NODE_CONNECTED" => Some(Self::NodeConnected),
            "NODE_UNAVAILABLE" => Some(Self::NodeUnavailable),
            "NODE_GONE" => Some(Self::NodeGone),
            "NODE_ERROR" => Some(Self::NodeError),
            _ => None,
        }
    }
}
