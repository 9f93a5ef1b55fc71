//! TX checksum offload of a link (ethtool(8), `tx-checksumming`), over generic netlink
//! (`include/uapi/linux/ethtool_netlink.h`), in the network namespace of the calling thread.

use std::io;

use crate::netlink::wire::{attribute, attributes, find, nested, text};
use crate::netlink::{GENL_HEADER, GenericRequester, genl_header};

/// The family's name.
const FAMILY: &[u8] = b"ethtool";
/// `ETHTOOL_MSG_FEATURES_GET` and `ETHTOOL_MSG_FEATURES_SET`.
const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
/// `ETHTOOL_A_FEATURES_…`: the request's header, features that can be changed, those that are
/// wanted, and those that are on.
const HEADER: u16 = 1;
const CHANGEABLE: u16 = 2;
const WANTED: u16 = 3;
const ACTIVE: u16 = 4;
/// `ETHTOOL_A_HEADER_DEV_NAME`.
const DEV_NAME: u16 = 2;
/// `ETHTOOL_A_BITSET_…`: a bitset without a mask lists the bits that are set, one with a mask lists
/// all of its mask.
const NO_MASK: u16 = 1;
const BITS: u16 = 3;
/// `ETHTOOL_A_BITSET_BITS_BIT`, `ETHTOOL_A_BITSET_BIT_NAME` and `ETHTOOL_A_BITSET_BIT_VALUE`.
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
/// What the names of all TX checksum features begin with (`net/ethtool/common.c`).
const TX_CHECKSUM: &[u8] = b"tx-checksum-";
/// Longest name of a link, bytes.
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// A change of offload that failed.
#[derive(Debug, thiserror::Error)]
#[error("can't turn TX checksum offload {wanted} on link {link}: {source}", wanted = wanted.word())]
pub struct OffloadError {
    link: String,
    wanted: State,
    source: io::Error,
}

