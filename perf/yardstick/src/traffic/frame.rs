//! The frames that are sent: 64 bytes, UDP over IPv4.

use std::net::Ipv4Addr;
use std::ops::Range;

use anyhow::Result;
use etherparse::PacketBuilder;

/// Number of flows that a generator sends in turn; they differ in the source port.
pub(crate) const FLOWS: u16 = 64;
/// Source port of the first flow.
pub(super) const FIRST_PORT: u16 = 20_000;
/// Size of a frame, bytes, without the frame check sequence, which a veth doesn't have.
pub(crate) const FRAME_BYTES: usize = 64;

/// The source ports of all flows.
#[must_use]
pub(crate) fn source_ports() -> Range<u16> {
    FIRST_PORT..FIRST_PORT + FLOWS
}

/// Size of the Ethernet, IPv4 and UDP headers, bytes.
const HEADERS: usize = 14 + 20 + 8;

/// The measured flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// The sending pod's Ethernet address.
    pub(crate) source_mac: [u8; 6],
    /// Ethernet address of the pod's next hop.
    pub(crate) target_mac: [u8; 6],
    /// The sending pod's address.
    pub(crate) source: Ipv4Addr,
    /// The receiving pod's address.
    pub(crate) target: Ipv4Addr,
    /// Destination port.
    pub(crate) port: u16,
}

impl Flow {
    /// The frame of flow number `flow`, below [`FLOWS`], with correct checksums. The first two
    /// bytes of the payload compensate the source port, so that all flows have the same checksum.
    ///
    /// # Errors
    /// Never, because the sizes are constant.
    pub(super) fn frame(&self, flow: u16) -> Result<[u8; FRAME_BYTES]> {
        let mut payload = [0; FRAME_BYTES - HEADERS];
        payload[..2].copy_from_slice(&(u16::MAX - flow).to_be_bytes());
        let mut frame = [0; FRAME_BYTES];
        PacketBuilder::ethernet2(self.source_mac, self.target_mac)
            .ipv4(self.source.octets(), self.target.octets(), 64)
            .udp(FIRST_PORT + flow, self.port)
            .write(&mut frame.as_mut_slice(), &payload)?;
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{SlicedPacket, TransportSlice};

    use super::*;

    #[test]
    fn all_flows_have_the_same_correct_checksum() {
        let flow = Flow {
            source_mac: [2; 6],
            target_mac: [4; 6],
            source: Ipv4Addr::new(10, 64, 0, 1),
            target: Ipv4Addr::new(10, 64, 0, 2),
            port: 9000,
        };
        let mut checksums = Vec::new();
        for number in 0..FLOWS {
            let frame = flow.frame(number).unwrap();
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("{packet:?}") };
            let header = udp.to_header();
            assert_eq!((header.source_port, header.destination_port), (FIRST_PORT + number, 9000));
            let ip = flow.source.octets();
            let right =
                header.calc_checksum_ipv4_raw(ip, flow.target.octets(), udp.payload()).unwrap();
            assert_eq!(header.checksum, right);
            checksums.push(header.checksum);
        }
        assert!(checksums.iter().all(|checksum| *checksum == checksums[0]), "{checksums:?}");
    }
}
