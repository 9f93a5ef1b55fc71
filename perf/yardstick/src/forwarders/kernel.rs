//! The kernel: a bridge with nftables rules.

use std::fmt::Write;
use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use podgate_tests::lab::run;
use tempfile::TempDir;

use super::{ForwarderPath, MEASURED_PORT, Pair, Pod, other_rule, run_in};
use crate::traffic::{FORWARDER_CORE, source_ports};

/// Timeout for an answer to cross the bridge.
const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// Filter of the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// None: there is no nftables table.
    None,
    /// This number of rules that don't match and one that does, in a stateless chain of the bridge
    /// family.
    Stateless(u32),
    /// The same with connection tracking: br_netfilter passes bridged packets to a chain of the ip
    /// family, whose first rule allows packets of established flows.
    Stateful(u32),
}

/// A bridge between two pods.
#[derive(Debug)]
pub(crate) struct Kernel {
    pair: Pair,
    filter: Filter,
    folder: TempDir,
}

impl Kernel {
    /// Creates the pods `name`, the bridge, and its rules.
    ///
    /// # Errors
    /// Without root, or when the kernel lacks a feature.
    pub(crate) fn start(name: &str, filter: Filter) -> Result<Self> {
        let pair = Pair::new(name)?;
        let Pair { client, server, node } = &pair;
        node.ip(&format!(
            "link add br0 type bridge\n\
             link set {} master br0\n\
             link set {} master br0\n\
             link set br0 up\n",
            client.link, server.link
        ))?;
        let folder = tempfile::tempdir()?;
        let kernel = Self { pair, filter, folder };
        kernel.write_rules()?;
        Ok(kernel)
    }

    /// Its pods.
    #[must_use]
    pub(crate) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// Adds two more pods to the bridge.
    ///
    /// # Errors
    /// As [`Pair::new`].
    pub(crate) fn add_pods(&self, name: &str) -> Result<[Pod; 2]> {
        let node = &self.pair.node;
        let others = [Pod::create(node, name, 3)?, Pod::create(node, name, 4)?];
        others[0].add_neighbour(&others[1])?;
        others[1].add_neighbour(&others[0])?;
        for pod in &others {
            node.ip(&format!("link set {} master br0\n", pod.link))?;
        }
        Ok(others)
    }

    /// The path through it, for live frames: the receiving link has threaded NAPI on the
    /// forwarders' core.
    ///
    /// # Errors
    /// As [`ForwarderPath::new`], or when threaded NAPI can't be enabled.
    pub(crate) fn path(&self, name: &str) -> Result<ForwarderPath<'_>> {
        let Pair { client, server, node } = &self.pair;
        run_in(node, "ethtool", &["-K", &client.link, "gro", "on"])?;
        self.thread_napi()?;
        let flow = self.pair.flow(MEASURED_PORT);
        let path = ForwarderPath::new(name, &client.netns, &server.netns, flow, None)?;
        if let Filter::Stateful(_) = self.filter {
            path.check(true)?;
            self.answer()?;
        }
        Ok(path)
    }

    /// Answers every flow once, so that connection tracking marks it established. No rule allows
    /// the answers, so if they pass, the flows are tracked.
    fn answer(&self) -> Result<()> {
        let Pair { client, server, .. } = &self.pair;
        let first = source_ports().start;
        let receiver = client.netns.inside(|| Ok(UdpSocket::bind((client.address, first))?))?;
        receiver.set_read_timeout(Some(ANSWER_BOUND))?;
        server.netns.inside(|| {
            let socket = UdpSocket::bind((server.address, MEASURED_PORT))?;
            for port in source_ports() {
                socket.send_to(&[0], (client.address, port))?;
            }
            Ok(())
        })?;
        receiver.recv(&mut [0]).context("the kernel doesn't track the flow")?;
        Ok(())
    }

    fn write_rules(&self) -> Result<()> {
        let Pair { client, server, node } = &self.pair;
        let (family, rules, first) = match self.filter {
            Filter::None => return Ok(()),
            Filter::Stateless(rules) => ("bridge", rules, ""),
            Filter::Stateful(rules) => ("ip", rules, "ct state established,related accept\n"),
        };
        let mut text = format!(
            "table {family} peer {{\nchain forward {{\n\
             type filter hook forward priority 0; policy drop;\n{first}"
        );
        for index in 0..rules {
            let (source, port) = other_rule(index);
            writeln!(text, "ip saddr {source} udp dport {port} accept")?;
        }
        let (from, to) = (client.address, server.address);
        writeln!(text, "ip saddr {from} ip daddr {to} udp dport {MEASURED_PORT} accept\n}}\n}}")?;
        let file = self.folder.path().join("rules.nft");
        fs::write(&file, text)?;
        run_in(node, "nft", &["-f", file.to_str().context("not UTF-8")?])?;
        if family == "ip" {
            node.sysctl(&[("bridge/bridge-nf-call-iptables", "1")])?;
        }
        Ok(())
    }

    /// Enables threaded NAPI on the receiving link, and pins its thread.
    fn thread_napi(&self) -> Result<()> {
        let Pair { client, node, .. } = &self.pair;
        // `ip netns exec` mounts the namespace's own /sys.
        let file = format!("/sys/class/net/{}/threaded", client.link);
        let script = format!("echo 1 > {file}");
        run(Command::new("ip").args(["netns", "exec", node.name(), "sh", "-c", &script]))?;
        let mut core = CpuSet::new();
        core.set(FORWARDER_CORE)?;
        let prefix = format!("napi/{}-", client.link);
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(name) = fs::read_to_string(entry.path().join("comm")) else { continue };
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            if name.starts_with(&prefix) {
                sched_setaffinity(Pid::from_raw(pid), &core)?;
                return Ok(());
            }
        }
        bail!("no kernel thread {prefix}")
    }
}
