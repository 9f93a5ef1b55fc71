//! Ethernet sources on the host link. Nothing else uses the address there, so it says where a
//! packet came from: it tells the kernel on which link the workers received the packet, and the
//! workers where the kernel got it from.

use std::num::NonZeroU16;

/// Where the kernel got a frame that it sends to the workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostFrame {
    /// From a link that is not the host link; or it is not known.
    Foreign,
    /// From the workers, which received it on the link in the slot `sender`, if that is known.
    Hairpin {
        /// The slot. The host link's own is 0, so no sender has that.
        sender: Option<NonZeroU16>,
    },
    /// From this node itself; and it is not a fragment.
    Local,
}

// `guard.bpf.h` has the same numbers. An address is locally administered (IEEE 802): the prefix,
// the slot of the sender, and the kind.
const PREFIX: [u8; 3] = [0x02, b'p', b'g'];
const FOREIGN: u8 = 0;
const HAIRPIN: u8 = 1;
const LOCAL: u8 = 2;
const FROM_WORKERS: u8 = 3;

impl HostFrame {
    /// Reads the Ethernet source of a frame from the kernel.
    #[must_use]
    #[inline]
    pub const fn of(mac: [u8; 6]) -> Self {
        let [a, b, c, high, low, kind] = mac;
        match ([a, b, c], kind) {
            (PREFIX, HAIRPIN) => {
                Self::Hairpin { sender: NonZeroU16::new(u16::from_be_bytes([high, low])) }
            }
            (PREFIX, LOCAL) => Self::Local,
            _ => Self::Foreign,
        }
    }

    /// The Ethernet source of such a frame.
    #[must_use]
    pub const fn mac(self) -> [u8; 6] {
        match self {
            Self::Foreign => mac(0, FOREIGN),
            Self::Hairpin { sender: Some(slot) } => mac(slot.get(), HAIRPIN),
            Self::Hairpin { sender: None } => mac(0, HAIRPIN),
            Self::Local => mac(0, LOCAL),
        }
    }

    /// The Ethernet source of a frame that the workers send to the kernel and received on the link
    /// in `slot`.
    #[must_use]
    #[inline]
    pub const fn sender_mac(slot: u16) -> [u8; 6] {
        mac(slot, FROM_WORKERS)
    }
}

const fn mac(slot: u16, kind: u8) -> [u8; 6] {
    let [high, low] = slot.to_be_bytes();
    let [a, b, c] = PREFIX;
    [a, b, c, high, low, kind]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_is_written() {
        let slots = [None, NonZeroU16::new(1), NonZeroU16::new(0x1234)];
        let hairpins = slots.map(|sender| HostFrame::Hairpin { sender });
        for frame in [HostFrame::Foreign, HostFrame::Local].into_iter().chain(hairpins) {
            assert_eq!(HostFrame::of(frame.mac()), frame);
        }
        for other in [HostFrame::sender_mac(7), [2, 0, 0, 0, 0, 1], [0; 6], [0xff; 6]] {
            assert_eq!(HostFrame::of(other), HostFrame::Foreign);
        }
    }
}
