//! The response to ApiVersions: which versions of each API a broker has.

use super::PREFIX;
use super::schema::Api;

/// Position of the error code in the frame.
const ERROR_AT: usize = PREFIX + 4;
/// `UNSUPPORTED_VERSION`: the response is of version 0, whatever the request's was (KIP-511).
const UNSUPPORTED_VERSION: [u8; 2] = [0, 35];
/// First version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 3;

/// Of each API, the last version whose requests have the names of topics, and not only their ids.
const WITH_NAMES: [(i16, i16); 4] = [(0, 12), (1, 12), (8, 9), (9, 9)];

/// Lowers the last version of each API in a response (a whole frame) to one whose layout is known
/// and that names topics. What is malformed stays as it is.
pub fn limit(frame: &mut [u8], version: i16) {
    let is_old = frame.get(ERROR_AT..ERROR_AT + 2) == Some(&UNSUPPORTED_VERSION[..]);
    let flexible = version >= FLEXIBLE && !is_old;
    let mut at = ERROR_AT + 2 + if flexible { 1 } else { 4 };
    let count = match (flexible, frame.get(ERROR_AT + 2..at)) {
        (true, Some(&[first])) if first & 0x80 == 0 => usize::from(first.saturating_sub(1)),
        (true, Some(&[first])) => {
            let Some(second) = frame.get(at).filter(|second| **second & 0x80 == 0) else { return };
            at += 1;
            (usize::from(*second) << 7 | usize::from(first & 0x7f)).saturating_sub(1)
        }
        (false, Some(&[0, 0, high, low])) => usize::from(u16::from_be_bytes([high, low])),
        _ => return,
    };
    // Elements have no tagged fields that are known.
    let size = if flexible { 7 } else { 6 };
    for _ in 0..count {
        let Some(element) = frame.get_mut(at..at + size) else { return };
        if size == 7 && element[6] != 0 {
            return;
        }
        limit_one(element);
        at += size;
    }
}

fn limit_one(element: &mut [u8]) {
    let number = |at: usize| i16::from_be_bytes([element[at], element[at + 1]]);
    let (key, min, max) = (number(0), number(2), number(4));
    let known = Api::of(key).map(|api| api.versions.1);
    let named = WITH_NAMES.iter().find(|(named, _)| *named == key).map(|(_, last)| *last);
    let last = known.into_iter().chain(named).min().unwrap_or(max);
    if min <= last && last < max {
        element[4..6].copy_from_slice(&last.to_be_bytes());
    }
}
