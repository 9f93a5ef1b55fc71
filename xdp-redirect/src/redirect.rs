//! The loaded programs, their maps and the links they are attached to.

use std::collections::HashMap as StdHashMap;
use std::fs::{self, File};
use std::io;
use std::iter;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf, XskMap};
use aya::programs::{ProgramError, ProgramFd, ProgramType, SchedClassifier, SkLookup, Xdp};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfError, EbpfLoader, include_bytes_aligned};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket};
use nix::{getsockopt_impl, sockopt_impl};

use crate::Error;
use crate::drop_records::{DropRecords, DroppedFrame};
use crate::frame_drops::{self, FrameDrops};
use crate::link::{Hook, HookLink};
use crate::pods::{Pod, PodEntries, Pods, StaleEntries};
use crate::tunnel_ports::TunnelPorts;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// `BPF_NOEXIST` of `include/uapi/linux/bpf.h`: fails if there is an entry.
const BPF_NOEXIST: u64 = 1;

/// Capacity of the map of addresses, per link.
const ADDRESSES_PER_LINK: u32 = 4;

/// Suffix of the pin of the program at the egress hook; before it is the XDP program's name.
const EGRESS_PIN: &str = "-egress";
/// The same at the ingress hook.
const INGRESS_PIN: &str = "-ingress";

/// The calling thread's network namespace.
const THREAD_NETNS: &str = "/proc/thread-self/ns/net";

sockopt_impl!(
    /// Number of the socket's network namespace, which no other one ever has.
    NetnsCookie,
    GetOnly,
    libc::SOL_SOCKET,
    libc::SO_NETNS_COOKIE,
    u64
);

/// The programs, loaded into the kernel, and their links.
///
/// Dropping it detaches every link that isn't pinned. A pinned link stays: with the sockets gone
/// its programs drop all IP traffic of the netdev, in both directions, until another process adopts
/// it with [`Redirect::attach`] or detaches it with [`unpin`].
pub struct Redirect {
    programs: Programs,
    links: HashMap<MapData, u32, u32>,
    sockets: XskMap<MapData>,
    pods: Pods,
    host_link: Array<MapData, u32>,
    frame_drops: PerCpuArray<MapData, [u64; 2]>,
    drop_records: DropRecords,
    tunnel_ports: TunnelPorts,
    /// The maps that only the programs use: open, so that their memory counts as the process's.
    of_programs: Vec<Map>,
    /// The program at the socket lookup of the node's network namespace.
    lookup: Option<HookLink>,
    attached: StdHashMap<u16, Attached>,
    /// What could not be removed of netdevs that were detached, by ifindex.
    stale: StaleEntries,
    workers: u16,
    max_links: u16,
}

struct Programs {
    redirect: ProgramFd,
    guard: ProgramFd,
    mark: ProgramFd,
    sender: ProgramFd,
    lookup: ProgramFd,
}

/// What is attached for a link.
struct Attached {
    ifindex: u32,
    xdp: AttachedProgram,
    /// [`Redirect::guard`]'s or [`Redirect::mark`]'s.
    egress: Option<AttachedProgram>,
    /// The host link's second program of [`Redirect::mark`].
    ingress: Option<AttachedProgram>,
    pod: PodEntries,
}

/// A program at a hook.
struct AttachedProgram {
    ifindex: u32,
    link: HookLink,
    pin: Option<PathBuf>,
}

impl Redirect {
    /// Loads the programs for `workers` workers a link and at most `max_links` links.
    ///
    /// # Errors
    /// [`Error::Load`] if the kernel rejects them, [`Error::NothingToServe`] if a number is zero.
    pub fn load(workers: u16, max_links: u16) -> Result<Self, Error> {
        if workers == 0 || max_links == 0 {
            return Err(Error::NothingToServe);
        }
        load_object(workers, max_links)
            .and_then(|mut ebpf| {
                let mut redirect = Self::take_from(&mut ebpf, workers, max_links)?;
                let names: Vec<_> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
                redirect.of_programs =
                    names.iter().filter_map(|name| ebpf.take_map(name)).collect();
                Ok(redirect)
            })
            .map_err(|error| Error::Load(Box::new(error)))
    }

