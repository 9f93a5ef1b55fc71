//! HTTPS connections from wrk to nginx, through rules of server names.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::Result;
use podgate_tests::lab::{Daemon, Host, Lab, bounded, run, run_nginx, wait_for};

use super::direct::{Direct, compare};
use super::testbed::{Load, RequestMeasurement};
use crate::context::Context;
use crate::measure::Measurement;

const VS_DIRECT: &str = "l7.tls.vs_direct";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[VS_DIRECT];

const BAR: f64 = 0.9;
const PORT: u16 = 443;
const SERVER_NAME: &str = "www.bench.test";
const RULES: &str = "serverNames: [\"*.bench.test\"]";
const SECONDS: u32 = 3;
const SECONDS_QUICK: u32 = 2;
const BOUND: Duration = Duration::from_secs(20);

/// Measures the wanted ids.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.status(format!("{VS_DIRECT}: podgate and its pods"));
    let direct = Direct::new(PORT, RULES, "")?;
    let servers = direct.servers()?;
    let _servers =
        servers.iter().map(|host| serve(&direct.lab, host)).collect::<Result<Vec<_>>>()?;
    let agent = direct.start()?;
    let client = direct.client()?;
    let seconds = if context.quick { SECONDS_QUICK } else { SECONDS };
    let rate = |server: &Host| {
        let hosts = direct.lab.file("hosts");
        fs::write(&hosts, format!("{} {SERVER_NAME}\n", server.addresses.v4))?;
        // The name of the URL is what wrk sends as the server name.
        let script = format!(
            "mount --bind {} /etc/hosts && exec wrk -t1 -c16 -d{seconds}s --latency \
             -H 'Connection: close' https://{SERVER_NAME}/",
            hosts.display()
        );
        let mut wrk = client.netns.bounded("unshare", BOUND);
        let printed = run(wrk.args(["--mount", "sh", "-c", &script]))?;
        Ok(RequestMeasurement::parse(&printed, Load::Allowed)?.rate)
    };
    let row = compare(context, (VS_DIRECT, "handshakes/s", BAR), servers, rate)?;
    agent.stop()?;
    let note = "wrk to nginx, TLS 1.3 with P-256, no resumption, one request on each of 16 \
                connections at a time";
    Ok(vec![row.note(note)])
}

fn serve(lab: &Lab, host: &Host) -> Result<Daemon> {
    let address = host.addresses.v4;
    let prefix = lab.file(&format!("nginx-{address}"));
    fs::create_dir(&prefix)?;
    let (key, certificate) = (prefix.join("key.pem"), prefix.join("certificate.pem"));
    let mut openssl = bounded("openssl", BOUND);
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", &format!("/CN={SERVER_NAME}")]);
    run(openssl.arg("-keyout").arg(key).arg("-out").arg(certificate))?;
    let daemon = run_nginx(&host.netns, &prefix, HTTP)?;
    wait_for("nginx to listen", BOUND, || {
        let to = (Ipv4Addr::LOCALHOST, PORT);
        host.netns.inside(|| Ok(TcpStream::connect(to).ok().map(drop)))
    })?;
    Ok(daemon)
}

const HTTP: &str = "  server {
    listen 443 ssl;
    ssl_certificate certificate.pem;
    ssl_certificate_key key.pem;
    ssl_session_tickets off;
    ssl_session_cache off;
    keepalive_timeout 0;
    location / { return 200 'a small answer\\n'; }
  }
";
