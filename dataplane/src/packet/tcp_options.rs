//! TCP options (RFC 9293 §3.2, RFC 2018, RFC 7323).

use std::ops::Range;

const END: u8 = 0;
/// Padding between options, 1 byte.
pub const NO_OPERATION: u8 = 1;
const MAX_SEGMENT_SIZE: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// The options of one TCP header.
#[derive(Clone, Copy, Debug)]
pub struct TcpOptions<'a>(&'a [u8]);

/// One option.
struct OptionAt {
    kind: u8,
    /// Where it lies, with kind and length field; to the end if it doesn't fit.
    at: Range<usize>,
    /// Whether it has a length, and ends before the options do.
    fits: bool,
}

impl<'a> TcpOptions<'a> {
    /// `bytes` is the header after its first 20 bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Offset in the options of the value of the first option of this kind; `None` unless it is of
    /// this length, bytes with kind and length field.
    fn find(&self, kind: u8, len: u8) -> Option<usize> {
        // Nearly every segment has its timestamps in this layout (RFC 7323 appendix A).
        const USUAL: [u8; 4] = [NO_OPERATION, NO_OPERATION, TIMESTAMPS, 10];
        if kind == TIMESTAMPS && self.0.starts_with(&USUAL) && self.0.len() >= 12 {
            return Some(4);
        }
        let (at, size) = self.find_any(kind)?;
        (size == len).then_some(at)
    }

    /// Offset in the options of the value of the first option of this kind, and its length, bytes
    /// with kind and length field.
    fn find_any(&self, kind: u8) -> Option<(usize, u8)> {
        let option = self.iter().find(|option| option.kind == kind)?;
        let size = u8::try_from(option.at.len()).ok()?;
        option.fits.then_some((option.at.start + 2, size))
    }

    /// The options without padding, up to their end.
    fn iter(&self) -> impl Iterator<Item = OptionAt> {
        let mut at = 0;
        std::iter::from_fn(move || {
            while self.0.get(at) == Some(&NO_OPERATION) {
                at += 1;
            }
            let (kind, rest) = self.0.get(at..)?.split_first()?;
            let begin = at;
            let size = rest.first().map_or(0, |size| usize::from(*size));
            let fits = size >= 2 && size <= rest.len() + 1;
            at = if fits { begin + size } else { self.0.len() };
            (*kind != END).then_some(OptionAt { kind: *kind, at: begin..at, fits })
        })
    }

    /// Where the options lie that an inspected connection may not negotiate: all but those of which
    /// it is known that they leave the order and the number of the stream's bytes as they are (the
    /// constants above). Multipath TCP, for one, gives bytes an order that differs from that of
    /// sequence numbers (RFC 8684 §3.3). An option that doesn't fit extends to the end.
    pub fn not_inspectable(&self) -> impl Iterator<Item = Range<usize>> {
        const KNOWN: [u8; 5] = [MAX_SEGMENT_SIZE, WINDOW_SCALE, SACK_PERMITTED, SACK, TIMESTAMPS];
        let options = self.iter();
        let unknown = options.filter(|option| !option.fits || !KNOWN.contains(&option.kind));
        unknown.map(|option| option.at)
    }

    fn value<const N: usize>(&self, kind: u8) -> Option<[u8; N]> {
        let at = self.find(kind, N as u8 + 2)?;
        self.0[at..at + N].try_into().ok()
    }

    /// Offset in the options of the maximum segment size, 2 bytes.
    pub(super) fn max_segment_size_offset(&self) -> Option<usize> {
        self.find(MAX_SEGMENT_SIZE, 4)
    }

    /// Offset in the options of the sender's timestamp (`TSval`), 4 bytes.
    #[must_use]
    pub fn timestamp_offset(&self) -> Option<usize> {
        self.find(TIMESTAMPS, 10)
    }

    /// Maximum segment size, bytes.
    #[must_use]
    pub fn max_segment_size(&self) -> Option<u16> {
        self.value(MAX_SEGMENT_SIZE).map(u16::from_be_bytes)
    }

