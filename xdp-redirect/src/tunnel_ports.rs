//! The map of UDP ports that tunnels of this node receive on: a bit for each port.

use aya::maps::{Array, MapData, MapError};

/// Ports of one entry.
const WORD: usize = 64;
const WORDS: usize = (1 << 16) / WORD;

/// The map, and what it has.
pub(crate) struct TunnelPorts {
    map: Array<MapData, u64>,
    words: Vec<u64>,
}

impl TunnelPorts {
    /// With every port, since none is known not to be a tunnel's.
    pub(crate) fn new(map: Array<MapData, u64>) -> Result<Self, MapError> {
        let mut ports = Self { map, words: vec![0; WORDS] };
        ports.set(None)?;
        Ok(ports)
    }

    /// Sets the ports; all of them if `None`.
    pub(crate) fn set(&mut self, ports: Option<&[u16]>) -> Result<(), MapError> {
        for (index, (word, wanted)) in (0..).zip(self.words.iter_mut().zip(words(ports))) {
            if *word != wanted {
                self.map.set(index, wanted, 0)?;
                *word = wanted;
            }
        }
        Ok(())
    }
}

fn words(ports: Option<&[u16]>) -> Vec<u64> {
    let Some(ports) = ports else { return vec![u64::MAX; WORDS] };
    let mut words = vec![0; WORDS];
    for port in ports {
        words[usize::from(*port) / WORD] |= 1 << (usize::from(*port) % WORD);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_its_bit() {
        let words = words(Some(&[0, 63, 64, 4789, 65535]));
        let set =
            (0..=u16::MAX).filter(|port| words[usize::from(port / 64)] >> (port % 64) & 1 != 0);
        assert_eq!(Vec::from_iter(set), [0, 63, 64, 4789, 65535]);
        assert!(super::words(None).iter().all(|word| *word == u64::MAX));
    }
}
