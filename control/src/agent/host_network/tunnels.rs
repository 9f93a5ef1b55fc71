//! Which UDP ports this node's kernel receives tunnels on, and which addresses are the node's own.
//!
//! Links are read when the kernel reports a change of them. It doesn't report changes of the ports
//! of `ip fou`, L2TP and WireGuard, so these are read every [`PERIOD`] as well. A device that is
//! moved into another network namespace has no socket until it is up there, and then its port is
//! the same; so ports that are not found any more are kept for [`KEPT`]. While the ports are
//! unknown, any UDP port of a node may be a tunnel's, and pods reach none of them; while the routes
//! are unknown, any address may be the node's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use podgate_tables::address::Address;
use podgate_tables::tunnel::{Tunnels, WELL_KNOWN_PORTS};
use tokio::time::Instant;
use tracing::{error, info};

/// How often ports are read whose changes the kernel doesn't report.
const PERIOD: Duration = Duration::from_secs(1);

/// How long a port counts as a tunnel's after it was found last.
const KEPT: Duration = Duration::from_secs(60);

/// What is known of the node's tunnels.
#[derive(Debug)]
pub(super) struct TunnelState {
    /// UDP ports, sorted, or why they are unknown.
    ports: Result<Vec<u16>, String>,
    /// Those among them that were not found any more, and until when they are kept.
    kept: BTreeMap<u16, Instant>,
    /// Prefixes that the kernel delivers locally, sorted, or why they are unknown.
    local: Result<Vec<(IpAddr, u8)>, String>,
    /// Why the BPF programs have other ports, if they have.
    not_passed: Option<String>,
    due: Instant,
}

impl Default for TunnelState {
    /// Nothing is known, so every packet is dropped that may be a tunnel's.
    fn default() -> Self {
        let not_yet = || "it was not read yet".to_owned();
        Self {
            ports: Err(not_yet()),
            kept: BTreeMap::new(),
            local: Err(not_yet()),
            not_passed: None,
            due: Instant::now(),
        }
    }
}

impl TunnelState {
    /// As the workers look it up.
    pub(super) fn table(&self) -> Tunnels {
        let any = [([0; 4].into(), 0), ([0; 16].into(), 0)];
        let local = self.local.as_deref().unwrap_or(&any);
        let local = local.iter().map(|(address, length)| (Address::from(*address), *length));
        Tunnels::new(self.ports.as_deref().ok(), local)
    }

    /// Passes the UDP ports on, well-known ones included; `None` if they are unknown. It has to be
    /// called after each read: what could not be passed on is tried again, though it is no change.
    pub(super) fn pass_ports(&mut self, pass: impl FnOnce(Option<&[u16]>) -> Result<(), String>) {
        let ports = self.ports.as_deref().ok();
        let ports: Option<Vec<u16>> =
            ports.map(|ports| ports.iter().copied().chain(WELL_KNOWN_PORTS).collect());
        let not_passed = pass(ports.as_deref()).err();
        if let Some(reason) = &not_passed
            && self.not_passed.is_none()
        {
            error!("can't set the ports of this node's tunnels: {reason}");
        }
        self.not_passed = not_passed;
    }

