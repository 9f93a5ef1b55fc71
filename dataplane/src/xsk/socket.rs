//! A worker's two AF_XDP sockets on a link: one receives, one transmits.
//!
//! A worker sleeps on the first. If it also transmitted through this one, the kernel would walk the
//! socket's wait queue, under a lock, for each transmitted packet (`sock_wfree`,
//! `net/core/sock.c`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::sys;

/// One AF_XDP socket.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(sys::socket()?))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A worker's sockets on a link.
#[derive(Debug)]
pub(super) struct Sockets {
    /// The one that the XDP program redirects to.
    pub(super) rx: Socket,
    pub(super) tx: Socket,
}