    fn take_from(ebpf: &mut Ebpf, workers: u16, max_links: u16) -> Result<Self, EbpfError> {
        let mut map = |name: &str| {
            ebpf.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.into() })
        };
        let links = HashMap::try_from(map("LINKS")?)?;
        let sockets = XskMap::try_from(map("XSKS")?)?;
        let macs = HashMap::try_from(map("PODS")?)?;
        let pods = Pods::new(macs, HashMap::try_from(map("ADDRESSES")?)?);
        let host_link = Array::try_from(map("HOST_LINK")?)?;
        let frame_drops = PerCpuArray::try_from(map("DROP_COUNTS")?)?;
        let records = RingBuf::try_from(map("DROP_RECORDS")?)?;
        let drop_records = DropRecords::new(records, PerCpuArray::try_from(map("RECORDS_LOST")?)?);
        let tunnel_ports = Array::try_from(map("TUNNEL_PORTS")?)?;
        let clone = |fd: &ProgramFd| fd.try_clone().map_err(ProgramError::IOError);
        let programs = Programs {
            redirect: clone(program(ebpf)?.fd()?)?,
            guard: clone(classifier(ebpf, "guard")?.fd()?)?,
            mark: clone(classifier(ebpf, "mark")?.fd()?)?,
            sender: clone(classifier(ebpf, "sender")?.fd()?)?,
            lookup: clone(sk_lookup(ebpf)?.fd()?)?,
        };
        let attached = StdHashMap::new();
        let tunnel_ports = TunnelPorts::new(tunnel_ports)?;
        Ok(Self {
            programs,
            links,
            sockets,
            pods,
            host_link,
            frame_drops,
            drop_records,
            tunnel_ports,
            of_programs: Vec::new(),
            lookup: None,
            attached,
            stale: StaleEntries::default(),
            workers,
            max_links,
        })
    }

    /// Attaches the XDP program to a netdev, as link number `slot`, in native mode only.
    ///
    /// With `pin`, a path on a bpffs ([`crate::bpffs`]), enforcement outlives this process. If a
    /// link of the same netdev is pinned there already, it is adopted and its program replaced
    /// atomically; one whose netdev is gone is removed.
    ///
    /// Until [`Redirect::set_socket`], IP traffic of the netdev is dropped.
    ///
    /// # Errors
    /// [`Error::Attach`], [`Error::Pin`] and [`Error::PinnedElsewhere`] name the link and say what
    /// to do; [`Error::OutOfRange`], [`Error::Slot`] and [`Error::Map`] (a netdev attached twice)
    /// are errors of the caller. In every case nothing is attached.
    pub fn attach(&mut self, ifindex: u32, slot: u16, pin: Option<&Path>) -> Result<(), Error> {
        self.index(slot, 0)?;
        if self.attached.contains_key(&slot) {
            return Err(Error::Slot { slot, taken: true });
        }
        // Before the program runs, so that it finds the netdev for every packet.
        self.links
            .insert(ifindex, u32::from(slot), BPF_NOEXIST)
            .map_err(|cause| Error::Map { map: "LINKS", cause })?;
        match self.adopt_or_create(ifindex, Hook::Xdp, &self.programs.redirect, pin) {
            Ok(xdp) => {
                let pod = self.stale.take(ifindex);
                let attached = Attached { ifindex, xdp, egress: None, ingress: None, pod };
                self.attached.insert(slot, attached);
                Ok(())
            }
            Err(error) => {
                self.forget_netdev(ifindex)?;
                Err(error)
            }
        }
    }

    /// Attaches the program that keeps the kernel's packets from bypassing the workers on the link
    /// in `slot`: IP is redirected to the host link ([`Redirect::mark`]), and dropped until
    /// [`Redirect::set_pod`].
    ///
    /// Pinned beside the XDP program if that is, and adopted likewise.
    ///
    /// # Errors
    /// As [`Redirect::attach`], and [`Error::Slot`] if there is no such link.
    pub fn guard(&mut self, slot: u16) -> Result<(), Error> {
        let ifindex = self.at(slot)?.ifindex;
        let egress = self.attach_tcx(slot, ifindex, Hook::Egress, &self.programs.guard)?;
        self.at_mut(slot)?.egress = Some(egress);
        Ok(())
    }

    /// Makes the link in `slot` the host link, whose other end is the netdev `kernel_end`: frames
    /// that the kernel sends there have an Ethernet source that says where the kernel got them from
    /// ([`HostFrame`](crate::HostFrame)).
    ///
    /// Both programs are pinned beside the XDP program if that is, and adopted likewise. What comes
    /// by the host link reaches no tunnel in the calling thread's network namespace
    /// ([`Self::set_tunnel_ports`]); this needs no pin.
    ///
    /// # Errors
    /// As [`Redirect::attach`], and [`Error::Slot`] if there is no such link.
    pub fn mark(&mut self, slot: u16, kernel_end: u32) -> Result<(), Error> {
        let ingress = self.attach_tcx(slot, kernel_end, Hook::Ingress, &self.programs.sender)?;
        self.at_mut(slot)?.ingress = Some(ingress);
        let egress = self.attach_tcx(slot, kernel_end, Hook::Egress, &self.programs.mark)?;
        self.at_mut(slot)?.egress = Some(egress);
        if self.lookup.is_none() {
            let program = self.programs.lookup.as_fd();
            let attach = |netns: File| HookLink::attach_to_netns(program, netns.as_fd());
            let attached = File::open(THREAD_NETNS).and_then(attach);
            self.lookup = Some(attached.map_err(|cause| attach_error(kernel_end, &cause))?);
        }
        self.set_host_link(kernel_end)
    }

    fn set_host_link(&mut self, ifindex: u32) -> Result<(), Error> {
        self.host_link.set(0, ifindex, 0).map_err(|cause| Error::Map { map: "HOST_LINK", cause })
    }

    /// Sets the UDP ports that tunnels of this node receive on; `None` if it may be any port, as is
    /// assumed until the first call.
    ///
    /// # Errors
    /// [`Error::Map`] if a part of the map can't be written.
    pub fn set_tunnel_ports(&mut self, ports: Option<&[u16]>) -> Result<(), Error> {
        self.tunnel_ports.set(ports).map_err(|cause| Error::Map { map: "TUNNEL_PORTS", cause })
    }

    fn at(&self, slot: u16) -> Result<&Attached, Error> {
        self.attached.get(&slot).ok_or(Error::Slot { slot, taken: false })
    }

    fn at_mut(&mut self, slot: u16) -> Result<&mut Attached, Error> {
        self.attached.get_mut(&slot).ok_or(Error::Slot { slot, taken: false })
    }

    /// Attaches a program to a tcx hook, pinned beside the XDP program of the link in `slot`.
    fn attach_tcx(
        &self,
        slot: u16,
        ifindex: u32,
        hook: Hook,
        program: &ProgramFd,
    ) -> Result<AttachedProgram, Error> {
        let suffix = if hook == Hook::Ingress { INGRESS_PIN } else { EGRESS_PIN };
        let pin = self.at(slot)?.xdp.pin.as_deref().map(|xdp| pin_beside(xdp, suffix));
        self.adopt_or_create(ifindex, hook, program, pin.as_deref())
    }

    /// Sets the pod behind the link in `slot`; `None` if it is unknown or not ready. Without a pod,
    /// no frame passes to the link, and no ARP or neighbour discovery from it.
    ///
    /// # Errors
    /// [`Error::Slot`] if there is no such link; [`Error::Map`] when there are too many addresses:
    /// then the link has no pod, and the next call tries again.
    pub fn set_pod(&mut self, slot: u16, pod: Option<Pod>) -> Result<(), Error> {
        let attached = self.attached.get_mut(&slot).ok_or(Error::Slot { slot, taken: false })?;
        self.pods.replace(attached.ifindex, &mut attached.pod, pod)
    }

    /// Whether addresses of a pod could not be removed when its link was detached.
    #[must_use]
    pub fn has_stale_entries(&self) -> bool {
        !self.stale.is_empty()
    }

    /// Removes addresses of pods that could not be removed when their links were detached. Returns
    /// the ifindex and the error of each netdev that still has some.
    pub fn remove_stale_entries(&mut self) -> Vec<(u32, Error)> {
        self.pods.remove_stale(&mut self.stale)
    }

    /// Drops of the programs so far, by reason.
    ///
    /// # Errors
    /// [`Error::Map`] if the counters can't be read.
    pub fn frame_drops(&self) -> Result<Vec<FrameDrops>, Error> {
        frame_drops::read(&self.frame_drops)
            .map_err(|cause| Error::Map { map: "DROP_COUNTS", cause })
    }

    /// Takes the oldest frames that the programs dropped, at most `max`.
    ///
    /// There are at most 100 of these a second from the pod of a link, in bursts of 50, and as many
    /// to it. Other drops are only counted ([`Self::drops_unrecorded`]), as are those for which the
    /// ring has no room.
    pub fn take_dropped(&mut self, max: usize, take: impl FnMut(&DroppedFrame<'_>)) {
        let Self { drop_records, attached, .. } = self;
        let is_attached =
            |slot, ifindex| attached.get(&slot).is_some_and(|link| link.ifindex == ifindex);
        drop_records.take(max, is_attached, take);
    }

    /// A descriptor that is readable while there are frames to take.
    #[must_use]
    pub fn dropped_fd(&self) -> BorrowedFd<'_> {
        self.drop_records.as_fd()
    }

    /// Drops that [`Self::take_dropped`] does not return.
    ///
    /// # Errors
    /// [`Error::Map`] if the counter can't be read.
    pub fn drops_unrecorded(&self) -> Result<u64, Error> {
        self.drop_records.lost().map_err(|cause| Error::Map { map: "RECORDS_LOST", cause })
    }

    /// Detaches the programs from the link in `slot`, removes their pins and its sockets, even if
    /// the netdev is gone. From here on the kernel handles the netdev's packets.
    ///
    /// # Errors
    /// [`Error::Slot`] if there is no such link. [`Error::Map`], [`Error::Detach`] and
    /// [`Error::Pin`] are the first of several: everything else is done, and the slot is free.
    pub fn detach(&mut self, slot: u16) -> Result<(), Error> {
        let (Attached { xdp, egress, ingress, .. }, cleared) = self.take(slot)?;
        let [egress, ingress] = [egress, ingress].map(|tcx| tcx.map_or(Ok(()), |tcx| tcx.detach()));
        xdp.detach().and(egress).and(ingress).and(cleared)
    }

    /// Frees the slot of a link whose programs are pinned, and removes its pod and its sockets. The
    /// programs stay: the netdev is cut off until it is attached again, or unpinned ([`unpin`]).
    ///
    /// # Errors
    /// [`Error::Slot`] if there is no such link. [`Error::Map`] is the first of several: everything
    /// else is done, and the slot is free.
    pub fn release_slot(&mut self, slot: u16) -> Result<(), Error> {
        self.take(slot)?.1
    }

    /// Removes a link from all maps. Returns it with the first error, if any.
    fn take(&mut self, slot: u16) -> Result<(Attached, Result<(), Error>), Error> {
        let no_pod = self.set_pod(slot, None);
        let mut attached = self.attached.remove(&slot).ok_or(Error::Slot { slot, taken: false })?;
        let ifindex = attached.ifindex;
        if no_pod.is_err() {
            self.stale.insert(ifindex, mem::take(&mut attached.pod));
        }
        let forgotten = self.forget_netdev(ifindex);
        let mut cleared = Ok(());
        for worker in 0..self.workers {
            cleared = cleared.and(self.clear_socket(slot, worker));
        }
        let is_host_link = attached.egress.as_ref().is_some_and(|egress| egress.ifindex != ifindex);
        let no_host_link = if is_host_link { self.set_host_link(0) } else { Ok(()) };
        Ok((attached, no_pod.and(forgotten).and(cleared).and(no_host_link)))
    }

    /// Attaches programs again that another process detached ([`unpin`] does so). Until then the
    /// kernel handles the netdev's packets. Netdevs that are gone don't count.
    pub fn attach_again(&mut self) -> AttachedAgain {
        let Self { programs, attached, .. } = self;
        let mut result = AttachedAgain::default();
        for link in attached.values_mut() {
            let of_host_link = link.egress.as_ref().is_some_and(|tcx| tcx.ifindex != link.ifindex);
            let egress = if of_host_link { &programs.mark } else { &programs.guard };
            // The XDP program first: without it, what the pod sends is forwarded.
            let all = iter::once((&mut link.xdp, &programs.redirect, Hook::Xdp))
                .chain(link.egress.as_mut().map(|tcx| (tcx, egress, Hook::Egress)))
                .chain(link.ingress.as_mut().map(|tcx| (tcx, &programs.sender, Hook::Ingress)));
            let mut is_again = false;
            for (at, program, hook) in all {
                match at.attach_again(program, hook) {
                    Ok(attached) => is_again |= attached,
                    Err(error) => result.failed.push((link.ifindex, error)),
                }
            }
            result.links.extend(is_again.then(|| link_name(link.ifindex)));
        }
        result
    }

    /// Pins every attached link again whose pin was removed. Returns their number.
    ///
    /// # Errors
    /// [`Error::Pin`] at the first that can't be pinned.
    pub fn pin_again(&self) -> Result<usize, Error> {
        let programs = self.attached.values().flat_map(Attached::programs);
        let pins = programs.filter_map(|program| Some((&program.link, program.pin.as_deref()?)));
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

    fn adopt_or_create(
        &self,
        ifindex: u32,
        hook: Hook,
        program: &ProgramFd,
        pin: Option<&Path>,
    ) -> Result<AttachedProgram, Error> {
        let attached = |link| AttachedProgram { ifindex, link, pin: pin.map(Path::to_path_buf) };
        if let Some(path) = pin
            && let Some(link) = adopt(ifindex, hook, program, path)?
        {
            return Ok(attached(link));
        }
        let link = HookLink::attach(program.as_fd(), ifindex, hook)
            .map_err(|cause| attach_error(ifindex, &cause))?;
        if let Some(path) = pin
            && let Err(cause) = link.pin(path)
        {
            link.detach().map_err(|cause| detach_error(ifindex, cause))?;
            return Err(pin_error(path, cause));
        }
        Ok(attached(link))
    }
}

