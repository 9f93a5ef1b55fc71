//! A `bpf_link` of type XDP or tcx: the attachment of a program to a hook of one netdev.
//!
//! aya has these too, but falls back to netlink where the kernel rejects a link, hides which netdev
//! a link belongs to, and can't detach at once: the kernel detaches some time after a pin is
//! removed, and until then the next attach fails with EBUSY. So this module calls the six commands
//! of bpf(2) itself.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// Commands and constants of `include/uapi/linux/bpf.h`.
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_F_BEFORE: u32 = 1 << 3;
/// `XDP_FLAGS_DRV_MODE` of `include/uapi/linux/if_link.h`.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where a program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hook {
    /// XDP in native mode, for packets that the netdev receives.
    Xdp,
    /// tcx egress, for packets that the kernel sends out of the netdev; before other programs.
    Egress,
    /// tcx ingress, for packets that the netdev receives; before other programs.
    Ingress,
    /// Socket lookup in a network namespace.
    SocketLookup,
}

impl Hook {
    const fn attach_type(self) -> u32 {
        match self {
            Self::Xdp => BPF_XDP,
            Self::Egress => BPF_TCX_EGRESS,
            Self::Ingress => BPF_TCX_INGRESS,
            Self::SocketLookup => BPF_SK_LOOKUP,
        }
    }

    const fn flags(self) -> u32 {
        match self {
            Self::Xdp => XDP_FLAGS_DRV_MODE,
            // Without a program to be relative to: the first.
            Self::Egress | Self::Ingress => BPF_F_BEFORE,
            Self::SocketLookup => 0,
        }
    }

    /// As `/proc/PID/fdinfo` calls it.
    const fn link_type(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Egress | Self::Ingress => "tcx",
            Self::SocketLookup => "netns",
        }
    }
}

/// The members of `union bpf_attr` that `BPF_LINK_CREATE` reads.
#[repr(C)]
struct Create {
    program: RawFd,
    /// The netdev's index, or a descriptor of the network namespace.
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// `BPF_LINK_UPDATE`.
#[repr(C)]
struct Update {
    link: RawFd,
    new_program: RawFd,
    flags: u32,
    old_program: RawFd,
}

/// `BPF_LINK_DETACH`.
#[repr(C)]
struct Detach {
    link: RawFd,
}

/// `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C)]
struct Object {
    path: u64,
    fd: RawFd,
    flags: u32,
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
struct GetInfo {
    fd: RawFd,
    /// Bytes of what `info` points to.
    len: u32,
    info: u64,
}

/// The leading part of `struct bpf_link_info`, for a link of type XDP or tcx.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    link_type: u32,
    id: u32,
    program: u32,
    /// What follows is a union that is aligned to 8 bytes.
    padding: u32,
    /// 0 if the link is detached, or its netdev gone.
    ifindex: u32,
}

/// An attached program. The kernel detaches it some time after the last reference is gone: this
/// descriptor, its pins, and the copies that children of this process inherit. [`HookLink::detach`]
/// detaches it at once.
pub(crate) struct HookLink(OwnedFd);

impl HookLink {
    /// Attaches `program` to a hook of the netdev.
    pub(crate) fn attach(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<Self> {
        Self::create(program, ifindex, hook)
    }

    /// Attaches `program` to the socket lookup of the network namespace.
    pub(crate) fn attach_to_netns(
        program: BorrowedFd<'_>,
        netns: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Self::create(program, netns.as_raw_fd().cast_unsigned(), Hook::SocketLookup)
    }

    fn create(program: BorrowedFd<'_>, target: u32, hook: Hook) -> io::Result<Self> {
        let fd = bpf(
            BPF_LINK_CREATE,
            &Create {
                program: program.as_raw_fd(),
                target,
                attach_type: hook.attach_type(),
                flags: hook.flags(),
            },
        )?;
        Ok(Self(own(fd)))
    }

    /// Opens the link pinned at `path`; `None` if there is none.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let path = c_path(path)?;
        match bpf(BPF_OBJ_GET, &Object { path: path.as_ptr() as u64, fd: 0, flags: 0 }) {
            Ok(fd) => Ok(Some(Self(own(fd)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pins the link at `path`, on a bpffs, so that it outlives this process.
    pub(crate) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = c_path(path)?;
        let fd = self.0.as_raw_fd();
        bpf(BPF_OBJ_PIN, &Object { path: path.as_ptr() as u64, fd, flags: 0 }).map(drop)
    }

    /// Replaces the program atomically: every packet is seen by the old one or the new one.
    ///
    /// Fails with `ENOLINK` if the netdev is gone.
    pub(crate) fn replace_program(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        bpf(
            BPF_LINK_UPDATE,
            &Update {
                link: self.0.as_raw_fd(),
                new_program: program.as_raw_fd(),
                flags: 0,
                old_program: 0,
            },
        )
        .map(drop)
    }

    /// The hook, and the netdev that the link is attached to; `None` if that is gone.
    ///
    /// Fails with `EINVAL` for a pin that is a map, a program or a link of another kind.
    pub(crate) fn place(&self) -> io::Result<(Hook, Option<u32>)> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()))?;
        let field = |name| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let link_type = field("link_type:");
        // "47 (egress)"; XDP links have no such field.
        let attach_type = field("attach_type:").and_then(|text| text.split(' ').next());
        let attach_type = attach_type.and_then(|number| number.parse().ok());
        let hook = [Hook::Xdp, Hook::Egress, Hook::Ingress]
            .into_iter()
            .filter(|hook| link_type == Some(hook.link_type()))
            .find(|hook| attach_type.is_none_or(|number: u32| number == hook.attach_type()))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        let ifindex = field("ifindex:").and_then(|text| text.parse().ok());
        Ok((hook, ifindex.filter(|&ifindex| ifindex != 0)))
    }

    /// Whether the link, of type XDP or tcx, is attached to a netdev: not if another process
    /// detached it, or the netdev is gone.
    pub(crate) fn is_attached(&self) -> io::Result<bool> {
        let mut info = LinkInfo::default();
        let mut attr = GetInfo {
            fd: self.0.as_raw_fd(),
            len: size_of::<LinkInfo>() as u32,
            info: std::ptr::from_mut(&mut info) as u64,
        };
        // SAFETY: the kernel reads `attr` and writes its `len`; it reads and writes at most `len`
        // bytes of `info`. Both are initialized, live until the call returns, and are borrowed by
        // nobody else.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_OBJ_GET_INFO_BY_FD,
                std::ptr::from_mut(&mut attr),
                size_of::<GetInfo>() as u32,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(info.ifindex != 0) }
    }

    /// Detaches the program at once, even if other references to the link exist.
    pub(crate) fn detach(&self) -> io::Result<()> {
        bpf(BPF_LINK_DETACH, &Detach { link: self.0.as_raw_fd() }).map(drop)
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: only called with the descriptor that a successful BPF_LINK_CREATE or BPF_OBJ_GET
    // just returned, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// bpf(2). `attr` is the leading part of `union bpf_attr`; the kernel takes the rest as zero.
fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attr`, which are initialized (every
    // struct above is free of padding), and the paths that they point to are C strings which
    // outlive the call. It writes nothing back for the commands of this module.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>() as u32)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}
