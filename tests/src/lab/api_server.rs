//! A real Kubernetes API server on the node: etcd and `kube-apiserver`, on its loopback only.
//!
//! No package has a `kube-apiserver`: to run these tests, name one in [`API_SERVER_VARIABLE`].

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use podgate_policy::Kind;
use podgate_policy::manifest::load;
use serde_json::{Value, json};

use super::kubeconfig::{self, TOKEN};
use super::process::{bounded, run};
use super::{Daemon, Lab};

/// The environment variable that names the `kube-apiserver` program.
const API_SERVER_VARIABLE: &str = "PODGATE_KUBE_APISERVER";

/// The port in the kubeconfig.
pub const API_SERVER_PORT: u16 = 6443;
/// Timeout for etcd or the API server to start or to exit.
const SERVER_BOUND: Duration = Duration::from_secs(120);
/// Timeout of one request.
const REQUEST_BOUND: Duration = Duration::from_secs(30);

/// etcd and an API server. Dropping it kills both.
#[derive(Debug)]
pub struct ApiServer<'lab> {
    // Dropped in this order.
    server: Option<Daemon>,
    _etcd: Daemon,
    program: PathBuf,
    port: u16,
    lab: &'lab Lab,
}

impl<'lab> ApiServer<'lab> {
    /// Starts both without objects, and waits until the API server is ready.
    ///
    /// # Errors
    /// When [`API_SERVER_VARIABLE`] names no program, or one of them doesn't start.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let program = env::var_os(API_SERVER_VARIABLE)
            .with_context(|| format!("{API_SERVER_VARIABLE} names no kube-apiserver"))?;
        let folder = lab.file("api");
        fs::create_dir(&folder)?;
        fs::write(folder.join("tokens.csv"), format!("{TOKEN},lab,lab\n"))?;
        let key = folder.join("service-account.key");
        run(bounded("openssl", REQUEST_BOUND).args(["genrsa", "-out"]).arg(key).arg("2048"))?;
        let mut command = lab.node().netns.daemon("etcd".as_ref());
        command.arg("--data-dir").arg(folder.join("etcd")).arg("--unsafe-no-fsync");
        let etcd = Daemon::start("etcd", command, folder.join("etcd.log"))?;
        let mut server = Self { server: None, _etcd: etcd, program: program.into(), port: 0, lab };
        server.resume(API_SERVER_PORT)?;
        Ok(server)
    }

    /// Starts the API server again after [`Self::kill`], on `port` of the node's loopback. The
    /// agent finds it on [`API_SERVER_PORT`] only.
    ///
    /// # Errors
    /// When it doesn't become ready.
    pub fn resume(&mut self, port: u16) -> Result<()> {
        let folder = self.lab.file("api");
        let mut command = self.lab.node().netns.daemon(&self.program);
        command.args(["--etcd-servers", "http://127.0.0.1:2379", "--bind-address", "127.0.0.1"]);
        command.args(["--secure-port", &port.to_string()]).arg("--cert-dir").arg(&folder);
        command.args(["--advertise-address", &self.lab.node().addresses.v4.to_string()]);
        command.arg("--token-auth-file").arg(folder.join("tokens.csv"));
        command.args(["--authorization-mode", "AlwaysAllow"]);
        command.args(["--disable-admission-plugins", "ServiceAccount"]);
        command.args(["--service-cluster-ip-range", "10.96.0.0/24"]);
        command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        for option in ["--service-account-signing-key-file", "--service-account-key-file"] {
            command.arg(option).arg(folder.join("service-account.key"));
        }
        if self.has_gate("IPv6DualStack")? {
            // Up to Kubernetes 1.20 it is off, and a pod keeps only one address.
            command.args(["--feature-gates", "IPv6DualStack=true"]);
        }
        let log = folder.join(format!("api-server-{port}.log"));
        let mut server = Daemon::start("kube-apiserver", command, log)?;
        self.port = port;
        server.wait_until("the API server to be ready", SERVER_BOUND, |_| {
            Ok(self.request("GET", "/readyz", None).is_ok().then_some(()))
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// Kills the API server (SIGKILL). etcd keeps the objects.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill(&mut self) -> Result<()> {
        let mut server = self.server.take().context("the API server is not running")?;
        server.signal(Signal::SIGKILL)?;
        server.wait_exit(SERVER_BOUND).map(drop)
    }

    /// Writes a kubeconfig with `token`, or with the valid one.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn kubeconfig(&self, token: Option<&str>) -> Result<PathBuf> {
        kubeconfig::write(self.lab, "127.0.0.1", "apiserver.crt", token.unwrap_or(TOKEN))
    }

    /// Registers a kind without a schema, and waits until the server serves it.
    ///
    /// # Errors
    /// When the server rejects it.
    pub fn install(&self, kind: Kind) -> Result<()> {
        let singular = kind.name().to_lowercase();
        let plural = match singular.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{singular}s"),
        };
        let (group, version) = kind.api_version().split_once('/').unwrap_or_default();
        let scope = if kind.is_namespaced() { "Namespaced" } else { "Cluster" };
        let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        // Groups of Kubernetes itself need an approval (KEP-1111).
        let approval = "https://github.com/kubernetes-sigs/network-policy-api";
        self.apply(&json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{group}"),
                         "annotations": {"api-approved.kubernetes.io": approval}},
            "spec": {
                "group": group,
                "scope": scope,
                "names": {"kind": kind.name(), "plural": plural, "singular": singular},
                "versions": [{"name": version, "served": true, "storage": true,
                              "schema": {"openAPIV3Schema": anything}}],
            },
        }))?;
        super::wait_for(&format!("{kind} to be served"), SERVER_BOUND, || {
            Ok(self.request("GET", &format!("/apis/{group}/{version}/{plural}"), None).ok())
        })?;
        Ok(())
    }

    /// Registers every kind that is not built into Kubernetes.
    ///
    /// # Errors
    /// When the server rejects one.
    pub fn install_all(&self) -> Result<()> {
        self.install(Kind::CiliumNetworkPolicy)?;
        self.install(Kind::CiliumClusterwideNetworkPolicy)?;
        self.install(Kind::CiliumCidrGroup)?;
        self.install(Kind::ClusterNetworkPolicy)
    }

    /// Applies everything in the lab's folder of manifests, namespaces first.
    ///
    /// # Errors
    /// When the server rejects one.
    pub fn apply_manifests(&self) -> Result<()> {
        let documents = load(&self.lab.manifests()).into_iter().map(|document| document.value);
        let mut objects: Vec<Value> = documents.filter_map(Result::ok).collect();
        objects.sort_by_key(|object| object["kind"] != "Namespace");
        objects.iter().try_for_each(|object| self.apply(object))
    }

    /// Creates an object, or updates its labels and (except for pods) its `spec`. Of pods the
    /// status is written, too, as kubelet would.
    ///
    /// # Errors
    /// When the server rejects it.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let path = path(object)?;
        let is_pod = object["kind"] == "Pod";
        match self.request("GET", &path, None) {
            Ok(text) => {
                let mut changed: Value = serde_json::from_str(&text)?;
                changed["metadata"]["labels"] = object["metadata"]["labels"].clone();
                // A pod's spec is immutable, and a namespace has none of interest.
                if !is_pod && !object["spec"].is_null() {
                    changed["spec"] = object["spec"].clone();
                }
                self.request("PUT", &path, Some((changed.to_string(), "application/json")))?;
            }
            Err(_) => {
                let (collection, _) = path.rsplit_once('/').context("no collection")?;
                let body = (object.to_string(), "application/json");
                self.request("POST", collection, Some(body))?;
            }
        }
        if is_pod {
            let mut status = object["status"].clone();
            status["podIP"] = status["podIPs"][0]["ip"].clone();
            let body = (json!({"status": status}).to_string(), "application/merge-patch+json");
            self.request("PATCH", &format!("{path}/status"), Some(body))?;
        }
        Ok(())
    }

    /// Deletes the object of the same kind, namespace and name.
    ///
    /// # Errors
    /// When there is none.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let path = format!("{}?gracePeriodSeconds=0", path(object)?);
        self.request("DELETE", &path, None).map(drop)
    }

    fn has_gate(&self, gate: &str) -> Result<bool> {
        let program = self.program.to_str().context("the path of kube-apiserver is not UTF-8")?;
        let help = run(bounded(program, REQUEST_BOUND).arg("--help"))?;
        Ok(help.contains(&format!("{gate}=")))
    }

    /// Sends a request; `body` comes with its type.
    fn request(&self, method: &str, path: &str, body: Option<(String, &str)>) -> Result<String> {
        let folder = self.lab.file("api");
        let mut command = self.lab.node().netns.bounded("curl", REQUEST_BOUND);
        command.args(["--silent", "--show-error", "--fail-with-body", "--noproxy", "*"]);
        command.arg("--cacert").arg(folder.join("apiserver.crt"));
        command.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
        if let Some((body, content_type)) = body {
            command.args(["--header", &format!("Content-Type: {content_type}")]);
            command.args(["--data-binary", &body]);
        }
        ensure!(self.port != 0, "the API server was never started");
        command.args(["--request", method, &format!("https://127.0.0.1:{}{path}", self.port)]);
        run(&mut command)
    }
}

/// The path of an object at the server.
fn path(object: &Value) -> Result<String> {
    let text = |value: &'_ Value| value.as_str().map(str::to_owned);
    let version = text(&object["apiVersion"]).context("no apiVersion")?;
    let kind = text(&object["kind"]).context("no kind")?.to_lowercase();
    let name = text(&object["metadata"]["name"]).context("no name")?;
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    };
    let namespace = text(&object["metadata"]["namespace"]);
    let namespace = namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
    Ok(format!("/{root}/{version}{namespace}/{plural}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
                         "metadata": {"namespace": "a", "name": "x"}});
        assert_eq!(path(&pod).unwrap(), "/api/v1/namespaces/a/pods/x");
        let policy = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumClusterwideNetworkPolicy",
                            "metadata": {"name": "x"}});
        let expected = "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies/x";
        assert_eq!(path(&policy).unwrap(), expected);
    }
}
