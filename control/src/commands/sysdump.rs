//! `podgate sysdump`: diagnostics in one archive.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use podgate_api::{Client, ClientError, EndpointStatus, Family, FlowItem, PolicyFilter, Request};
use serde_json::Value;

use crate::cli::SysdumpArgs;
use crate::error::describe;
use crate::metrics;
use crate::output::{escape, escape_json, print};
use crate::redact::redact;

/// Files of the kernel that say what it is and what it can do.
const KERNEL_FILES: [&str; 8] = [
    "/proc/version",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/net/protocols",
    "/proc/net/dev",
    "/proc/net/softnet_stat",
    "/proc/sys/kernel/hostname",
    "/etc/os-release",
];

/// Longest of these files, bytes; the rest is left out.
const KERNEL_FILE_MAX: usize = 1 << 20;

/// Endpoints whose tables are collected.
const TABLES_MAX: usize = 256;

/// Collects and writes the archive, and prints its name.
///
/// # Errors
/// When the archive can't be written. What can't be collected is named in it.
pub(super) fn run(args: &SysdumpArgs) -> Result<()> {
    let time = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let name = format!("podgate-sysdump-{time}");
    let path = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("can't create {}", path.display()))?;
    let mut archive = Archive::new(file, &name);
    let written = collect(args, &mut archive).and_then(|()| archive.finish());
    written.with_context(|| format!("can't write {}", path.display()))?;
    Ok(print(&format!("{}\n", escape(&path.display().to_string())))?)
}

fn collect<W: Write>(args: &SysdumpArgs, archive: &mut Archive<W>) -> Result<()> {
    archive.add("version.txt", concat!("podgate ", env!("CARGO_PKG_VERSION"), "\n"))?;
    add_kernel_files(archive)?;
    add_answers(&mut Agent::new(&args.socket.socket, Duration::MAX), args.flows, archive)
}

fn add_answers<W: Write>(
    agent: &mut Agent<'_>,
    flows: u32,
    archive: &mut Archive<W>,
) -> Result<()> {
    for (name, request) in [
        ("status", Request::Status {}),
        ("config", Request::Config {}),
        ("endpoints", Request::EndpointList {}),
        ("policies", Request::PolicyList {}),
        ("policies-detail", Request::PolicyGet(PolicyFilter::default())),
        ("selectors", Request::PolicySelectors {}),
        ("ips", Request::IpList { address: None }),
        ("identities", Request::IdentityList {}),
        ("nodes", Request::NodeList {}),
        ("fqdns", Request::FqdnList { pattern: None }),
    ] {
        let value = agent.ask::<Value>(&request);
        archive.add_json(&format!("{name}.json"), value)?;
    }
    match agent.ask::<Vec<Family>>(&Request::Metrics {}) {
        Ok(families) => archive.add("metrics.prom", &metrics::to_text(&families))?,
        Err(error) => archive.add_failure("metrics.prom", &describe(error.as_ref())),
    }
    let endpoints: Vec<EndpointStatus> = agent.ask(&Request::EndpointList {}).unwrap_or_default();
    for endpoint in endpoints.into_iter().take(TABLES_MAX) {
        let link = endpoint.spec.link;
        let table = agent.ask::<Value>(&Request::TablePolicyGet { endpoint: link.clone() });
        archive.add_json(&format!("tables/{}.json", link.replace('/', "_")), table)?;
    }
    match agent.flows(flows) {
        Ok(lines) => archive.add("flows.json", &lines)?,
        Err(error) => archive.add_failure("flows.json", &describe(error.as_ref())),
    }
    Ok(())
}

fn add_kernel_files<W: Write>(archive: &mut Archive<W>) -> Result<()> {
    for path in KERNEL_FILES {
        let name = format!("kernel{path}");
        match fs::read(path) {
            Ok(bytes) => {
                let bytes = &bytes[..bytes.len().min(KERNEL_FILE_MAX)];
                archive.add(&name, &String::from_utf8_lossy(bytes))?;
            }
            Err(error) => archive.add_failure(&name, &error.to_string()),
        }
    }
    Ok(())
}

/// The agent, until it does not answer a request in time: then it is asked nothing more.
struct Agent<'s> {
    socket: &'s Path,
    /// Timeout for each answer, if it is shorter than the usual one.
    limit: Duration,
    is_stuck: bool,
}

impl<'s> Agent<'s> {
    const fn new(socket: &'s Path, limit: Duration) -> Self {
        Self { socket, limit, is_stuck: false }
    }

    fn ask<T: serde::de::DeserializeOwned>(&mut self, request: &Request) -> Result<T> {
        self.talk(|client| Ok(client.call(request)?))
    }

    /// The last flow records, one a line.
    fn flows(&mut self, last: u32) -> Result<String> {
        let mut lines = String::new();
        let request = Request::Flows { follow: false, last };
        self.talk(|client| {
            client.stream(&request, |item: FlowItem| {
                lines.push_str(&escape_json(&serde_json::to_string(&item)?));
                lines.push('\n');
                Ok::<_, anyhow::Error>(())
            })
        })?;
        Ok(lines)
    }

