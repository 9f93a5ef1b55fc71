//! Open vSwitch with its userspace datapath and AF_XDP ports.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use podgate_tests::lab::{Daemon, run, wait_for};
use tempfile::TempDir;

use super::{
    BULK_PORT, COMMAND_BOUND, ECHO_PORT, ForwarderPath, MEASURED_PORT, Pair, on_forwarder_core,
    other_rule,
};

/// Path of the database schema in Debian's openvswitch-common.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// Timeout for the daemons to start.
const BOUND: Duration = Duration::from_secs(20);
/// The forwarders' core, as Open vSwitch's CPU mask.
const CORE_MASK: &str = "other_config:pmd-cpu-mask=0x2";

/// ovs-vswitchd between two pods, with its own database.
#[derive(Debug)]
pub(crate) struct Ovs {
    vswitchd: Daemon,
    _database: Daemon,
    pair: Pair,
    folder: TempDir,
}

impl Ovs {
    /// Creates the pods `name`, starts the daemons, and adds `rules` OpenFlow rules that don't
    /// match, and those that do.
    ///
    /// # Errors
    /// Without root, or when Open vSwitch doesn't start or reports an error.
    pub(crate) fn start(name: &str, rules: u32) -> Result<Self> {
        let pair = Pair::new(name)?;
        pair.checksum_in_pods()?;
        let folder = tempfile::tempdir()?;
        let file = |name: &str| folder.path().join(name);
        run(Command::new("ovsdb-tool").arg("create").arg(file("conf.db")).arg(SCHEMA))?;

        let daemon = |program: &str| {
            let mut command = pair.node.daemon(program.as_ref());
            command.env("OVS_RUNDIR", folder.path()).env("OVS_SYSCONFDIR", folder.path());
            command.arg("--unixctl").arg(file(&format!("{program}.ctl")));
            command
        };
        let socket = file("db.sock");
        let socket = socket.to_str().context("not UTF-8")?;
        let mut command = daemon("ovsdb-server");
        command.arg(file("conf.db")).arg(format!("--remote=punix:{socket}"));
        let mut database = Daemon::start("ovsdb-server", command, file("ovsdb.log"))?;
        database.wait_until("its socket", BOUND, |_| Ok(fs::exists(socket)?.then_some(())))?;
        let mut command = daemon("ovs-vswitchd");
        command.arg(format!("unix:{socket}"));
        let vswitchd =
            on_forwarder_core(|| Daemon::start("ovs-vswitchd", command, file("vswitchd.log")))?;
        let ovs = Self { vswitchd, _database: database, pair, folder };
        ovs.configure(rules)?;
        Ok(ovs)
    }

    /// Its pods.
    #[must_use]
    pub(crate) fn pair(&self) -> &Pair {
        &self.pair
    }

    /// The forwarding process, which spins.
    #[must_use]
    pub(crate) fn daemon(&self) -> &Daemon {
        &self.vswitchd
    }

    /// The path through it.
    ///
    /// # Errors
    /// As [`ForwarderPath::new`].
    pub(crate) fn path(&self) -> Result<ForwarderPath<'_>> {
        let Pair { client, server, .. } = &self.pair;
        let flow = self.pair.flow(MEASURED_PORT);
        ForwarderPath::new("ovs", &client.netns, &server.netns, flow, Some(&self.vswitchd))
    }

    fn configure(&self, rules: u32) -> Result<()> {
        let Pair { client, server, .. } = &self.pair;
        let mut words = vec!["--no-wait", "init", "--", "set", "Open_vSwitch", ".", CORE_MASK];
        words.extend("-- add-br br0 -- set bridge br0 datapath_type=netdev".split(' '));
        words.extend("-- set bridge br0 fail_mode=secure".split(' '));
        self.vsctl(&words)?;
        for pod in [&client.link, &server.link] {
            let port = format!(
                "add-port br0 {pod} -- set interface {pod} type=afxdp options:xdp-mode=native"
            );
            self.vsctl(&port.split(' ').collect::<Vec<_>>())?;
        }
        self.write_flows(rules)
    }

    fn write_flows(&self, rules: u32) -> Result<()> {
        let Pair { client, server, .. } = &self.pair;
        let mut text = String::from("table=0,priority=0,actions=drop\n");
        for index in 0..rules {
            let (source, port) = other_rule(index);
            writeln!(text, "priority=100,udp,nw_src={source},tp_dst={port},actions=normal")?;
        }
        let (from, to) = (client.address, server.address);
        writeln!(
            text,
            "priority=100,udp,nw_src={from},nw_dst={to},tp_dst={MEASURED_PORT},actions=normal"
        )?;
        for port in [BULK_PORT, ECHO_PORT] {
            writeln!(
                text,
                "priority=100,tcp,nw_src={from},nw_dst={to},tp_dst={port},actions=normal\n\
                 priority=100,tcp,nw_src={to},nw_dst={from},tp_src={port},actions=normal"
            )?;
        }
        let file = self.folder.path().join("flows");
        fs::write(&file, text)?;
        // The bridge's management socket is created after the bridge.
        wait_for("Open vSwitch to take its flows", BOUND, || {
            let mut command = self.tool("ovs-ofctl");
            command.args(["add-flows", "br0"]).arg(&file);
            Ok(run(&mut command).ok())
        })
        .map(drop)
    }

    fn vsctl(&self, words: &[&str]) -> Result<()> {
        let mut command = self.tool("ovs-vsctl");
        let socket = self.folder.path().join("db.sock");
        command.arg(format!("--db=unix:{}", socket.display())).args(words);
        run(&mut command).map(drop)
    }

    fn tool(&self, program: &str) -> Command {
        let mut command = self.pair.node.bounded(program, COMMAND_BOUND);
        command.env("OVS_RUNDIR", self.folder.path());
        command
    }
}
