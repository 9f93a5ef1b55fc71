//! Links that the previous agent cut off and that no remembered endpoint names: their record was
//! lost.
//!
//! They stay cut off, as endpoints of an unknown pod, until a client names the pod (`podgate
//! endpoint add`) or removes them (`podgate endpoint remove`), or their link is deleted.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use podgate_api::{EndpointSpec, EndpointState, EndpointStatus};
use podgate_hostnet::Link;
use tracing::{info, warn};

use super::links::Links;

/// Endpoints of unknown pods.
#[derive(Debug, Default)]
pub(in crate::agent) struct UnknownPods {
    /// Index by the name of the link.
    links: BTreeMap<String, u32>,
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

    /// Removes a link that was deleted, and its pins.
    pub(super) fn link_gone(&mut self, index: u32, links: &Links) {
        if self.links.extract_if(.., |_, known| *known == index).count() > 0 {
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