    fn talk<T>(&mut self, talk: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
        ensure!(!self.is_stuck, "not asked for, since the agent did not answer another request");
        let client = Client::connect_within(self.socket, self.limit);
        let answer = client.map_err(Into::into).and_then(|mut client| talk(&mut client));
        let error = answer.as_ref().err().and_then(|error| error.downcast_ref());
        self.is_stuck = matches!(error, Some(ClientError::TimedOut(_)));
        answer
    }
}

/// An archive whose files have no secrets.
struct Archive<W: Write> {
    tar: tar::Builder<GzEncoder<W>>,
    /// The folder of all files.
    folder: String,
    /// What could not be collected, one line each.
    errors: String,
}

impl<W: Write> Archive<W> {
    fn new(to: W, folder: &str) -> Self {
        let tar = tar::Builder::new(GzEncoder::new(to, Compression::default()));
        Self { tar, folder: folder.to_owned(), errors: String::new() }
    }

    /// Adds a text, without its secrets.
    fn add(&mut self, name: &str, text: &str) -> Result<()> {
        let text = redact(text);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(Timestamp::now().as_second().try_into().unwrap_or(0));
        let path = format!("{}/{name}", self.folder);
        Ok(self.tar.append_data(&mut header, path, text.as_bytes())?)
    }

    fn add_json(&mut self, name: &str, value: Result<Value>) -> Result<()> {
        match value {
            Ok(value) => self.add(name, &escape_json(&serde_json::to_string_pretty(&value)?)),
            Err(error) => {
                self.add_failure(name, &describe(error.as_ref()));
                Ok(())
            }
        }
    }

    /// Notes that a file could not be collected.
    fn add_failure(&mut self, name: &str, reason: &str) {
        self.errors.push_str(&format!("{name}: {reason}\n"));
    }

    fn finish(mut self) -> Result<()> {
        let errors = std::mem::take(&mut self.errors);
        self.add("errors.txt", &errors)?;
        self.tar.into_inner()?.finish()?.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use flate2::read::GzDecoder;
    use podgate_api::Answer;
    use serde_json::json;

    use super::*;
    use crate::cli::SocketArgs;

    /// Names and texts of an archive.
    fn files(bytes: &[u8]) -> Vec<(String, String)> {
        let mut archive = tar::Archive::new(GzDecoder::new(bytes));
        let mut files = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            files.push((name, text));
        }
        files
    }

    #[test]
    fn without_an_agent_the_archive_says_so_and_has_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.tar.gz");
        let socket = SocketArgs { socket: dir.path().join("none.sock") };
        let args = SysdumpArgs { socket, file: Some(path.clone()), flows: 10 };
        run(&args).unwrap();
        let files = files(&fs::read(&path).unwrap());
        let text = |end: &str| {
            files.iter().find(|(name, _)| name.ends_with(end)).map(|(_, text)| text.clone())
        };
        assert!(text("/errors.txt").unwrap().contains("status.json: the agent can't be reached"));
        assert!(text("/kernel/proc/version").unwrap().starts_with("Linux version"));
        // It replaces nothing.
        assert!(run(&args).is_err());
    }

    #[test]
    fn an_agent_that_does_not_answer_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("silent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes, "dump");
        let mut agent = Agent::new(&socket, Duration::from_millis(50));
        add_answers(&mut agent, 10, &mut archive).unwrap();
        archive.finish().unwrap();
        listener.set_nonblocking(true).unwrap();
        let connections = std::iter::from_fn(|| listener.accept().ok());
        assert_eq!(connections.count(), 1);
        let errors = files(&bytes).pop().unwrap().1;
        assert!(errors.starts_with("status.json: the agent did not answer within"), "{errors}");
        for name in ["fqdns.json", "metrics.prom", "flows.json"] {
            assert!(errors.contains(&format!("{name}: not asked for")), "{errors}");
        }
    }

    #[test]
    fn what_does_not_print_is_escaped_in_json() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let end = |path: &str| json!({"address": path, "identity": 7, "labels": ["a=\u{202e}"]});
        let flow = json!({
            "time": "2026-01-02T03:04:05Z", "verdict": "DROPPED", "source": end("10.0.0.1"),
            "destination": end("10.0.0.2"), "protocol": "TCP", "link": 3, "epoch": 7,
            "type": "drop",
        });
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in [Answer::Item(json!({"flow": flow})), Answer::End(true)] {
                stream.write_all(answer.to_line().as_bytes()).unwrap();
            }
        });
        let lines = Agent::new(&socket, Duration::MAX).flows(1).unwrap();
        server.join().unwrap();
        assert!(lines.contains(r"a=\u202e"), "{lines}");
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes, "dump");
        archive.add_json("nodes.json", Ok(json!("\u{2066}\u{2028}"))).unwrap();
        archive.finish().unwrap();
        assert_eq!(files(&bytes)[0].1, r#""\u2066\u2028""#);
    }

    #[test]
    fn what_is_added_has_no_secrets() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes, "dump");
        let value = json!({"path": "/a?key=s3cr3t", "token": "s3cr3t"});
        archive.add_json("status.json", Ok(value)).unwrap();
        archive.add("flows.json", "Authorization: Bearer s3cr3t\n").unwrap();
        archive.finish().unwrap();
        for (name, text) in files(&bytes) {
            assert!(!text.contains("s3cr3t"), "{name}: {text}");
        }
    }
}
