//! The tuples of flows to services, before and after translation.

use podgate_tables::service::L4Addr;
use podgate_tables::tuple::Tuple;

use crate::flow::Flow;
use crate::packet::View;
use crate::packet::translate::translate_error;

/// How a packet relates to the flow that has its tuple.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Relation {
    /// It belongs to that flow.
    Same,
    /// It opens another flow, which replaces that flow.
    Replaces,
    /// It belongs to another flow, so the tuple is taken.
    Conflict,
}

/// The tuple of a packet to a service, once it is translated.
pub(super) fn translated(tuple: &Tuple, backend: L4Addr) -> Tuple {
    let src = if tuple.src == backend.address { tuple.dst } else { tuple.src };
    Tuple { src, dst: backend.address, dst_port: backend.port, ..*tuple }
}

/// The tuple that [`translated`] was made from: of a packet to the backend, as its opener sent it.
pub(super) fn untranslated(tuple: &Tuple, frontend: L4Addr) -> Tuple {
    let src = if is_loop(tuple, frontend) { tuple.dst } else { tuple.src };
    Tuple { src, dst: frontend.address, dst_port: frontend.port, ..*tuple }
}

/// Whether the opener of a translated flow reaches itself.
pub(super) fn is_loop(tuple: &Tuple, frontend: L4Addr) -> bool {
    tuple.src == frontend.address
}

/// The tuple of a flow as its two ends know each other.
pub(super) fn tuple_of_ends(flow: &Flow, frontend: Option<L4Addr>) -> Tuple {
    let tuple = flow.tuple();
    match frontend {
        Some(frontend) if is_loop(&tuple, frontend) => Tuple { src: tuple.dst, ..tuple },
        _ => tuple,
    }
}

/// The destination of a tuple.
pub(super) const fn destination(tuple: &Tuple) -> L4Addr {
    L4Addr { address: tuple.dst, port: tuple.dst_port }
}

/// The source of a tuple.
pub(super) const fn source(tuple: &Tuple) -> L4Addr {
    L4Addr { address: tuple.src, port: tuple.src_port }
}

/// Translates an ICMP error about a packet with this tuple, which was sent to a service: its sender
/// knows the service's address. Errors of the backend come from there, too.
#[cold]
pub(super) fn translate_error_back(
    head: &mut [u8],
    view: &mut View,
    about: &Tuple,
    frontend: L4Addr,
) {
    let to = untranslated(about, frontend);
    let src = if view.tuple.src == about.dst { to.dst } else { view.tuple.src };
    translate_error(head, view, &to, (src, to.src));
}
