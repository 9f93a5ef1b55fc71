//! Huffman-coded strings (RFC 7541 §5.2).

use super::HpackError;

/// A state of the decoder: a node of the code's tree, which has 256 inner ones.
type State = u8;

/// What four bits of a string lead to.
#[derive(Clone, Copy)]
struct Step {
    next: State,
    /// The symbol that the bits complete, if they do. Codes have five bits at least, so that there
    /// is one at most.
    symbol: Option<u8>,
    /// The bits are the beginning of no code but the one of the end of the string.
    is_invalid: bool,
}

/// Steps by state and four bits.
static STEPS: [[Step; 16]; 256] = steps();

/// States in which a string may end: those that no more than seven bits of ones lead to.
static MAY_END: [bool; 256] = ends();

/// Appends a decoded string.
///
/// # Errors
/// [`HpackError::InvalidHuffman`] for a code of the end of a string within it, and for padding that
/// is longer than seven bits or not the beginning of that code.
pub(super) fn decode(coded: &[u8], decoded: &mut Vec<u8>) -> Result<(), HpackError> {
    let mut state: State = 0;
    for byte in coded {
        for bits in [byte >> 4, byte & 0xf] {
            let step = STEPS[usize::from(state)][usize::from(bits)];
            if step.is_invalid {
                return Err(HpackError::InvalidHuffman);
            }
            decoded.extend(step.symbol);
            state = step.next;
        }
    }
    if MAY_END[usize::from(state)] { Ok(()) } else { Err(HpackError::InvalidHuffman) }
}

/// The children of the inner nodes of the code's tree, of which the first is the root.
const TREE: [[Child; 2]; 256] = tree();

#[derive(Clone, Copy)]
enum Child {
    Node(State),
    Symbol(u8),
    /// No code, or the one of the end of the string.
    None,
}

const fn tree() -> [[Child; 2]; 256] {
    let mut nodes = [[Child::None; 2]; 256];
    let mut count = 1;
    let mut symbol = 0;
    while symbol < CODES.len() {
        let (code, length) = CODES[symbol];
        let mut node = 0;
        let mut left = length;
        while left > 1 {
            left -= 1;
            let bit = (code >> left & 1) as usize;
            if let Child::Node(next) = nodes[node][bit] {
                node = next as usize;
            } else {
                nodes[node][bit] = Child::Node(count as State);
                node = count;
                count += 1;
            }
        }
        nodes[node][(code & 1) as usize] = Child::Symbol(symbol as u8);
        symbol += 1;
    }
    nodes
}

const fn steps() -> [[Step; 16]; 256] {
    let mut steps = [[Step { next: 0, symbol: None, is_invalid: false }; 16]; 256];
    let mut state = 0;
    while state < 256 {
        let mut bits = 0;
        while bits < 16 {
            steps[state][bits] = step(state, bits);
            bits += 1;
        }
        state += 1;
    }
    steps
}

const fn step(state: usize, bits: usize) -> Step {
    let mut step = Step { next: state as State, symbol: None, is_invalid: false };
    let mut left = 4;
    while left > 0 {
        left -= 1;
        match TREE[step.next as usize][bits >> left & 1] {
            Child::Node(next) => step.next = next,
            Child::Symbol(symbol) => {
                step.symbol = Some(symbol);
                step.next = 0;
            }
            Child::None => {
                step.is_invalid = true;
                return step;
            }
        }
    }
    step
}

const fn ends() -> [bool; 256] {
    let mut ends = [false; 256];
    let mut node = 0;
    let mut depth = 0;
    while depth <= 7 {
        ends[node] = true;
        match TREE[node][1] {
            Child::Node(next) => node = next as usize,
            _ => return ends,
        }
        depth += 1;
    }
    ends
}

