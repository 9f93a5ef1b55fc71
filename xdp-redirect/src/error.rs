//! Errors, each with advice for the operator.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use nix::errno::Errno;

/// A failed call of this crate. The text includes cause and advice, so there is no
/// [`std::error::Error::source`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel rejects the programs or their maps.
    #[error(
        "can't load the BPF programs: {0}; it needs root (CAP_BPF, CAP_NET_ADMIN) and Linux 6.6 \
         or newer"
    )]
    Load(Box<EbpfError>),

    /// `workers` or `max_links` is zero.
    #[error("the XDP program needs at least one worker and one link")]
    NothingToServe,

    /// A slot or worker beyond the size of the maps.
    #[error("slot {slot} worker {worker} is out of range ({max_links} links, {workers} workers)")]
    OutOfRange {
        /// The slot.
        slot: u16,
        /// The worker.
        worker: u16,
        /// Number of slots.
        max_links: u16,
        /// Number of workers.
        workers: u16,
    },

    /// The slot has a link already, or `detach` was asked for a slot that has none.
    #[error("slot {slot} {}", if *.taken { "has a link already" } else { "has no link" })]
    Slot {
        /// The slot.
        slot: u16,
        /// Whether it has a link.
        taken: bool,
    },

    /// The program can't be attached in native mode.
    #[error("can't attach to link {link}: {errno}; {}", attach_advice(*.errno))]
    Attach {
        /// Name of the link.
        link: String,
        /// The kernel's error.
        errno: Errno,
    },

    /// The pinned link can't be created, read or removed.
    #[error("can't use pinned link {path}: {cause}; {}", pin_advice(.cause))]
    Pin {
        /// The pin's path.
        path: PathBuf,
        /// The kernel's error.
        cause: io::Error,
    },

    /// The path holds the pinned link of another netdev that still exists.
    #[error(
        "pinned link {path} belongs to netdev {found}, not to {wanted}; run `podgate cleanup` or \
         remove the other link first"
    )]
    PinnedElsewhere {
        /// The pin's path.
        path: PathBuf,
        /// Name of the netdev it is attached to.
        found: String,
        /// Name of the netdev asked for.
        wanted: String,
    },

    /// The program can't be detached from a link.
    #[error("can't detach from link {link}: {cause}; run as root (CAP_BPF, CAP_NET_ADMIN)")]
    Detach {
        /// Name of the link.
        link: String,
        /// The kernel's error.
        cause: io::Error,
    },

    /// No bpffs can be mounted on the directory for pinned links.
    #[error("can't use a bpffs at {dir}: {cause}; mount one, or run as root (CAP_SYS_ADMIN)")]
    Bpffs {
        /// The directory.
        dir: PathBuf,
        /// The kernel's error.
        cause: io::Error,
    },

    /// A map can't be read or written.
    #[error("can't use the BPF map {map}: {cause}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// The kernel's error.
        cause: MapError,
    },
}

/// What to do about an attach that failed with `errno` (`drivers/net/veth.c`, `net/core/dev.c`).
fn attach_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::ERANGE => {
            "the MTU is too large for native XDP on this driver: lower it on both ends"
        }
        Errno::ENOSPC => {
            "the other end has more transmit queues than this end has receive queues: create the \
             pair with equal numbers, or adjust them with ethtool -L"
        }
        Errno::EBUSY | Errno::EEXIST => {
            "another XDP program is attached: an agent with another state directory (`podgate \
             cleanup --state-dir` detaches its programs), or another program, which owns the link"
        }
        Errno::EOPNOTSUPP => {
            "its driver has no native XDP, and generic mode is not used because it breaks TCP: use \
             a veth or a NIC whose driver has native XDP"
        }
        Errno::ENODEV => "there is no such netdev in this network namespace",
        Errno::EPERM | Errno::EACCES => "run as root (CAP_BPF, CAP_NET_ADMIN)",
        _ => "podgate needs native XDP with multi-buffer support, Linux 6.6 or newer",
    }
}

fn pin_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => "create its directory on a bpffs",
        Some(Errno::EINVAL) => {
            "its directory must be on a bpffs and the file a pinned XDP or tcx link"
        }
        Some(Errno::EEXIST) => "another process just pinned a link there",
        _ => "the directory must be on a bpffs and writable for podgate",
    }
}