    /// What is unknown, or not in force, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        let ports = self.ports.as_ref().err().map(|reason| {
            format!(
                "the ports of this node's tunnels can't be read: {reason}; until then, pods reach \
                 no UDP port of a node"
            )
        });
        let local = self.local.as_ref().err().map(|reason| {
            format!(
                "the node's routes can't be read: {reason}; until then, pods send no tunnel packets \
                 anywhere"
            )
        });
        let not_passed = self.not_passed.as_ref().map(|reason| {
            format!(
                "the ports of this node's tunnels can't be set: {reason}; it is tried again every \
                 second, until then pods may reach a new tunnel of this node"
            )
        });
        ports.into_iter().chain(local).chain(not_passed)
    }

    /// Whether the ports have to be read again.
    pub(super) fn are_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// Whether the local prefixes are unknown.
    pub(super) fn routes_are_unknown(&self) -> bool {
        self.local.is_err()
    }

    /// Takes the ports that were found at `now`, or why they can't be read. Returns whether the
    /// known ones changed.
    pub(super) fn set_ports(&mut self, found: Result<Vec<u16>, String>, now: Instant) -> bool {
        self.due = now + PERIOD;
        let before = self.ports.as_deref().unwrap_or_default();
        let is_found = |port: &u16| found.as_ref().is_ok_and(|found| found.contains(port));
        for port in before.iter().filter(|port| !is_found(port)) {
            self.kept.entry(*port).or_insert(now + KEPT);
        }
        self.kept.retain(|port, until| now < *until && !is_found(port));
        let ports = found.map(|mut ports| {
            ports.extend(self.kept.keys());
            ports.sort_unstable();
            ports
        });
        if self.ports == ports {
            return false;
        }
        match &ports {
            Ok(ports) => info!(?ports, "UDP ports of this node's tunnels"),
            Err(reason) => error!("can't read the ports of this node's tunnels: {reason}"),
        }
        self.ports = ports;
        true
    }

    /// Takes the local prefixes, or why they can't be read. Returns whether they changed.
    pub(super) fn set_local(&mut self, local: Result<Vec<(IpAddr, u8)>, String>) -> bool {
        let local = local.map(|mut local| {
            local.sort_unstable();
            local.dedup();
            local
        });
        let changed = self.local != local;
        self.local = local;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_could_not_be_passed_on_are_a_problem_and_passed_on_later() {
        let mut state = TunnelState::default();
        state.set_local(Ok(Vec::new()));
        assert!(state.set_ports(Ok(vec![7000]), Instant::now()));
        state.pass_ports(|_| Err("EIO".to_owned()));
        let problems = Vec::from_iter(state.problems());
        assert!(problems[0].contains("tunnels can't be set: EIO"), "{problems:?}");

        // Nothing has changed since.
        assert!(!state.set_ports(Ok(vec![7000]), Instant::now()));
        let mut passed = None;
        state.pass_ports(|ports| {
            passed = ports.map(<[u16]>::to_vec);
            Ok(())
        });
        assert!(passed.is_some_and(|ports| ports.contains(&7000)));
        assert_eq!(state.problems().count(), 0);
    }

    #[test]
    fn a_port_that_is_not_found_any_more_is_kept_for_a_minute() {
        let mut tunnels = TunnelState::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let ports = |tunnels: &TunnelState| tunnels.ports.clone();
        assert!(tunnels.set_ports(Ok(vec![4789, 5555]), at(0)));
        // The device moves, and is down there.
        assert!(!tunnels.set_ports(Ok(vec![4789]), at(1)));
        assert!(!tunnels.set_ports(Ok(vec![4789]), at(60)));
        assert_eq!(ports(&tunnels), Ok(vec![4789, 5555]));
        // It is up there, and moves again.
        assert!(!tunnels.set_ports(Ok(vec![4789, 5555]), at(60)));
        assert!(!tunnels.set_ports(Ok(vec![4789]), at(70)));
        assert!(!tunnels.set_ports(Ok(vec![4789]), at(129)));
        assert_eq!(ports(&tunnels), Ok(vec![4789, 5555]));
        assert!(tunnels.set_ports(Ok(vec![4789]), at(130)), "it is gone");
        assert_eq!(ports(&tunnels), Ok(vec![4789]));
        assert!(!tunnels.set_ports(Ok(vec![4789]), at(131)));
        // Ports that were known before a failure are still known after it.
        assert!(tunnels.set_ports(Err("a failure".to_owned()), at(132)));
        assert!(tunnels.set_ports(Ok(vec![]), at(133)));
        assert_eq!(ports(&tunnels), Ok(vec![4789]));
        assert!(tunnels.set_ports(Ok(vec![]), at(192)));
        assert_eq!(ports(&tunnels), Ok(vec![]));
    }
}
