//! Package `observer` of `proto/`: generated, see `tests/generated.rs`.

/// No choices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct ServerStatusRequest {}
/// Counters of the server.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct ServerStatusResponse {
    /// Flows in the ring.
    #[prost(uint64, tag = "1")]
    pub num_flows: u64,
    /// Most flows in the ring.
    #[prost(uint64, tag = "2")]
    pub max_flows: u64,
    /// Flows since the start.
    #[prost(uint64, tag = "3")]
    pub seen_flows: u64,
    /// Time since the start, nanoseconds.
    #[prost(uint64, tag = "4")]
    pub uptime_ns: u64,
    /// Connected nodes; absent where one node answers for itself.
    #[prost(message, optional, tag = "5")]
    pub num_connected_nodes: ::core::option::Option<u32>,
    /// Nodes that are not connected.
    #[prost(message, optional, tag = "6")]
    pub num_unavailable_nodes: ::core::option::Option<u32>,
    /// Names of some of them.
    #[prost(string, repeated, tag = "7")]
    pub unavailable_nodes: ::prost::alloc::vec::Vec<::prost::alloc::string::String>,
    /// Version of the server.
    #[prost(string, tag = "8")]
    pub version: ::prost::alloc::string::String,
    /// Flows per second, over the last minute.
    #[prost(double, tag = "9")]
    pub flows_rate: f64,
}
/// Which flows.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetFlowsRequest {
    /// How many flows at most, the last ones unless `first` is set. Zero: no limit.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// The oldest flows in place of the last ones; not together with `follow`.
    #[prost(bool, tag = "9")]
    pub first: bool,
    /// Continue with new flows.
    #[prost(bool, tag = "3")]
    pub follow: bool,
    /// Flows that match one of these are left out.
    #[prost(message, repeated, tag = "5")]
    pub blacklist: ::prost::alloc::vec::Vec<super::flow::FlowFilter>,
    /// Flows that match none of these are left out, unless the list is empty.
    #[prost(message, repeated, tag = "6")]
    pub whitelist: ::prost::alloc::vec::Vec<super::flow::FlowFilter>,
    /// Flows from this time on.
    #[prost(message, optional, tag = "7")]
    pub since: ::core::option::Option<::prost_types::Timestamp>,
    /// Flows up to this time.
    #[prost(message, optional, tag = "8")]
    pub until: ::core::option::Option<::prost_types::Timestamp>,
    /// The fields of a flow to send; all if it is empty.
    #[prost(message, optional, tag = "10")]
    pub field_mask: ::core::option::Option<::prost_types::FieldMask>,
    /// See there.
    #[prost(message, optional, tag = "999")]
    pub experimental: ::core::option::Option<get_flows_request::Experimental>,
}
/// Nested message and enum types in `GetFlowsRequest`.
pub mod get_flows_request {
    /// Earlier place of fields that are no longer experimental.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct Experimental {
        /// See above.
        #[prost(message, optional, tag = "1")]
        pub field_mask: ::core::option::Option<::prost_types::FieldMask>,
    }
}
/// A flow, or a message about flows.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetFlowsResponse {
    /// The node that it is of.
    #[prost(string, tag = "1000")]
    pub node_name: ::prost::alloc::string::String,
    /// When it was observed.
    #[prost(message, optional, tag = "1001")]
    pub time: ::core::option::Option<::prost_types::Timestamp>,
    /// One of them.
    #[prost(oneof = "get_flows_response::ResponseTypes", tags = "1, 2, 3")]
    pub response_types: ::core::option::Option<get_flows_response::ResponseTypes>,
}
/// Nested message and enum types in `GetFlowsResponse`.
pub mod get_flows_response {
    /// One of them.
    #[derive(Clone, PartialEq, ::prost::Oneof)]
    pub enum ResponseTypes {
        /// A flow.
        #[prost(message, tag = "1")]
        Flow(::prost::alloc::boxed::Box<super::super::flow::Flow>),
        /// A change of the state of nodes.
        #[prost(message, tag = "2")]
        NodeStatus(super::super::relay::NodeStatusEvent),
        /// Events that were lost here.
        #[prost(message, tag = "3")]
        LostEvents(super::super::flow::LostEvent),
    }
}
/// Which events of the agent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct GetAgentEventsRequest {
    /// How many events at most, the last ones unless `first` is set. Zero: no limit.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// The oldest events in place of the last ones; not together with `follow`.
    #[prost(bool, tag = "9")]
    pub first: bool,
    /// Continue with new events.
    #[prost(bool, tag = "2")]
    pub follow: bool,
    /// Events from this time on.
    #[prost(message, optional, tag = "7")]
    pub since: ::core::option::Option<::prost_types::Timestamp>,
    /// Events up to this time.
    #[prost(message, optional, tag = "8")]
    pub until: ::core::option::Option<::prost_types::Timestamp>,
}
/// An event of the agent.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct GetAgentEventsResponse {
    /// The event.
    #[prost(message, optional, tag = "1")]
    pub agent_event: ::core::option::Option<super::flow::AgentEvent>,
    /// The node that it is of.
    #[prost(string, tag = "1000")]
    pub node_name: ::prost::alloc::string::String,
    /// When it happened.
    #[prost(message, optional, tag = "1001")]
    pub time: ::core::option::Option<::prost_types::Timestamp>,
}
/// Which debug events.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct GetDebugEventsRequest {
    /// How many events at most.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// The oldest events in place of the last ones.
    #[prost(bool, tag = "9")]
    pub first: bool,
    /// Continue with new events.
    #[prost(bool, tag = "2")]
    pub follow: bool,
    /// Events from this time on.
    #[prost(message, optional, tag = "7")]
    pub since: ::core::option::Option<::prost_types::Timestamp>,
    /// Events up to this time.
    #[prost(message, optional, tag = "8")]
    pub until: ::core::option::Option<::prost_types::Timestamp>,
}
/// A debug event.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct GetDebugEventsResponse {
    /// The node that it is of.
    #[prost(string, tag = "1000")]
    pub node_name: ::prost::alloc::string::String,
    /// When it happened.
    #[prost(message, optional, tag = "1001")]
    pub time: ::core::option::Option<::prost_types::Timestamp>,
}
/// No choices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct GetNodesRequest {}
/// The nodes.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetNodesResponse {
    /// All of them.
    #[prost(message, repeated, tag = "1")]
    pub nodes: ::prost::alloc::vec::Vec<Node>,
}
/// A node.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Node {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: ::prost::alloc::string::String,
    /// Version of its server.
    #[prost(string, tag = "2")]
    pub version: ::prost::alloc::string::String,
    /// Where it serves flows.
    #[prost(string, tag = "3")]
    pub address: ::prost::alloc::string::String,
    /// Whether flows come from it.
    #[prost(enumeration = "super::relay::NodeState", tag = "4")]
    pub state: i32,
    /// How it serves them.
    #[prost(message, optional, tag = "5")]
    pub tls: ::core::option::Option<Tls>,
    /// Time since its start, nanoseconds.
    #[prost(uint64, tag = "6")]
    pub uptime_ns: u64,
    /// Flows in its ring.
    #[prost(uint64, tag = "7")]
    pub num_flows: u64,
    /// Most flows in its ring.
    #[prost(uint64, tag = "8")]
    pub max_flows: u64,
    /// Flows since its start.
    #[prost(uint64, tag = "9")]
    pub seen_flows: u64,
}
/// How a node serves flows.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Tls {
    /// Whether with TLS.
    #[prost(bool, tag = "1")]
    pub enabled: bool,
    /// Name in the server's certificate.
    #[prost(string, tag = "2")]
    pub server_name: ::prost::alloc::string::String,
}
/// No choices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
pub struct GetNamespacesRequest {}
/// The namespaces.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetNamespacesResponse {
    /// All of them.
    #[prost(message, repeated, tag = "1")]
    pub namespaces: ::prost::alloc::vec::Vec<Namespace>,
}
/// A namespace.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Namespace {
    /// Name of its cluster.
    #[prost(string, tag = "1")]
    pub cluster: ::prost::alloc::string::String,
    /// Its name.
    #[prost(string, tag = "2")]
    pub namespace: ::prost::alloc::string::String,
}
/// Generated client implementations.
pub mod observer_client {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    use tonic::codegen::http::Uri;
    /// Flows and other events of a node, or of all nodes.
    #[derive(Debug, Clone)]
    pub struct ObserverClient<T> {
        inner: tonic::client::Grpc<T>,
    }
    impl<T> ObserverClient<T>
    where
        T: tonic::client::GrpcService<tonic::body::Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: Body<Data = Bytes> + std::marker::Send + 'static,
        <T::ResponseBody as Body>::Error: Into<StdError> + std::marker::Send,
    {
        pub fn new(inner: T) -> Self {
            let inner = tonic::client::Grpc::new(inner);
            Self { inner }
        }
        pub fn with_origin(inner: T, origin: Uri) -> Self {
            let inner = tonic::client::Grpc::with_origin(inner, origin);
            Self { inner }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> ObserverClient<InterceptedService<T, F>>
        where
            F: tonic::service::Interceptor,
            T::ResponseBody: Default,
            T: tonic::codegen::Service<
                http::Request<tonic::body::Body>,
                Response = http::Response<
                    <T as tonic::client::GrpcService<tonic::body::Body>>::ResponseBody,
                >,
            >,
            <T as tonic::codegen::Service<
                http::Request<tonic::body::Body>,
            >>::Error: Into<StdError> + std::marker::Send + std::marker::Sync,
        {
            ObserverClient::new(InterceptedService::new(inner, interceptor))
        }
        /// Compress requests with the given encoding.
        ///
        /// This requires the server to support it otherwise it might respond with an
        /// error.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.send_compressed(encoding);
            self
        }
        /// Enable decompressing responses.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.inner = self.inner.accept_compressed(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_decoding_message_size(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.inner = self.inner.max_encoding_message_size(limit);
            self
        }
        /// Flows: past ones, new ones, or both.
        pub async fn get_flows(
            &mut self,
            request: impl tonic::IntoRequest<super::GetFlowsRequest>,
        ) -> std::result::Result<
            tonic::Response<tonic::codec::Streaming<super::GetFlowsResponse>>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = crate::codec::Codec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/observer.Observer/GetFlows",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("observer.Observer", "GetFlows"));
            self.inner.server_streaming(req, path, codec).await
        }
        /// Events of the agent.
        pub async fn get_agent_events(
            &mut self,
            request: impl tonic::IntoRequest<super::GetAgentEventsRequest>,
        ) -> std::result::Result<
            tonic::Response<tonic::codec::Streaming<super::GetAgentEventsResponse>>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = crate::codec::Codec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/observer.Observer/GetAgentEvents",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("observer.Observer", "GetAgentEvents"));
            self.inner.server_streaming(req, path, codec).await
        }
        /// Debug events of the dataplane.
        pub async fn get_debug_events(
            &mut self,
            request: impl tonic::IntoRequest<super::GetDebugEventsRequest>,
        ) -> std::result::Result<
            tonic::Response<tonic::codec::Streaming<super::GetDebugEventsResponse>>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = crate::codec::Codec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/observer.Observer/GetDebugEvents",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("observer.Observer", "GetDebugEvents"));
            self.inner.server_streaming(req, path, codec).await
        }
        /// The nodes that this server has flows of.
        pub async fn get_nodes(
            &mut self,
            request: impl tonic::IntoRequest<super::GetNodesRequest>,
        ) -> std::result::Result<
            tonic::Response<super::GetNodesResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = crate::codec::Codec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/observer.Observer/GetNodes",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("observer.Observer", "GetNodes"));
            self.inner.unary(req, path, codec).await
        }
        /// The namespaces in the flows.
        pub async fn get_namespaces(
            &mut self,
            request: impl tonic::IntoRequest<super::GetNamespacesRequest>,
        ) -> std::result::Result<
            tonic::Response<super::GetNamespacesResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = crate::codec::Codec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/observer.Observer/GetNamespaces",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("observer.Observer", "GetNamespaces"));
            self.inner.unary(req, path, codec).await
        }
        /// Counters of the server.
        pub async fn server_status(
            &mut self,
            request: impl tonic::IntoRequest<super::ServerStatusRequest>,
        ) -> std::result::Result<
            tonic::Response<super::ServerStatusResponse>,
            tonic::Status,
        > {
            self.inner
                .ready()
                .await
                .map_err(|e| {
                    tonic::Status::unknown(
                        format!("Service was not ready: {}", e.into()),
                    )
                })?;
            let codec = crate::codec::Codec::default();
            let path = http::uri::PathAndQuery::from_static(
                "/observer.Observer/ServerStatus",
            );
            let mut req = request.into_request();
            req.extensions_mut()
                .insert(GrpcMethod::new("observer.Observer", "ServerStatus"));
            self.inner.unary(req, path, codec).await
        }
    }
}
/// Generated server implementations.
pub mod observer_server {
    #![allow(
        unused_variables,
        dead_code,
        missing_docs,
        clippy::wildcard_imports,
        clippy::let_unit_value,
    )]
    use tonic::codegen::*;
    #[async_trait]
    pub trait Observer: std::marker::Send + std::marker::Sync + 'static {
        /// Server streaming response type for the GetFlows method.
        type GetFlowsStream: tonic::codegen::tokio_stream::Stream<
                Item = std::result::Result<super::GetFlowsResponse, tonic::Status>,
            >
            + std::marker::Send
            + 'static;
        /// Flows: past ones, new ones, or both.
        async fn get_flows(
            &self,
            request: tonic::Request<super::GetFlowsRequest>,
        ) -> std::result::Result<tonic::Response<Self::GetFlowsStream>, tonic::Status>;
        /// Server streaming response type for the GetAgentEvents method.
        type GetAgentEventsStream: tonic::codegen::tokio_stream::Stream<
                Item = std::result::Result<super::GetAgentEventsResponse, tonic::Status>,
            >
            + std::marker::Send
            + 'static;
        /// Events of the agent.
        async fn get_agent_events(
            &self,
            request: tonic::Request<super::GetAgentEventsRequest>,
        ) -> std::result::Result<
            tonic::Response<Self::GetAgentEventsStream>,
            tonic::Status,
        >;
        /// Server streaming response type for the GetDebugEvents method.
        type GetDebugEventsStream: tonic::codegen::tokio_stream::Stream<
                Item = std::result::Result<super::GetDebugEventsResponse, tonic::Status>,
            >
            + std::marker::Send
            + 'static;
        /// Debug events of the dataplane.
        async fn get_debug_events(
            &self,
            request: tonic::Request<super::GetDebugEventsRequest>,
        ) -> std::result::Result<
            tonic::Response<Self::GetDebugEventsStream>,
            tonic::Status,
        >;
        /// The nodes that this server has flows of.
        async fn get_nodes(
            &self,
            request: tonic::Request<super::GetNodesRequest>,
        ) -> std::result::Result<
            tonic::Response<super::GetNodesResponse>,
            tonic::Status,
        >;
        /// The namespaces in the flows.
        async fn get_namespaces(
            &self,
            request: tonic::Request<super::GetNamespacesRequest>,
        ) -> std::result::Result<
            tonic::Response<super::GetNamespacesResponse>,
            tonic::Status,
        >;
        /// Counters of the server.
        async fn server_status(
            &self,
            request: tonic::Request<super::ServerStatusRequest>,
        ) -> std::result::Result<
            tonic::Response<super::ServerStatusResponse>,
            tonic::Status,
        >;
    }
    /// Flows and other events of a node, or of all nodes.
    #[derive(Debug)]
    pub struct ObserverServer<T> {
        inner: Arc<T>,
        accept_compression_encodings: EnabledCompressionEncodings,
        send_compression_encodings: EnabledCompressionEncodings,
        max_decoding_message_size: Option<usize>,
        max_encoding_message_size: Option<usize>,
    }
    impl<T> ObserverServer<T> {
        pub fn new(inner: T) -> Self {
            Self::from_arc(Arc::new(inner))
        }
        pub fn from_arc(inner: Arc<T>) -> Self {
            Self {
                inner,
                accept_compression_encodings: Default::default(),
                send_compression_encodings: Default::default(),
                max_decoding_message_size: None,
                max_encoding_message_size: None,
            }
        }
        pub fn with_interceptor<F>(
            inner: T,
            interceptor: F,
        ) -> InterceptedService<Self, F>
        where
            F: tonic::service::Interceptor,
        {
            InterceptedService::new(Self::new(inner), interceptor)
        }
        /// Enable decompressing requests with the given encoding.
        #[must_use]
        pub fn accept_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.accept_compression_encodings.enable(encoding);
            self
        }
        /// Compress responses with the given encoding, if the client supports it.
        #[must_use]
        pub fn send_compressed(mut self, encoding: CompressionEncoding) -> Self {
            self.send_compression_encodings.enable(encoding);
            self
        }
        /// Limits the maximum size of a decoded message.
        ///
        /// Default: `4MB`
        #[must_use]
        pub fn max_decoding_message_size(mut self, limit: usize) -> Self {
            self.max_decoding_message_size = Some(limit);
            self
        }
        /// Limits the maximum size of an encoded message.
        ///
        /// Default: `usize::MAX`
        #[must_use]
        pub fn max_encoding_message_size(mut self, limit: usize) -> Self {
            self.max_encoding_message_size = Some(limit);
            self
        }
    }
    impl<T, B> tonic::codegen::Service<http::Request<B>> for ObserverServer<T>
    where
        T: Observer,
        B: Body + std::marker::Send + 'static,
        B::Error: Into<StdError> + std::marker::Send + 'static,
    {
        type Response = http::Response<tonic::body::Body>;
        type Error = std::convert::Infallible;
        type Future = BoxFuture<Self::Response, Self::Error>;
        fn poll_ready(
            &mut self,
            _cx: &mut Context<'_>,
        ) -> Poll<std::result::Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, req: http::Request<B>) -> Self::Future {
            match req.uri().path() {
                "/observer.Observer/GetFlows" => {
                    #[allow(non_camel_case_types)]
                    struct GetFlowsSvc<T: Observer>(pub Arc<T>);
                    impl<
                        T: Observer,
                    > tonic::server::ServerStreamingService<super::GetFlowsRequest>
                    for GetFlowsSvc<T> {
                        type Response = super::GetFlowsResponse;
                        type ResponseStream = T::GetFlowsStream;
                        type Future = BoxFuture<
                            tonic::Response<Self::ResponseStream>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::GetFlowsRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Observer>::get_flows(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = GetFlowsSvc(inner);
                        let codec = crate::codec::Codec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.server_streaming(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/observer.Observer/GetAgentEvents" => {
                    #[allow(non_camel_case_types)]
                    struct GetAgentEventsSvc<T: Observer>(pub Arc<T>);
                    impl<
                        T: Observer,
                    > tonic::server::ServerStreamingService<super::GetAgentEventsRequest>
                    for GetAgentEventsSvc<T> {
                        type Response = super::GetAgentEventsResponse;
                        type ResponseStream = T::GetAgentEventsStream;
                        type Future = BoxFuture<
                            tonic::Response<Self::ResponseStream>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::GetAgentEventsRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Observer>::get_agent_events(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = GetAgentEventsSvc(inner);
                        let codec = crate::codec::Codec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.server_streaming(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/observer.Observer/GetDebugEvents" => {
                    #[allow(non_camel_case_types)]
                    struct GetDebugEventsSvc<T: Observer>(pub Arc<T>);
                    impl<
                        T: Observer,
                    > tonic::server::ServerStreamingService<super::GetDebugEventsRequest>
                    for GetDebugEventsSvc<T> {
                        type Response = super::GetDebugEventsResponse;
                        type ResponseStream = T::GetDebugEventsStream;
                        type Future = BoxFuture<
                            tonic::Response<Self::ResponseStream>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::GetDebugEventsRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Observer>::get_debug_events(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = GetDebugEventsSvc(inner);
                        let codec = crate::codec::Codec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.server_streaming(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/observer.Observer/GetNodes" => {
                    #[allow(non_camel_case_types)]
                    struct GetNodesSvc<T: Observer>(pub Arc<T>);
                    impl<T: Observer> tonic::server::UnaryService<super::GetNodesRequest>
                    for GetNodesSvc<T> {
                        type Response = super::GetNodesResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::GetNodesRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Observer>::get_nodes(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = GetNodesSvc(inner);
                        let codec = crate::codec::Codec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/observer.Observer/GetNamespaces" => {
                    #[allow(non_camel_case_types)]
                    struct GetNamespacesSvc<T: Observer>(pub Arc<T>);
                    impl<
                        T: Observer,
                    > tonic::server::UnaryService<super::GetNamespacesRequest>
                    for GetNamespacesSvc<T> {
                        type Response = super::GetNamespacesResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::GetNamespacesRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Observer>::get_namespaces(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = GetNamespacesSvc(inner);
                        let codec = crate::codec::Codec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                "/observer.Observer/ServerStatus" => {
                    #[allow(non_camel_case_types)]
                    struct ServerStatusSvc<T: Observer>(pub Arc<T>);
                    impl<
                        T: Observer,
                    > tonic::server::UnaryService<super::ServerStatusRequest>
                    for ServerStatusSvc<T> {
                        type Response = super::ServerStatusResponse;
                        type Future = BoxFuture<
                            tonic::Response<Self::Response>,
                            tonic::Status,
                        >;
                        fn call(
                            &mut self,
                            request: tonic::Request<super::ServerStatusRequest>,
                        ) -> Self::Future {
                            let inner = Arc::clone(&self.0);
                            let fut = async move {
                                <T as Observer>::server_status(&inner, request).await
                            };
                            Box::pin(fut)
                        }
                    }
                    let accept_compression_encodings = self.accept_compression_encodings;
                    let send_compression_encodings = self.send_compression_encodings;
                    let max_decoding_message_size = self.max_decoding_message_size;
                    let max_encoding_message_size = self.max_encoding_message_size;
                    let inner = self.inner.clone();
                    let fut = async move {
                        let method = ServerStatusSvc(inner);
                        let codec = crate::codec::Codec::default();
                        let mut grpc = tonic::server::Grpc::new(codec)
                            .apply_compression_config(
                                accept_compression_encodings,
                                send_compression_encodings,
                            )
                            .apply_max_message_size_config(
                                max_decoding_message_size,
                                max_encoding_message_size,
                            );
                        let res = grpc.unary(method, req).await;
                        Ok(res)
                    };
                    Box::pin(fut)
                }
                _ => {
                    Box::pin(async move {
                        let mut response = http::Response::new(
                            tonic::body::Body::default(),
                        );
                        let headers = response.headers_mut();
                        headers
                            .insert(
                                tonic::Status::GRPC_STATUS,
                                (tonic::Code::Unimplemented as i32).into(),
                            );
                        headers
                            .insert(
                                http::header::CONTENT_TYPE,
                                tonic::metadata::GRPC_CONTENT_TYPE,
                            );
                        Ok(response)
                    })
                }
            }
        }
    }
    impl<T> Clone for ObserverServer<T> {
        fn clone(&self) -> Self {
            let inner = self.inner.clone();
            Self {
                inner,
                accept_compression_encodings: self.accept_compression_encodings,
                send_compression_encodings: self.send_compression_encodings,
                max_decoding_message_size: self.max_decoding_message_size,
                max_encoding_message_size: self.max_encoding_message_size,
            }
        }
    }
    /// Generated gRPC service name
    pub const SERVICE_NAME: &str = "observer.Observer";
    impl<T> tonic::server::NamedService for ObserverServer<T> {
        const NAME: &'static str = SERVICE_NAME;
    }
}
