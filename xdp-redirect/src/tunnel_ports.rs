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
    /// With every port: any of them may be a tunnel's.
    pub(crate) fn new(map: Array<MapData, u64>) -> Result<Self, MapError> {
        let mut ports = Self { map, words: vec![0; WORDS] };
        ports.set(None)?;
        Ok(ports)
    }

    /// Sets the ports; all of them if `None`. After an error, the next call tries again.
    pub(crate) fn set(&mut self, ports: Option<&[u16]>) -> Result<(), MapError> {
        write(&mut self.words, &words(ports), |index, word| self.map.set(index, word, 0))
    }
}

/// Writes each word that differs, and returns the first error.
fn write(
    written: &mut [u64],
    wanted: &[u64],
    mut set: impl FnMut(u32, u64) -> Result<(), MapError>,
) -> Result<(), MapError> {
    let mut result = Ok(());
    for (index, (word, wanted)) in (0..).zip(written.iter_mut().zip(wanted)) {
        if word != wanted {
            match set(index, *wanted) {
                Ok(()) => *word = *wanted,
                Err(error) => result = result.and(Err(error)),
            }
        }
    }
    result
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
    fn a_word_that_is_not_written_keeps_no_other_from_it_and_is_tried_again() {
        let (mut written, wanted) = ([0; 3], [1, 2, 3]);
        let mut map = [0; 3];
        write(&mut written, &wanted, |index, word| {
            if index == 1 {
                return Err(MapError::ElementNotFound);
            }
            map[index as usize] = word;
            Ok(())
        })
        .unwrap_err();
        assert_eq!((map, written), ([1, 0, 3], [1, 0, 3]));
        let mut tried = Vec::new();
        let all = |index, word| {
            tried.push((index, word));
            Ok(())
        };
        write(&mut written, &wanted, all).unwrap();
        assert_eq!((tried, written), (vec![(1, 2)], wanted));
    }

    #[test]
    fn each_port_has_its_bit() {
        let words = words(Some(&[0, 63, 64, 4789, 65535]));
        let set =
            (0..=u16::MAX).filter(|port| words[usize::from(port / 64)] >> (port % 64) & 1 != 0);
        assert_eq!(Vec::from_iter(set), [0, 63, 64, 4789, 65535]);
        assert!(super::words(None).iter().all(|word| *word == u64::MAX));
    }
}