/// The link pinned at `path`, now running `program`; `None` if there is none.
fn adopt(
    ifindex: u32,
    hook: Hook,
    program: &ProgramFd,
    path: &Path,
) -> Result<Option<HookLink>, Error> {
    let failed = |cause| pin_error(path, cause);
    let Some(link) = HookLink::open(path).map_err(failed)? else {
        return Ok(None);
    };
    match link.place().map_err(failed)? {
        (_, None) => return fs::remove_file(path).map(|()| None).map_err(failed),
        (found, Some(at)) if found == hook && at == ifindex => {}
        (_, Some(at)) => {
            return Err(Error::PinnedElsewhere {
                path: path.into(),
                found: link_name(at),
                wanted: link_name(ifindex),
            });
        }
    }
    match link.replace_program(program.as_fd()) {
        Ok(()) => Ok(Some(link)),
        Err(cause) => Err(attach_error(ifindex, &cause)),
    }
}

/// What [`Redirect::attach_again`] did.
#[derive(Debug, Default)]
pub struct AttachedAgain {
    /// Names of the netdevs that programs were attached to again.
    pub links: Vec<String>,
    /// What could not be attached, with the index of the netdev whose packets the kernel handles
    /// therefore.
    pub failed: Vec<(u32, Error)>,
}

