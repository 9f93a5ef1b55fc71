//! A real nginx in a pod.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::client::{Get, Outcome};
use super::{Daemon, Family, Host, Netns};

/// Size of `/download` in bytes: more than ten minutes at its rate. The file is sparse.
const DOWNLOAD_SIZE: u64 = 256 << 20;
/// Timeout for the server's first answer.
const START_BOUND: Duration = Duration::from_secs(30);

/// Starts nginx in `host`, as one process, with everything that it writes below `prefix`.
///
/// It answers any method on any path with its own name and the request (see [`expected_body`]);
/// `/download` is long and slow.
pub(super) fn start_nginx(host: &Host, prefix: &Path, ports: &[u16]) -> Result<Daemon> {
    fs::create_dir(prefix)?;
    fs::File::create(prefix.join("download"))?.set_len(DOWNLOAD_SIZE)?;
    let mut daemon = run_nginx(&host.netns, prefix, &configuration(&host.name, ports))?;
    for &port in ports {
        let get = Get { port, ..Get::path("/") };
        daemon.wait_until("nginx to answer", START_BOUND, |_| {
            let outcome = get.fetch(host, host, Family::V6)?;
            Ok(matches!(outcome, Outcome::Answer(_)).then_some(()))
        })?;
    }
    Ok(daemon)
}

/// Runs nginx in a namespace, as one process, with everything that it writes below the folder
/// `prefix`. `http` is what its configuration has in `http`. It may not listen yet.
///
/// # Errors
/// When its configuration can't be written, or it can't be started.
pub fn run_nginx(netns: &Netns, prefix: &Path, http: &str) -> Result<Daemon> {
    fs::write(prefix.join("nginx.conf"), format!("{COMMON}http {{\n{PATHS}{http}}}\n"))?;
    let mut command = netns.daemon("nginx".as_ref());
    command.arg("-p").arg(prefix).args(["-c", "nginx.conf", "-e", "error.log"]);
    Daemon::start("nginx", command, prefix.join("log"))
}

/// What each configuration begins with.
const COMMON: &str = "daemon off;
master_process off;
user root;
pid nginx.pid;
events { worker_connections 256; }
";

/// Part of `http`: nothing is written outside of the prefix.
const PATHS: &str = "  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
";

/// The body with which nginx in the pod `name` answers.
#[must_use]
pub(super) fn expected_body(name: &str, port: u16, method: &str, path: &str) -> String {
    format!("{name} port {port} saw {method} {path}\n")
}

fn configuration(name: &str, ports: &[u16]) -> String {
    let body = format!("{name} port $server_port saw $request_method $request_uri\\n");
    let listen = |port| format!("listen {port}; listen [::]:{port};");
    let listen: String = ports.iter().map(listen).collect();
    format!(
        "  default_type text/plain;
  server {{
    {listen}
    location / {{ return 200 '{body}'; }}
    location /download {{ root .; limit_rate 256k; }}
  }}
"
    )
}
