//! A client of Hubble's API.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status, Streaming};

use crate::proto::observer::observer_client::ObserverClient;
use crate::proto::observer::{
    GetFlowsRequest, GetFlowsResponse, ServerStatusRequest, ServerStatusResponse,
};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take to answer, or to send the next flow of those that it has.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest response, bytes.
const RESPONSE_MAX: usize = 1 << 22;

/// Where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

impl FromStr for Address {
    type Err = String;

    /// Reads `HOST:PORT` or `unix:///PATH`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path.is_empty() {
                true => Err("names no socket".to_owned()),
                false => Ok(Self::Unix(path.into())),
            };
        }
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        match port.and_then(|port| port.parse::<u16>().ok()) {
            Some(_) => Ok(Self::Tcp(text.to_owned())),
            None => Err("must be HOST:PORT or unix:///PATH".to_owned()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// How a server is authenticated, and this client to it: PEM files.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Certificates of which one must have signed the server's.
    pub ca: PathBuf,
    /// The client's certificate and its private key.
    pub identity: Option<[PathBuf; 2]>,
    /// The name in the server's certificate, where it is not the host's.
    pub server_name: Option<String>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no connection.
    #[error("{address}: {reason}")]
    Unreachable {
        /// The server.
        address: Address,
        /// Why.
        reason: String,
    },
    /// A file of certificates can't be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server denied the request, or failed.
    #[error("{0}")]
    Server(String),
}

impl ClientError {
    fn of(address: &Address, status: &Status) -> Self {
        let unreachable = |reason| Self::Unreachable { address: address.clone(), reason };
        match (std::error::Error::source(status), status.code()) {
            // The connection failed, as where the server asks for a certificate.
            (Some(cause), _) => unreachable(last_cause(cause)),
            (None, Code::Unavailable) => unreachable(status.message().to_owned()),
            (None, _) => Self::Server(status.message().to_owned()),
        }
    }
}

/// A connection to a server.
#[derive(Clone, Debug)]
pub struct Client {
    address: Address,
    observer: ObserverClient<Channel>,
    /// [`ANSWER_TIMEOUT`].
    limit: Duration,
}

/// Responses to a request for flows.
#[derive(Debug)]
pub struct Flows {
    address: Address,
    responses: Streaming<GetFlowsResponse>,
    /// Timeout for the next one; none where new flows are followed, of which there may be none.
    limit: Option<Duration>,
}

impl Client {
    /// Connects, with TLS if `tls` is given.
    ///
    /// # Errors
    /// When the server can't be reached, or isn't who it should be.
    pub async fn connect(address: &Address, tls: Option<&ClientTls>) -> Result<Self, ClientError> {
        let unreachable = |error: &dyn std::error::Error| ClientError::Unreachable {
            address: address.clone(),
            reason: last_cause(error),
        };
        let uri = match (address, tls) {
            (Address::Unix(_), _) => address.to_string(),
            (Address::Tcp(address), None) => format!("http://{address}"),
            (Address::Tcp(address), Some(_)) => format!("https://{address}"),
        };
        let endpoint = Endpoint::from_shared(uri).map_err(|error| unreachable(&error))?;
        let mut endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        if let Some(tls) = tls {
            let config = tls_config(tls)?;
            endpoint = endpoint.tls_config(config).map_err(|error| unreachable(&error))?;
        }
        let channel = endpoint.connect().await.map_err(|error| unreachable(&error))?;
        let observer = ObserverClient::new(channel).max_decoding_message_size(RESPONSE_MAX);
        Ok(Self { address: address.clone(), observer, limit: ANSWER_TIMEOUT })
    }

    /// Asks for flows.
    ///
    /// # Errors
    /// When the server denies it, or can't be reached any more.
    pub async fn flows(&mut self, request: GetFlowsRequest) -> Result<Flows, ClientError> {
        let limit = (!request.follow).then_some(self.limit);
        let asked = self.observer.get_flows(request);
        let responses = answered(&self.address, Some(self.limit), asked).await?.into_inner();
        Ok(Flows { address: self.address.clone(), responses, limit })
    }

    /// Asks for the server's counters.
    ///
    /// # Errors
    /// As [`Self::flows`].
    pub async fn server_status(&mut self) -> Result<ServerStatusResponse, ClientError> {
        let asked = self.observer.server_status(ServerStatusRequest {});
        Ok(answered(&self.address, Some(self.limit), asked).await?.into_inner())
    }
}

impl Flows {
    /// The next response; `None` after the last one.
    ///
    /// # Errors
    /// When the server fails, or can't be reached any more.
    pub async fn next(&mut self) -> Result<Option<GetFlowsResponse>, ClientError> {
        answered(&self.address, self.limit, self.responses.message()).await
    }

    /// As [`Self::next`], if that has arrived already.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn arrived(&mut self) -> Option<Result<Option<GetFlowsResponse>, ClientError>> {
        self.next().now_or_never()
    }
}

