//! What a netdev is and what it must not do: its address, its MTU, checksum offload.
//!
//! All functions work in the network namespace of the calling thread; [`crate::netns::inside`]
//! brings them into a pod's.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use crate::Error;

// Commands of `include/uapi/linux/ethtool.h`.
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// Address and size limit of a netdev.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hardware {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Largest packet in bytes, Ethernet header not counted.
    pub mtu: u32,
}

/// Reads address and MTU of a netdev.
///
/// # Errors
/// [`Error::Netdev`], for instance if there is no such netdev here.
pub fn hardware(name: &str) -> Result<Hardware, Error> {
    let read = || {
        let mut request = Request::new(name)?;
        request.run(libc::SIOCGIFHWADDR)?;
        // SAFETY: SIOCGIFHWADDR just filled this member of the union.
        let address = unsafe { request.ifreq.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(io::Error::other("it is not an Ethernet netdev"));
        }
        request.run(libc::SIOCGIFMTU)?;
        // SAFETY: SIOCGIFMTU just filled this member of the union.
        let mtu = unsafe { request.ifreq.ifr_ifru.ifru_mtu };
        let mac = std::array::from_fn(|i| address.sa_data[i] as u8);
        Ok(Hardware { mac, mtu: mtu.unsigned_abs() })
    };
    read().map_err(|cause| Error::Netdev {
        name: name.into(),
        action: "read address and MTU",
        cause,
    })
}

/// Makes a netdev write whole checksums into what it sends. Returns whether it left them to its
/// device before.
///
/// Native XDP on the peer of a veth loses the note that a checksum is still to be computed, so
/// that every TCP packet of a pod would arrive broken.
///
/// # Errors
/// [`Error::Netdev`], also if the driver leaves the offload on.
pub fn tx_checksum_off(name: &str) -> Result<bool, Error> {
    set_tx_checksum(name, false, "turn TX checksum offload off")
}

/// Lets a netdev leave checksums to its device again: what [`tx_checksum_off`] took.
///
/// # Errors
/// [`Error::Netdev`], also if the driver leaves the offload off.
pub fn tx_checksum_on(name: &str) -> Result<(), Error> {
    set_tx_checksum(name, true, "turn TX checksum offload on").map(drop)
}

/// Sets the offload, and returns whether it was on before.
fn set_tx_checksum(name: &str, on: bool, action: &'static str) -> Result<bool, Error> {
    let switch = || {
        let mut request = Request::new(name)?;
        let was_on = request.ethtool(ETHTOOL_GTXCSUM, 0)? != 0;
        if was_on == on {
            return Ok(was_on);
        }
        request.ethtool(ETHTOOL_STXCSUM, on.into())?;
        let is_on = request.ethtool(ETHTOOL_GTXCSUM, 0)? != 0;
        if is_on == on {
            Ok(was_on)
        } else {
            let kept = if is_on { "on" } else { "off" };
            Err(io::Error::other(format!("the driver keeps it {kept}")))
        }
    };
    switch().map_err(|cause| Error::Netdev { name: name.into(), action, cause })
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// A netdev named for ioctl(2), and the socket that the calls go through.
struct Request {
    socket: UdpSocket,
    ifreq: libc::ifreq,
}

impl Request {
    fn new(name: &str) -> io::Result<Self> {
        // SAFETY: `ifreq` is plain old data; all zero is a valid value, pointers included.
        let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
        // The last byte stays zero: the kernel wants a C string.
        if name.len() >= ifreq.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in ifreq.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        // Any socket will do; it only says in which namespace the name is looked up. One that is
        // bound to loopback with port 0 sends and receives nothing.
        Ok(Self { socket: UdpSocket::bind("127.0.0.1:0")?, ifreq })
    }

    fn run(&mut self, command: libc::c_ulong) -> io::Result<()> {
        // SAFETY: `ifreq` is initialized and lives through the call; `command` is one that reads
        // and writes a `struct ifreq` (and, for SIOCETHTOOL, what `ethtool` lets it point to).
        let result =
            unsafe { libc::ioctl(self.socket.as_raw_fd(), command as _, &raw mut self.ifreq) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn ethtool(&mut self, command: u32, data: u32) -> io::Result<u32> {
        let mut value = EthtoolValue { command, data };
        self.ifreq.ifr_ifru.ifru_data = (&raw mut value).cast();
        self.run(libc::SIOCETHTOOL as libc::c_ulong)?;
        Ok(value.data)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{tx_checksum_off, tx_checksum_on};
    use crate::lab;

    fn features() -> String {
        let output = Command::new("ethtool").args(["-k", "pg-o0"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn what_was_turned_off_is_turned_on_again_with_all_that_depends_on_it() {
        lab::in_new_namespaces(|| {
            lab::ip("link add pg-o0 type veth peer name pg-o1");
            let before = features();
            assert!(tx_checksum_off("pg-o0").unwrap(), "it was on");
            assert!(!tx_checksum_off("pg-o0").unwrap(), "it was off");
            assert!(features().contains("tx-checksumming: off"));
            tx_checksum_on("pg-o0").unwrap();
            tx_checksum_on("pg-o0").unwrap();
            assert_eq!(features(), before);
            assert!(tx_checksum_on("pg-nobody").is_err());
        });
    }
}
