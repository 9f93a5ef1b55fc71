//! Reading of ports.

use podgate_tables::proto;

use crate::fields::{Field, quote};
use crate::rules::PortNumbers;

/// Longest port name (RFC 6335 §5.1).
const NAME_MAX: usize = 15;

/// Whether `text` is a service name (RFC 6335 §5.1): letters, digits and single hyphens inside,
/// with at least one letter.
pub(super) fn is_service_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= NAME_MAX
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && bytes.iter().any(u8::is_ascii_alphabetic)
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--")
}

/// Whether `text` is a name that a container's port can have.
pub(super) fn is_port_name(text: &str) -> bool {
    is_service_name(text) && !text.bytes().any(|b| b.is_ascii_uppercase())
}

/// Adds an optional `endPort` to the port that it belongs to, if that could be read.
pub(super) fn with_end_port(
    ports: Option<PortNumbers>,
    end: Option<&Field<'_>>,
) -> Option<PortNumbers> {
    let Some(end) = end else { return ports };
    let last = end.integer(1, u16::MAX);
    match ports? {
        PortNumbers::Range(range) => {
            let last = last?;
            if last < *range.start() {
                end.reject(format!("must not be less than the port, {}", range.start()));
                return None;
            }
            Some(PortNumbers::Range(*range.start()..=last))
        }
        PortNumbers::Named(name) => {
            end.reject(format!("needs a port number, but the port is the name {}", quote(&name)));
            None
        }
        PortNumbers::All => {
            end.reject_with_fix("needs a port number to begin at", "write a port from 1");
            None
        }
    }
}

/// Reads one of the three protocols that every policy kind knows.
pub(super) fn parse_transport(field: &Field<'_>) -> Option<u8> {
    match field.string()? {
        "TCP" => Some(proto::TCP),
        "UDP" => Some(proto::UDP),
        "SCTP" => Some(proto::SCTP),
        other => {
            field.reject(format!("must be TCP, UDP or SCTP, but is {}", quote(other)));
            None
        }
    }
}