/// What a server answers within `limit`.
async fn answered<T>(
    address: &Address,
    limit: Option<Duration>,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, ClientError> {
    let answer = match limit {
        Some(limit) => timeout(limit, answer).await.map_err(|_| ClientError::Unreachable {
            address: address.clone(),
            reason: format!("no answer within {} s", limit.as_secs()),
        })?,
        None => answer.await,
    };
    answer.map_err(|status| ClientError::of(address, &status))
}

fn tls_config(tls: &ClientTls) -> Result<ClientTlsConfig, ClientError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| ClientError::File { path: path.to_owned(), source })
    };
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&tls.ca)?));
    if let Some([certificate, key]) = &tls.identity {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(match &tls.server_name {
        Some(name) => config.domain_name(name),
        None => config,
    })
}

/// The cause that says most: that of the operating system, or of TLS.
fn last_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{broadcast, watch};

    use super::*;
    use crate::observer::STREAMS_MAX;
    use crate::proto::flow::FlowFilter;
    use crate::read::tests::observed;
    use crate::{
        AgentEvents, Config, Counts, FlowSource, Listeners, Observed, Tcp, Translator, UnixSocket,
        serve_tcp, serve_unix,
    };

    /// A log of three requests.
    struct Log(broadcast::Sender<Arc<Observed>>);

    impl FlowSource for Log {
        fn past(&self) -> Vec<Arc<Observed>> {
            (1..4).map(observed).collect()
        }

        fn live(&self) -> broadcast::Receiver<Arc<Observed>> {
            self.0.subscribe()
        }

        fn follow(&self) -> (Vec<Arc<Observed>>, broadcast::Receiver<Arc<Observed>>) {
            (self.past(), self.0.subscribe())
        }

        fn counts(&self) -> Counts {
            Counts { stored: 3, capacity: 4096, seen: 3 }
        }
    }

    /// Runs a test with a server at a unix socket.
    fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Address) -> F) {
        with_socket(|address, _| test(address));
    }

    /// Runs a test with a server at a unix socket, and that socket.
    fn with_socket<F: Future<Output = ()>>(test: impl FnOnce(Address, Arc<UnixSocket>) -> F) {
        with_listeners(None, |address, listeners| test(address, Arc::clone(listeners.unix())));
    }

    /// Runs a test with a server at a unix socket and perhaps a TCP port.
    fn with_listeners<F: Future<Output = ()>>(
        tcp: Option<&Tcp>,
        test: impl FnOnce(Address, &Listeners) -> F,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hubble.sock");
        let listeners = Listeners::open(&path, tcp).unwrap();
        let (_to, nodes) = watch::channel(Vec::new());
        let config = Config {
            translator: Arc::new(Translator::new("node-1".into(), 1, 0)),
            version: "podgate v1.2.3".into(),
            nodes,
            agent_events: Arc::new(AgentEvents::default()),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let source = Arc::new(Log(broadcast::Sender::new(16)));
            let has_port = listeners.tcp_address().is_some();
            tokio::select! {
                served = serve_unix(&listeners, &config, Arc::clone(&source)) => {
                    panic!("{served:?}")
                }
                served = serve_tcp(&listeners, &config, source), if has_port => {
                    panic!("{served:?}")
                }
                () = test(Address::Unix(path), &listeners) => {}
            }
        });
    }

    #[test]
    fn flows_and_counters_come_over_a_unix_socket() {
        with_server(|address| async move {
            let mut client = Client::connect(&address, None).await.unwrap();
            assert_eq!(client.server_status().await.unwrap().max_flows, 4096);
            let request = GetFlowsRequest { number: 2, ..GetFlowsRequest::default() };
            let mut flows = client.flows(request).await.unwrap();
            let mut nodes = Vec::new();
            while let Some(response) = flows.next().await.unwrap() {
                nodes.push(response.node_name);
            }
            assert_eq!(nodes, ["node-1", "node-1"]);
            let first = GetFlowsRequest { first: true, follow: true, ..Default::default() };
            let failed = client.flows(first).await.unwrap_err();
            assert_eq!(failed.to_string(), "first and follow exclude each other");
        });
    }

    #[test]
    fn connections_by_tcp_take_no_place_from_the_unix_socket() {
        let tcp = Tcp { address: "127.0.0.1:0".parse().unwrap(), tls: None };
        with_listeners(Some(&tcp), |unix, listeners| {
            let address = listeners.tcp_address().unwrap();
            async move {
                // More than the limit, and none of them sends anything.
                let mut silent = Vec::new();
                for _ in 0..100 {
                    silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
                }
                let mut client = Client::connect(&unix, None).await.unwrap();
                assert_eq!(client.server_status().await.unwrap().max_flows, 4096);
                drop(silent);
                // Those places are free again.
                let tcp = Address::Tcp(address.to_string());
                loop {
                    if let Ok(mut client) = Client::connect(&tcp, None).await
                        && let Ok(status) = client.server_status().await
                    {
                        return assert_eq!(status.max_flows, 4096);
                    }
                }
            }
        });
    }

    #[test]
    fn a_removed_socket_is_bound_again_and_another_file_in_its_place_is_named() {
        with_socket(|address, socket| async move {
            let Address::Unix(path) = &address else { panic!("{address}") };
            let mut before = Client::connect(&address, None).await.unwrap();
            before.server_status().await.unwrap();
            for _ in 0..2 {
                assert!(!socket.restore().unwrap());
                // As `rm -rf STATE` does.
                std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
                assert!(socket.restore().unwrap());
                let mut client = Client::connect(&address, None).await.unwrap();
                assert_eq!(client.server_status().await.unwrap().max_flows, 4096);
                before.server_status().await.unwrap();
            }
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, "another program's").unwrap();
            let error = socket.restore().unwrap_err().to_string();
            assert!(error.contains("hubble.sock: another file is in"), "{error}");
            drop(socket);
            assert!(path.exists());
        });
    }

    #[test]
    fn answers_name_the_version_of_the_server_and_debug_events_are_not_implemented() {
        with_server(|address| async move {
            let mut client = Client::connect(&address, None).await.unwrap().observer;
            let status = client.server_status(ServerStatusRequest {}).await.unwrap();
            let flows = client.get_flows(GetFlowsRequest::default()).await.unwrap();
            for metadata in [status.metadata(), flows.metadata()] {
                assert_eq!(metadata.get("hubble-server-version").unwrap(), "1.2.3");
            }
            let debug = crate::proto::observer::GetDebugEventsRequest::default();
            let error = client.get_debug_events(debug).await.unwrap_err();
            assert_eq!(error.code(), Code::Unimplemented);
        });
    }

    #[test]
    fn too_many_filters_are_rejected_before_they_are_decoded() {
        with_server(|address| async move {
            let mut client = Client::connect(&address, None).await.unwrap().observer;
            let whitelist = vec![FlowFilter::default(); 257];
            let request = GetFlowsRequest { whitelist, ..GetFlowsRequest::default() };
            let error = client.get_flows(request).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert_eq!(error.message(), "a request has at most 256 filters");
            let source_fqdn = vec!["*".into(); 21_000];
            let whitelist = vec![FlowFilter { source_fqdn, ..FlowFilter::default() }];
            let request = GetFlowsRequest { whitelist, ..GetFlowsRequest::default() };
            let error = client.get_flows(request).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument);
            assert!(error.message().starts_with("source_fqdn: "), "{error}");
        });
    }

    #[test]
    fn open_streams_leave_places_for_requests() {
        with_server(|address| async move {
            let mut client = Client::connect(&address, None).await.unwrap();
            let mut streams = Vec::new();
            for _ in 0..STREAMS_MAX - 1 {
                let request = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
                streams.push(client.flows(request).await.unwrap());
            }
            let mut other = Client::connect(&address, None).await.unwrap();
            for _ in 0..100 {
                other.server_status().await.unwrap();
            }
        });
    }

    #[test]
    fn a_server_that_is_not_there_is_unreachable() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let nowhere = Address::Unix("/nowhere/hubble.sock".into());
        let error = runtime.block_on(Client::connect(&nowhere, None)).unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.starts_with("unix:///nowhere/hubble.sock: No such file"), "{text}");
    }

    #[test]
    fn a_server_that_answers_nothing_is_unreachable_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hubble.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut client = Client::connect(&Address::Unix(path), None).await.unwrap();
            client.limit = Duration::from_millis(50);
            let follow = GetFlowsRequest { follow: true, ..GetFlowsRequest::default() };
            for request in [GetFlowsRequest::default(), follow] {
                let error = client.flows(request).await.unwrap_err();
                assert!(matches!(error, ClientError::Unreachable { .. }), "{error:?}");
            }
            let error = client.server_status().await.unwrap_err();
            assert!(error.to_string().contains("no answer within"), "{error}");
        });
    }

    #[test]
    fn addresses_are_sockets_and_ports() {
        let unix = Address::Unix("/run/a.sock".into());
        assert_eq!("unix:///run/a.sock".parse(), Ok(unix.clone()));
        assert_eq!("unix:/run/a.sock".parse(), Ok(unix.clone()));
        assert_eq!(unix.to_string(), "unix:///run/a.sock");
        for tcp in ["localhost:4245", "192.0.2.1:4244", "[2001:db8::1]:4244"] {
            assert_eq!(tcp.parse(), Ok(Address::Tcp(tcp.to_owned())));
        }
        for bad in ["", "unix:", "unix://", "localhost", ":4245", "localhost:", "a:65536"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
