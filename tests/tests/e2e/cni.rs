//! The CNI plugin, as a container runtime runs it, with the address plugin `host-local` and chained
//! behind the plugin `bridge`.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{
    Addresses, Agent, Family, Get, Host, Lab, Netns, Outcome, output, program,
};
use podgate_tests::scenario::MANIFESTS;
use serde_json::{Value, json};

/// Where Debian installs CNI plugins.
const PLUGINS: &str = "/usr/lib/cni";
/// Timeout of one run of a plugin.
const BOUND: Duration = Duration::from_secs(30);

/// A container whose namespace exists, and which may be attached.
struct Container {
    id: &'static str,
    pod: &'static str,
    netns: Netns,
}

impl Container {
    fn new(id: &'static str, pod: &'static str) -> Result<Self> {
        Ok(Self { id, pod, netns: Netns::create(&format!("cni-{id}"))? })
    }

    /// The container as a host of the lab, after an ADD with this result.
    fn attached(self, result: &Value) -> Result<Host> {
        let address = |index: usize| -> Result<IpAddr> {
            let text = result["ips"][index]["address"].as_str().context("no address")?;
            Ok(text.split('/').next().unwrap_or_default().parse()?)
        };
        let (IpAddr::V4(v4), IpAddr::V6(v6)) = (address(0)?, address(1)?) else {
            anyhow::bail!("not one address of each family: {result}");
        };
        let link = result["interfaces"][0]["name"].as_str().unwrap_or_default().to_owned();
        let addresses = Addresses { v4, v6 };
        Ok(Host { name: self.pod.into(), addresses, netns: self.netns, link })
    }
}

/// A container runtime: runs plugins on the lab's node.
struct Runtime<'lab> {
    lab: &'lab Lab,
}

impl Runtime<'_> {
    fn ipam(&self) -> Value {
        json!({
            "type": "host-local",
            "dataDir": self.lab.file("ipam"),
            "ranges": [[{"subnet": "10.78.0.0/24"}], [{"subnet": "fd78::/64"}]],
        })
    }

    /// The configuration of podgate as the only plugin.
    fn alone(&self) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "podgate-cni",
            "socket": self.lab.state_dir().join("podgate.sock"), "ipam": self.ipam(),
        })
    }

    /// Addresses that `host-local` has assigned.
    fn assigned(&self) -> usize {
        let folder = self.lab.file("ipam").join("pods");
        let names = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.parse::<IpAddr>().is_ok()).count()
    }

    /// Runs a plugin. Returns what it prints, if it succeeds; else the error that it prints.
    fn run(
        &self,
        plugin: &str,
        command: &str,
        container: Option<&Container>,
        config: &Value,
    ) -> Result<Result<Value, Value>> {
        let own = program()?.with_file_name("podgate-cni");
        let path = match plugin {
            "podgate-cni" => own,
            other => PathBuf::from(PLUGINS).join(other),
        };
        let stdin = self.lab.file("cni-config.json");
        fs::write(&stdin, config.to_string())?;
        let path = path.to_str().context("not UTF-8")?;
        let mut process = self.lab.node().netns.bounded(path, BOUND);
        process.stdin(File::open(&stdin)?).env("CNI_COMMAND", command).env("CNI_PATH", PLUGINS);
        if let Some(container) = container {
            let (namespace, name) = container.pod.split_once('/').context("no pod name")?;
            let pod = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
            process
                .env("CNI_CONTAINERID", container.id)
                .env("CNI_NETNS", container.netns.path())
                .env("CNI_IFNAME", "eth0")
                .env("CNI_ARGS", format!("IgnoreUnknown=1;{pod}"));
        }
        let output = output(&mut process)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let printed = match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))?,
        };
        let log = String::from_utf8_lossy(&output.stderr);
        ensure!(log.is_empty(), "{plugin} {command} wrote to stderr: {log}");
        Ok(if output.status.success() { Ok(printed) } else { Err(printed) })
    }

    fn succeed(
        &self,
        command: &str,
        container: Option<&Container>,
        config: &Value,
    ) -> Result<Value> {
        let outcome = self.run("podgate-cni", command, container, config)?;
        outcome.map_err(|error| anyhow::anyhow!("{command} failed: {error}"))
    }

    fn fail(&self, command: &str, container: Option<&Container>, config: &Value) -> Result<Value> {
        match self.run("podgate-cni", command, container, config)? {
            Ok(result) => anyhow::bail!("{command} succeeded: {result}"),
            Err(error) => Ok(error),
        }
    }
}

