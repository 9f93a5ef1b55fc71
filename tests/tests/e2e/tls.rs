//! TLS connections by server name: real clients, and nginx with TLS 1.2 and 1.3.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Daemon, Family, Host, Lab, output, run, run_nginx};
use podgate_tests::scenario::MANIFESTS;

const BOUND: Duration = Duration::from_secs(30);
const PORT: u16 = 8443;
const ALLOWED: &str = "shop.allowed.example";
const DENIED: &str = "denied.example";
/// Size of the large file, bytes.
const LARGE: u64 = 64 << 20;

/// `admin/adminapp` may ask `other/stranger` for these servers, and may connect nowhere else.
const POLICY: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: server-names, namespace: admin }
spec:
  endpointSelector: { matchLabels: { app: adminapp } }
  egress:
    - toPorts:
        - ports: [{ port: \"8443\", protocol: TCP }]
          serverNames: [\"*.allowed.example\"]
";

/// nginx with TLS in `host`. Its groups make clients that begin with X25519 try again.
fn serve(lab: &Lab, host: &Host) -> Result<Daemon> {
    let prefix = lab.file("tls");
    fs::create_dir(&prefix)?;
    fs::File::create(prefix.join("large"))?.set_len(LARGE)?;
    let (key, certificate) = (prefix.join("key.pem"), prefix.join("certificate.pem"));
    let mut openssl = host.netns.bounded("openssl", BOUND);
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=allowed.example"]);
    run(openssl.arg("-keyout").arg(key).arg("-out").arg(certificate))?;
    let daemon = run_nginx(&host.netns, &prefix, HTTP)?;
    host.wait_for_server(PORT, BOUND)?;
    Ok(daemon)
}

const HTTP: &str = "  server {
    listen 8443 ssl; listen [::]:8443 ssl;
    ssl_certificate certificate.pem;
    ssl_certificate_key key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ecdh_curve P-256;
    ssl_early_data on;
    location / { return 200 'hello $ssl_server_name $ssl_protocol\\n'; }
    location /large { root .; }
  }
";

/// What a client printed, or how it failed.
type Seen = std::result::Result<String, String>;

fn seen(from: &Host, program: &str, arguments: &[&str]) -> Result<Seen> {
    let output = output(from.netns.bounded(program, BOUND).args(arguments))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    Ok(if output.status.success() { Ok(out) } else { Err(format!("{out}\n{err}")) })
}

fn curl(from: &Host, address: &str, name: &str, version: &str) -> Result<Seen> {
    let to = format!("{name}:{PORT}:{address}:{PORT}");
    let url = format!("https://{name}:{PORT}/");
    let version = format!("--tlsv{version}");
    let arguments = ["-sSk", "--noproxy", "*", "--connect-to", &to, &version, "--tls-max"];
    seen(from, "curl", &[&arguments[..], &[&version[6..], &url]].concat())
}

fn openssl(from: &Host, address: &str, name: &str, version: &str) -> Result<Seen> {
    let version = if version == "1.2" { "-tls1_2" } else { "-tls1_3" };
    let script = format!(
        "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | openssl s_client -quiet -ign_eof -connect \
         {address}:{PORT} -servername {name} -groups X25519:P-256 {version} 2>&1"
    );
    seen(from, "sh", &["-c", &script])
}

fn python(from: &Host, address: &str, name: &str, version: &str) -> Result<Seen> {
    let version = version.replace('.', "_");
    let script = format!(
        "import socket, ssl
context = ssl._create_unverified_context()
context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv{version}
tcp = socket.create_connection(('{address}'.strip('[]'), {PORT}))
tls = context.wrap_socket(tcp, server_hostname='{name}')
tls.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')
while piece := tls.recv(4096):
    print(piece.decode(), end='')"
    );
    seen(from, "python3", &["-c", &script])
}

fn node(from: &Host, address: &str, name: &str, version: &str) -> Result<Seen> {
    let script = format!(
        "const tls = require('tls').connect({{host: '{address}'.replace(/[\\[\\]]/g, ''), \
         port: {PORT}, servername: '{name}', rejectUnauthorized: false, \
         minVersion: 'TLSv{version}', maxVersion: 'TLSv{version}'}}, \
         () => tls.write('GET / HTTP/1.0\\r\\n\\r\\n')); \
         tls.on('data', data => process.stdout.write(data)); \
         tls.on('error', error => {{ console.error(error.code); process.exit(1); }});"
    );
    seen(from, "node", &["-e", &script])
}

type Client = fn(&Host, &str, &str, &str) -> Result<Seen>;

const CLIENTS: [(&str, Client); 4] =
    [("curl", curl), ("openssl", openssl), ("python", python), ("node", node)];

fn is_reset(error: &str) -> bool {
    let error = error.to_lowercase();
    // s_client prints the number: 104 is ECONNRESET.
    ["reset", "errno=104"].iter().any(|word| error.contains(word))
}

#[test]
fn clients_reach_allowed_names_and_are_reset_for_others() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("server-names.yaml", POLICY)?;
    let agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let _nginx = serve(&lab, server)?;
    for (program, ask) in CLIENTS {
        for version in ["1.2", "1.3"] {
            for family in Family::BOTH {
                let address = match server.addresses.of(family) {
                    std::net::IpAddr::V4(address) => address.to_string(),
                    std::net::IpAddr::V6(address) => format!("[{address}]"),
                };
                let what = format!("{program} with TLS {version} over {family}");
                let answer = ask(client, &address, ALLOWED, version)?;
                let text = answer.map_err(anyhow::Error::msg).context(what.clone())?;
                let wanted = format!("hello {ALLOWED} TLSv{version}");
                ensure!(text.contains(&wanted), "{what}: {text}");
                let error = ask(client, &address, DENIED, version)?.err().context(what.clone())?;
                ensure!(is_reset(&error), "{what}: {error}");
            }
        }
    }
    let flows = lab.podgate_json_lines(&["flows", "--last", "1000"])?;
    let of_name = |name: &str| {
        let is_of = |flow: &&serde_json::Value| {
            flow["type"] == "tls-request" && flow["server_name"] == name
        };
        flows.iter().filter(is_of).map(|flow| flow["verdict"].clone()).collect::<Vec<_>>()
    };
    ensure!(of_name(ALLOWED).iter().all(|verdict| verdict == "FORWARDED"));
    ensure!(of_name(DENIED).iter().all(|verdict| verdict == "DROPPED"));
    // Clients that begin with X25519 send two ClientHellos.
    let counts = [of_name(ALLOWED).len(), of_name(DENIED).len()];
    ensure!(counts[0] > 16 && counts[1] == 16, "{counts:?}");
    agent.stop()
}

#[test]
fn what_follows_an_allowed_hello_is_not_inspected() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("server-names.yaml", POLICY)?;
    let agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let _nginx = serve(&lab, server)?;
    let to = format!("{ALLOWED}:{PORT}:{}:{PORT}", server.addresses.v4);
    let url = format!("https://{ALLOWED}:{PORT}/large");
    let mut curl = client.netns.bounded("curl", BOUND);
    curl.args(["-sSk", "--noproxy", "*", "--connect-to", &to, "-o", "/dev/null"]);
    let size = run(curl.args(["-w", "%{size_download}", &url]))?;
    ensure!(size == LARGE.to_string(), "{size} bytes");
    // A resumed session, and data before the handshake is complete.
    let ticket = lab.file("ticket");
    let session = |option: &str, more: &str| {
        let script = format!(
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | openssl s_client -ign_eof -connect {}:{PORT} \
             -servername {ALLOWED} {option} {} {more} 2>&1",
            server.addresses.v4,
            ticket.display()
        );
        seen(client, "sh", &["-c", &script])?.map_err(anyhow::Error::msg)
    };
    session("-sess_out", "")?;
    let request = lab.file("request");
    fs::write(&request, "GET / HTTP/1.0\r\n\r\n")?;
    let resumed = session("-sess_in", &format!("-early_data {}", request.display()))?;
    ensure!(resumed.contains("Reused, TLSv1.3"), "{resumed}");
    ensure!(resumed.contains(&format!("hello {ALLOWED} TLSv1.3")), "{resumed}");
    agent.stop()
}

#[test]
fn what_names_no_server_is_reset() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("server-names.yaml", POLICY)?;
    let agent = Agent::start(&lab, 1)?;
    let (client, server) = (lab.host("admin/adminapp")?, lab.host("other/stranger")?);
    let _nginx = serve(&lab, server)?;
    let address = server.addresses.v4.to_string();
    // A client that connects to an address names no server.
    let url = format!("https://{address}:{PORT}/");
    let error = seen(client, "curl", &["-sSk", "--noproxy", "*", &url])?.err();
    ensure!(is_reset(&error.context("no name is allowed")?));
    let plain = format!("http://{address}:{PORT}/");
    let error = seen(client, "curl", &["-sS", "--noproxy", "*", &plain])?.err();
    ensure!(is_reset(&error.context("HTTP is allowed")?));
    ensure!(lab.drops("l7_unsupported")? > 0);
    agent.stop()
}
