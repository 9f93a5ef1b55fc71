//! Where objects come from: a directory of manifests, or an API server.
//!
//! A source has two halves. A task or thread waits for news and sends it as an [`Update`];
//! [`Source`], on the agent's side of the channel, brings the store up to date with it. So all that
//! decides what is in the store runs in one place, and needs neither files nor a server to be
//! tested.

pub(crate) mod kube;
pub(crate) mod last_good;
pub(crate) mod manifests;

use podgate_policy::{Rejection, Store};
use tracing::warn;

use crate::protocol::SourceStatus;

/// News from a source's task.
#[derive(Debug)]
pub(crate) enum Update {
    /// Something about the manifests of the directory.
    Manifests(manifests::Event),
    /// Something about one kind at the API server.
    Cluster(Box<kube::Event>),
}

/// Updates that may wait for the agent.
pub(crate) const UPDATES_MAX: usize = 256;

/// The agent's side of a source.
#[derive(Debug)]
pub(crate) enum Source {
    /// A directory.
    Manifests(manifests::Manifests),
    /// An API server.
    Cluster(kube::Cluster),
}

impl Source {
    /// Brings the store up to date. Returns whether it may have changed.
    pub(crate) fn take(&mut self, update: Update, store: &mut Store) -> bool {
        match (self, update) {
            (Self::Manifests(source), Update::Manifests(event)) => source.take(event, store),
            (Self::Cluster(source), Update::Cluster(event)) => source.take(*event, store),
            _ => unreachable!("a source gets updates of its own task only"),
        }
    }

    /// Reads everything again. An API server tells of each change, so nothing is asked of it.
    pub(crate) fn reload(&self) {
        match self {
            Self::Manifests(source) => source.reload(),
            Self::Cluster(_) => {}
        }
    }

    /// Whether everything was read once, and what is wrong now.
    #[must_use]
    pub(crate) fn status(&self) -> SourceStatus {
        match self {
            Self::Manifests(source) => source.status(),
            Self::Cluster(source) => source.status(),
        }
    }
}

/// Says in the log what is refused and why.
fn log_refusals<'r>(refusals: impl IntoIterator<Item = &'r Rejection>) {
    for refusal in refusals {
        warn!("refused: {}", crate::output::escape(&refusal.to_string()));
    }
}