impl AttachedProgram {
    /// Attaches the program again if it is detached, and removes the pin of the detached link, for
    /// [`Redirect::pin_again`]. Returns whether it was.
    fn attach_again(&mut self, program: &ProgramFd, hook: Hook) -> Result<bool, Error> {
        let Self { ifindex, link, pin } = self;
        let failed = |cause| attach_error(*ifindex, &cause);
        if link.is_attached().map_err(failed)? {
            return Ok(false);
        }
        *link = match HookLink::attach(program.as_fd(), *ifindex, hook) {
            Ok(link) => link,
            Err(_) if name_of(*ifindex).is_none() => return Ok(false),
            Err(cause) => return Err(failed(cause)),
        };
        match pin.as_deref().map(|path| (path, fs::remove_file(path))) {
            Some((path, Err(cause))) if cause.kind() != io::ErrorKind::NotFound => {
                Err(pin_error(path, cause))
            }
            _ => Ok(true),
        }
    }

    /// Detaches the program and removes the pin.
    fn detach(&self) -> Result<(), Error> {
        detach_and_unpin(&self.link, self.ifindex, self.pin.as_deref())
    }
}

impl Attached {
    fn programs(&self) -> impl Iterator<Item = &AttachedProgram> {
        // The XDP program last, so that none of the others is ever without it.
        self.egress.iter().chain(&self.ingress).chain(iter::once(&self.xdp))
    }
}

