//! Packet captures by tcpdump.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::process::{bounded, run};
use super::{Daemon, Host, Lab};

/// Timeout for tcpdump to start, to exit, or to read a capture.
const BOUND: Duration = Duration::from_secs(30);

/// A capture that runs on one link.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Daemon,
    file: PathBuf,
}

impl Capture {
    /// Starts to capture on `eth0` of a pod or outside host.
    ///
    /// # Errors
    /// When tcpdump can't be run.
    pub fn start(lab: &Lab, host: &Host) -> Result<Self> {
        Self::start_on(lab, host, "eth0")
    }

    /// Starts to capture on the link `link` of `host`; returns when packets are being captured.
    ///
    /// # Errors
    /// When tcpdump can't be run or there is no such link.
    pub fn start_on(lab: &Lab, host: &Host, link: &str) -> Result<Self> {
        let label = format!("capture-{}-{link}", host.name.replace('/', "-"));
        let file = lab.file(&format!("{label}.pcap"));
        let mut command = host.netns.daemon("tcpdump".as_ref());
        command.args(["-i", link, "-U", "--immediate-mode", "-s", "0", "-Z", "root", "-w"]);
        command.arg(&file);
        let mut tcpdump = Daemon::start("tcpdump", command, lab.file(&format!("{label}.log")))?;
        tcpdump.wait_until("tcpdump to listen", BOUND, |tcpdump| {
            Ok(tcpdump.log().contains("listening on").then_some(()))
        })?;
        Ok(Self { tcpdump, file })
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// When tcpdump doesn't end.
    pub fn stop(mut self) -> Result<Captured> {
        self.tcpdump.signal(Signal::SIGINT)?;
        let status = self.tcpdump.wait_exit(BOUND)?;
        ensure!(status.success(), "tcpdump ended with {status}: {}", self.tcpdump.log());
        Ok(Captured { file: self.file })
    }
}

/// A finished capture.
#[derive(Debug)]
pub struct Captured {
    file: PathBuf,
}

impl Captured {
    /// The pcap file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The captured packets that match a filter in tcpdump's language, one line each.
    ///
    /// # Errors
    /// When the filter is wrong.
    pub fn packets(&self, filter: &str) -> Result<Vec<String>> {
        let mut command = bounded("tcpdump", BOUND);
        let lines = run(command.arg("-r").arg(&self.file).args(["-nn", "-t", filter]))?;
        // A packet that tcpdump can't decode is followed by indented lines of its bytes.
        let of_packets = lines.lines().filter(|line| !line.starts_with(char::is_whitespace));
        Ok(of_packets.map(str::to_owned).collect())
    }
}
