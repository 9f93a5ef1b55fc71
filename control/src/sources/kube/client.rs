//! A client of the API server.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{AuthInfo, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use podgate_api::CertificateStatus;
use podgate_policy::manifest::{FILE_MAX, ReadError, read_regular};
use tokio::time::Instant;
use tower::{BoxError, ServiceBuilder};
use tracing::{debug, info, warn};

use crate::certificates;
use crate::error::describe;

/// Least time between two readings of the configuration for one cause: this after the first one,
/// and twice as long each time, up to [`RENEWAL_PERIOD_MAX`], while the cause lasts.
const RENEWAL_PERIOD: Duration = Duration::from_secs(5);
const RENEWAL_PERIOD_MAX: Duration = Duration::from_secs(60);

/// A connection on which nothing came for this long is probed.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// A connection breaks when so many probes in a row have no answer.
const KEEPALIVE_PROBES: u32 = 3;
/// A connection breaks when what was sent has no acknowledgement for this long.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// A connection without a request is used again within this time.
const UNUSED_MAX: Duration = Duration::from_secs(15);

/// How the API server is reached.
#[derive(Clone, Debug)]
pub(crate) enum Access {
    /// By a kubeconfig; `may_run` says whether programs may be run for credentials.
    Kubeconfig {
        /// The file.
        file: PathBuf,
        /// Whether programs may be run for credentials.
        may_run: bool,
    },
    /// By the service account of the pod that this runs in. Its token is read again every minute
    /// by the clock of the node, because it is rotated, and when the server refuses it.
    InCluster,
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KubeError {
    /// The kubeconfig can't be used.
    #[error("can't use kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// The error.
        source: KubeconfigError,
    },
    /// The kubeconfig is something else than a file.
    #[error("can't use kubeconfig {path}: it is no regular file, and has to be read again later")]
    NotAFile {
        /// Its path.
        path: String,
    },
    /// The kubeconfig is too large.
    #[error("can't use kubeconfig {path}: it is larger than {FILE_MAX} bytes")]
    TooLarge {
        /// Its path.
        path: String,
    },
    /// Its credentials come from a program, and the agent runs none.
    #[error(
        "kubeconfig {path} gets its credentials by running a program (exec or auth-provider), which \
         the agent's seccomp filter denies: write a token or a certificate there, or run with \
         --seccomp off"
    )]
    RunsProgram {
        /// The file.
        path: String,
    },
    /// The pod has no service account.
    #[error("can't find the API server of this cluster: {0}; --in-cluster is for pods")]
    InCluster(#[source] InClusterError),
    /// The configuration doesn't make a client.
    #[error("can't make a client of {server}: {source}")]
    Client {
        /// The server.
        server: String,
        /// The error.
        source: Box<kube::Error>,
    },
}

/// How to reach the server of the cluster that this process runs in as a pod.
///
/// # Errors
/// When the environment or the service account's files don't say which server that is.
pub(crate) fn in_cluster() -> Result<Config, KubeError> {
    Config::incluster_env().map_err(KubeError::InCluster)
}

/// A client that is made again, from the configuration of then, when the server refuses its
/// credentials or can't be reached. They, or the server's address or certificates, may have changed
/// just now; or the node's clock was set back, so that the client waits too long.
#[derive(Clone)]
pub(super) struct ApiClient(Arc<Mutex<Current>>, Arc<Access>);

struct Current {
    client: Client,
    /// The certificate that it presents, if it has one.
    certificate: Option<CertificateStatus>,
    /// The server's address, if it was read again.
    server: Option<String>,
    /// How many clients there were before it.
    number: u64,
    /// Why the last reading failed, if it did.
    failure: Option<String>,
    /// The last reading for each [`Cause`].
    renewals: [Option<Renewal>; 2],
}

/// Why the configuration is read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// The server rejected the credentials (401).
    Rejected,
    /// The server does not answer, or TLS fails.
    Unreachable,
}

impl Cause {
    const fn text(self) -> &'static str {
        match self {
            Self::Rejected => "the API server rejects the credentials (401)",
            Self::Unreachable => "the API server can't be reached",
        }
    }
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClient").field("access", &self.1).finish_non_exhaustive()
    }
}

