//! Envoy in front of the server, with an equivalent policy.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use podgate_tests::lab::{Daemon, Netns, wait_for};

use super::testbed::{HttpTestbed, Load, PORT};

/// Port that Envoy listens on, in the server's namespace.
pub(super) const ENVOY_PORT: u16 = 8080;
/// Time until it listens.
const START_MAX: Duration = Duration::from_secs(20);

/// The program: `ENVOY`, or what scripts/bench has installed. `None` if there is none.
pub(super) fn program() -> Option<PathBuf> {
    let installed = || PathBuf::from("target/tools/envoy/envoy");
    let path = env::var_os("ENVOY").map_or_else(installed, PathBuf::from);
    fs::canonicalize(path).ok()
}

/// What Envoy allows, and how it speaks to the server behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Patterns of the method and the path.
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// The server's port.
    pub(super) port: u16,
    pub(super) upstream: Upstream,
}

/// The version of HTTP towards the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Upstream {
    Http1,
    Http2,
}

/// Starts Envoy on the server's side of a testbed. Requests to it pass its RBAC filter, and
/// loopback to the server.
pub(super) fn start<'forwarder>(
    program: &Path,
    server: &Netns,
    testbed: HttpTestbed<'forwarder>,
) -> Result<(Daemon, HttpTestbed<'forwarder>)> {
    let rule =
        Rule { method: "GET|POST", path: "/docs(/.*)?", port: PORT, upstream: Upstream::Http1 };
    let daemon = spawn(program, server, testbed.folder(), rule)?;
    let testbed = testbed.through("Envoy", ENVOY_PORT);
    wait_for("Envoy to answer", START_MAX, || Ok(testbed.request(Load::Allowed, true).ok()))?;
    Ok((daemon, testbed))
}

/// Starts Envoy in `netns` with one thread. Its files are in `folder`.
pub(super) fn spawn(program: &Path, netns: &Netns, folder: &Path, rule: Rule) -> Result<Daemon> {
    let config = folder.join("envoy.yaml");
    fs::write(&config, config_text(rule))?;
    let mut envoy = netns.daemon(program);
    envoy.arg("-c").arg(&config).args(["--concurrency", "1", "--use-dynamic-base-id"]);
    envoy.args(["--log-level", "error"]);
    Daemon::start("envoy", envoy, folder.join("envoy.log"))
}

/// Of a cluster whose servers speak HTTP/2 only.
const HTTP2: &str = "
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}";

fn config_text(Rule { method, path, port, upstream }: Rule) -> String {
    let protocol = match upstream {
        Upstream::Http1 => "",
        Upstream::Http2 => HTTP2,
    };
    format!(
        r#"
static_resources:
  listeners:
  - address: {{socket_address: {{address: 0.0.0.0, port_value: {ENVOY_PORT}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: server}}}}]
          http_filters:
          - name: envoy.filters.http.rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: ALLOW
                policies:
                  docs:
                    principals: [{{any: true}}]
                    permissions:
                    - and_rules:
                        rules:
                        - header: {{name: ":method", string_match: {{safe_regex: {{regex: "{method}"}}}}}}
                        - url_path: {{path: {{safe_regex: {{regex: "{path}"}}}}}}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: server
    type: STATIC{protocol}
    load_assignment:
      cluster_name: server
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
"#
    )
}
