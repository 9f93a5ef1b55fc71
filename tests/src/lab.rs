//! The lab: network namespaces for a node that runs the real `podgate`, for its pods, and for hosts
//! outside of the cluster.
//!
//! ```text
//!  pod admin/adminapp    pod backend/nginx         office, guest (hosts outside of the cluster)
//!    eth0 │                eth0 │                     eth0 │
//!  ┌──────┴─────────────────────┴──────────────────────────┴──── namespace "node" ──┐
//!  │ hv-adminapp          hv-nginx      …               out-office …                │
//!  │         └── podgate (AF_XDP) ──┘                        kernel routing         │
//!  │                        pg-xsk ═══ pg-host ──────────────────┘                  │
//!  └────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The pods are those of a folder of Kubernetes manifests: each Pod object gets a namespace with
//! the addresses of its status, and a real nginx on its container ports if its image is nginx.
//! No packet leaves these namespaces, and dropping the [`Lab`] removes them.

mod agent;
mod api_server;
mod capture;
mod client;
mod inject;
mod kubeconfig;
mod list_watch;
mod manifests;
mod netns;
mod nginx;
mod process;
mod signals;
mod stopped_thread;
mod stream;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

pub use agent::{Agent, program};
pub use api_server::{API_SERVER_PORT, ApiServer};
pub use capture::Capture;
pub use client::{Answer, Download, Get, Interruption, Outcome};
pub use inject::{CorpusFrame, Injected, Injector};
pub use list_watch::ListWatchServer;
pub use manifests::PodSpec;
pub use netns::{Netns, remove_stale};
pub use process::{Daemon, bounded, output, run, wait_for};
pub use signals::interrupted;
pub use stopped_thread::StoppedThread;
pub use stream::Stream;

use manifests::pods_in;
pub use nginx::run_nginx;
use nginx::start_nginx;

/// The IPv4 gateway of every pod and outside host; the node's kernel answers ARP for it on each
/// link.
const GATEWAY_V4: &str = "169.254.1.1";
/// The IPv6 gateway.
const GATEWAY_V6: &str = "fe80::1";
/// Addresses of the node itself.
const NODE: Addresses = Addresses {
    v4: Ipv4Addr::new(192, 0, 2, 1),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
};
/// Hosts outside of the cluster, to which the node's kernel routes.
const OUTSIDE: [(&str, Addresses); 2] = [
    (
        "office",
        Addresses {
            v4: Ipv4Addr::new(192, 0, 2, 10),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10),
        },
    ),
    (
        "guest",
        Addresses {
            v4: Ipv4Addr::new(192, 0, 2, 66),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66),
        },
    ),
];

/// IP version of a test's traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, for loops.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// The address of `family`.
    #[must_use]
    pub fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// Something with a network namespace and addresses: a pod, an outside host, or the node.
#[derive(Debug)]
pub struct Host {
    /// `namespace/name` of a pod, or the plain name of anything else.
    pub name: String,
    /// Its addresses.
    pub addresses: Addresses,
    /// Its namespace.
    pub netns: Netns,
    /// The node's end of its veth pair; empty for the node.
    pub link: String,
}

/// The whole lab. See the module's description.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: servers, namespaces, files, and the lock last.
    servers: Vec<Daemon>,
    hosts: Vec<Host>,
    node: Host,
    folder: TempDir,
    number: u32,
    _one_at_a_time: MutexGuard<'static, ()>,
}