impl ApiClient {
    /// With `client`, which `access` made.
    pub(super) fn new(client: Client, access: Access) -> Self {
        let current = Current {
            client,
            certificate: None,
            server: None,
            number: 0,
            failure: None,
            renewals: [None; 2],
        };
        Self(Arc::new(Mutex::new(current)), Arc::new(access))
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client to send a request by, and its number, for [`Self::renew`].
    pub(super) fn get(&self) -> (Client, u64) {
        let current = self.current();
        (current.client.clone(), current.number)
    }

    /// The certificate that is presented now, if there is one.
    pub(super) fn certificate(&self) -> Option<CertificateStatus> {
        self.current().certificate.clone()
    }

    /// The server's address, if it was read again since the start.
    pub(super) fn server(&self) -> Option<String> {
        self.current().server.clone()
    }

    /// A request by the client of this number failed: reads the configuration again, unless there
    /// is another client already, or that was done just now for the same cause. Returns whether
    /// there is another client.
    pub(super) async fn renew(&self, used: u64, cause: Cause) -> bool {
        let first = {
            let mut current = self.current();
            if current.number != used {
                return true;
            }
            let former = &mut current.renewals[cause as usize];
            let Some(renewal) = Renewal::after(*former, Instant::now()) else { return false };
            *former = Some(renewal);
            renewal.period == RENEWAL_PERIOD
        };
        match self.connect_again().await {
            Ok(()) if cause == Cause::Rejected => info!("{}; they were read again", cause.text()),
            // Once for as long as it can't be reached.
            Ok(()) if first => info!("{}; its configuration was read again", cause.text()),
            Ok(()) => debug!("{}; its configuration was read again", cause.text()),
            Err(error) => {
                let (cause, reason) = (cause.text(), describe(&error));
                let text = format!("{cause}, and its configuration can't be read again: {reason}");
                match self.is_new_failure(&reason) {
                    true => warn!("{text}"),
                    false => debug!("{text}"),
                }
                return false;
            }
        }
        true
    }

    /// Reads the configuration again, for further requests.
    pub(super) async fn reload(&self) {
        match self.connect_again().await {
            Ok(()) => info!("the configuration of the API server was read again"),
            Err(error) => warn!(
                "the configuration of the API server can't be read again, and stays as it was: {}",
                describe(&error)
            ),
        }
    }

    /// Whether the reading before this one, which failed for `reason`, did not fail for it.
    fn is_new_failure(&self, reason: &str) -> bool {
        let former = self.current().failure.replace(reason.to_owned());
        former.as_deref() != Some(reason)
    }

    async fn connect_again(&self) -> Result<(), KubeError> {
        let Connection { client, server, certificate } = connect_once(&self.1).await?;
        let mut current = self.current();
        current.client = client;
        current.certificate = certificate;
        current.server = Some(server);
        current.failure = None;
        current.number += 1;
        Ok(())
    }
}

/// A reading of the configuration.
#[derive(Clone, Copy, Debug)]
struct Renewal {
    at: Instant,
    /// Least time from it to the next one.
    period: Duration,
}

impl Renewal {
    /// The next one after `former`, if it is time for it.
    fn after(former: Option<Self>, now: Instant) -> Option<Self> {
        let Some(Self { at, period }) = former else {
            return Some(Self { at: now, period: RENEWAL_PERIOD });
        };
        let since = now.duration_since(at);
        if since < period {
            return None;
        }
        // What is refused is tried again within a minute. After a longer time without a refusal,
        // the server had accepted what was read.
        let period = match since < period + RENEWAL_PERIOD_MAX {
            true => (2 * period).min(RENEWAL_PERIOD_MAX),
            false => RENEWAL_PERIOD,
        };
        Some(Self { at: now, period })
    }
}

/// A client, and what is known of the connection.
pub(super) struct Connection<C> {
    pub(super) client: C,
    /// The server's address.
    pub(super) server: String,
    /// The certificate that the client presents, if it has one.
    pub(super) certificate: Option<CertificateStatus>,
}

/// Makes a client.
///
/// # Errors
/// When the configuration can't be used. Nothing is sent yet.
pub(super) async fn connect(access: &Access) -> Result<Connection<ApiClient>, KubeError> {
    let Connection { client, server, certificate } = connect_once(access).await?;
    let client = ApiClient::new(client, access.clone());
    client.current().certificate.clone_from(&certificate);
    Ok(Connection { client, server, certificate })
}

/// Makes a client with the credentials of now.
async fn connect_once(access: &Access) -> Result<Connection<Client>, KubeError> {
    let config = match access {
        Access::Kubeconfig { file, may_run } => {
            let path = file.display().to_string();
            // kube reads it without a bound, and waits for the writer of a FIFO.
            match read_regular(file) {
                Err(ReadError::NotRegular(_)) => return Err(KubeError::NotAFile { path }),
                Err(ReadError::TooLarge) => return Err(KubeError::TooLarge { path }),
                // kube's error says why it can't be read.
                Ok(_) | Err(ReadError::Io(_)) => {}
            }
            let failed = |source| KubeError::Kubeconfig { path: path.clone(), source };
            let kubeconfig = Kubeconfig::read_from(file).map_err(failed)?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(failed)?;
            let auth = &config.auth_info;
            if !may_run && (auth.exec.is_some() || auth.auth_provider.is_some()) {
                return Err(KubeError::RunsProgram { path });
            }
            config
        }
        Access::InCluster => in_cluster()?,
    };
    let certificate = client_certificate(&config.auth_info);
    let server = config.cluster_url.to_string();
    match build(config) {
        Ok(client) => Ok(Connection { client, server, certificate }),
        Err(source) => Err(KubeError::Client { server, source: Box::new(source) }),
    }
}

/// Makes a client as kube does, but on connections that break when the other end is gone, so that a
/// watch on which nothing comes is noticed, and without kube's own tries again.
fn build(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        // An error: kube is compiled without proxies.
        return Client::try_from(config);
    }
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    connector.set_tcp_user_timeout(Some(SEND_TIMEOUT));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let http =
        HttpClient::builder(TokioExecutor::new()).pool_idle_timeout(UNUSED_MAX).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace))
}

