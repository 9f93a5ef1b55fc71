//! A client of the API server.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kube::config::{AuthInfo, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use podgate_api::CertificateStatus;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::certificates;
use crate::error::describe;

/// Least time between two readings of credentials that the server refused: this after the first
/// one, and twice as long each time, up to [`RENEWAL_PERIOD_MAX`], while it refuses them.
const RENEWAL_PERIOD: Duration = Duration::from_secs(5);
const RENEWAL_PERIOD_MAX: Duration = Duration::from_secs(60);

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

/// A client whose credentials are read again when the server refuses them: they may have been
/// rotated just now, or the node's clock was set back, so that the client waits too long.
#[derive(Clone)]
pub(super) struct ApiClient(Arc<Mutex<Current>>, Arc<Access>);

struct Current {
    client: Client,
    /// The certificate that it presents, if it has one.
    certificate: Option<CertificateStatus>,
    /// How many clients there were before it.
    number: u64,
    /// The last reading of credentials that the server refused.
    renewal: Option<Renewal>,
}

impl fmt::Debug for ApiClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiClient").field("access", &self.1).finish_non_exhaustive()
    }
}

impl ApiClient {
    /// With `client`, which `access` made.
    pub(super) fn new(client: Client, access: Access) -> Self {
        let current = Current { client, certificate: None, number: 0, renewal: None };
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

    /// The server rejected the credentials (401) of the client of this number: reads them again,
    /// unless there is another client already, or that was done just now. Returns whether there is
    /// another client.
    pub(super) async fn renew(&self, used: u64) -> bool {
        {
            let mut current = self.current();
            if current.number != used {
                return true;
            }
            let renewal = Renewal::after(current.renewal, Instant::now());
            if renewal.is_none() {
                return false;
            }
            current.renewal = renewal;
        }
        match connect_once(&self.1).await {
            Ok(Connection { client, certificate, .. }) => {
                info!("the API server rejects the credentials (401); they were read again");
                let mut current = self.current();
                current.client = client;
                current.certificate = certificate;
                current.number += 1;
                true
            }
            Err(error) => {
                warn!(
                    "the API server rejects the credentials (401), and they can't be read again: {}",
                    describe(&error)
                );
                false
            }
        }
    }
}

/// A reading of credentials that the server rejected.
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
    match Client::try_from(config) {
        Ok(client) => Ok(Connection { client, server, certificate }),
        Err(source) => Err(KubeError::Client { server, source: Box::new(source) }),
    }
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
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, \
             clusters: [{{name: k, cluster: {{server: 'http://127.0.0.1:1'}}}}], \
             users: [{{name: u, user: {user}}}], \
             contexts: [{{name: c, context: {{cluster: k, user: u}}}}]}}"
        )
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
        assert!(client.renew(first).await);
        let (_, second) = client.get();
        assert_ne!(first, second);
        // The refusal of another request by the first client.
        assert!(client.renew(first).await);
        assert_eq!(client.get().1, second);
        // What was read just now is refused, too.
        assert!(!client.renew(second).await);
        assert_eq!(client.get().1, second);
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
