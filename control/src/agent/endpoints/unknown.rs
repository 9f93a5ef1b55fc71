//! Links that the previous agent cut off and that no remembered endpoint names: their record was
//! lost.
//!
//! They stay cut off, as endpoints of an unknown pod, until a client names the pod (`podgate
//! endpoint add`) or removes them (`podgate endpoint remove`), or their link is deleted.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use podgate_api::{EndpointSpec, EndpointState, EndpointStatus};
use podgate_hostnet::Link;
use tokio::time::Instant;
use tracing::{info, warn};

use super::links::Links;
use crate::agent::retries::Retries;

/// Endpoints of unknown pods.
#[derive(Debug, Default)]
pub(in crate::agent) struct UnknownPods {
    /// Index by the name of the link.
    links: BTreeMap<String, u32>,
    /// Indices of links that have pinned programs, too, and whose names could not be read yet.
    unread: BTreeSet<u32>,
    /// Whether the pins themselves could not be read.
    pins: Retries<()>,
}

impl UnknownPods {
    /// Adds a link.
    pub(super) fn insert(&mut self, link: Link) {
        warn!("link {} is cut off and its pod is not known: {}", link.name, advice(&link.name));
        self.links.insert(link.name, link.index);
    }

    /// Removes a link whose pod is known now.
    pub(super) fn remove(&mut self, link: &str) {
        self.links.remove(link);
    }

    /// Takes the indices of the links with pins, or why they can't be read. Those in `known` have
    /// other owners.
    pub(super) fn found(
        &mut self,
        found: Result<BTreeSet<u32>, String>,
        known: &BTreeSet<u32>,
        now: Instant,
    ) {
        match found {
            Ok(found) => {
                self.pins.clear(&());
                let is_known = |index: &u32| {
                    known.contains(index) || self.links.values().any(|known| known == index)
                };
                self.unread = found.into_iter().filter(|index| !is_known(index)).collect();
            }
            Err(reason) => {
                if !self.pins.failed((), Some(reason.clone()), now) {
                    warn!("{reason}");
                }
            }
        }
    }

    /// Whether it is time to read the pins again.
    pub(super) fn pins_are_due(&mut self, now: Instant) -> bool {
        !self.pins.due(now).is_empty()
    }

    /// Indices of links whose names are to be read.
    pub(super) fn unread(&self) -> &BTreeSet<u32> {
        &self.unread
    }

    /// The link of this index is known now. Returns whether it was to be read.
    pub(super) fn take_unread(&mut self, index: u32) -> bool {
        self.unread.remove(&index)
    }

    /// What can't be read, one line each.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> {
        self.pins.reasons().map(|(_, reason, seconds)| {
            format!(
                "links that an agent before cut off are not known: {reason}; it is tried again \
                 every {seconds} s"
            )
        })
    }

    /// Removes a link that was deleted, and its pins.
    pub(super) fn link_gone(&mut self, index: u32, links: &Links) {
        let was_known = self.links.extract_if(.., |_, known| *known == index).count() > 0;
        if self.take_unread(index) || was_known {
            links.unpin(index);
        }
    }

    /// Detaches the programs of a link: from here on, no policy applies to its pod.
    ///
    /// # Errors
    /// When there is no such endpoint.
    pub(super) fn detach(&mut self, link: &str, links: &Links) -> Result<()> {
        let index = self.links.remove(link);
        let index = index.with_context(|| format!("there is no endpoint on link {link}"))?;
        links.unpin(index);
        info!("endpoint of an unknown pod on link {link} removed");
        Ok(())
    }

    /// How many there are.
    pub(in crate::agent) fn count(&self) -> usize {
        self.links.len()
    }

    /// All of them, as `endpoint list` shows them.
    pub(in crate::agent) fn status(&self) -> impl Iterator<Item = EndpointStatus> {
        self.links.keys().map(|link| EndpointStatus {
            spec: EndpointSpec {
                link: link.to_owned(),
                pod: None,
                netns: None,
                mac: None,
                mtu: None,
                assigned: Vec::new(),
            },
            state: EndpointState::Waiting,
            reason: Some(format!("the pod is not known: {}", advice(link))),
            addresses: Vec::new(),
            identity: None,
            ingress_enforced: false,
            egress_enforced: false,
        })
    }
}

fn advice(link: &str) -> String {
    format!(
        "its record was lost; name it by `podgate endpoint add --link {link}`, or detach the link by \
         `podgate endpoint remove --link {link}`"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn pins_that_can_not_be_read_are_read_again() {
        let (mut pods, now) = (UnknownPods::default(), Instant::now());
        let known = BTreeSet::from([1, 2]);
        pods.found(Err("can't read /sys/fs/bpf: EIO".to_owned()), &known, now);
        assert!(!pods.pins_are_due(now) && pods.problems().count() == 1);
        assert!(pods.pins_are_due(now + Duration::from_secs(1)));
        pods.found(Ok(BTreeSet::from([1, 7, 8])), &known, now);
        assert!(!pods.pins_are_due(now + Duration::from_secs(90)) && pods.problems().count() == 0);
        // The name of one is read later, when the kernel reports it, or it is attached.
        assert_eq!(Vec::from_iter(pods.unread()), [&7, &8]);
        assert!(pods.take_unread(7) && !pods.take_unread(7) && !pods.take_unread(1));
    }
}