/// Codes and their lengths in bits, by symbol (RFC 7541 Appendix B). The code of the end of a
/// string is 30 bits of ones.
#[rustfmt::skip]
const CODES: [(u32, u32); 256] = [
    (0x1ff8, 13), (0x7fffd8, 23), (0xfffffe2, 28), (0xfffffe3, 28), (0xfffffe4, 28),
    (0xfffffe5, 28), (0xfffffe6, 28), (0xfffffe7, 28), (0xfffffe8, 28), (0xffffea, 24),
    (0x3ffffffc, 30), (0xfffffe9, 28), (0xfffffea, 28), (0x3ffffffd, 30), (0xfffffeb, 28),
    (0xfffffec, 28), (0xfffffed, 28), (0xfffffee, 28), (0xfffffef, 28), (0xffffff0, 28),
    (0xffffff1, 28), (0xffffff2, 28), (0x3ffffffe, 30), (0xffffff3, 28), (0xffffff4, 28),
    (0xffffff5, 28), (0xffffff6, 28), (0xffffff7, 28), (0xffffff8, 28), (0xffffff9, 28),
    (0xffffffa, 28), (0xffffffb, 28), (0x14, 6), (0x3f8, 10), (0x3f9, 10), (0xffa, 12),
    (0x1ff9, 13), (0x15, 6), (0xf8, 8), (0x7fa, 11), (0x3fa, 10), (0x3fb, 10), (0xf9, 8),
    (0x7fb, 11), (0xfa, 8), (0x16, 6), (0x17, 6), (0x18, 6), (0x0, 5), (0x1, 5), (0x2, 5),
    (0x19, 6), (0x1a, 6), (0x1b, 6), (0x1c, 6), (0x1d, 6), (0x1e, 6), (0x1f, 6), (0x5c, 7),
    (0xfb, 8), (0x7ffc, 15), (0x20, 6), (0xffb, 12), (0x3fc, 10), (0x1ffa, 13), (0x21, 6),
    (0x5d, 7), (0x5e, 7), (0x5f, 7), (0x60, 7), (0x61, 7), (0x62, 7), (0x63, 7), (0x64, 7),
    (0x65, 7), (0x66, 7), (0x67, 7), (0x68, 7), (0x69, 7), (0x6a, 7), (0x6b, 7), (0x6c, 7),
    (0x6d, 7), (0x6e, 7), (0x6f, 7), (0x70, 7), (0x71, 7), (0x72, 7), (0xfc, 8), (0x73, 7),
    (0xfd, 8), (0x1ffb, 13), (0x7fff0, 19), (0x1ffc, 13), (0x3ffc, 14), (0x22, 6), (0x7ffd, 15),
    (0x3, 5), (0x23, 6), (0x4, 5), (0x24, 6), (0x5, 5), (0x25, 6), (0x26, 6), (0x27, 6), (0x6, 5),
    (0x74, 7), (0x75, 7), (0x28, 6), (0x29, 6), (0x2a, 6), (0x7, 5), (0x2b, 6), (0x76, 7),
    (0x2c, 6), (0x8, 5), (0x9, 5), (0x2d, 6), (0x77, 7), (0x78, 7), (0x79, 7), (0x7a, 7),
    (0x7b, 7), (0x7ffe, 15), (0x7fc, 11), (0x3ffd, 14), (0x1ffd, 13), (0xffffffc, 28),
    (0xfffe6, 20), (0x3fffd2, 22), (0xfffe7, 20), (0xfffe8, 20), (0x3fffd3, 22), (0x3fffd4, 22),
    (0x3fffd5, 22), (0x7fffd9, 23), (0x3fffd6, 22), (0x7fffda, 23), (0x7fffdb, 23), (0x7fffdc, 23),
    (0x7fffdd, 23), (0x7fffde, 23), (0xffffeb, 24), (0x7fffdf, 23), (0xffffec, 24), (0xffffed, 24),
    (0x3fffd7, 22), (0x7fffe0, 23), (0xffffee, 24), (0x7fffe1, 23), (0x7fffe2, 23), (0x7fffe3, 23),
    (0x7fffe4, 23), (0x1fffdc, 21), (0x3fffd8, 22), (0x7fffe5, 23), (0x3fffd9, 22), (0x7fffe6, 23),
    (0x7fffe7, 23), (0xffffef, 24), (0x3fffda, 22), (0x1fffdd, 21), (0xfffe9, 20), (0x3fffdb, 22),
    (0x3fffdc, 22), (0x7fffe8, 23), (0x7fffe9, 23), (0x1fffde, 21), (0x7fffea, 23), (0x3fffdd, 22),
    (0x3fffde, 22), (0xfffff0, 24), (0x1fffdf, 21), (0x3fffdf, 22), (0x7fffeb, 23), (0x7fffec, 23),
    (0x1fffe0, 21), (0x1fffe1, 21), (0x3fffe0, 22), (0x1fffe2, 21), (0x7fffed, 23), (0x3fffe1, 22),
    (0x7fffee, 23), (0x7fffef, 23), (0xfffea, 20), (0x3fffe2, 22), (0x3fffe3, 22), (0x3fffe4, 22),
    (0x7ffff0, 23), (0x3fffe5, 22), (0x3fffe6, 22), (0x7ffff1, 23), (0x3ffffe0, 26),
    (0x3ffffe1, 26), (0xfffeb, 20), (0x7fff1, 19), (0x3fffe7, 22), (0x7ffff2, 23), (0x3fffe8, 22),
    (0x1ffffec, 25), (0x3ffffe2, 26), (0x3ffffe3, 26), (0x3ffffe4, 26), (0x7ffffde, 27),
    (0x7ffffdf, 27), (0x3ffffe5, 26), (0xfffff1, 24), (0x1ffffed, 25), (0x7fff2, 19),
    (0x1fffe3, 21), (0x3ffffe6, 26), (0x7ffffe0, 27), (0x7ffffe1, 27), (0x3ffffe7, 26),
    (0x7ffffe2, 27), (0xfffff2, 24), (0x1fffe4, 21), (0x1fffe5, 21), (0x3ffffe8, 26),
    (0x3ffffe9, 26), (0xffffffd, 28), (0x7ffffe3, 27), (0x7ffffe4, 27), (0x7ffffe5, 27),
    (0xfffec, 20), (0xfffff3, 24), (0xfffed, 20), (0x1fffe6, 21), (0x3fffe9, 22), (0x1fffe7, 21),
    (0x1fffe8, 21), (0x7ffff3, 23), (0x3fffea, 22), (0x3fffeb, 22), (0x1ffffee, 25),
    (0x1ffffef, 25), (0xfffff4, 24), (0xfffff5, 24), (0x3ffffea, 26), (0x7ffff4, 23),
    (0x3ffffeb, 26), (0x7ffffe6, 27), (0x3ffffec, 26), (0x3ffffed, 26), (0x7ffffe7, 27),
    (0x7ffffe8, 27), (0x7ffffe9, 27), (0x7ffffea, 27), (0x7ffffeb, 27), (0xffffffe, 28),
    (0x7ffffec, 27), (0x7ffffed, 27), (0x7ffffee, 27), (0x7ffffef, 27), (0x7fffff0, 27),
    (0x3ffffee, 26),
];
