//! The loaded program, its maps and the links it is attached to.

use std::collections::HashMap as StdHashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData, MapError, XskMap};
use aya::programs::{ProgramError, ProgramFd, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;

use crate::Error;
use crate::link::XdpLink;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// `BPF_NOEXIST` of `include/uapi/linux/bpf.h`: only a new entry.
const BPF_NOEXIST: u64 = 1;

/// The program, loaded into the kernel, and its links.
///
/// Dropping it detaches every link that isn't pinned. A pinned link stays: with the sockets gone
/// its program drops all IP traffic of the netdev, until another process adopts it with
/// [`Redirect::attach`] or ends it with [`unpin`].
pub struct Redirect {
    program: ProgramFd,
    links: HashMap<MapData, u32, u32>,
    sockets: XskMap<MapData>,
    attached: StdHashMap<u16, Attached>,
    workers: u16,
    max_links: u16,
}

struct Attached {
    ifindex: u32,
    link: XdpLink,
    pin: Option<PathBuf>,
}

impl Redirect {
    /// Loads the program for `workers` workers a link and at most `max_links` links.
    ///
    /// # Errors
    /// [`Error::Load`] if the kernel refuses, [`Error::NothingToServe`] if a number is zero.
    pub fn load(workers: u16, max_links: u16) -> Result<Self, Error> {
        if workers == 0 || max_links == 0 {
            return Err(Error::NothingToServe);
        }
        load_object(workers, max_links)
            .and_then(|mut ebpf| Self::take_from(&mut ebpf, workers, max_links))
            .map_err(|error| Error::Load(Box::new(error)))
    }

    fn take_from(ebpf: &mut Ebpf, workers: u16, max_links: u16) -> Result<Self, EbpfError> {
        let mut map = |name: &str| {
            ebpf.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.into() })
        };
        let links = HashMap::try_from(map("LINKS")?)?;
        let sockets = XskMap::try_from(map("XSKS")?)?;
        let program = program(ebpf)?.fd()?.try_clone().map_err(ProgramError::IOError)?;
        Ok(Self { program, links, sockets, attached: StdHashMap::new(), workers, max_links })
    }

    /// Attaches the program to a netdev, as link number `slot`, in native mode only.
    ///
    /// With `pin`, a path on a bpffs ([`crate::bpffs`]), enforcement outlives this process. If a
    /// link of the same netdev is pinned there already, it is adopted and its program replaced
    /// atomically; one whose netdev is gone is swept away.
    ///
    /// Until [`Redirect::set_socket`], IP traffic of the netdev is dropped.
    ///
    /// # Errors
    /// [`Error::Attach`], [`Error::Pin`] and [`Error::PinnedElsewhere`] name the link and say what
    /// to do; [`Error::OutOfRange`], [`Error::Slot`] and [`Error::Map`] (a netdev attached twice)
    /// mean that the caller lost count. In every case nothing is attached.
    pub fn attach(&mut self, ifindex: u32, slot: u16, pin: Option<&Path>) -> Result<(), Error> {
        self.index(slot, 0)?;
        if self.attached.contains_key(&slot) {
            return Err(Error::Slot { slot, taken: true });
        }
        // Before the program runs there, so that no packet finds the netdev unknown.
        self.links
            .insert(ifindex, u32::from(slot), BPF_NOEXIST)
            .map_err(|cause| Error::Map { map: "LINKS", cause })?;
        match self.adopt_or_create(ifindex, pin) {
            Ok(link) => {
                let pin = pin.map(Path::to_path_buf);
                self.attached.insert(slot, Attached { ifindex, link, pin });
                Ok(())
            }
            Err(error) => {
                self.forget_netdev(ifindex)?;
                Err(error)
            }
        }
    }

    /// Takes the program off the link in `slot`, removes its pin and its sockets. Works for a
    /// netdev that is gone, too. From here on the kernel handles the netdev's packets.
    ///
    /// # Errors
    /// [`Error::Slot`] if there is no such link, [`Error::Detach`], [`Error::Pin`].
    pub fn detach(&mut self, slot: u16) -> Result<(), Error> {
        let Attached { ifindex, link, pin } =
            self.attached.remove(&slot).ok_or(Error::Slot { slot, taken: false })?;
        self.forget_netdev(ifindex)?;
        for worker in 0..self.workers {
            self.clear_socket(slot, worker)?;
        }
        detach_and_unpin(&link, ifindex, pin.as_deref())
    }

    /// Pins every attached link again whose pin somebody removed, and returns how many they were.
    ///
    /// # Errors
    /// [`Error::Pin`] at the first that can't be pinned.
    pub fn pin_again(&self) -> Result<usize, Error> {
        let pins = self.attached.values().filter_map(|at| Some((&at.link, at.pin.as_deref()?)));
        let mut pinned = 0;
        for (link, pin) in pins.filter(|(_, pin)| !pin.exists()) {
            link.pin(pin).map_err(|cause| pin_error(pin, cause))?;
            pinned += 1;
        }
        Ok(pinned)
    }

    /// Steers the flows of `worker` on the link in `slot` to an AF_XDP socket, which must be
    /// bound to queue 0 of that link. The kernel clears the entry when the socket is closed.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Map`] if `socket` is no AF_XDP socket.
    pub fn set_socket(
        &mut self,
        slot: u16,
        worker: u16,
        socket: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let index = self.index(slot, worker)?;
        self.sockets.set(index, socket, 0).map_err(|cause| Error::Map { map: "XSKS", cause })
    }

    /// Drops the flows of `worker` on the link in `slot` from here on.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn clear_socket(&mut self, slot: u16, worker: u16) -> Result<(), Error> {
        let index = self.index(slot, worker)?;
        self.sockets.unset(index).map_err(|cause| Error::Map { map: "XSKS", cause })
    }

    /// Index into XSKS; the C program computes the same.
    fn index(&self, slot: u16, worker: u16) -> Result<u32, Error> {
        let Self { max_links, workers, .. } = *self;
        if slot >= max_links || worker >= workers {
            return Err(Error::OutOfRange { slot, worker, max_links, workers });
        }
        Ok(u32::from(slot) * u32::from(workers) + u32::from(worker))
    }

    fn forget_netdev(&mut self, ifindex: u32) -> Result<(), Error> {
        self.links.remove(&ifindex).map_err(|cause| Error::Map { map: "LINKS", cause })
    }

    fn adopt_or_create(&self, ifindex: u32, pin: Option<&Path>) -> Result<XdpLink, Error> {
        if let Some(path) = pin
            && let Some(link) = self.adopt(ifindex, path)?
        {
            return Ok(link);
        }
        let link = XdpLink::attach(self.program.as_fd(), ifindex)
            .map_err(|cause| attach_error(ifindex, &cause))?;
        if let Some(path) = pin
            && let Err(cause) = link.pin(path)
        {
            link.detach().map_err(|cause| detach_error(ifindex, cause))?;
            return Err(pin_error(path, cause));
        }
        Ok(link)
    }

    /// The link pinned at `path`, now running our program; `None` if there is none.
    fn adopt(&self, ifindex: u32, path: &Path) -> Result<Option<XdpLink>, Error> {
        let failed = |cause| pin_error(path, cause);
        let Some(link) = XdpLink::open(path).map_err(failed)? else {
            return Ok(None);
        };
        match link.ifindex().map_err(failed)? {
            Some(found) if found == ifindex => {}
            Some(found) => {
                return Err(Error::PinnedElsewhere {
                    path: path.into(),
                    found: link_name(found),
                    wanted: link_name(ifindex),
                });
            }
            None => return fs::remove_file(path).map(|()| None).map_err(failed),
        }
        match link.replace_program(self.program.as_fd()) {
            Ok(()) => Ok(Some(link)),
            Err(cause) => Err(attach_error(ifindex, &cause)),
        }
    }
}

