//! Links that an agent before cut off and that no remembered endpoint names: their record was lost.
//!
//! They stay cut off, as endpoints of a pod that is not known, until somebody says which pod is
//! behind them (`podgate endpoint add`), lets them go (`podgate endpoint remove`) or they vanish.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use podgate_api::{EndpointState, EndpointStatus};
use podgate_hostnet::Link;
use tracing::{info, warn};

use super::Agent;
use super::links;

impl Agent {
    /// Looks for pinned programs of links that no endpoint names.
    pub(super) async fn find_unknown_pods(&mut self) {
        let indices = match links::pinned_indices(&self.state.bpf()) {
            Ok(indices) => indices,
            Err(error) => return warn!("can't read {}: {error}", self.state.bpf().display()),
        };
        let own = [self.host.host.index, self.host.xsk.index];
        let served: BTreeSet<u32> = self
            .endpoints
            .values()
            .filter_map(|endpoint| Some(endpoint.link.as_ref().ok()?.link.index))
            .chain(own)
            .collect();
        for index in indices.difference(&served) {
            match self.netlink.link_at(*index).await {
                Ok(Some(link)) => self.note_unknown_pod(link),
                Ok(None) => self.links.unpin(*index),
                Err(error) => warn!("{error}"),
            }
        }
    }

    /// One that an endpoint names by its link is that endpoint's, though it could not be attached.
    fn note_unknown_pod(&mut self, link: Link) {
        if self.endpoints.contains_key(&link.name) {
            return;
        }
        warn!(
            "link {} is cut off and its pod is not known: {}",
            link.name,
            how_to_tell(&link.name)
        );
        self.unknown.insert(link.name, link.index);
    }

    /// The link of an endpoint of an unknown pod is gone.
    pub(super) fn unknown_pod_gone(&mut self, index: u32) {
        let gone = self.unknown.extract_if(.., |_, known| *known == index);
        if gone.count() > 0 {
            self.links.unpin(index);
        }
    }

    /// Lets the link of an unknown pod go: from here on, no policy applies to the pod.
    ///
    /// # Errors
    /// When there is no such endpoint.
    pub(super) fn remove_unknown_pod(&mut self, link: &str) -> Result<()> {
        let index = self.unknown.remove(link);
        let index = index.with_context(|| format!("there is no endpoint on link {link}"))?;
        self.links.unpin(index);
        info!("endpoint of an unknown pod on link {link} removed");
        Ok(())
    }

    /// As `endpoint list` shows it.
    pub(super) fn unknown_pod_status(&self, link: &str) -> Option<EndpointStatus> {
        self.unknown.contains_key(link).then(|| EndpointStatus {
            link: link.to_owned(),
            pod: None,
            netns: None,
            mac: None,
            mtu: None,
            state: EndpointState::Waiting,
            reason: Some(format!("the pod is not known: {}", how_to_tell(link))),
            addresses: Vec::new(),
            identity: None,
            ingress_enforced: false,
            egress_enforced: false,
        })
    }
}

fn how_to_tell(link: &str) -> String {
    format!(
        "its record was lost; tell it by `podgate endpoint add --link {link}`, or let the link go by \
         `podgate endpoint remove --link {link}`"
    )
}
