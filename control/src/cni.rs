//! `podgate cni`: installs the CNI plugin on a node.
//!
//! A container runtime watches the directory of configurations and runs plugins at any time. So the
//! plugin is in place before the configuration that names it, and both appear by a rename.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use serde_json::{Value, json};

use crate::atomic_file;
use crate::cli::{CniInstallArgs, CniMode, CniRemoveArgs};
use crate::error::describe;
use crate::output::print;
use crate::sources::kube::in_cluster;

/// Name of the plugin's file, and its `type` in configurations.
const PLUGIN: &str = "podgate-cni";
/// Names of the configuration. Runtimes use the first file by name: the second name is for
/// directories where another plugin's comes before the first one.
const FILES: [&str; 2] = ["05-podgate.conflist", "00-podgate.conflist"];
/// Delay after which a configuration or Node object that is not there yet is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// Installs the plugin, then its configuration.
///
/// # Errors
/// When a file can't be written, or the other plugin's configuration or the Node's networks don't
/// appear in time.
pub(crate) fn install(args: &CniInstallArgs) -> Result<()> {
    let (name, configuration) = match args.mode {
        CniMode::Alone => {
            let networks = match args.pod_cidr.as_slice() {
                [] => networks_of_node(args)?,
                networks => networks.to_vec(),
            };
            (FILES[0], alone(args, &networks))
        }
        CniMode::Chained => {
            let other = wait(args, || other_configuration(&args.conf.conf_dir))?;
            (name_before(&other.path)?, chained(args, other.content)?)
        }
    };
    let plugin = plugin(args)?;
    let bytes = fs::read(&plugin).with_context(|| format!("can't read {}", plugin.display()))?;
    replace(&args.bin_dir.join(PLUGIN), &bytes, 0o755)?;
    let path = args.conf.conf_dir.join(name);
    let text = serde_json::to_string_pretty(&configuration)? + "\n";
    replace(&path, text.as_bytes(), 0o644)?;
    for other in FILES.iter().filter(|other| **other != name) {
        remove_file(&args.conf.conf_dir.join(other))?;
    }
    Ok(print(&format!("installed {}\n", path.display()))?)
}

/// Removes the configuration.
///
/// # Errors
/// When a file can't be removed.
pub(crate) fn remove(args: &CniRemoveArgs) -> Result<()> {
    for name in FILES {
        let path = args.conf_dir.join(name);
        if remove_file(&path)? {
            print(&format!("removed {}\n", path.display()))?;
        }
    }
    Ok(())
}

/// The configuration of podgate as the only plugin.
fn alone(args: &CniInstallArgs, networks: &[IpNet]) -> Value {
    let ranges: Vec<_> = networks.iter().map(|network| json!([{"subnet": network}])).collect();
    let mut plugin = own_plugin(args);
    plugin["ipam"] = json!({"type": "host-local", "ranges": ranges});
    json!({"cniVersion": "1.0.0", "name": "podgate", "plugins": [plugin]})
}

fn own_plugin(args: &CniInstallArgs) -> Value {
    let mut plugin = json!({"type": PLUGIN, "socket": args.agent_socket});
    if let Some(mtu) = args.mtu {
        plugin["mtu"] = json!(mtu);
    }
    plugin
}

/// The other plugin's configuration, with podgate's appended.
fn chained(args: &CniInstallArgs, mut other: Value) -> Result<Value> {
    if other.get("plugins").is_none() {
        // A single plugin becomes a list: the members that belong to the list move to it.
        let mut list = json!({});
        for member in ["cniVersion", "name"] {
            if let Some(value) = other.get(member) {
                list[member] = value.clone();
            }
        }
        list["plugins"] = json!([other]);
        other = list;
    }
    let plugins = other["plugins"].as_array_mut().context("`plugins` is not a list")?;
    plugins.retain(|plugin| plugin["type"] != PLUGIN);
    plugins.push(own_plugin(args));
    Ok(other)
}

