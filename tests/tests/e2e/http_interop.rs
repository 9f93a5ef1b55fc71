//! HTTP/1 rules between real clients and real servers of several makes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::checkout::{interop, python};
use podgate_tests::lab::{Agent, Daemon, Family, Get, Host, Lab, Outcome, run, wait_for};
use tempfile::TempDir;

use crate::client_server::client_server_lab;

const BOUND: Duration = Duration::from_secs(60);

const POLICY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: peers}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts:
    - ports: [{port: \"8001\", endPort: 8008, protocol: TCP}]
      rules: {http: [{path: \"/docs(/.*)?\"}, {method: CONNECT}]}
";

/// The servers and their ports. What each prints or logs begins with its name.
const SERVERS: [(&str, u16); 7] = [
    ("nginx", 8001),
    ("apache", 8002),
    ("node", NODE),
    ("jdk", 8004),
    ("http.server", 8005),
    ("aiohttp", 8006),
    ("cheroot", 8007),
];
const ALL: [u16; 7] = [8001, 8002, NODE, 8004, 8005, 8006, 8007];
const NODE: u16 = 8003;
const WEBSOCKETS: u16 = 8008;

/// Compiles little, as these programs run for seconds.
const JAVA: [&str; 2] = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"];

/// The running servers.
struct Servers {
    daemons: Vec<Daemon>,
    /// A folder that Apache's user may read.
    folder: TempDir,
}

impl Servers {
    /// Starts those that listen on these ports.
    fn start(lab: &Lab, ports: &[u16]) -> Result<Self> {
        let host = lab.host("peers/server")?;
        let folder = tempfile::tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let (node, java) = (interop("server.js"), interop("Server.java"));
        let (servers, python) = (interop("servers.py"), python());
        let apache = apache(folder.path())?;
        let programs: [(&[u16], &str, &[&str]); 4] = [
            (&[8004], "java", &[JAVA[0], JAVA[1], &java, "8004"]),
            (&[8005, 8006, 8007, 8008], &python, &[&servers, "8005"]),
            (&[NODE], "node", &[&node, "8003"]),
            (&[8002], "apache2", &["-f", &apache, "-DFOREGROUND"]),
        ];
        let mut daemons = Vec::new();
        for (listens, program, args) in programs {
            if ports.iter().any(|port| listens.contains(port)) {
                let mut command = host.netns.daemon(program.as_ref());
                command.args(args);
                let log = lab.file(&format!("log-{}", listens[0]));
                daemons.push(Daemon::start(program, command, log)?);
            }
        }
        if ports.contains(&8001) {
            daemons.push(lab.serve(host, &[8001])?);
        }
        for port in ports.iter().copied() {
            let get = Get { port, ..Get::path("/docs") };
            daemons[0].wait_until(&format!("port {port}"), BOUND, |_| {
                let outcome = get.fetch(host, host, Family::V4)?;
                Ok(matches!(outcome, Outcome::Answer(_)).then_some(()))
            })?;
        }
        Ok(Self { daemons, folder })
    }

    /// The requests that the servers saw. nginx logs none.
    fn requests(&self) -> String {
        let logs = self.daemons.iter().map(Daemon::log);
        let apache = fs::read_to_string(self.folder.path().join("requests"));
        logs.chain(apache).collect::<Vec<_>>().join("\n")
    }
}

/// Apache's configuration below `folder`: any path is one page.
fn apache(folder: &Path) -> Result<String> {
    fs::write(folder.join("page"), "saw a request\n")?;
    let (root, modules) = (folder.display(), "/usr/lib/apache2/modules");
    let text = format!(
        "ServerRoot {root}\nServerName apache\nListen 8002\nPidFile {root}/pid\n\
         DefaultRuntimeDir {root}\nUser www-data\nGroup www-data\n\
         LoadModule mpm_event_module {modules}/mod_mpm_event.so\n\
         LoadModule authz_core_module {modules}/mod_authz_core.so\n\
         LoadModule alias_module {modules}/mod_alias.so\n\
         StartServers 1\nMaxRequestWorkers 25\n\
         ErrorLog {root}/errors\nCustomLog {root}/requests \"apache %m %U\"\n\
         AliasMatch \"^/.*\" {root}/page\n<Directory {root}>\nRequire all granted\n</Directory>\n"
    );
    let file = folder.join("apache.conf");
    fs::write(&file, text)?;
    Ok(file.display().to_string())
}

/// TCP connections to a port that the agent has recorded.
fn connections(lab: &Lab, port: u16) -> Result<usize> {
    let records = lab.podgate_json_lines(&["flows", "--last", "4096"])?;
    let is_opening = |record: &&serde_json::Value| {
        record["type"] == "policy-verdict" && record["destination"]["port"] == port
    };
    Ok(records.iter().filter(is_opening).count())
}

/// A client that sends requests to a URL, and prints a line for each; and how many connections it
/// uses for those of the test.
type Client = (&'static str, RangeInclusive<usize>, fn(&Host, &str, &[&str]) -> Result<String>);

const CLIENTS: [Client; 3] = [
    ("python-requests", 1..=1, |host, url, requests| {
        let mut command = host.netns.bounded(&python(), BOUND);
        run(command.arg(interop("client.py")).arg(url).args(requests))
    }),
    // It closes connections itself: after a HEAD, and where a response comes before the request
    // has been written.
    ("Node's fetch", 2..=3, |host, url, requests| {
        let mut command = host.netns.bounded("node", BOUND);
        run(command.arg(interop("client.js")).arg(url).args(requests))
    }),
    ("Java's HttpClient", 1..=1, |host, url, requests| {
        let mut command = host.netns.bounded("java", BOUND);
        run(command.args(JAVA).arg(interop("Client.java")).arg(url).args(requests))
    }),
];

/// Each client to each server: allowed and denied requests on one connection, which stays usable.
#[test]
fn connections_of_every_client_go_on_behind_denied_requests() -> Result<()> {
    let lab = client_server_lab(POLICY)?;
    let servers = Servers::start(&lab, &ALL)?;
    let _agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    for (name, port) in SERVERS {
        let url = format!("http://{}:{port}", server.addresses.v4);
        // Apache has no program behind its page that takes a POST.
        let allowed_post = if name == "apache" { "GET /docs/b" } else { "POST /docs/b" };
        let requests = [
            ("GET /docs", 200),
            ("GET /secret", 403),
            (allowed_post, 200),
            ("POST /secret", 403),
            ("GET /docs/%2e%2e/secret", 403),
            ("HEAD /docs", 200),
            ("GET /secret", 403),
            ("GET /docs/c", 200),
        ];
        let lines = requests.map(|(request, _)| request);
        for (kind, uses, send) in CLIENTS {
            let before = connections(&lab, port)?;
            let seen = send(client, &url, &lines).with_context(|| format!("{kind} to {name}"))?;
            let statuses: Vec<_> = seen.lines().map(|line| line.split(' ').next()).collect();
            let expected: Vec<_> = requests.iter().map(|(_, status)| status.to_string()).collect();
            let expected: Vec<_> = expected.iter().map(|status| Some(&**status)).collect();
            assert_eq!(statuses, expected, "{kind} to {name}: {seen}");
            let denied = seen.lines().filter(|line| *line == "403 Access denied").count();
            assert_eq!(denied, 4, "{kind} to {name}: {seen}");
            let used = connections(&lab, port)? - before;
            assert!(uses.contains(&used), "{kind} to {name}: {used} connections");
        }
    }
    let long = |len: usize| {
        let head = "GET /docs/long HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: \r\n\r\n";
        head.replace("X: ", &format!("X: {}", "x".repeat(len - head.len())))
    };
    for (len, status) in [(60 << 10, "200"), ((60 << 10) + 1, "431")] {
        let received = exchange(client, server, 8004, long(len).as_bytes())?;
        let received = String::from_utf8_lossy(&received);
        assert!(received.starts_with(&format!("HTTP/1.1 {status} ")), "{len}: {received}");
    }
    let seen = servers.requests();
    assert!(seen.contains("jdk POST /docs/b") && seen.contains("apache GET /docs/c"), "{seen}");
    assert!(!seen.contains("secret"), "{seen}");
    Ok(())
}

#[test]
fn a_websocket_echoes_ten_thousand_frames_and_a_denied_one_is_answered_403() -> Result<()> {
    let lab = client_server_lab(POLICY)?;
    let _servers = Servers::start(&lab, &[WEBSOCKETS])?;
    let _agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    let echo = |path: &str, frames: &str| {
        let url = format!("ws://{}:{WEBSOCKETS}{path}", server.addresses.v4);
        let mut command = client.netns.bounded(&python(), BOUND);
        run(command.arg(interop("echo.py")).args([&url, frames]))
    };
    assert_eq!(echo("/docs/echo", "10000")?.trim(), "10000");
    assert_eq!(echo("/secret", "1")?.trim(), "403");
    Ok(())
}

#[test]
fn a_tunnel_carries_any_bytes_and_a_declined_one_goes_on_as_http() -> Result<()> {
    let lab = client_server_lab(POLICY)?;
    let servers = Servers::start(&lab, &[NODE])?;
    let _agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    let connect =
        |authority: &str| format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let mut tunnel = client.connect(server, NODE, Family::V4)?;
    tunnel.write_all(connect("backend:80").as_bytes())?;
    assert_eq!(read_head(&mut tunnel)?, "HTTP/1.1 200 OK\r\n\r\n");
    let bytes: Vec<u8> = (0..200_000_u32).map(|index| (index % 251) as u8).collect();
    let sent = [b"GET /secret HTTP/1.1\r\nHost: h\r\n\r\n", &bytes[..]].concat();
    let mut writer = tunnel.try_clone()?;
    let mut echoed = vec![0; sent.len()];
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| writer.write_all(&sent));
        tunnel.read_exact(&mut echoed)?;
        writing.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
        anyhow::Ok(())
    })?;
    ensure!(echoed == sent, "the tunnel changed bytes");
    let mut declined = client.connect(server, NODE, Family::V4)?;
    let secret = "GET /secret HTTP/1.1\r\nHost: h\r\n\r\n";
    declined.write_all((connect("declined:80") + secret).as_bytes())?;
    assert!(read_head(&mut declined)?.starts_with("HTTP/1.1 502 "));
    assert!(!servers.requests().contains("secret"));
    Ok(())
}

fn read_head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}

/// Streams of an allowed request with another one inside that some server would answer: their names
/// and bytes. Most are known to work on one of the servers.
fn smuggled() -> Vec<(String, String)> {
    const SECRET: &str = "GET /secret HTTP/1.1\r\nHost: h\r\n\r\n";
    let head = |method: &str, fields: &str| {
        format!("{method} /docs HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n")
    };
    let chunked = head("POST", "Transfer-Encoding: chunked");
    let mut streams = Vec::new();
    let mut add = |name: String, stream: String| streams.push((name, stream));
    // A reader with 32 bits takes these for 0 or 38 bytes.
    for size in ["100000000", "00100000000", "100000000;a=b"] {
        add(format!("chunk {size}"), format!("{chunked}{size}\r\n\r\n{SECRET}"));
    }
    let filler = "x".repeat(0x26);
    for size in ["100000026", "200000026", "00100000026", "1000000000026"] {
        let stream = format!("{chunked}{size}\r\n{filler}\r\n0\r\n\r\n{SECRET}");
        add(format!("chunk {size}"), stream);
    }
    for length in ["4294967296", "4294967334", "2147483686", "18446744073709551654"] {
        let filler = if length.ends_with("296") { "" } else { &filler };
        let stream = head("POST", &format!("Content-Length: {length}")) + filler + SECRET;
        add(format!("length {length}"), stream);
    }
    // cheroot takes what is after the last chunk's line for the next request.
    for trailer in [SECRET, "X:GET /secret HTTP/1.0\r\n\r\n", "GET /secret HTTP/1.0\r\n\r\n"] {
        let stream = format!("{chunked}2\r\nhi\r\n0\r\n{trailer}");
        add(format!("trailer {trailer:?}"), stream);
    }
    // CPython's http.server reads no body of these.
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        for before in ["", "\r\n", " "] {
            let body = format!("{before}{SECRET}");
            let stream = head(method, &format!("Content-Length: {}", body.len())) + &body;
            add(format!("{method} with body after {before:?}"), stream);
        }
    }
    let body = SECRET.replacen(' ', "\u{b}", 2);
    add("GET with tabs".into(), head("GET", &format!("Content-Length: {}", body.len())) + &body);
    streams
}

/// Sends a stream, ends it, and reads what comes back until the connection is over.
fn exchange(from: &Host, to: &Host, port: u16, stream: &[u8]) -> Result<Vec<u8>> {
    let mut connection = from.connect(to, port, Family::V4)?;
    let mut received = Vec::new();
    let sent = connection.write_all(stream).and_then(|()| connection.shutdown(Shutdown::Write));
    let read = sent.and_then(|()| connection.read_to_end(&mut received));
    match read {
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected
            ) =>
        {
            Err(error.into())
        }
        _ => Ok(received),
    }
}

