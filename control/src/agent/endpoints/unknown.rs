//! Links that the previous agent cut off and that no remembered endpoint names: their record was
//! lost.
//!
//! They stay cut off, as endpoints of an unknown pod, until a client names the pod (`podgate
//! endpoint add`) or removes them (`podgate endpoint remove`), or their link is deleted.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use podgate_api::{EndpointSpec, EndpointState, EndpointStatus};
use podgate_hostnet::Link;
use tokio::time::Instant;
use tracing::warn;

use super::links::Links;
use crate::agent::retries::Retries;

/// Endpoints of unknown pods.
#[derive(Debug, Default)]
pub(in crate::agent) struct UnknownPods {
    /// Name by the index of the link: names change.
    links: BTreeMap<u32, String>,
    /// Indices of links that have pinned programs, too, and whose names could not be read yet.
    unread: BTreeSet<u32>,
    /// Whether the pins themselves could not be read.
    pins: Retries<()>,
}

impl UnknownPods {
    /// Adds a link.
    pub(super) fn insert(&mut self, link: Link) {
        warn!("link {} is cut off and its pod is not known: {}", link.name, advice(&link.name));
        self.links.insert(link.index, link.name);
    }

    /// The link of this index has an endpoint now.
    pub(super) fn attached(&mut self, index: u32) {
        self.unread.remove(&index);
        self.links.remove(&index);
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
                let is_known =
                    |index: &u32| known.contains(index) || self.links.contains_key(index);
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

    /// Indices of the links whose names are known.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> {
        self.links.keys().copied()
    }

    /// Takes a link out whose name was to be read, or is another one now. Returns whether it was
    /// one.
    pub(super) fn take_read(&mut self, link: &Link) -> bool {
        let is_renamed = self.links.get(&link.index).is_some_and(|name| *name != link.name);
        let is_renamed = is_renamed && self.links.remove(&link.index).is_some();
        self.unread.remove(&link.index) || is_renamed
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
        let was_known = self.links.remove(&index).is_some();
        if self.unread.remove(&index) || was_known {
            links.unpin(index);
        }
    }

    /// Takes the link of this name out. Returns its index, whose programs are to be detached.
    /// `attached` are the indices of links that have endpoints.
    ///
    /// # Errors
    /// When there is no such link, or an endpoint has it.
    pub(super) fn take(&mut self, link: &str, attached: &BTreeSet<u32>) -> Result<u32> {
        let found = self.links.iter().find(|(_, name)| *name == link);
        let index = found.map(|(index, _)| *index);
        let index = index.with_context(|| format!("there is no endpoint on link {link}"))?;
        self.links.remove(&index);
        refuse_attached(link, index, attached)?;
        Ok(index)
    }

    /// How many there are.
    pub(in crate::agent) fn count(&self) -> usize {
        self.links.len()
    }

    /// All of them, as `endpoint list` shows them.
    pub(in crate::agent) fn status(&self) -> impl Iterator<Item = EndpointStatus> {
        let names: BTreeSet<_> = self.links.values().collect();
        names.into_iter().map(|link| EndpointStatus {
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

/// Whether what an agent before pinned at `link`, which has this index, may be detached.
///
/// # Errors
/// When an endpoint has the link: `attached` are the indices of those.
pub(super) fn refuse_attached(link: &str, index: u32, attached: &BTreeSet<u32>) -> Result<()> {
    ensure!(
        !attached.contains(&index),
        "link {link} (index {index}) is that of an attached endpoint by now, which keeps it; remove \
         that endpoint to detach the link"
    );
    Ok(())
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
        assert!(pods.take_read(&link("a", 7)) && !pods.take_read(&link("a", 7)));
        assert!(!pods.take_read(&link("b", 1)));
    }

    fn link(name: &str, index: u32) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mac: [0; 6],
            mtu: 1500,
            peer: None,
            up: true,
            loopback: false,
        }
    }

    fn names(pods: &UnknownPods) -> Vec<String> {
        pods.status().map(|status| status.spec.link).collect()
    }

    #[test]
    fn a_link_that_an_endpoint_has_can_not_be_detached_by_its_old_name() {
        let mut pods = UnknownPods::default();
        pods.insert(link("hv-ren", 7));
        // The link was renamed to that of an endpoint, which has it now.
        pods.attached(7);
        assert!(names(&pods).is_empty() && pods.count() == 0);
        assert!(pods.take("hv-ren", &BTreeSet::from([7])).is_err());
        // Even if it is still known here, for whatever reason.
        pods.insert(link("hv-ren", 7));
        let error = pods.take("hv-ren", &BTreeSet::from([7])).unwrap_err().to_string();
        assert!(error.contains("attached endpoint"), "{error}");
        assert_eq!(pods.count(), 0);
    }

    #[test]
    fn a_renamed_link_has_its_new_name_only() {
        let mut pods = UnknownPods::default();
        pods.insert(link("old", 7));
        assert!(!pods.take_read(&link("old", 7)) && pods.take_read(&link("new", 7)));
        pods.insert(link("new", 7));
        assert_eq!(names(&pods), ["new"]);
        assert!(pods.take("old", &BTreeSet::new()).is_err());
        assert_eq!(pods.take("new", &BTreeSet::from([8])).unwrap(), 7);
    }
}