/// Another plugin's configuration.
struct Other {
    path: PathBuf,
    content: Value,
}

/// The first configuration of another plugin, as a container runtime chooses it.
fn other_configuration(dir: &Path) -> Result<Other> {
    let entries = fs::read_dir(dir).with_context(|| format!("can't read {}", dir.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let is_others = |path: &&PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let is_own = path.file_name().is_some_and(|name| FILES.iter().any(|own| name == *own));
        matches!(extension, Some("conflist" | "conf" | "json")) && !is_own
    };
    let Some(path) = paths.iter().find(is_others) else {
        bail!("no configuration of another plugin is in {}", dir.display());
    };
    let text =
        fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    let content = serde_json::from_str(&text)
        .with_context(|| format!("{} is no CNI configuration", path.display()))?;
    Ok(Other { path: path.clone(), content })
}

/// A name of the configuration that comes before the other one's.
fn name_before(other: &Path) -> Result<&'static str> {
    let name = other.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let before = FILES.into_iter().find(|own| *own < name);
    before.with_context(|| {
        format!("no name of podgate's configuration comes before {name}: rename that file")
    })
}

/// The networks that the Node object assigns to this node's pods.
fn networks_of_node(args: &CniInstallArgs) -> Result<Vec<IpNet>> {
    let Some(node) = &args.node_name else {
        bail!(
            "the networks of this node's pods are unknown: give --pod-cidr or, in a pod, --node-name"
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    wait(args, || runtime.block_on(read_networks(node)))
}

async fn read_networks(node: &str) -> Result<Vec<IpNet>> {
    let client = kube::Client::try_from(in_cluster()?)?;
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Node"));
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let object = api.get(node).await.with_context(|| format!("can't read node {node}"))?;
    networks_in(&object.data["spec"]).with_context(|| {
        format!("node {node} has no podCIDRs: nothing assigns them (--allocate-node-cidrs)")
    })
}

fn networks_in(spec: &Value) -> Option<Vec<IpNet>> {
    let all = spec["podCIDRs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all = if all.is_empty() { std::slice::from_ref(&spec["podCIDR"]) } else { all };
    all.iter().map(|network| network.as_str()?.parse().ok()).collect()
}

/// Asks until there is an answer, or for the time of `--timeout`.
fn wait<T>(args: &CniInstallArgs, ask: impl Fn() -> Result<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(args.timeout.into());
    let mut reported = String::new();
    loop {
        let error = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(error) => describe(error.as_ref()),
        };
        if error != reported {
            eprintln!("podgate: {}; trying again", crate::output::escape(&error));
            reported = error;
        }
        std::thread::sleep(RETRY);
    }
}

fn plugin(args: &CniInstallArgs) -> Result<PathBuf> {
    match &args.plugin {
        Some(plugin) => Ok(plugin.clone()),
        None => {
            Ok(std::env::current_exe().context("can't find this program")?.with_file_name(PLUGIN))
        }
    }
}

/// Replaces a file, unless it has this content: runtimes read a replaced one again.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    if fs::read(path).is_ok_and(|before| before == bytes) {
        return Ok(());
    }
    atomic_file::write_with_mode(path, bytes, mode)
        .with_context(|| format!("can't write {}", path.display()))
}

