//! Queries from dnsperf to unbound, through DNS rules.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podgate_tests::lab::{Daemon, Host, Lab, run, wait_for};

use super::direct::{Direct, compare};
use crate::context::Context;
use crate::measure::Measurement;

const VS_DIRECT: &str = "l7.dns.vs_direct";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[VS_DIRECT];

const BAR: f64 = 0.8;
const PORT: u16 = 53;
/// Names, each with an address of its own.
const NAMES: u16 = 1000;
/// Flows, and queries that wait for their answers, of all flows.
const CLIENTS: &str = "16";
const OUTSTANDING: &str = "100";
const SECONDS: u32 = 3;
const SECONDS_QUICK: u32 = 2;
const BOUND: Duration = Duration::from_secs(20);

const RULES: &str = "rules: {dns: [{matchPattern: \"*.bench.test\"}]}";
const EGRESS: &str = "  - toFQDNs: [{matchPattern: \"*.bench.test\"}]
    toPorts: [{ports: [{port: \"443\", protocol: TCP}]}]
";

/// Measures the wanted ids.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    context.status(format!("{VS_DIRECT}: podgate and its pods"));
    let direct = Direct::new(PORT, RULES, EGRESS)?;
    let servers = direct.servers()?;
    let _resolvers =
        servers.iter().map(|host| resolver(&direct.lab, host)).collect::<Result<Vec<_>>>()?;
    let queries = direct.lab.file("queries");
    fs::write(
        &queries,
        (0..NAMES).fold(String::new(), |text, n| text + &format!("{} A\n", name(n))),
    )?;
    let agent = direct.start()?;
    let client = direct.client()?;
    let seconds = if context.quick { SECONDS_QUICK } else { SECONDS };
    let rate = |server: &Host| {
        let mut dnsperf = client.netns.bounded("dnsperf", BOUND);
        dnsperf.args(["-s", &server.addresses.v4.to_string(), "-d"]).arg(&queries);
        dnsperf.args(["-c", CLIENTS, "-q", OUTSTANDING, "-l", &seconds.to_string()]);
        parse(&run(&mut dnsperf)?)
    };
    let row = compare(context, (VS_DIRECT, "queries/s", BAR), servers, rate)?;
    agent.stop()?;
    Ok(vec![row.note("dnsperf to unbound, 16 flows, 100 queries at once; toFQDNs has the names")])
}

fn name(number: u16) -> String {
    format!("n{number}.bench.test")
}

fn resolver(lab: &Lab, host: &Host) -> Result<Daemon> {
    let file = lab.file(&format!("unbound-{}.conf", host.addresses.v4));
    let mut config = "server:
  interface: 0.0.0.0
  access-control: 0.0.0.0/0 allow
  username: \"\"
  chroot: \"\"
  pidfile: \"\"
  use-syslog: no
  do-daemonize: no
  num-threads: 1
  local-zone: bench.test. static
"
    .to_owned();
    for number in 0..NAMES {
        let address =
            Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 1).to_bits() + u32::from(number));
        writeln!(config, "  local-data: \"{}. 60 A {address}\"", name(number))?;
    }
    config += "remote-control:\n  control-enable: no\n";
    fs::write(&file, config)?;
    let mut command = host.netns.daemon("unbound".as_ref());
    command.arg("-d").arg("-c").arg(&file);
    let daemon =
        Daemon::start("unbound", command, lab.file(&format!("unbound-{}.log", host.addresses.v4)))?;
    wait_for("unbound to listen", BOUND, || {
        // Its port is taken.
        host.netns.inside(|| Ok(UdpSocket::bind((host.addresses.v4, PORT)).is_err().then_some(())))
    })?;
    Ok(daemon)
}

/// Queries per second that dnsperf prints.
fn parse(text: &str) -> Result<f64> {
    let value = |label: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label));
        line.map(str::trim).with_context(|| format!("dnsperf printed no {label:?}: {text}"))
    };
    ensure!(text.contains("NOERROR") && !text.contains("REFUSED"), "not allowed: {text}");
    let lost = value("Queries lost:")?;
    ensure!(lost.starts_with("0 "), "lost queries: {text}");
    Ok(value("Queries per second:")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
Statistics:

  Queries sent:         190380
  Queries completed:    190380 (100.00%)
  Queries lost:         0 (0.00%)

  Response codes:       NOERROR 190380 (100.00%)
  Average packet size:  request 33, response 49
  Run time (s):         3.000481
  Queries per second:   63449.826878
";

    #[test]
    fn the_output_of_dnsperf_is_parsed() {
        assert_eq!(parse(PRINTED).unwrap(), 63_449.826_878);
        assert!(parse("Statistics:").is_err());
        assert!(parse(&PRINTED.replace("NOERROR", "REFUSED")).is_err());
        assert!(parse(&PRINTED.replace("lost:         0", "lost:         7")).is_err());
    }
}
