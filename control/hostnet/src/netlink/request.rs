//! Blocking requests over netlink sockets whose answers are complete or an error.

use std::io;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::sys::protocols::NETLINK_GENERIC;
use rtnetlink::sys::{Socket, SocketAddr};

use super::wire::{find, messages, number, request, text};

/// How many times a dump is requested that changed while it was read (`NLM_F_DUMP_INTR`).
const ATTEMPTS: usize = 8;
/// Most datagrams of one answer. The kernel fills 16 KiB or more of each.
const DATAGRAMS_MAX: usize = 65_536;
/// Receive timeout, seconds. The kernel makes its answer during the request.
const TIMEOUT_S: libc::time_t = 5;

/// Bytes of `struct genlmsghdr`.
pub(crate) const GENL_HEADER: usize = 4;

/// `struct genlmsghdr` for a command of a generic netlink family, version 1.
pub(crate) fn genl_header(command: u8) -> [u8; GENL_HEADER] {
    [command, 1, 0, 0]
}

/// A netlink socket for requests.
#[derive(Debug)]
pub(super) struct Requester {
    socket: Socket,
    sequence: u32,
}

impl Requester {
    /// Opens a socket of this netlink protocol in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the socket can't be opened.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT_S, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The bodies of all messages of a dump.
    ///
    /// # Errors
    /// The kernel's error, or that of an answer that is damaged or has no end.
    pub(super) fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            attempts.next();
            match self.request(kind, libc::NLM_F_DUMP, body) {
                Err(error) if error.raw_os_error() == Some(libc::EINTR) && !attempts.is_empty() => {
                }
                result => return result,
            }
        }
    }

    /// The bodies of all messages of the answer to one request; `flags` must make the kernel end it
    /// (`NLM_F_DUMP` or `NLM_F_ACK`).
    ///
    /// # Errors
    /// As for [`Self::dump`], and `EINTR` for a dump that changed while it was read.
    pub(super) fn request(
        &mut self,
        kind: u16,
        flags: libc::c_int,
        body: &[u8],
    ) -> io::Result<Vec<Vec<u8>>> {
        // The rest of an answer that was abandoned has another sequence number.
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(kind, flags, self.sequence, body);
        let kernel = SocketAddr::new(0, 0);
        while let Err(error) = self.socket.send_to(&request, &kernel, 0) {
            // EBUSY: the rest of an earlier dump has to be received first.
            if error.raw_os_error() != Some(libc::EBUSY) {
                return Err(error);
            }
            self.socket.recv_from_full()?;
        }
        let mut found = Vec::new();
        for _ in 0..DATAGRAMS_MAX {
            let (datagram, _) = self.socket.recv_from_full()?;
            let complete = messages(&datagram, self.sequence, |message| {
                found.push(message.to_vec());
                Ok(())
            })?;
            if complete {
                return Ok(found);
            }
        }
        Err(io::Error::other("the kernel's answer doesn't end"))
    }
}

/// A registered generic netlink family.
#[derive(Debug)]
pub(crate) struct NamedFamily {
    /// Message type of its requests.
    pub(crate) id: u16,
    /// Name.
    pub(crate) name: Vec<u8>,
}

/// A socket for generic netlink.
#[derive(Debug)]
pub(crate) struct GenericRequester(Requester);

impl GenericRequester {
    /// Opens the socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the socket can't be opened.
    pub(crate) fn open() -> io::Result<Self> {
        Requester::open(NETLINK_GENERIC).map(Self)
    }

    /// All registered families. A request for one by name would load its module.
    ///
    /// # Errors
    /// As for [`Self::dump`].
    pub(crate) fn list(&mut self) -> io::Result<Vec<NamedFamily>> {
        let body = genl_header(libc::CTRL_CMD_GETFAMILY as u8);
        let found = self.dump(libc::GENL_ID_CTRL as u16, &body)?;
        found.iter().filter_map(|message| family(message).transpose()).collect()
    }

    /// The bodies of all messages of a dump of the family `id`.
    ///
    /// # Errors
    /// The kernel's error, or that of a damaged answer.
    pub(crate) fn dump(&mut self, id: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.0.dump(id, body)
    }

    /// The bodies of all messages that answer a request to the family `id`.
    ///
    /// # Errors
    /// As for [`Self::dump`].
    pub(crate) fn request(&mut self, id: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.0.request(id, libc::NLM_F_ACK, body)
    }
}

/// Reads one message that lists families; `None` if it names none.
pub(super) fn family(message: &[u8]) -> io::Result<Option<NamedFamily>> {
    let attributes = message.get(GENL_HEADER..).unwrap_or_default();
    let id = find(attributes, libc::CTRL_ATTR_FAMILY_ID as u16)?;
    let name = find(attributes, libc::CTRL_ATTR_FAMILY_NAME as u16)?;
    let (Some(id), Some(name)) = (id, name) else { return Ok(None) };
    Ok(Some(NamedFamily { id: number(id, 0, u16::from_ne_bytes)?, name: text(name).to_vec() }))
}
