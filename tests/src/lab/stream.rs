//! A TCP stream between two hosts that runs until it is stopped, and must arrive unchanged.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::process::wait_for;
use super::{Family, Host};

/// Time without progress after which a stream has failed.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Size of one write, bytes.
const CHUNK: usize = 64 * 1024;
/// Pause after each write, so that streams don't saturate the machine.
const PAUSE: Duration = Duration::from_millis(2);
/// Most bytes of a stream, so that a test that hangs ends.
const BYTES_MAX: u64 = 8 << 30;

/// A running stream. See the module's description.
#[derive(Debug)]
pub struct Stream {
    ending: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<u64>>,
}

impl Stream {
    /// Connects `from` to `to` and starts to send.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn start(from: &Host, to: &Host, port: u16, family: Family) -> Result<Self> {
        let listener = to.listen(port)?;
        let client = from.connect(to, port, family)?;
        let (server, _) = listener.accept()?;
        server.set_read_timeout(Some(STALL_TIMEOUT))?;
        let (ending, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (end, seen) = (Arc::clone(&ending), Arc::clone(&received));
        Ok(Self {
            ending,
            received,
            sender: thread::spawn(move || send(client, &end)),
            receiver: thread::spawn(move || receive(server, &seen)),
        })
    }

    /// Bytes that have arrived.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until more bytes have arrived than now.
    ///
    /// # Errors
    /// When the stream stalls.
    pub fn wait_for_more(&self) -> Result<()> {
        // 8 MiB may be in flight now, which don't count.
        let before = self.bytes() + (8 << 20);
        wait_for("more of the stream", STALL_TIMEOUT, || Ok((self.bytes() > before).then_some(())))
    }

    /// Ends the stream and returns the number of bytes that arrived.
    ///
    /// # Errors
    /// When the bytes that arrived are not those that were sent.
    pub fn finish(self) -> Result<u64> {
        self.ending.store(true, Ordering::Relaxed);
        let join = |thread: JoinHandle<Result<u64>>| {
            thread.join().map_err(|_| anyhow!("a stream's thread panicked"))?
        };
        let sent = join(self.sender).context("the stream's sender")?;
        let received = join(self.receiver).context("the stream's receiver")?;
        ensure!(sent == received, "{sent} bytes were sent, {received} arrived");
        Ok(received)
    }
}

/// The byte at `position` of every stream, so that lost, duplicated and reordered data is detected.
const fn byte_at(position: u64) -> u8 {
    (position ^ (position >> 8) ^ (position >> 16) ^ (position >> 24)) as u8
}

fn send(mut to: TcpStream, ending: &AtomicBool) -> Result<u64> {
    let mut sent = 0;
    let mut chunk = vec![0; CHUNK];
    while !ending.load(Ordering::Relaxed) && sent < BYTES_MAX {
        (sent..).zip(&mut chunk).for_each(|(position, byte)| *byte = byte_at(position));
        to.write_all(&chunk)?;
        sent += CHUNK as u64;
        thread::sleep(PAUSE);
    }
    Ok(sent)
}

fn receive(mut from: TcpStream, received: &AtomicU64) -> Result<u64> {
    let mut chunk = vec![0; CHUNK];
    let mut position = 0;
    loop {
        let count = from.read(&mut chunk)?;
        if count == 0 {
            return Ok(position);
        }
        let as_sent =
            (position..).zip(&chunk[..count]).all(|(position, byte)| *byte == byte_at(position));
        ensure!(as_sent, "the bytes after byte {position} are not those that were sent");
        position += count as u64;
        received.store(position, Ordering::Relaxed);
    }
}

impl Host {
    /// Listens on a TCP port, of both families.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        self.netns.inside(|| TcpListener::bind(any).context("can't listen"))
    }
}
