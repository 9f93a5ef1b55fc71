//! Frames that the programs drop, by reason.

use std::iter::zip;

use aya::maps::{MapData, MapError, PerCpuArray};

/// Label of each counter, in the order of `enum drop_reason` in `drops.bpf.h`.
///
/// `arp_nd_…` and `not_ip` are for frames from pods, `to_pod_…` for frames that the kernel sends to
/// a pod's link, `to_node_tunnel` for packets that the kernel delivers to its own sockets.
const LABELS: [&str; 12] = [
    "arp_nd_rate_limit",
    "arp_nd_spoofed",
    "arp_nd_not_ready",
    "not_ip",
    "to_pod_not_ip",
    "to_pod_vlan_tagged",
    "to_pod_multicast",
    "to_pod_not_ready",
    "to_pod_other_mac",
    "to_pod_no_host_link",
    "to_node_tunnel",
    "to_pod_arp_nd_rate_limit",
];

/// Frames that the programs dropped for one reason, since they were loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameDrops {
    /// Why; the metric label.
    pub reason: &'static str,
    /// Frames.
    pub packets: u64,
    /// Bytes, from the Ethernet header on; not known of `to_node_tunnel`.
    pub bytes: u64,
}

/// Reads all counters.
pub(crate) fn read(map: &PerCpuArray<MapData, [u64; 2]>) -> Result<Vec<FrameDrops>, MapError> {
    let read_one = |(index, reason): (u32, &&'static str)| {
        let mut frame_drops = FrameDrops { reason, packets: 0, bytes: 0 };
        for [packets, bytes] in map.get(&index, 0)?.iter() {
            frame_drops.packets += packets;
            frame_drops.bytes += bytes;
        }
        Ok(frame_drops)
    };
    zip(0.., &LABELS).map(read_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The label of a reason: its name, with the words that operators know.
    fn label(name: &str) -> String {
        let words = name.to_lowercase();
        let words = words.split('_').map(|word| match word {
            "neighbour" => "arp_nd",
            "rate" => "rate_limit",
            "tagged" => "vlan_tagged",
            word => word,
        });
        words.collect::<Vec<_>>().join("_")
    }

    #[test]
    fn each_drop_reason_of_the_programs_has_its_label() {
        let header = include_str!("drops.bpf.h");
        let (_, reasons) = header.split_once("enum drop_reason {").unwrap();
        let (reasons, _) = reasons.split_once("NR_DROP_REASONS").unwrap();
        let reasons = reasons.split(',').map(str::trim).filter(|reason| !reason.is_empty());
        let labels = reasons.map(|reason| label(reason.strip_prefix("DROP_").unwrap()));
        assert_eq!(labels.collect::<Vec<_>>(), LABELS);
    }
}
