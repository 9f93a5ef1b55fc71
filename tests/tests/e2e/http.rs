//! HTTP connections that stay usable after a denial, with real clients and a real server.

use std::io::{Read, Write};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podgate_tests::lab::{Agent, Family, Host, Lab, output};
use podgate_tests::scenario::{DENIED_BODY, MANIFESTS};

const BOUND: Duration = Duration::from_secs(30);

/// Status and new connections of each request that one curl sends, one after the other.
fn statuses(from: &Host, to: &Host, family: Family, paths: &[&str]) -> Result<Vec<(u16, u32)>> {
    let mut command = from.netns.bounded("curl", BOUND);
    command.args(["--silent", "--show-error", "--noproxy", "*"]);
    command.args(["--write-out", "%{stderr}%{http_code} %{num_connects}\n"]);
    let address = match to.addresses.of(family) {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    };
    for path in paths {
        command.args(["--output", "/dev/null", &format!("http://{address}{path}")]);
    }
    let output = output(&mut command)?;
    let text = String::from_utf8_lossy(&output.stderr);
    let line = |line: &str| {
        let (status, connects) = line.split_once(' ').context("a status and a number")?;
        Ok((status.parse()?, connects.parse()?))
    };
    text.lines().map(line).collect::<Result<_>>().with_context(|| text.clone().into_owned())
}

#[test]
fn one_connection_of_curl_goes_on_behind_denied_requests() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 2)?;
    let (admin, nginx) = (lab.host("admin/adminapp")?, lab.host("backend/nginx")?);
    for family in Family::BOTH {
        let paths = ["/docs", "/secret", "/secret", "/docs", "/secret", "/docs"].repeat(20);
        let seen = statuses(admin, nginx, family, &paths)?;
        let expected = paths
            .iter()
            .enumerate()
            .map(|(index, path)| (if *path == "/docs" { 200 } else { 403 }, u32::from(index == 0)));
        assert_eq!(seen, expected.collect::<Vec<_>>(), "{family}");
    }
    Ok(())
}

#[test]
fn pipelined_requests_are_answered_in_order() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 2)?;
    let (admin, nginx) = (lab.host("admin/adminapp")?, lab.host("backend/nginx")?);
    for family in Family::BOTH {
        let mut stream = admin.connect(nginx, 80, family)?;
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: nginx\r\n\r\n");
        let body = "x".repeat(50_000);
        let post =
            "POST /secret HTTP/1.1\r\nHost: nginx\r\nContent-Length: 50000\r\n\r\n".to_owned();
        let last = "GET /docs HTTP/1.1\r\nHost: nginx\r\nConnection: close\r\n\r\n".to_owned();
        let rounds = [get("/docs"), get("/secret"), post + &body, get("/docs")].concat().repeat(3);
        stream.write_all((rounds + &last).as_bytes())?;
        let mut received = String::new();
        stream.read_to_string(&mut received)?;
        let statuses: Vec<_> =
            received.match_indices("HTTP/1.1 ").map(|(at, _)| &received[at + 9..at + 12]).collect();
        let expected = [["200", "403", "403", "200"].repeat(3), vec!["200"]].concat();
        assert_eq!(statuses, expected, "{family}: {received}");
        assert_eq!(received.matches(DENIED_BODY).count(), 6);
    }
    Ok(())
}

#[test]
fn a_load_of_denied_requests_breaks_no_connection() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 2)?;
    let (admin, nginx) = (lab.host("admin/adminapp")?, lab.host("backend/nginx")?);
    let mut command = admin.netns.bounded("wrk", BOUND);
    let url = format!("http://{}/secret", nginx.addresses.of(Family::V4));
    let output = output(command.args(["-c", "64", "-t", "1", "-d", "2s", &url]))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && !text.contains("Socket errors"), "{text}");
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    let denied =
        text.lines().find_map(|line| line.trim().strip_prefix("Non-2xx or 3xx responses: "));
    assert_eq!(requests.context("a number of requests")?.0, denied.context("denials")?, "{text}");
    assert_eq!(statuses(admin, nginx, Family::V4, &["/docs"])?, [(200, 1)]);
    Ok(())
}

/// The same with Linux's TCP on both sides, over a lossy link, with and without the options that
/// contain sequence numbers or timestamps.
#[test]
fn a_lossy_link_loses_no_response() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let _agent = Agent::start(&lab, 2)?;
    let (admin, nginx) = (lab.host("admin/adminapp")?, lab.host("backend/nginx")?);
    for [sack, timestamps] in [["1", "1"], ["0", "1"], ["1", "0"], ["0", "0"]] {
        for host in [admin, nginx] {
            host.netns.inside(|| {
                std::fs::write("/proc/sys/net/ipv4/tcp_sack", sack)?;
                Ok(std::fs::write("/proc/sys/net/ipv4/tcp_timestamps", timestamps)?)
            })?;
            drop_some(host)?;
        }
        let paths = ["/docs", "/secret", "/docs"].repeat(40);
        let seen = statuses(admin, nginx, Family::V4, &paths)?;
        let connects: u32 = seen.iter().map(|(_, connects)| connects).sum();
        let statuses: Vec<_> = seen.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, [200, 403, 200].repeat(40), "sack {sack}, timestamps {timestamps}");
        assert_eq!(connects, 1);
    }
    Ok(())
}

/// Drops three packets of a hundred that arrive at a host.
fn drop_some(host: &Host) -> Result<()> {
    let rules = "flush ruleset; table inet loss { chain input { type filter hook input priority 0; \
                 tcp flags & (syn | rst) == 0 numgen random mod 100 < 3 drop; }; }";
    let output = output(host.netns.bounded("nft", BOUND).arg(rules))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
