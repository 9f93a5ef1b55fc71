//! A minimal API server on the node's loopback: streaming lists, watches, conditions of policies
//! and Events over TLS, in Python's standard library. It serves what the agent's client requests,
//! and needs only what `scripts/lib.sh` installs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use podgate_policy::manifest::load;
use serde_json::Value;

use super::kubeconfig::{self, TOKEN};
use super::process::{bounded, run};
use super::{API_SERVER_PORT, Daemon, Lab};

const PROGRAM: &str = include_str!("list_watch.py");
/// Timeout for creating a certificate, or for the server to answer.
const BOUND: Duration = Duration::from_secs(30);

/// The server. Dropping it kills it.
#[derive(Debug)]
pub struct ListWatchServer<'lab> {
    lab: &'lab Lab,
    /// The file or directory of objects.
    objects: PathBuf,
    server: Option<Daemon>,
}

impl<'lab> ListWatchServer<'lab> {
    /// Starts it with the objects of the lab's manifests, and waits until it answers.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn start(lab: &'lab Lab) -> Result<Self> {
        let objects = lab.file("api/objects.json");
        Self::launch(lab, objects.clone(), || set(&objects, &from_manifests(lab)))
    }

    /// Starts it with a large cluster, whose files are in the directory `objects` (their format is
    /// in `list_watch.py`), and waits until it answers.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn start_large(lab: &'lab Lab, objects: PathBuf) -> Result<Self> {
        Self::launch(lab, objects, || Ok(()))
    }

    fn launch(
        lab: &'lab Lab,
        objects: PathBuf,
        write: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let folder = lab.file("api");
        fs::create_dir(&folder)?;
        let [program, certificate, key] =
            ["server.py", "server.crt", "server.key"].map(|file| folder.join(file));
        fs::write(&program, PROGRAM)?;
        let mut openssl = bounded("openssl", BOUND);
        openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=lab"]);
        openssl.args(["-addext", "subjectAltName=DNS:localhost"]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate))?;
        write()?;
        let mut server = Self { lab, objects, server: None };
        server.restart()?;
        Ok(server)
    }

    /// Kills the server, and with it all watches, and starts it again.
    ///
    /// # Errors
    /// When it doesn't start.
    pub fn restart(&mut self) -> Result<()> {
        self.server = None;
        let (folder, netns) = (self.lab.file("api"), &self.lab.node().netns);
        let certificate = folder.join("server.crt");
        let mut command = netns.daemon("python3".as_ref());
        command.arg(folder.join("server.py")).arg(&self.objects).arg(&certificate);
        command.arg(folder.join("server.key")).arg(TOKEN).arg(API_SERVER_PORT.to_string());
        let mut server =
            Daemon::start("the minimal API server", command, folder.join("server.log"))?;
        server.wait_until("the minimal API server to answer", BOUND, |_| {
            let mut curl = netns.bounded("curl", BOUND);
            curl.args(["--silent", "--noproxy", "*", "--output", "/dev/null", "--cacert"]);
            curl.arg(&certificate).arg(format!("https://localhost:{API_SERVER_PORT}/"));
            Ok(run(&mut curl).ok())
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// Adds an object to those of the lab's manifests.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn add(&self, object: &Value) -> Result<()> {
        let mut objects = from_manifests(self.lab);
        objects.push(object.clone());
        set(&self.lab.file("api/objects.json"), &objects)
    }

    /// Removes what [`Self::add`] added.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn remove_added(&self) -> Result<()> {
        set(&self.lab.file("api/objects.json"), &from_manifests(self.lab))
    }

    /// What was written so far: bodies of requests, and of patches the field manager.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn writes(&self) -> Result<Vec<Value>> {
        let file = self.lab.file("api/objects.json.writes");
        if !file.exists() {
            return Ok(Vec::new());
        }
        let text = fs::read_to_string(file)?;
        // The last line may be incomplete.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Writes a kubeconfig that names the server by its host name.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        kubeconfig::write(self.lab, "localhost", "server.crt", TOKEN)
    }
}

fn from_manifests(lab: &Lab) -> Vec<Value> {
    load(&lab.manifests()).into_iter().filter_map(|document| document.value.ok()).collect()
}

/// Replaces the file as a whole, so that the server never reads half of it.
fn set(file: &std::path::Path, objects: &[Value]) -> Result<()> {
    let unfinished = file.with_extension("new");
    fs::write(&unfinished, serde_json::to_string(objects)?)?;
    fs::rename(unfinished, file)?;
    Ok(())
}