#[test]
fn no_server_answers_a_request_that_hides_in_another() -> Result<()> {
    let lab = client_server_lab(POLICY)?;
    let servers = Servers::start(&lab, &ALL)?;
    let _agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    for (name, port) in SERVERS {
        for (stream_name, stream) in smuggled() {
            let context = || format!("{stream_name} to {name}");
            let received =
                exchange(client, server, port, stream.as_bytes()).with_context(context)?;
            let received = String::from_utf8_lossy(&received);
            assert!(!received.contains("secret"), "{}: {received}", context());
            assert!(received.matches("HTTP/1.1 200").count() <= 1, "{}: {received}", context());
        }
        let get = Get { port, ..Get::path("/docs/last") };
        let outcome = get.fetch(client, server, Family::V4)?;
        assert!(matches!(&outcome, Outcome::Answer(answer) if answer.status == 200), "{outcome:?}");
    }
    // What a server does with a request comes before the answer to a later one.
    let seen = wait_for("the last request in each log", BOUND, || {
        let seen = servers.requests();
        let logged = SERVERS.iter().filter(|(name, _)| *name != "nginx");
        let mut logged = logged.map(|(name, _)| format!("{name} GET /docs/last"));
        Ok(logged.all(|line| seen.contains(&line)).then_some(seen))
    })?;
    assert!(!seen.contains("secret"), "{seen}");
    let records = lab.podgate_json_lines(&["flows", "--last", "4096"])?;
    let reasons = records.iter().filter_map(|record| record["drop_reason"].as_str());
    let reasons: BTreeSet<_> = reasons.filter(|reason| reason.starts_with("l7_")).collect();
    assert_eq!(reasons, BTreeSet::from(["l7_malformed"]), "each denial is recorded");
    Ok(())
}