/// Serialises labs: on two cores, tests at the same time would disturb each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// How many labs this process has built.
static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// Builds the lab for the pods of the manifests in `folder`, and starts their servers. The
    /// manifests are copied; [`Self::write_manifest`] changes the copies.
    ///
    /// # Errors
    /// Without root, without a needed program, or with a manifest that can't be read.
    pub fn new(folder: &Path) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab creates network namespaces: run it as root"
        );
        signals::catch()?;
        // A poisoned lock is fine: the lab of the test that failed was dropped.
        let one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        remove_stale();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let temporary =
            tempfile::Builder::new().prefix(&netns::own_name(&format!("{number}-"))).tempdir()?;
        let node = Host {
            name: "node".into(),
            addresses: NODE,
            netns: Netns::create(&format!("{number}-node"))?,
            link: String::new(),
        };
        let mut lab = Self {
            servers: Vec::new(),
            hosts: Vec::new(),
            node,
            folder: temporary,
            number,
            _one_at_a_time: one_at_a_time,
        };
        lab.copy_manifests(folder)?;
        lab.set_up_node()?;
        for (name, addresses) in OUTSIDE {
            lab.add_outside_host(name, addresses)?;
        }
        for pod in pods_in(&lab.manifests())? {
            lab.add_pod(&pod)?;
        }
        Ok(lab)
    }

    /// As [`Self::new`], with these objects.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of(objects: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("objects.yaml"), objects)?;
        Self::new(folder.path())
    }

    /// The pod `namespace/name`, the outside host, or `node`.
    ///
    /// # Errors
    /// When the lab has no host of that name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let mut all = self.hosts.iter().chain([&self.node]);
        all.find(|host| host.name == name).with_context(|| format!("the lab has no host {name}"))
    }

    /// The node, whose namespace the agent runs in.
    #[must_use]
    pub fn node(&self) -> &Host {
        &self.node
    }

    /// The pods, in the order of their names.
    pub fn pods(&self) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(|host| host.name.contains('/'))
    }

    /// Everything but the node.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// A path below the lab's temporary folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of manifests that the agent reads.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.file("manifests")
    }

    /// Writes or replaces a manifest atomically.
    ///
    /// # Errors
    /// When the file can't be written or renamed.
    pub fn write_manifest(&self, name: &str, text: &str) -> Result<()> {
        let unfinished = self.file("unfinished-manifest");
        fs::write(&unfinished, text)?;
        fs::rename(&unfinished, self.manifests().join(name))?;
        Ok(())
    }

    /// Removes a manifest.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn remove_manifest(&self, name: &str) -> Result<()> {
        fs::remove_file(self.manifests().join(name)).with_context(|| format!("no manifest {name}"))
    }

    /// Starts nginx in a host that has none, such as the node.
    ///
    /// # Errors
    /// When it doesn't answer in time.
    pub fn serve(&self, host: &Host, ports: &[u16]) -> Result<Daemon> {
        let prefix = self.file(&format!("nginx-{}", host.name.replace('/', "-")));
        start_nginx(host, &prefix, ports)
    }

    /// Adds kernel routes to the pods, so that the node forwards without an agent.
    ///
    /// # Errors
    /// When a route can't be added.
    pub fn add_kernel_routes(&self) -> Result<()> {
        let routes = self.pods().map(routes_to);
        self.node.netns.ip(&routes.collect::<String>())
    }

    /// Deletes a host's veth pair, as when a pod is deleted.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn delete_link(&self, host: &Host) -> Result<()> {
        self.node.netns.ip(&format!("link del {}\n", host.link))
    }

    /// Creates a host's veth pair and configures both ends.
    ///
    /// # Errors
    /// When the link exists.
    pub fn create_link(&self, host: &Host) -> Result<()> {
        self.create_link_named(host, &host.link)
    }

    /// As [`Self::create_link`], with another name of the node's end.
    ///
    /// # Errors
    /// When the link exists.
    pub fn create_link_named(&self, host: &Host, link: &str) -> Result<()> {
        let (netns, addresses) = (host.netns.name(), host.addresses);
        self.node.netns.ip(&format!(
            "link add {link} type veth peer name eth0 netns {netns}\n\
             addr add {GATEWAY_V4}/32 scope link dev {link}\n\
             addr add {GATEWAY_V6}/64 dev {link} nodad\n\
             link set {link} up\n"
        ))?;
        host.netns.ip(&format!(
            "link set lo up\n\
             link set eth0 up\n\
             addr add {}/32 dev eth0\n\
             addr add {}/128 dev eth0 nodad\n\
             route add {GATEWAY_V4} dev eth0 scope link\n\
             route add default via {GATEWAY_V4} dev eth0\n\
             route add default via {GATEWAY_V6} dev eth0\n",
            addresses.v4, addresses.v6
        ))
    }

    /// Sets the MTU of both ends of a host's veth pair.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn set_mtu(&self, host: &Host, mtu: u32) -> Result<()> {
        self.node.netns.ip(&format!("link set {} mtu {mtu}\n", host.link))?;
        host.netns.ip(&format!("link set eth0 mtu {mtu}\n"))
    }

    fn copy_manifests(&self, from: &Path) -> Result<()> {
        fs::create_dir(self.manifests())?;
        let entries =
            fs::read_dir(from).with_context(|| format!("no folder {}", from.display()))?;
        for entry in entries {
            let entry = entry?;
            fs::copy(entry.path(), self.manifests().join(entry.file_name()))?;
        }
        Ok(())
    }

    /// Gives the node an address and forwarding. The reverse path filter is off: it would drop ARP
    /// requests of pods, whose route is through `pg-host` and not through their veth.
    fn set_up_node(&self) -> Result<()> {
        self.node.netns.sysctl(&[
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv6/conf/default/accept_dad", "0"),
        ])?;
        let Addresses { v4, v6 } = NODE;
        self.node.netns.ip(&format!(
            "link set lo up\naddr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n"
        ))
    }

    fn add_outside_host(&mut self, name: &str, addresses: Addresses) -> Result<()> {
        let host = self.add_host(name, name, format!("out-{name}"), addresses)?;
        let routes = routes_to(host);
        self.node.netns.ip(&routes)
    }

    fn add_pod(&mut self, pod: &PodSpec) -> Result<()> {
        let PodSpec { namespace, name, .. } = pod;
        let full_name = format!("{namespace}/{name}");
        let suffix = format!("{namespace}-{name}");
        self.add_host(&full_name, &suffix, format!("hv-{name}"), pod.addresses)?;
        if !pod.nginx_ports.is_empty() {
            let server = self.serve(self.host(&full_name)?, &pod.nginx_ports)?;
            self.servers.push(server);
        }
        Ok(())
    }

    fn add_host(
        &mut self,
        name: &str,
        suffix: &str,
        link: String,
        addresses: Addresses,
    ) -> Result<&Host> {
        ensure!(link.len() < 16, "{link} is too long for the name of a link (15 bytes)");
        let netns = Netns::create(&format!("{}-{suffix}", self.number))?;
        // Without duplicate address detection, which delays an address by a second.
        netns.sysctl(&[("ipv6/conf/default/accept_dad", "0")])?;
        let host = Host { name: name.to_owned(), addresses, netns, link };
        self.create_link(&host)?;
        self.hosts.push(host);
        self.host(name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.podgate_cleanup() {
            eprintln!("lab: {error:#}");
        }
        // The agent's BPF file system, if cleanup left it mounted: its pinned links go with it.
        netns::unmount_below(&self.folder.path().to_string_lossy());
    }
}

fn routes_to(host: &Host) -> String {
    let Host { addresses: Addresses { v4, v6 }, link, .. } = host;
    format!("route add {v4} dev {link} scope link\nroute add {v6} dev {link}\n")
}