fn pod_manifest(namespace: &str, name: &str, app: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         labels: {{ app: {app} }}\nspec:\n  containers: [{{ name: shell, image: curl }}]\n"
    )
}

fn status_of(lab: &Lab, from: &Host, path: &str, family: Family) -> Result<Option<u16>> {
    let nginx = lab.host("backend/nginx")?;
    Ok(match Get::path(path).fetch(from, nginx, family)? {
        Outcome::Answer(answer) => Some(answer.status),
        _ => None,
    })
}

fn endpoint_of(lab: &Lab, pod: &str) -> Result<Option<Value>> {
    let list = lab.podgate_json(&["endpoint", "list"])?;
    let mut endpoints = list.as_array().into_iter().flatten();
    Ok(endpoints.find(|endpoint| endpoint["pod"] == pod).cloned())
}

#[test]
fn a_pod_is_under_policy_when_add_returns_and_leaves_nothing_behind_after_del() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("fresh.yaml", &pod_manifest("admin", "fresh", "adminapp"))?;
    let mut agent = Agent::start(&lab, 2)?;
    let runtime = Runtime { lab: &lab };
    let config = runtime.alone();
    runtime.succeed(
        "STATUS",
        None,
        &json!({"cniVersion": "1.1.0", "name": "pods",
        "socket": config["socket"]}),
    )?;

    let container = Container::new("c1", "admin/fresh")?;
    let result = runtime.succeed("ADD", Some(&container), &config)?;
    assert_eq!(runtime.assigned(), 2);
    assert_eq!(endpoint_of(&lab, "admin/fresh")?.context("no endpoint")?["state"], "ready");
    let mut with_result = config.clone();
    with_result["prevResult"] = result.clone();
    runtime.succeed("CHECK", Some(&container), &with_result)?;
    // An ADD again, as after a timeout, replaces the link.
    let again = Container::new("c2", "admin/late")?;
    let waiting = runtime.succeed("ADD", Some(&again), &config)?;

    let fresh = container.attached(&result)?;
    for family in Family::BOTH {
        assert_eq!(status_of(&lab, &fresh, "/docs", family)?, Some(200), "{family}");
        assert_eq!(status_of(&lab, &fresh, "/secret", family)?, Some(403), "{family}");
    }
    // A pod without an object is cut off until its labels are known.
    let late = again.attached(&waiting)?;
    assert_eq!(endpoint_of(&lab, "admin/late")?.context("no endpoint")?["state"], "waiting");
    assert_eq!(status_of(&lab, &late, "/docs", Family::V4)?, None);
    lab.write_manifest("late.yaml", &pod_manifest("admin", "late", "adminapp"))?;
    agent.wait_until("the pod to be ready", |lab| {
        let endpoint = endpoint_of(lab, "admin/late")?;
        Ok(endpoint.filter(|endpoint| endpoint["state"] == "ready"))
    })?;
    assert_eq!(status_of(&lab, &late, "/docs", Family::V6)?, Some(200));

    let container = Container { id: "c1", pod: "admin/fresh", netns: fresh.netns };
    for _ in 0..2 {
        assert_eq!(runtime.succeed("DEL", Some(&container), &config)?, Value::Null);
        assert_eq!((endpoint_of(&lab, "admin/fresh")?, runtime.assigned()), (None, 2));
        let links = lab.node().netns.bounded("ip", BOUND).args(["-j", "link"]).output()?;
        assert!(!String::from_utf8_lossy(&links.stdout).contains(&fresh.link));
    }
    // What the runtime has forgotten.
    let mut collect = config.clone();
    (collect["cniVersion"], collect["cni.dev/valid-attachments"]) = ("1.1.0".into(), json!([]));
    collect.as_object_mut().context("an object")?.remove("ipam");
    runtime.succeed("GC", None, &collect)?;
    assert_eq!(endpoint_of(&lab, "admin/late")?, None);
    Ok(())
}