impl Drop for Redirect {
    fn drop(&mut self) {
        for Attached { link, .. } in self.attached.values().filter(|link| link.pin.is_none()) {
            // If this fails, closing the link still detaches, a little later.
            let _ = link.detach();
        }
    }
}

fn load_object(workers: u16, max_links: u16) -> Result<Ebpf, EbpfError> {
    let mut ebpf = EbpfLoader::new()
        .override_global("workers", &u32::from(workers), true)
        .map_max_entries("LINKS", max_links.into())
        .map_max_entries("XSKS", u32::from(max_links) * u32::from(workers))
        .load(OBJECT)?;
    program(&mut ebpf)?.load()?;
    Ok(ebpf)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, ProgramError> {
    ebpf.program_mut("redirect")
        .ok_or_else(|| ProgramError::InvalidName { name: "redirect".into() })?
        .try_into()
}

/// Takes a pinned link off its netdev and removes the pin; nothing happens if there is none.
///
/// For a process that has no [`Redirect`] of its own, to clean up after one that is gone.
///
/// # Errors
/// [`Error::Pin`] if `path` is something else than a pinned XDP link, [`Error::Detach`].
pub fn unpin(path: &Path) -> Result<(), Error> {
    let failed = |cause| pin_error(path, cause);
    let Some(link) = XdpLink::open(path).map_err(failed)? else {
        return Ok(());
    };
    let ifindex = link.ifindex().map_err(failed)?.unwrap_or(0);
    detach_and_unpin(&link, ifindex, Some(path))
}

/// Detaches first: if the pin can't be removed then, it is a dead link that attach sweeps away.
fn detach_and_unpin(link: &XdpLink, ifindex: u32, pin: Option<&Path>) -> Result<(), Error> {
    link.detach().map_err(|cause| detach_error(ifindex, cause))?;
    match pin.map(|path| (path, fs::remove_file(path))) {
        Some((path, Err(cause))) if cause.kind() != io::ErrorKind::NotFound => {
            Err(pin_error(path, cause))
        }
        _ => Ok(()),
    }
}

fn attach_error(ifindex: u32, cause: &io::Error) -> Error {
    // bpf(2) says EINVAL for a netdev that doesn't exist, and for much else.
    let errno = match name_of(ifindex) {
        Some(_) => Errno::from_raw(cause.raw_os_error().unwrap_or(0)),
        None => Errno::ENODEV,
    };
    Error::Attach { link: link_name(ifindex), errno }
}

fn detach_error(ifindex: u32, cause: io::Error) -> Error {
    Error::Detach { link: link_name(ifindex), cause }
}

fn pin_error(path: &Path, cause: io::Error) -> Error {
    Error::Pin { path: path.into(), cause }
}

/// The netdev's name for messages, or its number if it is gone.
fn link_name(ifindex: u32) -> String {
    name_of(ifindex).unwrap_or_else(|| format!("number {ifindex}"))
}

fn name_of(ifindex: u32) -> Option<String> {
    // nix 0.31 takes the failure of if_indextoname(3), a null pointer, for an empty name.
    let name = if_indextoname(ifindex).ok()?.to_string_lossy().into_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod attach_tests;
#[cfg(test)]
mod verdict_tests;
