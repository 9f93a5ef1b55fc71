//! Raw frames, sent from a pod without its own network stack.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, socket};

use super::Host;

/// The folder of hostile frames.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpora/frames");

/// One frame of `tests/corpora/frames`: a `.hex` file whose comments say what is wrong with it.
#[derive(Clone, Debug)]
pub struct CorpusFrame {
    /// The file's name without `.hex`.
    pub name: String,
    /// What follows `# result: `: the drop reason that the parser gives, or `ok`.
    pub result: String,
    /// The frame, from its Ethernet header on.
    pub bytes: Vec<u8>,
}

impl CorpusFrame {
    /// All of them, in the order of their names.
    ///
    /// # Errors
    /// Names the file that can't be parsed.
    pub fn all() -> Result<Vec<Self>> {
        let mut frames = Vec::new();
        for entry in fs::read_dir(CORPUS).with_context(|| format!("no folder {CORPUS}"))? {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let text = fs::read_to_string(&path)?;
            frames.push(Self::parse(name, &text).with_context(|| path.display().to_string())?);
        }
        frames.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(frames)
    }

    fn parse(name: String, text: &str) -> Result<Self> {
        let result = text.lines().find_map(|line| line.strip_prefix("# result: "));
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let digits: String = lines.flat_map(str::split_whitespace).collect();
        ensure!(digits.is_ascii() && digits.len().is_multiple_of(2), "not hexadecimal");
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16);
        let bytes = (0..digits.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
        Ok(Self { name, result: result.context("no result")?.to_owned(), bytes })
    }
}

/// Number of frames that an injector sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Frames that left the pod.
    pub sent: u64,
    /// Frames that the pod's kernel rejected (too short or too long for Ethernet).
    pub rejected: u64,
}

/// A raw socket on a host's `eth0`.
#[derive(Debug)]
pub struct Injector(OwnedFd);

impl Injector {
    /// Sends Ethernet frames unchanged.
    ///
    /// # Errors
    /// When one can't be sent for another reason than its length.
    pub fn send<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) -> Result<Injected> {
        let mut injected = Injected::default();
        for frame in frames {
            match send_with_retries(self.0.as_raw_fd(), frame) {
                Ok(()) => injected.sent += 1,
                Err(Errno::EINVAL | Errno::EMSGSIZE) => injected.rejected += 1,
                Err(error) => return Err(error).context("can't send a raw frame"),
            }
        }
        Ok(injected)
    }
}

impl Host {
    /// Opens a raw socket on `eth0`.
    ///
    /// # Errors
    /// When no raw socket can be opened.
    pub fn injector(&self) -> Result<Injector> {
        self.netns.inside(|| {
            let eth0 = link_address("eth0")?;
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None)?;
            bind(socket.as_raw_fd(), &eth0)?;
            Ok(Injector(socket))
        })
    }

    /// Sends Ethernet frames out of `eth0`, unchanged.
    ///
    /// # Errors
    /// When no raw socket can be opened, and as [`Injector::send`].
    pub fn inject<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) -> Result<Injected> {
        self.injector()?.send(frames)
    }

    /// The Ethernet address of one of its links.
    ///
    /// # Errors
    /// When it has no such link.
    pub fn mac(&self, link: &str) -> Result<[u8; 6]> {
        self.netns.inside(|| link_address(link)?.addr().context("no Ethernet address"))
    }
}

fn link_address(link: &str) -> Result<LinkAddr> {
    let mut entries = getifaddrs()?.filter(|entry| entry.interface_name == link);
    let address = entries.find_map(|entry| entry.address?.as_link_addr().copied());
    address.with_context(|| format!("no link {link} here"))
}

/// Sends one frame, with retries while the link's queue is full.
fn send_with_retries(socket: RawFd, frame: &[u8]) -> nix::Result<()> {
    const ATTEMPTS: u32 = 100_000;
    for _ in 0..ATTEMPTS {
        match send(socket, frame, MsgFlags::empty()) {
            Err(Errno::ENOBUFS) => std::thread::yield_now(),
            outcome => return outcome.map(drop),
        }
    }
    Err(Errno::ENOBUFS)
}
