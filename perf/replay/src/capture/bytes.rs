//! Integers in either byte order.

/// Bytes whose integers have one byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bytes<'a> {
    pub(super) data: &'a [u8],
    pub(super) big_endian: bool,
}

impl<'a> Bytes<'a> {
    /// The bytes from `at`, in the same byte order.
    pub(super) fn after(self, at: usize) -> Option<Self> {
        Some(Self { data: self.data.get(at..)?, ..self })
    }

    /// The integer at `at`; `None` if it is not within the bytes.
    pub(super) fn u16(self, at: usize) -> Option<u16> {
        let bytes = self.array(at)?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    /// The integer at `at`; `None` if it is not within the bytes.
    pub(super) fn u32(self, at: usize) -> Option<u32> {
        let bytes = self.array(at)?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The integer at `at`; `None` if it is not within the bytes.
    pub(super) fn u64(self, at: usize) -> Option<u64> {
        let bytes = self.array(at)?;
        Some(if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.data.get(at..)?.first_chunk().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_in_either_byte_order_and_not_beyond_the_end() {
        let data = &[0, 1, 2, 3, 4, 5, 6, 7, 8];
        let [little, big] = [false, true].map(|big_endian| Bytes { data, big_endian });
        assert_eq!((little.u16(1), big.u16(1)), (Some(0x0201), Some(0x0102)));
        assert_eq!((little.u32(1), big.u32(1)), (Some(0x0403_0201), Some(0x0102_0304)));
        assert_eq!(little.u64(1), Some(0x0807_0605_0403_0201));
        assert_eq!(big.u64(1), Some(0x0102_0304_0506_0708));
        assert_eq!((big.u16(8), big.u32(6), big.u64(2)), (None, None, None));
        assert_eq!((big.u16(100), big.after(10)), (None, None));
        assert_eq!(big.after(8).map(|rest| rest.data), Some(&data[8..]));
    }
}
