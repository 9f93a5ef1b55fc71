//! Services by their cluster IPs, node ports and external addresses, translated by workers: real
//! clients and servers, and policy on the backends.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Daemon, Host, Lab, output, wait_for};
use serde_json::Value;

use super::hairpin::nft;

const BOUND: Duration = Duration::from_secs(20);

const MANIFEST: &str = r#"
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
status: {podIPs: [{ip: 10.66.2.1}, {ip: "fd66:2::1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {containers: [{name: web, image: nginx, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.66.2.10}, {ip: "fd66:2::10"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {containers: [{name: web, image: nginx, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.66.2.11}, {ip: "fd66:2::11"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, namespace: shop, labels: {app: other}}
spec: {containers: [{name: web, image: nginx, ports: [{name: http, containerPort: 8080}]}]}
status: {podIPs: [{ip: 10.66.2.12}, {ip: "fd66:2::12"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: resolver, namespace: shop, labels: {app: resolver}}
status: {podIPs: [{ip: 10.66.2.53}, {ip: "fd66:2::53"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  clusterIPs: [10.96.2.1, "fd96:2::1"]
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-v6, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}]
endpoints: [{addresses: ["fd66:2::10"]}, {addresses: ["fd66:2::11"]}]
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec: {clusterIP: 10.96.2.2, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other, namespace: shop, labels: {kubernetes.io/service-name: other}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.66.2.12]}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {clusterIP: 10.96.2.3, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: empty, namespace: shop, labels: {kubernetes.io/service-name: empty}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: []
---
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: shop}
spec:
  clusterIP: 10.96.2.53
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: dns, namespace: shop, labels: {kubernetes.io/service-name: dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [10.66.2.53]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {app: web}}]
    toPorts:
    - ports: [{port: "8080", protocol: TCP}]
      rules: {http: [{path: /docs}]}
  - toEndpoints: [{matchLabels: {app: resolver}}]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchName: www.allowed.test}]}
"#;

/// The slice of the service web with these endpoints.
fn web_slice(addresses: &[&str]) -> String {
    let endpoints: Vec<_> = addresses.iter().map(|ip| format!("{{addresses: [{ip}]}}")).collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-v4, \
         namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\n\
         ports: [{{name: http, port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

fn lab() -> Result<Lab> {
    let lab = Lab::of(MANIFEST)?;
    lab.write_manifest("web-v4.yaml", &web_slice(&["10.66.2.10", "10.66.2.11"]))?;
    Ok(lab)
}

/// Status, body and curl's exit code of a request; status 0 for no answer.
fn get(from: &Host, url: &str) -> Result<(u16, String, i32)> {
    let mut command = from.netns.bounded("curl", BOUND);
    command.args(["--silent", "--noproxy", "*", "--max-time", "2"]);
    command.args(["--write-out", "\n%{http_code}", url]);
    let output = output(&mut command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
    let code = output.status.code().context("curl was killed")?;
    Ok((status.parse()?, body.to_owned(), code))
}

/// The server that answers a request.
fn server(from: &Host, url: &str) -> Result<String> {
    let (status, body, _) = get(from, url)?;
    ensure!(status == 200, "{status} {body}");
    let (name, _) = body.split_once(' ').context("a server's name")?;
    Ok(name.to_owned())
}

/// curl's exit code for a refused connection.
const REFUSED: i32 = 7;

#[test]
fn policy_and_http_rules_apply_to_the_backends_of_a_service() -> Result<()> {
    let lab = lab()?;
    let mut agent = Agent::start(&lab, 2)?;
    let client = lab.host("shop/client")?;
    for ip in ["10.96.2.1", "[fd96:2::1]"] {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            seen.insert(server(client, &format!("http://{ip}/docs"))?);
        }
        ensure!(seen.len() == 2, "{ip}: both backends are used: {seen:?}");
        let (status, body, _) = get(client, &format!("http://{ip}/secret"))?;
        ensure!(status == 403, "{ip}: {status} {body}");
        // Another port of the service.
        ensure!(get(client, &format!("http://{ip}:81/docs"))?.2 == REFUSED);
    }
    // Egress policy allows the backends of one service only.
    ensure!(get(client, "http://10.96.2.2/docs")?.0 == 0);
    ensure!(get(lab.host("shop/web-0")?, "http://10.96.2.2/docs")?.0 == 200);
    ensure!(get(client, "http://10.96.2.3/docs")?.2 == REFUSED);
    assert_eq!(lab.drops("service_no_backend")?, 1);
    assert_eq!(lab.drops("service_no_port")?, 2);
    // A pod calls a service whose backends include the pod itself.
    let web = lab.host("shop/web-0")?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        seen.insert(server(web, "http://10.96.2.1/any")?);
    }
    ensure!(seen.len() == 2, "itself, too: {seen:?}");
    agent.assert_alive()
}

#[test]
fn a_service_follows_its_slices() -> Result<()> {
    let lab = lab()?;
    let mut agent = Agent::start(&lab, 2)?;
    let client = lab.host("shop/client")?;
    lab.write_manifest("web-v4.yaml", &web_slice(&["10.66.2.11"]))?;
    let one = || {
        let list = lab.podgate_json(&["service", "list"])?;
        let rows = list.as_array().context("a list")?;
        let row = rows.iter().find(|row| row["address"] == "10.96.2.1").context("web")?;
        Ok((row["backends"] == serde_json::json!(["10.66.2.11:8080"])).then_some(()))
    };
    wait_for("one backend to be left", BOUND, one)?;
    for _ in 0..10 {
        let name = server(client, "http://10.96.2.1/docs")?;
        ensure!(name == "shop/web-1", "{name}");
    }
    let explained =
        lab.podgate_json(&["policy", "explain", "--from", "shop/client", "--to", "shop/web:http"])?;
    let service = &explained["service"];
    ensure!(service["translated"] == "10.96.2.1:80", "{explained}");
    ensure!(service["verdicts"][0]["verdict"] == "inspected", "{explained}");
    ensure!(service["verdicts"][0]["pod"] == "web-1", "{explained}");
    let text = lab.podgate(&["service", "list"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    ensure!(
        text.contains("10.96.2.1:80/TCP") && text.contains("1 => 10.66.2.11:8080/TCP"),
        "{text}"
    );
    let records = lab.podgate_json_lines(&["flows", "--last", "500"])?;
    let to_web = |record: &&Value| {
        record["service"]["name"] == "web" && record["destination"]["pod"] == "web-1"
    };
    let record = records.iter().find(to_web).context("a record of the service")?;
    ensure!(record["service"]["address"] == "10.96.2.1", "{record}");
    agent.assert_alive()
}

#[test]
fn dns_rules_apply_behind_a_service() -> Result<()> {
    let lab = lab()?;
    let mut command = lab.host("shop/resolver")?.netns.daemon("dnsmasq".as_ref());
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--user=root"]);
    command.args(["--no-resolv", "--no-hosts", "--log-queries", "--log-facility=-"]);
    command.args(["--local=/test/", "--host-record=www.allowed.test,198.51.100.7"]);
    command.arg("--host-record=evil.test,198.51.100.8");
    let resolver = Daemon::start("dnsmasq", command, lab.file("dnsmasq.log"))?;
    let dig = |from: &Host, server: &str, arguments: &[&str]| -> Result<String> {
        let mut command = from.netns.bounded("dig", BOUND);
        command.arg(format!("@{server}")).args(["+tries=1", "+time=4"]).args(arguments);
        Ok(String::from_utf8_lossy(&output(&mut command)?.stdout).into_owned())
    };
    let itself = lab.host("shop/resolver")?;
    let ready = || {
        let answer = dig(itself, "127.0.0.1", &["www.allowed.test"])?;
        Ok(answer.contains("status: NOERROR").then_some(()))
    };
    wait_for("the resolver to answer", BOUND, ready)?;
    let mut agent = Agent::start(&lab, 2)?;
    let client = lab.host("shop/client")?;
    for _ in 0..8 {
        for transport in ["+notcp", "+tcp"] {
            let allowed = dig(client, "10.96.2.53", &[transport, "www.allowed.test"])?;
            ensure!(allowed.contains("198.51.100.7"), "{allowed}");
            let denied = dig(client, "10.96.2.53", &[transport, "evil.test"])?;
            ensure!(denied.contains("status: REFUSED"), "{denied}");
        }
    }
    ensure!(!resolver.log().contains("evil.test"));
    agent.assert_alive()
}

/// The same services by node ports, and `other` by an external address too.
const NODE_PORTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  selector: {app: web}
  clusterIPs: [10.96.2.1, "fd96:2::1"]
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec:
  type: NodePort
  clusterIPs: [10.96.2.2, "fd96:2::2"]
  externalIPs: [203.0.113.80]
  ports: [{port: 80, nodePort: 30081}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: other-v6, namespace: shop, labels: {kubernetes.io/service-name: other}}
addressType: IPv6
ports: [{port: 8080}]
endpoints: [{addresses: ["fd66:2::12"]}]
---
apiVersion: v1
kind: Service
metadata: {name: outside, namespace: shop}
spec: {type: NodePort, clusterIP: 10.96.2.4, ports: [{port: 80, nodePort: 30082}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside, namespace: shop, labels: {kubernetes.io/service-name: outside}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [GUEST]}]
"#;

/// What kube-proxy does for these: it masquerades, so that a backend sees the node.
const KUBE_PROXY: &str = "
table ip services {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip daddr 192.0.2.1 tcp dport 30080 dnat to 10.66.2.10:8080
        ip daddr 192.0.2.1 tcp dport 30081 dnat to 10.66.2.12:8080
        ip daddr 203.0.113.80 tcp dport 80 dnat to 10.66.2.12:8080
        ip daddr 192.0.2.1 tcp dport 30082 dnat to GUEST:8080
    }
    chain postrouting { type nat hook postrouting priority srcnat; ct status dnat masquerade; }
}
table ip6 services {
    chain prerouting {
        type nat hook prerouting priority dstnat;
        ip6 daddr 2001:db8::1 tcp dport 30080 dnat to [fd66:2::10]:8080
        ip6 daddr 2001:db8::1 tcp dport 30081 dnat to [fd66:2::12]:8080
    }
    chain postrouting { type nat hook postrouting priority srcnat; ct status dnat masquerade; }
}
";

/// A pod may always send to its node, but not to what the node's kernel would translate that to.
#[test]
fn egress_policy_applies_to_the_backends_of_node_ports() -> Result<()> {
    let lab = lab()?;
    let guest = lab.host("guest")?;
    let _server = lab.serve(guest, &[8080])?;
    let address = guest.addresses.v4.to_string();
    lab.write_manifest("node-ports.yaml", &NODE_PORTS.replace("GUEST", &address))?;
    let mut agent = Agent::start(&lab, 2)?;
    nft(&lab, &KUBE_PROXY.replace("GUEST", &address))?;
    let (client, web) = (lab.host("shop/client")?, lab.host("shop/web-0")?);
    let node = ["192.0.2.1", "[2001:db8::1]"];
    for ip in node {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            seen.insert(server(client, &format!("http://{ip}:30080/docs"))?);
        }
        ensure!(seen.len() == 2, "{ip}: both backends are used: {seen:?}");
        let (status, body, _) = get(client, &format!("http://{ip}:30080/secret"))?;
        ensure!(status == 403, "{ip}: {status} {body}");
    }
    let denied = [
        "http://192.0.2.1:30081/docs",
        "http://[2001:db8::1]:30081/docs",
        "http://203.0.113.80/docs",
        "http://192.0.2.1:30082/docs",
    ];
    for url in denied {
        ensure!(get(client, url)?.0 == 0, "{url} from the client");
        // No policy selects this pod.
        ensure!(get(web, url)?.0 == 200, "{url}");
    }
    // Packets from outside are translated by the node.
    ensure!(get(guest, "http://192.0.2.1:30081/docs")?.0 == 200);
    let records = lab.podgate_json_lines(&["flows", "--last", "500"])?;
    let of_node_port = |record: &&Value| {
        let service = &record["service"];
        service["address"] == "192.0.2.1" && service["port"] == 30081
    };
    let mut of_node_port = records.iter().filter(of_node_port);
    let of_client = of_node_port.find(|record| record["source"]["pod"] == "client");
    let record = of_client.context("a record of the denial")?;
    ensure!(record["destination"]["pod"] == "other", "{record}");
    ensure!(record["verdict"] == "DROPPED", "{record}");
    ensure!(record["service"]["name"] == "other", "{record}");
    let question = ["policy", "explain", "--from", "shop/client", "--to", "192.0.2.1"];
    let explained = lab.podgate_json(&[&question[..], &["--port", "30081"]].concat())?;
    ensure!(explained["verdict"] == "denied", "{explained}");
    ensure!(explained["service"]["translated"] == "192.0.2.1:30081", "{explained}");
    let explained = lab.podgate_json(&[&question[..], &["--port", "10250"]].concat())?;
    ensure!(explained["verdict"] == "allowed", "{explained}");
    let text = lab.podgate(&["service", "list"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    ensure!(text.contains("0.0.0.0:30081/TCP") && text.contains("203.0.113.80:80/TCP"), "{text}");
    agent.assert_alive()
}

/// With `--services off` packets to cluster IPs go to the node's kernel, which has no route here.
#[test]
fn translation_can_be_turned_off() -> Result<()> {
    let lab = lab()?;
    let mut agent = Agent::start_with(&lab, 1, &["--services", "off"])?;
    ensure!(get(lab.host("shop/web-0")?, "http://10.96.2.1/docs")?.0 == 0);
    let list = lab.podgate_json(&["service", "list"])?;
    ensure!(list.as_array().is_some_and(Vec::is_empty), "{list}");
    agent.assert_alive()
}