/// Where a program at a tcx hook is pinned, beside the XDP program.
fn pin_beside(xdp: &Path, suffix: &str) -> PathBuf {
    let mut path = xdp.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

impl Drop for Redirect {
    fn drop(&mut self) {
        let programs = self.attached.values().flat_map(Attached::programs);
        for AttachedProgram { link, .. } in programs.filter(|program| program.pin.is_none()) {
            // If this fails, closing the link detaches it some time later.
            let _ = link.detach();
        }
    }
}

/// Entries of the map of neighbours that are not reserved for a CPU.
const NEIGHBOURS: u32 = 8192;
/// Entries of an LRU map that a CPU takes from the common list at once, at most, for those that it
/// adds next; they return when it has used them up (`LOCAL_FREE_TARGET` in
/// `kernel/bpf/bpf_lru_list.c`). 64 CPUs could take all of [`NEIGHBOURS`]; then a CPU takes entries
/// from others, also entries that were used recently.
const RESERVED_PER_CPU: u32 = 128;

/// Size of the map of neighbours. It is one for all CPUs: with `BPF_F_NO_COMMON_LRU`, each CPU
/// would have a fixed part, and those that receive many requests would evict while others have
/// room.
fn neighbours_max(cpus: usize) -> u32 {
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
    NEIGHBOURS.saturating_add(RESERVED_PER_CPU.saturating_mul(cpus))
}

/// CPUs that the kernel has lists of free entries for.
fn possible_cpus() -> Result<usize, EbpfError> {
    nr_cpus().map_err(|(_, error)| MapError::IoError(error).into())
}

fn load_object(workers: u16, max_links: u16) -> Result<Ebpf, EbpfError> {
    let mut ebpf = EbpfLoader::new()
        .override_global("workers", &u32::from(workers), true)
        .override_global("node_netns", &node_netns()?, true)
        .map_max_entries("LINKS", max_links.into())
        .map_max_entries("XSKS", u32::from(max_links) * u32::from(workers))
        .map_max_entries("PODS", max_links.into())
        .map_max_entries("ADDRESSES", u32::from(max_links) * ADDRESSES_PER_LINK)
        .map_max_entries("NEIGHBOURS", neighbours_max(possible_cpus()?))
        .map_max_entries("NEIGHBOUR_TIMES", max_links.into())
        .map_max_entries("TO_POD_TIMES", max_links.into())
        .map_max_entries("RECORD_TIMES", max_links.into())
        .load(OBJECT)?;
    program(&mut ebpf)?.load()?;
    classifier(&mut ebpf, "guard")?.load()?;
    classifier(&mut ebpf, "mark")?.load()?;
    classifier(&mut ebpf, "sender")?.load()?;
    sk_lookup(&mut ebpf)?.load()?;
    Ok(ebpf)
}

/// Cookie of the calling thread's network namespace, by which `mark` tells what this node sends; 0
/// if the kernel gives programs at tcx hooks no cookies.
fn node_netns() -> Result<u64, ProgramError> {
    let helper = BpfHelper::BPF_FUNC_get_netns_cookie;
    if !is_helper_supported(ProgramType::SchedClassifier, helper)? {
        return Ok(0);
    }
    let any = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let cookie = any.and_then(|socket| getsockopt(&socket, NetnsCookie));
    cookie.map_err(|errno| ProgramError::IOError(errno.into()))
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> Result<&'e mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name)
        .ok_or_else(|| ProgramError::InvalidName { name: name.into() })?
        .try_into()
}

fn sk_lookup(ebpf: &mut Ebpf) -> Result<&mut SkLookup, ProgramError> {
    ebpf.program_mut("lookup")
        .ok_or_else(|| ProgramError::InvalidName { name: "lookup".into() })?
        .try_into()
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, ProgramError> {
    ebpf.program_mut("redirect")
        .ok_or_else(|| ProgramError::InvalidName { name: "redirect".into() })?
        .try_into()
}

/// Detaches a pinned link and those at the tcx hooks beside it, and removes their pins; without a
/// pin it does nothing.
///
/// For processes without a [`Redirect`], to clean up after one that has ended.
///
/// # Errors
/// [`Error::Pin`] if `path` is not a pinned XDP or tcx link, [`Error::Detach`].
pub fn unpin(path: &Path) -> Result<(), Error> {
    let beside = |suffix| unpin_one(&pin_beside(path, suffix));
    unpin_one(path).and(beside(EGRESS_PIN)).and(beside(INGRESS_PIN))
}

fn unpin_one(path: &Path) -> Result<(), Error> {
    let failed = |cause| pin_error(path, cause);
    let Some(link) = HookLink::open(path).map_err(failed)? else {
        return Ok(());
    };
    let ifindex = link.place().map_err(failed)?.1.unwrap_or(0);
    detach_and_unpin(&link, ifindex, Some(path))
}

/// Detaches first: if the pin can't be removed then, `attach` removes it later.
fn detach_and_unpin(link: &HookLink, ifindex: u32, pin: Option<&Path>) -> Result<(), Error> {
    link.detach().map_err(|cause| detach_error(ifindex, cause))?;
    match pin.map(|path| (path, fs::remove_file(path))) {
        Some((path, Err(cause))) if cause.kind() != io::ErrorKind::NotFound => {
            Err(pin_error(path, cause))
        }
        _ => Ok(()),
    }
}

fn attach_error(ifindex: u32, cause: &io::Error) -> Error {
    // bpf(2) returns EINVAL for a netdev that doesn't exist, and in many other cases.
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
    // nix 0.31 returns an empty name when if_indextoname(3) fails.
    let name = if_indextoname(ifindex).ok()?.to_string_lossy().into_owned();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod attach_tests;
#[cfg(test)]
mod verdict_tests;
