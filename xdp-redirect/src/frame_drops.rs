//! Frames that the programs drop, by reason.

use std::iter::zip;

use aya::maps::{MapData, MapError, PerCpuArray};
use podgate_tables::drop_reason::FrameDropReason;

/// Frames that the programs dropped for one reason, since they were loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameDrops {
    /// Why.
    pub reason: FrameDropReason,
    /// Frames.
    pub packets: u64,
    /// Bytes, from the Ethernet header on; not known of `to_node_tunnel`.
    pub bytes: u64,
}

/// Reads all counters.
pub(crate) fn read(map: &PerCpuArray<MapData, [u64; 2]>) -> Result<Vec<FrameDrops>, MapError> {
    let read_one = |(index, reason): (u32, &FrameDropReason)| {
        let mut frame_drops = FrameDrops { reason: *reason, packets: 0, bytes: 0 };
        for [packets, bytes] in map.get(&index, 0)?.iter() {
            frame_drops.packets += packets;
            frame_drops.bytes += bytes;
        }
        Ok(frame_drops)
    };
    zip(0.., FrameDropReason::ALL).map(read_one).collect()
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
    fn the_programs_have_these_reasons_in_this_order() {
        let header = include_str!("drops.bpf.h");
        let (_, reasons) = header.split_once("enum drop_reason {").unwrap();
        let (reasons, _) = reasons.split_once("NR_DROP_REASONS").unwrap();
        let reasons = reasons.split(',').map(str::trim).filter(|reason| !reason.is_empty());
        let labels = reasons.map(|reason| label(reason.strip_prefix("DROP_").unwrap()));
        let expected = FrameDropReason::ALL.iter().map(|reason| reason.label());
        assert_eq!(labels.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}
