//! HTTP rules between real HTTP/2 and gRPC clients and servers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::checkout::{interop, python};
use podgate_tests::lab::{Agent, Daemon, Family, Host, Lab, run, wait_for};

use crate::client_server::client_server_lab;

const BOUND: Duration = Duration::from_secs(60);
const NGHTTPD: u16 = 8001;
const GRPC: u16 = 8002;
const APACHE: u16 = 8003;

const POLICY: &str = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: peers}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts:
    - ports: [{port: \"8001\", protocol: TCP}]
      rules: {http: [{method: GET, path: \"/docs(/.*)?\"}]}
    - ports: [{port: \"8002\", protocol: TCP}]
      rules: {http: [{method: POST, path: \"/test.Echo/(Unary|(Server|Client)?Stream|Wait)\"}]}
    - ports: [{port: \"8003\", protocol: TCP}]
      rules: {http: [{method: GET, path: \"/docs(/.*)?\"}]}
";

/// Starts a server, and waits until it listens.
fn serve(lab: &Lab, program: &str, args: &[&str], port: u16) -> Result<Daemon> {
    let host = lab.host("peers/server")?;
    let mut command = host.netns.daemon(program.as_ref());
    command.args(args);
    let mut daemon = Daemon::start(program, command, lab.file(&format!("log-{port}")))?;
    daemon.wait_until(&format!("port {port}"), BOUND, |_| {
        Ok(host.connect(host, port, Family::V4).ok().map(drop))
    })?;
    Ok(daemon)
}

/// nghttpd with files below `folder`.
fn nghttpd(lab: &Lab, folder: &Path) -> Result<Daemon> {
    fs::create_dir(folder.join("docs"))?;
    fs::write(folder.join("docs/a"), "a document\n")?;
    fs::write(folder.join("docs/large"), vec![b'x'; 1_000_000])?;
    fs::write(folder.join("secret"), "a secret\n")?;
    let root = folder.display().to_string();
    serve(lab, "nghttpd", &["--no-tls", "-v", "-d", &root, &NGHTTPD.to_string()], NGHTTPD)
}

/// Apache below `folder`, which takes HTTP/1.1 and, by `Upgrade`, HTTP/2: any path is one page.
fn apache(lab: &Lab, folder: &Path) -> Result<Daemon> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    fs::write(folder.join("page"), "a page\n")?;
    let (root, modules) = (folder.display(), "/usr/lib/apache2/modules");
    let modules = ["mpm_event", "authz_core", "alias", "http2"]
        .map(|name| format!("LoadModule {name}_module {modules}/mod_{name}.so\n"));
    let text = format!(
        "ServerRoot {root}\nServerName apache\nListen {APACHE}\nPidFile {root}/pid\n\
         DefaultRuntimeDir {root}\nUser www-data\nGroup www-data\n{}\
         StartServers 1\nMaxRequestWorkers 25\nProtocols h2c http/1.1\nH2Upgrade on\n\
         ErrorLog {root}/errors\nCustomLog {root}/requests \"%H %U\"\n\
         AliasMatch \"^/.*\" {root}/page\n<Directory {root}>\nRequire all granted\n</Directory>\n",
        modules.concat()
    );
    let file = folder.join("apache.conf");
    fs::write(&file, text)?;
    serve(lab, "apache2", &["-f", &file.display().to_string(), "-DFOREGROUND"], APACHE)
}

/// TCP connections to a port that the agent has recorded.
fn connections(lab: &Lab, port: u16) -> Result<usize> {
    let records = lab.podgate_json_lines(&["flows", "--last", "4096"])?;
    let is_opening = |record: &&serde_json::Value| {
        record["type"] == "policy-verdict" && record["destination"]["port"] == port
    };
    Ok(records.iter().filter(is_opening).count())
}

/// curl 7.88.1 of Debian 12 can't use an HTTP/2 connection again with prior knowledge
/// (https://github.com/curl/curl/issues/10634), so each of its requests has its own.
#[test]
fn curl_gets_what_is_allowed_and_a_403_for_the_rest() -> Result<()> {
    let (lab, folder) = (client_server_lab(POLICY)?, tempfile::tempdir()?);
    let nghttpd = nghttpd(&lab, folder.path())?;
    let _agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    for (path, seen) in [
        ("/docs/a", "a document\n2 200"),
        ("/secret", "Access denied\r\n2 403"),
        ("/docs/a", "a document\n2 200"),
    ] {
        let mut command = client.netns.bounded("curl", BOUND);
        command.args(["--silent", "--show-error", "--noproxy", "*", "--http2-prior-knowledge"]);
        command.args(["--write-out", "%{http_version} %{http_code}"]);
        command.arg(format!("http://{}:{NGHTTPD}{path}", server.addresses.v4));
        assert_eq!(run(&mut command)?, seen, "{path}");
    }
    let log = nghttpd.log();
    assert!(log.contains("/docs/a") && !log.contains("secret"), "{log}");
    Ok(())
}

#[test]
fn one_http2_connection_of_nghttp_has_allowed_and_denied_streams() -> Result<()> {
    let (lab, folder) = (client_server_lab(POLICY)?, tempfile::tempdir()?);
    let nghttpd = nghttpd(&lab, folder.path())?;
    let _agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    let paths = ["/docs/a", "/secret", "/docs/large", "/secret", "/secret", "/docs/a"].repeat(10);
    // A URL that comes again is not requested again.
    let paths: Vec<_> =
        paths.iter().enumerate().map(|(index, path)| format!("{path}?{index}")).collect();
    let mut command = client.netns.bounded("nghttp", BOUND);
    command.args(["--null-out", "--stat"]);
    command
        .args(paths.iter().map(|path| format!("http://{}:{NGHTTPD}{path}", server.addresses.v4)));
    let seen = run(&mut command)?;
    assert_eq!(connections(&lab, NGHTTPD)?, 1, "{seen}");
    for path in &paths {
        let line = seen.lines().rfind(|line| line.ends_with(&format!(" {path}")));
        let fields: Vec<_> = line.unwrap_or_default().split_whitespace().collect();
        let status = if path.starts_with("/secret") { "403" } else { "200" };
        assert!(fields.contains(&status), "{path}: {seen}");
    }
    let log = nghttpd.log();
    assert!(log.contains("/docs/large") && !log.contains("secret"), "{log}");
    Ok(())
}

/// What h2load prints about 200 requests on two connections.
fn h2load(from: &Host, to: &Host, path: &str) -> Result<String> {
    let mut command = from.netns.bounded("h2load", BOUND);
    command.args(["-n", "200", "-c", "2", "-m", "20"]);
    run(command.arg(format!("http://{}:{NGHTTPD}{path}", to.addresses.v4)))
}

#[test]
fn a_load_of_concurrent_http2_streams_has_no_error() -> Result<()> {
    let (lab, folder) = (client_server_lab(POLICY)?, tempfile::tempdir()?);
    let _server = nghttpd(&lab, folder.path())?;
    let _agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    for (path, succeeded, statuses) in [
        ("/docs/a", 200, "status codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx"),
        ("/secret", 0, "status codes: 0 2xx, 0 3xx, 200 4xx, 0 5xx"),
        ("/docs/large", 200, "status codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx"),
    ] {
        let seen = h2load(client, server, path)?;
        let requests = format!("{succeeded} succeeded, {} failed, 0 errored", 200 - succeeded);
        ensure!(seen.contains("200 done, ") && seen.contains(&requests), "{path}: {seen}");
        ensure!(seen.contains(statuses), "{path}: {seen}");
    }
    Ok(())
}

#[test]
fn an_upgrade_from_http1_goes_on_as_http2() -> Result<()> {
    let (lab, folder) = (client_server_lab(POLICY)?, tempfile::tempdir()?);
    let _apache = apache(&lab, folder.path())?;
    let _agent = Agent::start(&lab, 2)?;
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    let url = |path: &str| format!("http://{}:{APACHE}{path}", server.addresses.v4);
    let nghttp = |paths: &[&str]| {
        let mut command = client.netns.bounded("nghttp", BOUND);
        command.args(["--upgrade", "--null-out", "--stat", "--verbose"]);
        command.args(paths.iter().map(|path| url(path)));
        run(&mut command)
    };
    let has_status = |seen: &str, path: &str, status: &str| {
        // The statistics are at the end, after the frames.
        let line = seen.lines().rfind(|line| line.ends_with(&format!(" {path}")));
        line.unwrap_or_default().split_whitespace().any(|field| field == status)
    };
    // Apache 2.4.71 ends some connections after the first response, with a GOAWAY frame that says
    // `timeout`, without podgate too (9 of 30 on loopback). A client tries again then.
    let seen = wait_for("a connection that Apache goes on with", BOUND, || {
        let before = connections(&lab, APACHE)?;
        let seen = nghttp(&["/docs/a", "/secret", "/docs/b", "/secret/b", "/docs/c"])?;
        ensure!(seen.contains("HTTP/1.1 101 Switching Protocols"), "{seen}");
        assert_eq!(connections(&lab, APACHE)? - before, 1, "{seen}");
        let is_ended = seen.contains("opaque_data(7)=[timeout]");
        Ok((!is_ended || has_status(&seen, "/docs/c", "200")).then_some(seen))
    })?;
    for (path, status) in
        [("/docs/a", "200"), ("/secret", "403"), ("/docs/b", "200"), ("/secret/b", "403")]
    {
        assert!(has_status(&seen, path, status), "{path}: {seen}");
    }
    // nghttp gives up where its offer is not accepted.
    let mut denied = client.netns.bounded("nghttp", BOUND);
    let denied = denied.args(["--upgrade", "--verbose"]).arg(url("/secret/c")).output()?;
    let denied = String::from_utf8_lossy(&denied.stdout).into_owned();
    ensure!(denied.contains("HTTP/1.1 403 Forbidden"), "{denied}");
    // Apache logs a request after its response.
    let log = wait_for("Apache's log", BOUND, || {
        let log = fs::read_to_string(folder.path().join("requests"))?;
        let has = |path: &&str| log.contains(&format!("HTTP/2.0 {path}\n"));
        Ok(["/docs/a", "/docs/b", "/docs/c"].iter().all(has).then_some(log))
    })?;
    ensure!(!log.contains("secret"), "{log}");
    let records = lab.podgate_json_lines(&["flows", "--last", "4096"])?;
    let version = |path: &str| {
        let is_it = |record: &&serde_json::Value| record["path"] == path;
        records.iter().find(is_it).map(|record| record["version"].clone())
    };
    assert_eq!(version("/docs/a"), Some("HTTP/1.1".into()), "the request that offers HTTP/2");
    assert_eq!(version("/docs/b"), Some("HTTP/2".into()));
    Ok(())
}

/// The status codes of a gRPC client's calls, which use one connection.
fn calls(lab: &Lab, case: &str) -> Result<Vec<String>> {
    let (client, server) = (lab.host("peers/client")?, lab.host("peers/server")?);
    let before = connections(lab, GRPC)?;
    let mut command = client.netns.bounded(&python(), BOUND);
    command.arg(interop("grpc_client.py"));
    command.args([&format!("{}:{GRPC}", server.addresses.v4), case]);
    let seen = run(&mut command).with_context(|| case.to_owned())?;
    assert_eq!(connections(lab, GRPC)? - before, 1, "{case}: connections");
    Ok(seen.lines().map(str::to_owned).collect())
}

#[test]
fn a_grpc_channel_goes_on_behind_denied_calls() -> Result<()> {
    let lab = client_server_lab(POLICY)?;
    let program = interop("grpc_server.py");
    let server = serve(&lab, &python(), &[&program, &GRPC.to_string()], GRPC)?;
    let _agent = Agent::start(&lab, 2)?;
    let (ok, denied, late) = ("OK", "PERMISSION_DENIED", "DEADLINE_EXCEEDED");
    let unary = [&[ok, denied, ok, denied, denied, ok][..], &[denied, ok].repeat(3)].concat();
    assert_eq!(calls(&lab, "unary")?, unary);
    let concurrent: Vec<_> = (0..100).map(|call| if call % 3 == 2 { denied } else { ok }).collect();
    assert_eq!(calls(&lab, "concurrent")?, concurrent);
    for case in ["stream", "server_stream", "client_stream"] {
        assert_eq!(calls(&lab, case)?, [ok, denied, ok], "{case}");
    }
    assert_eq!(calls(&lab, "ended")?, [late, denied, "CANCELLED", ok]);
    assert_eq!(calls(&lab, "keepalive")?, [ok, late, denied, ok]);
    let log = server.log();
    assert!(log.contains("grpc Unary") && !log.contains("Secret"), "{log}");
    Ok(())
}
