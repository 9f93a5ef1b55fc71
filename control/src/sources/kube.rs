//! Objects from an API server.
//!
//! | part | what it does |
//! |---|---|
//! | [`client`] | makes a client of a kubeconfig, or of the pod's service account |
//! | [`mod@watch`] | lists and watches one kind, in a task of its own |
//! | [`object`] | decodes objects, without fields that are not read |
//! | [`json`] | finds the parts of a JSON text without decoding them |
//! | [`cluster`] | applies events to the store; what is known of each kind |
//! | [`last_good`] | keeps the last valid versions of policies on disk |
//! | [`report`] | what a policy's status says, and whether it has to be written |
//! | [`writer`] | writes statuses and Events, in a task of its own |

mod client;
mod cluster;
mod json;
mod last_good;
mod object;
mod report;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::path::Path;

use podgate_policy::Kind;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::client::Connection;
pub(crate) use self::client::{Access, KubeError, in_cluster};
pub(crate) use self::cluster::Cluster;
use self::last_good::LastGood;
use self::object::Object;
use self::watch::Watcher;
pub(crate) use self::writer::WriteCounts;
use self::writer::Writer;
use super::Update;

/// A change of one kind.
#[derive(Debug)]
pub(crate) struct Event {
    kind: Kind,
    /// When it arrived.
    at: Instant,
    news: Result<News, Problem>,
}

impl Event {
    /// When an object's change arrived; `None` for parts of a list and all else.
    pub(crate) const fn changed_at(&self) -> Option<Instant> {
        match self.news {
            Ok(News::Applied(_) | News::Deleted(_)) => Some(self.at),
            _ => None,
        }
    }
}

/// What a list or a watch reports.
#[derive(Debug)]
enum News {
    /// A list begins.
    Begin,
    /// An object of the list.
    Listed(Object),
    /// The list is complete.
    End,
    /// An object was added or changed.
    Applied(Object),
    /// An object was deleted.
    Deleted(Object),
    /// Everything up to now was reported.
    Current,
}

/// Why a kind can't be watched now.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Problem {
    /// The server doesn't know the kind.
    NotInstalled,
    /// The agent has no right to read it; the server's message.
    Forbidden(String),
    /// Anything else.
    Other(String),
}

/// Whether statuses of policies and Events are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Writes {
    /// They are.
    On,
    /// They are not.
    Off,
}

/// Starts to watch every kind at the server; updates go to `updates` until its receiver is dropped.
/// `node` is the name of this node, and `last_good` the directory of last good states.
///
/// # Errors
/// When no client can be made. A server that doesn't answer is tried again.
pub(crate) async fn watch(
    access: &Access,
    node: &str,
    writes: Writes,
    last_good: &Path,
    updates: mpsc::Sender<Update>,
) -> Result<Cluster, KubeError> {
    let Connection { client, server, .. } = client::connect(access).await?;
    let writer = (writes == Writes::On).then(|| Writer::start(client.clone()));
    let cluster = Cluster::new(&server, node, writer);
    let relists = cluster.relists();
    for (kind, relist) in &relists {
        let watcher = Watcher::new(*kind, client.clone(), updates.clone());
        tokio::spawn(watcher.with_relist(relist.clone()).run());
    }
    let last_good = LastGood::start(last_good, relists);
    Ok(cluster.with_client(client).with_last_good(last_good))
}
