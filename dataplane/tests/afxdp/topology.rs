//! A node with two pods, in unnamed network namespaces, which end with the test in any case.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use podgate_hostnet::{netns, offload};

/// A network namespace, removed on drop.
pub(crate) struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        let enter = || {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("this test makes network namespaces: run it as root");
            let namespace = Self(File::open("/proc/thread-self/ns/net").unwrap());
            ip("link set lo up");
            namespace
        };
        thread::spawn(enter).join().unwrap()
    }

    /// A path that is valid in other processes, too.
    fn path(&self) -> PathBuf {
        Path::new("/proc")
            .join(std::process::id().to_string())
            .join("fd")
            .join(self.0.as_raw_fd().to_string())
    }

    /// Runs `work` in the namespace, on a new thread.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::inside(&self.path(), work).unwrap()
    }
}

/// Runs `ip` in the namespace of the calling thread.
pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 missing");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Serialises the tests: namespaces share each CPU's backlog queue (`net.core.netdev_max_backlog`),
/// so a flood in one would cause loss in another.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A node with two pods, each behind a veth of its own.
pub(crate) struct Topology {
    pub(crate) node: Namespace,
    pub(crate) pods: [Namespace; 2],
    /// The node's ends.
    pub(crate) ifindex: [u32; 2],
    _alone: MutexGuard<'static, ()>,
}

/// Addresses of the pods.
pub(crate) const ADDRESS: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
const MAC: [&str; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"];

impl Topology {
    /// Creates pods that reach each other if the node's two links are joined. They have static
    /// neighbour entries, so that only IP has to be forwarded.
    pub(crate) fn new(mtu: u32) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (node, pods) = (Namespace::new(), [Namespace::new(), Namespace::new()]);
        for (i, pod) in pods.iter().enumerate() {
            let peer = pod.path();
            node.inside(|| {
                let peer = peer.display();
                ip(&format!("link add pg-{i} mtu {mtu} type veth peer name eth0 netns {peer}"));
                ip(&format!("link set pg-{i} up"));
            });
            pod.inside(|| {
                ip(&format!("link set eth0 address {} mtu {mtu} up", MAC[i]));
                ip(&format!("address add {}/24 dev eth0", ADDRESS[i]));
                ip(&format!("neighbour add {} lladdr {} dev eth0", ADDRESS[1 - i], MAC[1 - i]));
                offload::tx_checksum_off("eth0").unwrap();
            });
        }
        let ifindex = node.inside(|| [0, 1].map(|i| if_nametoindex(&*format!("pg-{i}")).unwrap()));
        Self { node, pods, ifindex, _alone: alone }
    }
}