#[test]
fn other_protocols_on_an_http_port_are_reset_at_once_and_recorded() -> Result<()> {
    let lab = client_server_lab(POLICY)?;
    let _servers = Servers::start(&lab, &[NODE])?;
    let _agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for bytes in [&hello[..], b"SSH-2.0-OpenSSH_9.2p1\r\n", b"*1\r\n$4\r\nPING\r\n", b"\0\0\0\x10"]
    {
        let before = records_of(&lab, "l7_unsupported")?;
        let mut stream = client.connect(server, NODE, Family::V4)?;
        stream.write_all(bytes)?;
        let error = stream.read(&mut [0; 100]).err().context("an answer, and not a reset")?;
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{}", bytes.escape_ascii());
        assert_eq!(records_of(&lab, "l7_unsupported")? - before, 1, "{}", bytes.escape_ascii());
    }
    let mut command = client.netns.bounded("curl", BOUND);
    command.args(["--silent", "--insecure", "--noproxy", "*"]);
    command.arg(format!("https://{}:{NODE}/docs", server.addresses.v4));
    assert!(run(&mut command).is_err(), "TLS");
    Ok(())
}

#[test]
fn limits_are_those_of_the_command_line_and_each_denial_is_recorded() -> Result<()> {
    let lab = client_server_lab(POLICY)?;
    let _servers = Servers::start(&lab, &[NODE])?;
    let options = ["--http-max-head", "2048", "--http-max-headers", "10"];
    let chunks = ["--http-max-chunk-line", "32"];
    let _agent = Agent::start_with(&lab, 2, &[&options[..], &chunks].concat())?;
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    let head = |fields: &str| format!("POST /docs HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let chunked = head("Connection: close\r\nTransfer-Encoding: chunked\r\n");
    let long = |len: usize| head(&format!("Connection: close\r\nX: {}\r\n", "x".repeat(len)));
    let fields = |count: usize| head(&("X: y\r\n".repeat(count - 2) + "Connection: close\r\n"));
    for (stream, status, denials) in [
        (long(1500), "200", 0),
        (long(2048), "431", 1),
        (fields(10), "200", 0),
        (fields(11), "431", 1),
        (chunked.clone() + "2;a=b\r\nhi\r\n0\r\n\r\n", "200", 0),
        (chunked + "2;a=bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\nhi\r\n0\r\n\r\n", "400", 1),
    ] {
        let before = records_of(&lab, "l7_limit")?;
        let received = exchange(client, server, NODE, stream.as_bytes())?;
        let received = String::from_utf8_lossy(&received);
        assert!(received.starts_with(&format!("HTTP/1.1 {status} ")), "{stream:?}: {received}");
        assert_eq!(records_of(&lab, "l7_limit")? - before, denials, "{stream:?}");
    }
    Ok(())
}

/// Records with a drop reason.
fn records_of(lab: &Lab, reason: &str) -> Result<usize> {
    let records = lab.podgate_json_lines(&["flows", "--last", "4096"])?;
    Ok(records.iter().filter(|record| record["drop_reason"] == reason).count())
}
