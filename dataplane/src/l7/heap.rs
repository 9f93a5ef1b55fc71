//! Growth of vectors whose memory is accounted for: the new capacity is known in advance.

/// Capacity of a vector's first allocation.
const FIRST: usize = 64;

/// Capacity of a vector of `capacity` once it has to hold `len` elements.
pub(super) fn grown(capacity: usize, len: usize) -> usize {
    if len <= capacity { capacity } else { len.next_power_of_two().max(FIRST) }
}

/// Appends to `vec`, which grows as [`grown`] says.
pub(super) fn append(vec: &mut Vec<u8>, bytes: &[u8]) {
    let capacity = grown(vec.capacity(), vec.len() + bytes.len());
    vec.reserve_exact(capacity - vec.len());
    vec.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_vector_grows_as_was_said(pieces in prop::collection::vec(0..300_usize, 0..20)) {
            let mut vec = Vec::new();
            for piece in pieces {
                let capacity = grown(vec.capacity(), vec.len() + piece);
                append(&mut vec, &vec![1; piece]);
                prop_assert_eq!(vec.capacity(), capacity);
            }
        }
    }
}