    /// Window scale shift, at most 14 (RFC 7323 §2.3).
    #[must_use]
    pub fn window_scale(&self) -> Option<u8> {
        self.value(WINDOW_SCALE).map(|[shift]| shift.min(14))
    }

    /// Whether the sender accepts selective acknowledgements (RFC 2018 §2).
    #[must_use]
    pub fn sack_permitted(&self) -> bool {
        self.find(SACK_PERMITTED, 2).is_some()
    }

    /// Where the blocks of a selective acknowledgement lie in the options, 8 bytes each (RFC 2018
    /// §3).
    #[must_use]
    pub fn sack_blocks(&self) -> Option<Range<usize>> {
        let (at, size) = self.find_any(SACK)?;
        let len = usize::from(size) - 2;
        (len > 0 && len.is_multiple_of(8)).then_some(at..at + len)
    }

    /// The sender's timestamp (`TSval`).
    #[must_use]
    pub fn timestamp(&self) -> Option<u32> {
        let [a, b, c, d, ..] = self.value::<8>(TIMESTAMPS)?;
        Some(u32::from_be_bytes([a, b, c, d]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_are_found_behind_others() {
        let options =
            TcpOptions(&[2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7]);
        assert_eq!(options.max_segment_size(), Some(1460));
        assert_eq!(options.window_scale(), Some(7));
        assert!(options.sack_permitted());
        assert_eq!(options.timestamp(), Some(7));
        let timestamp = TcpOptions(&[1, 1, 8, 10, 0, 0, 1, 0, 0, 0, 0, 9]).timestamp();
        assert_eq!(timestamp, Some(256));
        assert_eq!(TcpOptions(&[3, 3, 99, 0]).window_scale(), Some(14));
        assert!(!TcpOptions(&[3, 3, 99, 0]).sack_permitted());
        assert_eq!(TcpOptions(&[0, 2, 4, 5, 6]).max_segment_size(), None);
        assert_eq!(TcpOptions(&[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2]).sack_blocks(), Some(4..12));
        assert_eq!(TcpOptions(&[1, 1, 5, 9, 0, 0, 0, 1, 0, 0, 0]).sack_blocks(), None);
    }

    #[test]
    fn options_that_an_inspected_connection_may_not_negotiate_are_found() {
        let ranges = |bytes: &[u8]| {
            let options = TcpOptions(bytes);
            let ranges = options.not_inspectable();
            ranges.map(|range| (range.start, range.end)).collect::<Vec<_>>()
        };
        let usual = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 7, 0, 0, 0, 0, 1, 3, 3, 7];
        assert!(ranges(&usual).is_empty());
        // MP_CAPABLE (RFC 8684 §3.1), a Fast Open cookie (RFC 7413 §2), an experiment (RFC 6994).
        assert_eq!(ranges(&[30, 4, 1, 0, 2, 4, 5, 0xb4]), [(0, 4)]);
        assert_eq!(ranges(&[1, 34, 2, 4, 2, 254, 4, 0, 0, 0, 30, 4]), [(1, 3), (5, 9)]);
        for truncated in [&[1, 30][..], &[1, 30, 0, 0], &[1, 30, 1, 2], &[1, 30, 9, 0], &[1, 2, 4]]
        {
            assert_eq!(ranges(truncated), [(1, truncated.len())]);
        }
    }

    proptest! {
        #[test]
        fn no_options_panic(bytes in proptest::collection::vec(0u8..12, 0..40)) {
            let options = TcpOptions(&bytes);
            let _ = (options.max_segment_size(), options.window_scale(), options.timestamp());
            let _ = options.sack_blocks();
            let mut left = bytes.clone();
            for range in options.not_inspectable() {
                left[range].fill(NO_OPERATION);
            }
            prop_assert_eq!(TcpOptions(&left).not_inspectable().count(), 0);
        }
    }
}
