//! A clean restart of the real agent on a node with many pods: the length of the outage between the
//! old agent and the new one.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use podgate_tests::lab::{Agent, Host, Lab, wait_for};

use crate::context::Context;
use crate::measure::{Limit, Measurement};
use crate::node;

const PODS_110: &str = "restart.110";
const PODS_110_WORKERS_2: &str = "restart.110.workers.2";
const PODS_250: &str = "restart.250";
const PODS_250_WORKERS_2: &str = "restart.250.workers.2";

/// The ids of this suite.
pub(crate) const IDS: &[&str] = &[PODS_110, PODS_110_WORKERS_2, PODS_250, PODS_250_WORKERS_2];

/// Id, number of pods, number of workers, and the maximum outage, milliseconds.
const CASES: [(&str, usize, u16, f64); 4] = [
    (PODS_110, 110, 1, 1000.0),
    (PODS_110_WORKERS_2, 110, 2, 1000.0),
    (PODS_250, 250, 1, 2000.0),
    (PODS_250_WORKERS_2, 250, 2, 2000.0),
];

const PORT: u16 = 7;
/// Pause between two datagrams.
const PAUSE: Duration = Duration::from_millis(1);
/// Number of answers before a restart, and after it.
const ANSWERS: usize = 50;
/// Timeout for these answers.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(60);

/// Measures the wanted ids.
///
/// # Errors
/// When the lab can't be built, or the agent doesn't restart.
pub(crate) fn measure(context: &Context) -> Result<Vec<Measurement>> {
    let mut results = Vec::new();
    for (id, pods, workers, bar) in CASES.into_iter().filter(|(id, ..)| context.wants(id)) {
        context.status(format!("{id}: making {pods} pods"));
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("pods.yaml"), node::manifest(pods))?;
        let lab = Lab::new(folder.path())?;
        let room = pods.to_string();
        let options = ["--max-endpoints", &room];
        let mut agent = Agent::start_with(&lab, workers, &options)?;
        let hosts: Vec<&Host> = lab.pods().take(2).collect();
        let echo = Echo::new(hosts[0], hosts[1])?;
        let mut values = Vec::new();
        for round in 0..context.rounds {
            context.status(format!("{id}: round {} of {}", round + 1, context.rounds));
            let (restarted, outage) = echo.longest_gap(|| {
                agent.stop()?;
                Agent::start_bare(&lab, workers, &options)
            })?;
            agent = restarted;
            values.push(outage.as_secs_f64() * 1e3);
        }
        agent.stop()?;
        let note = "the longest gap of a UDP echo with one datagram per millisecond over SIGTERM and a new \
                    start, including the start of the program";
        results.push(Measurement::new(id, "ms", values).bar(Limit::AtMost(bar)).note(note));
    }
    Ok(results)
}

/// A UDP echo between two pods.
struct Echo {
    client: UdpSocket,
    server: UdpSocket,
    server_address: SocketAddr,
}

impl Echo {
    fn new(client: &Host, server: &Host) -> Result<Self> {
        let socket = |host: &Host, port: u16| {
            let address = SocketAddr::from((host.addresses.v4, port));
            let socket = host.netns.inside(|| Ok(UdpSocket::bind(address)?))?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            anyhow::Ok((socket, address))
        };
        let (server, server_address) = socket(server, PORT)?;
        Ok(Self { client: socket(client, 0)?.0, server, server_address })
    }

    /// The longest time between two answers during `work`.
    fn longest_gap<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
        let (done, answers) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        let running = || !done.load(Ordering::Relaxed);
        let count = || answers.lock().unwrap_or_else(PoisonError::into_inner).len();
        let more = || {
            let before = count();
            let enough = || Ok((count() >= before + ANSWERS).then_some(()));
            wait_for("answers of the echo", ANSWERS_TIMEOUT, enough)
        };
        let outcome = thread::scope(|scope| {
            let mut buffer = [0; 64];
            scope.spawn(move || {
                while running() {
                    // Receiving times out while the agent is stopped.
                    let Ok((len, from)) = self.server.recv_from(&mut buffer) else { continue };
                    let _ = self.server.send_to(&buffer[..len], from);
                }
            });
            scope.spawn(|| {
                while running() {
                    let _ = self.client.send_to(b"podgate?", self.server_address);
                    thread::sleep(PAUSE);
                }
            });
            scope.spawn(|| {
                while running() {
                    if self.client.recv(&mut [0; 64]).is_ok() {
                        answers.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                    }
                }
            });
            let worked = more().and_then(|()| work()).and_then(|value| more().map(|()| value));
            done.store(true, Ordering::Relaxed);
            worked
        })?;
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let gaps = answers.windows(2).map(|pair| pair[1] - pair[0]);
        Ok((outcome, gaps.max().context("fewer than two answers of the echo")?))
    }
}