impl OffloadError {
    /// The error of the system call that failed; `None` if the driver leaves the offload as it is.
    #[must_use]
    pub fn os_error(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Whether a feature is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is on.
    On,
    /// It is off.
    Off,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// Turns TX checksum offload off: the link's stack computes checksums. Returns the state before.
///
/// Native XDP on the peer of a veth loses `CHECKSUM_PARTIAL`, so packets with a checksum that is
/// still to be computed would arrive with a wrong one.
///
/// # Errors
/// When there is no such link, or the driver leaves the offload on.
pub fn tx_checksum_off(link: &str) -> Result<State, OffloadError> {
    set_tx_checksum(link, State::Off)
}

/// Turns TX checksum offload on again.
///
/// # Errors
/// When there is no such link, or the driver leaves the offload off.
pub fn tx_checksum_on(link: &str) -> Result<(), OffloadError> {
    set_tx_checksum(link, State::On).map(drop)
}

/// Sets the offload and returns its state before.
fn set_tx_checksum(link: &str, wanted: State) -> Result<State, OffloadError> {
    let set = || {
        let mut ethtool = Ethtool::open()?;
        let features = ethtool.tx_checksum_features(link)?;
        if features.state() == wanted {
            return Ok(wanted);
        }
        if !features.changeable.is_empty() {
            ethtool.set(link, &features.changeable, wanted)?;
        }
        let now = ethtool.tx_checksum_features(link)?.state();
        if now == wanted {
            Ok(features.state())
        } else {
            Err(io::Error::other(format!("the driver keeps it {}", now.word())))
        }
    };
    set().map_err(|source| OffloadError { link: link.to_owned(), wanted, source })
}

/// Names of a link's TX checksum features.
struct Features {
    changeable: Vec<Vec<u8>>,
    active: Vec<Vec<u8>>,
}

impl Features {
    fn state(&self) -> State {
        if self.active.is_empty() { State::Off } else { State::On }
    }
}

/// A socket for ethtool's generic netlink family.
struct Ethtool {
    socket: GenericRequester,
    family: u16,
}

impl Ethtool {
    fn open() -> io::Result<Self> {
        let mut socket = GenericRequester::open()?;
        let family = socket.list()?.into_iter().find(|family| family.name == FAMILY);
        let missing = || io::Error::other("the kernel has no CONFIG_ETHTOOL_NETLINK");
        Ok(Self { socket, family: family.ok_or_else(missing)?.id })
    }

    fn tx_checksum_features(&mut self, link: &str) -> io::Result<Features> {
        let request = [&genl_header(FEATURES_GET)[..], &header(link)?].concat();
        let answer = self.socket.request(self.family, &request)?;
        let no_answer = || io::Error::other("the kernel's answer is empty");
        let features = answer.first().and_then(|message| message.get(GENL_HEADER..));
        let features = features.ok_or_else(no_answer)?;
        let names = |kind| tx_checksum_bits(find(features, kind)?.unwrap_or_default());
        Ok(Features { changeable: names(CHANGEABLE)?, active: names(ACTIVE)? })
    }

    fn set(&mut self, link: &str, features: &[Vec<u8>], wanted: State) -> io::Result<()> {
        let bit = |name: &Vec<u8>| {
            let mut content = vec![attribute(BIT_NAME, &[name.as_slice(), &[0]].concat())];
            if wanted == State::On {
                content.push(attribute(BIT_VALUE, &[]));
            }
            nested(BIT, &content)
        };
        let bits: Vec<_> = features.iter().map(bit).collect();
        let bitset = nested(WANTED, &[nested(BITS, &bits)]);
        let request = [&genl_header(FEATURES_SET)[..], &header(link)?, &bitset].concat();
        self.socket.request(self.family, &request).map(drop)
    }
}

/// The header of a request about `link`.
fn header(link: &str) -> io::Result<Vec<u8>> {
    if link.len() > NAME_MAX {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let name = [link.as_bytes(), &[0]].concat();
    Ok(nested(HEADER, &[attribute(DEV_NAME, &name)]))
}

/// Names of the TX checksum features that are set in a bitset.
fn tx_checksum_bits(bitset: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let only_set_bits = find(bitset, NO_MASK)?.is_some();
    let mut names = Vec::new();
    for bit in attributes(find(bitset, BITS)?.unwrap_or_default()) {
        let (_, bit) = bit?;
        let name = text(find(bit, BIT_NAME)?.unwrap_or_default());
        let is_set = only_set_bits || find(bit, BIT_VALUE)?.is_some();
        if is_set && name.starts_with(TX_CHECKSUM) {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::{State, tx_checksum_off, tx_checksum_on};
    use crate::netlink::tests::in_netns;
    use crate::netns;

    fn run(program: &str, arguments: &str) -> String {
        let output = Command::new(program).args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "{program} {arguments}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn turning_the_offload_on_again_restores_all_features() {
        in_netns(|_| async {
            run("ip", "link add pg-o0 type veth peer name pg-o1");
            let features = || run("ethtool", "-k pg-o0");
            let before = features();
            assert_eq!(tx_checksum_off("pg-o0").unwrap(), State::On);
            assert_eq!(tx_checksum_off("pg-o0").unwrap(), State::Off);
            assert!(features().contains("tx-checksumming: off"));
            tx_checksum_on("pg-o0").unwrap();
            tx_checksum_on("pg-o0").unwrap();
            assert_eq!(features(), before);
            assert!(tx_checksum_on("pg-nobody").is_err());
            assert!(tx_checksum_off("a-name-of-sixteen").is_err());
        });
    }

    #[test]
    fn a_link_is_read_and_switched_from_outside_its_namespace() {
        in_netns(|_| async {
            run(
                "ip",
                "link add pg-o0 address 02:00:00:00:00:2a mtu 9000 type veth peer name pg-o1",
            );
            let there = PathBuf::from(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()));
            // Another thread, in another namespace, where there is no such link.
            in_netns(|netlink| async move {
                assert_eq!(netlink.link("pg-o0").await.unwrap(), None);
                assert!(tx_checksum_off("pg-o0").is_err());
                let off = || netns::inside(&there, || tx_checksum_off("pg-o0")).unwrap().unwrap();
                assert_eq!((off(), off()), (State::On, State::Off));
                let read = netns::inside(&there, || run("ip", "-o link show pg-o0")).unwrap();
                assert!(read.contains("02:00:00:00:00:2a") && read.contains("mtu 9000"), "{read}");
            });
        });
    }
}
