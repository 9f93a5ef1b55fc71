//! The veth pair that joins the dataplane to the kernel stack.
//!
//! ```text
//! kernel stack ── pg-host ═══ pg-xsk ── workers
//! ```
//!
//! What workers send out of `pg-xsk` the kernel receives on `pg-host` and routes; routes of all
//! local pod addresses lead to `pg-host`, and so to the workers. Neither end resolves addresses:
//! every packet between them is for the other end.

use anyhow::{Context, Result, bail};
use podgate_hostnet::offload;
use podgate_hostnet::{Link, Netlink};
use podgate_tables::ids::LinkId;
use podgate_tables::route::NextHop;

/// The kernel's end.
pub(crate) const HOST: &str = "pg-host";

/// The workers' end.
pub(crate) const XSK: &str = "pg-xsk";

/// Slot of the workers' end in the dataplane.
pub(in crate::agent) const HOST_SLOT: LinkId = LinkId(0);

/// MTU of both ends, bytes: the largest for pods ([`PodMtu::MAX`](podgate_api::PodMtu::MAX)). The
/// route to a pod has the pod's MTU.
const MTU: u32 = 65535;

/// The pair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::agent) struct HostLink {
    /// The kernel's end.
    pub(in crate::agent) host: Link,
    /// The workers' end.
    pub(in crate::agent) xsk: Link,
}

impl HostLink {
    /// Creates the pair, or takes the one that the previous agent left, and sets it up.
    ///
    /// # Errors
    /// When the kernel rejects it, or other links have the names.
    pub(in crate::agent) async fn ensure(netlink: &Netlink) -> Result<Self> {
        if find(netlink).await?.is_none() {
            netlink.add_pair(HOST, XSK, MTU).await?;
        }
        let pair = find(netlink).await?.context("the links just created are gone")?;
        if pair.host.peer != Some(pair.xsk.index) || pair.xsk.peer != Some(pair.host.index) {
            bail!(
                "links {HOST} and {XSK} exist, but are not the two ends of one veth pair; remove \
                 them, or rename them"
            );
        }
        // Blocks until the kernel has answered.
        tokio::task::spawn_blocking(|| offload::tx_checksum_off(HOST)).await??;
        for end in [&pair.host, &pair.xsk] {
            netlink.set_up_quiet(end, MTU).await?;
        }
        // Read again, with the changes.
        find(netlink).await?.context("the links just created are gone")
    }

    /// How workers send to the kernel stack; `path_mtu` is the least MTU of routes out of the node,
    /// bytes.
    #[must_use]
    pub(in crate::agent) fn next_hop(&self, path_mtu: Option<u32>) -> NextHop {
        let mtu = self.host.mtu.min(self.xsk.mtu);
        NextHop {
            link: HOST_SLOT,
            mac: self.host.mac,
            link_mac: self.xsk.mac,
            mtu,
            path_mtu: path_mtu.map_or(mtu, |path_mtu| path_mtu.min(mtu)),
        }
    }
}

/// The pair, if both links exist.
///
/// # Errors
/// When only one of them does.
pub(in crate::agent) async fn find(netlink: &Netlink) -> Result<Option<HostLink>> {
    match (netlink.link(HOST).await?, netlink.link(XSK).await?) {
        (Some(host), Some(xsk)) => Ok(Some(HostLink { host, xsk })),
        (None, None) => Ok(None),
        _ => bail!("only one of the links {HOST} and {XSK} exists; remove it, or rename it"),
    }
}