#[test]
fn without_an_agent_add_and_del_ask_to_be_tried_again_and_change_nothing() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("fresh.yaml", &pod_manifest("admin", "fresh", "adminapp"))?;
    let agent = Agent::start(&lab, 1)?;
    let runtime = Runtime { lab: &lab };
    let config = runtime.alone();
    let container = Container::new("c3", "admin/fresh")?;
    let result = runtime.succeed("ADD", Some(&container), &config)?;
    agent.stop()?;

    let other = Container::new("c4", "admin/other")?;
    let error = runtime.fail("ADD", Some(&other), &config)?;
    assert_eq!(error["code"], 11, "{error}");
    assert_eq!(runtime.assigned(), 2, "only the first container's");
    assert_eq!(runtime.fail("DEL", Some(&container), &config)?["code"], 11);
    assert_eq!(runtime.assigned(), 2, "an address under policy is not released");
    let unavailable = json!({"cniVersion": "1.1.0", "name": "pods", "socket": config["socket"]});
    assert_eq!(runtime.fail("STATUS", None, &unavailable)?["code"], 50);
    let version = runtime.succeed("VERSION", None, &json!({"cniVersion": "1.0.0"}))?;
    assert!(version["supportedVersions"].to_string().contains("\"1.0.0\",\"1.1.0\""));

    let _agent = Agent::restart(&lab, 1)?;
    runtime.succeed("DEL", Some(&container), &config)?;
    assert_eq!((endpoint_of(&lab, "admin/fresh")?, runtime.assigned()), (None, 0));
    // The same pod again, with another link and another address.
    let container = Container::new("c5", "admin/fresh")?;
    let second = runtime.succeed("ADD", Some(&container), &config)?;
    assert_ne!(second["interfaces"][0]["name"], result["interfaces"][0]["name"]);
    let fresh = container.attached(&second)?;
    assert_eq!(status_of(&lab, &fresh, "/docs", Family::V4)?, Some(200));
    Ok(())
}

#[test]
fn chained_behind_the_bridge_plugin_it_takes_over_the_pods_links() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    lab.write_manifest("fresh.yaml", &pod_manifest("admin", "fresh", "adminapp"))?;
    lab.write_manifest("stranger.yaml", &pod_manifest("other", "second", "stranger"))?;
    let mut agent = Agent::start(&lab, 2)?;
    let runtime = Runtime { lab: &lab };
    let bridge = json!({
        "cniVersion": "1.0.0", "name": "pods", "type": "bridge", "bridge": "cni0",
        "isDefaultGateway": true, "ipam": runtime.ipam(),
    });
    let attach = |container: &Container| -> Result<Value> {
        let first = runtime.run("bridge", "ADD", Some(container), &bridge)?;
        let first = first.map_err(|error| anyhow::anyhow!("bridge failed: {error}"))?;
        let mut chained = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "podgate-cni",
            "socket": lab.state_dir().join("podgate.sock"),
        });
        chained["prevResult"] = first.clone();
        let result = runtime.succeed("ADD", Some(container), &chained)?;
        assert_eq!(result, first, "the result of the plugin before");
        Ok(chained)
    };
    let (first, second) =
        (Container::new("c6", "admin/fresh")?, Container::new("c7", "other/second")?);
    let (config, other_config) = (attach(&first)?, attach(&second)?);
    let fresh = first.attached(&config["prevResult"])?;
    let stranger = second.attached(&other_config["prevResult"])?;
    for family in Family::BOTH {
        assert_eq!(status_of(&lab, &fresh, "/docs", family)?, Some(200), "{family}");
        assert_eq!(status_of(&lab, &fresh, "/secret", family)?, Some(403), "{family}");
        assert_eq!(status_of(&lab, &stranger, "/docs", family)?, None, "{family}");
        // Both are ports of one bridge, and their packets pass through podgate, as a policy shows.
        assert!(matches!(stranger.ping(&fresh, family)?, Outcome::Echo(_)), "{family}");
    }
    lab.write_manifest(
        "closed.yaml",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {name: closed, namespace: admin}\n\
         spec: {podSelector: {matchLabels: {app: adminapp}}, policyTypes: [Ingress]}\n",
    )?;
    agent.wait_until("the policy to be in force", |lab| {
        let endpoint = endpoint_of(lab, "admin/fresh")?;
        Ok(endpoint.filter(|endpoint| endpoint["ingress_enforced"] == true))
    })?;
    for family in Family::BOTH {
        assert_eq!(stranger.ping(&fresh, family)?, Outcome::NoAnswer, "{family}");
    }
    let container = Container { id: "c6", pod: "admin/fresh", netns: fresh.netns };
    runtime.succeed("DEL", Some(&container), &config)?;
    assert_eq!(endpoint_of(&lab, "admin/fresh")?, None);
    assert!(endpoint_of(&lab, "other/second")?.is_some());
    Ok(())
}
