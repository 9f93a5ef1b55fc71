//! Where objects come from: a directory of manifests, or an API server.
//!
//! A source has two halves. A task or thread waits for changes and sends each as an [`Update`];
//! [`Source`], on the agent's side of the channel, applies it to the store. So the logic runs in
//! one place, and its tests need neither files nor a server.

mod checked_file;
pub(crate) mod kube;
pub(crate) mod manifests;

use podgate_api::{CertificateStatus, SourceStatus};
use podgate_policy::{Rejection, Store};
use tracing::warn;

/// A change that a source's task reports.
#[derive(Debug)]
pub(crate) enum Update {
    /// Of a manifest.
    Manifests(manifests::DirectoryUpdate),
    /// Of one kind at the API server.
    Cluster(Box<kube::Event>),
}

impl Update {
    /// When a change of an object at the API server arrived.
    pub(crate) const fn changed_at(&self) -> Option<tokio::time::Instant> {
        match self {
            Self::Manifests(_) => None,
            Self::Cluster(event) => event.changed_at(),
        }
    }
}

/// Name of the directory of last good objects, in the state directory.
pub(crate) const LAST_GOOD: &str = "last-good";

/// Most updates that wait for the agent.
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
    /// Applies an update to the store. Returns whether it may have changed.
    pub(crate) fn apply(&mut self, update: Update, store: &mut Store) -> bool {
        match (self, update) {
            (Self::Manifests(source), Update::Manifests(event)) => source.apply(event, store),
            (Self::Cluster(source), Update::Cluster(event)) => source.apply(*event, store),
            _ => unreachable!("a source gets updates of its own task only"),
        }
    }

    /// Has the statuses of changed policies written, now that all workers use the tables of
    /// `epoch`. Manifests have none.
    pub(crate) fn report(&mut self, store: &Store, epoch: u64) {
        if let Self::Cluster(source) = self {
            source.report(store, epoch);
        }
    }

    /// The API server, if objects come from one.
    pub(crate) const fn cluster(&self) -> Option<&kube::Cluster> {
        match self {
            Self::Manifests(_) => None,
            Self::Cluster(source) => Some(source),
        }
    }

    /// Reads all manifests again; of an API server, which reports every change, how to reach it.
    pub(crate) fn reload(&self) {
        match self {
            Self::Manifests(source) => source.reload(),
            Self::Cluster(source) => source.reload(),
        }
    }

    /// The certificate that is presented to an API server, if there is one.
    pub(crate) fn certificate(&self) -> Option<CertificateStatus> {
        match self {
            Self::Manifests(_) => None,
            Self::Cluster(source) => source.certificate(),
        }
    }

    /// Whether everything was read once.
    pub(crate) fn is_synced(&self) -> bool {
        match self {
            Self::Manifests(source) => source.is_synced(),
            Self::Cluster(source) => source.is_synced(),
        }
    }

    /// Whether everything was read once, and current problems.
    #[must_use]
    pub(crate) fn status(&self) -> SourceStatus {
        match self {
            Self::Manifests(source) => source.status(),
            Self::Cluster(source) => source.status(),
        }
    }
}

/// Logs rejected fields.
fn log_rejections<'r>(rejections: impl IntoIterator<Item = &'r Rejection>) {
    for rejection in rejections {
        warn!("rejected: {}", crate::output::escape(&rejection.to_string()));
    }
}