/// Removes a file. Returns whether it was there.
fn remove_file(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("can't remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    struct Node {
        dir: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Self {
            let node = Self { dir: tempfile::tempdir().unwrap() };
            fs::create_dir(node.bin()).unwrap();
            fs::create_dir(node.conf()).unwrap();
            fs::write(node.dir.path().join("plugin"), "program").unwrap();
            node
        }

        fn bin(&self) -> PathBuf {
            self.dir.path().join("bin")
        }

        fn conf(&self) -> PathBuf {
            self.dir.path().join("net.d")
        }

        fn args(&self, mode: CniMode) -> CniInstallArgs {
            CniInstallArgs {
                mode,
                bin_dir: self.bin(),
                conf: CniRemoveArgs { conf_dir: self.conf() },
                plugin: Some(self.dir.path().join("plugin")),
                pod_cidr: vec!["10.1.0.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
                node_name: None,
                mtu: None,
                agent_socket: "/run/podgate/podgate.sock".into(),
                timeout: 0,
            }
        }

        fn names(&self, dir: &Path) -> Vec<String> {
            let entries = fs::read_dir(dir).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.collect();
            names.sort();
            names
        }

        fn installed(&self, name: &str) -> Value {
            serde_json::from_slice(&fs::read(self.conf().join(name)).unwrap()).unwrap()
        }
    }

    #[test]
    fn alone_it_installs_the_plugin_and_a_configuration_with_the_nodes_networks() {
        let node = Node::new();
        install(&node.args(CniMode::Alone)).unwrap();
        install(&node.args(CniMode::Alone)).unwrap();
        assert_eq!(node.names(&node.bin()), [PLUGIN]);
        let mode = fs::metadata(node.bin().join(PLUGIN)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(node.names(&node.conf()), [FILES[0]]);
        let plugin = &node.installed(FILES[0])["plugins"][0];
        assert_eq!(plugin["ipam"]["ranges"][0][0]["subnet"], "10.1.0.0/24");
        assert_eq!(plugin["ipam"]["ranges"][1][0]["subnet"], "fd00:1::/64");
        remove(&CniRemoveArgs { conf_dir: node.conf() }).unwrap();
        assert_eq!(node.names(&node.conf()), [""; 0]);
        assert_eq!(node.names(&node.bin()), [PLUGIN], "for pods that are still attached");
    }

    #[test]
    fn chained_it_is_the_last_plugin_of_a_copy_that_comes_first() {
        let node = Node::new();
        let flannel = r#"{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel"},
                          {"type":"portmap"}]}"#;
        fs::write(node.conf().join("10-flannel.conflist"), flannel).unwrap();
        fs::write(node.conf().join("20-other.conf"), "{}").unwrap();
        install(&node.args(CniMode::Chained)).unwrap();
        let list = node.installed(FILES[0]);
        let types: Vec<_> =
            list["plugins"].as_array().unwrap().iter().map(|plugin| &plugin["type"]).collect();
        assert_eq!(types, ["flannel", "portmap", PLUGIN]);
        assert_eq!((&list["name"], &list["cniVersion"]), (&json!("cbr0"), &json!("0.3.1")));
        assert_eq!(fs::read_to_string(node.conf().join("10-flannel.conflist")).unwrap(), flannel);
        // A first configuration that comes even before.
        fs::write(node.conf().join("02-bridge.conf"), r#"{"name":"b","type":"bridge"}"#).unwrap();
        install(&node.args(CniMode::Chained)).unwrap();
        let list = node.installed(FILES[1]);
        assert_eq!((&list["name"], &list["plugins"][0]["type"]), (&json!("b"), &json!("bridge")));
        assert!(!node.conf().join(FILES[0]).exists());
    }

    #[test]
    fn chained_to_nothing_it_installs_nothing() {
        let node = Node::new();
        let error = install(&node.args(CniMode::Chained)).unwrap_err();
        assert!(error.to_string().contains("another plugin"), "{error}");
        fs::write(node.conf().join("10-a.conflist"), "{").unwrap();
        assert!(install(&node.args(CniMode::Chained)).is_err());
        assert_eq!(node.names(&node.bin()), [""; 0]);
        assert!(name_before(Path::new("/etc/cni/net.d/00-a.conflist")).is_err());
    }

    #[test]
    fn a_nodes_networks_are_those_of_all_families() {
        let networks = |spec: Value| networks_in(&spec).map(|networks| networks.len());
        assert_eq!(networks(json!({"podCIDR": "10.1.0.0/24"})), Some(1));
        let both = json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"]});
        assert_eq!(networks(both), Some(2));
        assert_eq!(networks(json!({})), None);
        assert_eq!(networks(json!({"podCIDRs": ["10.1.0.0"]})), None);
    }
}