/// The state of the certificate of a kubeconfig's user, if it has one.
fn client_certificate(auth: &AuthInfo) -> Option<CertificateStatus> {
    const NAME: &str = "api-client";
    if let Some(data) = &auth.client_certificate_data {
        let pem = BASE64_STANDARD.decode(data.trim()).unwrap_or_default();
        return Some(certificates::of_pem(NAME, &pem));
    }
    let file = auth.client_certificate.as_ref()?;
    Some(certificates::of_file(NAME, Path::new(file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(user: &str) -> String {
        super::super::tests::kubeconfig("http://127.0.0.1:1", user)
    }

    #[test]
    fn a_kubeconfig_that_runs_a_program_is_rejected_where_none_may_be_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        let kubeconfig = |user: &str| std::fs::write(&path, kubeconfig(user)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let start = |may_run| {
            let access = Access::Kubeconfig { file: path.clone(), may_run };
            runtime.block_on(connect(&access)).map(|_| ()).map_err(|error| error.to_string())
        };
        let exec = "{exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/false}}";
        kubeconfig(exec);
        let error = start(false).unwrap_err();
        assert!(error.contains("a token or a certificate"), "{error}");
        kubeconfig("{token: abc}");
        start(false).unwrap();
    }

    #[tokio::test]
    async fn refused_credentials_are_read_again_once_for_all_requests_of_a_client() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, kubeconfig("{token: abc}")).unwrap();
        let access = Access::Kubeconfig { file, may_run: false };
        let client = connect(&access).await.unwrap().client;
        let (_, first) = client.get();
        assert!(client.renew(first, Cause::Rejected).await);
        let (_, second) = client.get();
        assert_ne!(first, second);
        // The refusal of another request by the first client.
        assert!(client.renew(first, Cause::Rejected).await);
        assert_eq!(client.get().1, second);
        // What was read just now is refused, too.
        assert!(!client.renew(second, Cause::Rejected).await);
        assert_eq!(client.get().1, second);
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_no_file_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for path in ["/dev/zero", "/", fifo.to_str().unwrap()] {
            let access = Access::Kubeconfig { file: path.into(), may_run: false };
            let error = connect(&access).await.map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(path) && error.contains("no regular file"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_too_large_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::File::create(&file).unwrap().set_len(FILE_MAX + 1).unwrap();
        let access = Access::Kubeconfig { file: file.clone(), may_run: false };
        let error = connect(&access).await.map(|_| ()).unwrap_err().to_string();
        let path = file.display().to_string();
        assert!(error.contains(&path) && error.contains("is larger than"), "{error}");
    }

    #[tokio::test]
    async fn a_configuration_that_stays_unreadable_is_logged_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config");
        std::fs::write(&file, kubeconfig("{token: abc}")).unwrap();
        let access = Access::Kubeconfig { file: file.clone(), may_run: false };
        let client = connect(&access).await.unwrap().client;
        assert!(client.is_new_failure("gone"));
        assert!(!client.is_new_failure("gone"));
        assert!(client.is_new_failure("damaged"));
        // Once it could be read, the same failure is another one.
        client.reload().await;
        assert!(client.is_new_failure("damaged"));
    }

    #[test]
    fn credentials_that_stay_refused_are_read_after_growing_periods() {
        let mut now = Instant::now();
        let mut renewal = Renewal::after(None, now).unwrap();
        let mut periods = Vec::new();
        for _ in 0..6 {
            periods.push(renewal.period.as_secs());
            now += renewal.period;
            assert!(Renewal::after(Some(renewal), now - Duration::from_millis(1)).is_none());
            renewal = Renewal::after(Some(renewal), now).unwrap();
        }
        assert_eq!(periods, [5, 10, 20, 40, 60, 60]);
        let later = Renewal::after(Some(renewal), now + Duration::from_secs(600)).unwrap();
        assert_eq!(later.period, RENEWAL_PERIOD);
    }
}
