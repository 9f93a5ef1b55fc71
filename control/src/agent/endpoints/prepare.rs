//! Preparing links: lookups, and work in pods' network namespaces. Nothing here runs on the control
//! thread for longer than it takes to start it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use podgate_api::{EndpointSpec, MacAddress, PodMtu};
use podgate_hostnet::netns::{NetnsError, NetnsThreads};
use podgate_hostnet::offload::{self, OffloadError, State};
use podgate_hostnet::{Link, Netlink, NetlinkError};

use super::endpoint::PodInterface;
use crate::agent::state::ChecksumOffload;
use crate::cli::{MtuChoice, PodChecksums};

/// Pods' namespaces that are worked in at a time.
pub(crate) const NETNS_THREADS: usize = 8;

/// Longest time for the work in one pod's namespace.
const NETNS_LIMIT: Duration = Duration::from_secs(5);

/// A link that is ready to be attached.
#[derive(Debug)]
pub(in crate::agent) struct Prepared {
    /// The host's end.
    pub(in crate::agent) link: Link,
    /// The pod's end.
    pub(in crate::agent) pod_end: PodEnd,
}

/// The pod's end of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::agent) struct PodEnd {
    /// Address and MTU.
    pub(in crate::agent) interface: PodInterface,
    /// Whether its TX checksum offload was turned off now.
    pub(in crate::agent) offload: ChecksumOffload,
}

/// What is done with links before they are attached.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Preparer {
    netlink: Netlink,
    threads: NetnsThreads,
    mtu: MtuChoice,
    checksums: PodChecksums,
}

impl Preparer {
    /// `mtu` is for endpoints that name none.
    pub(in crate::agent) fn new(netlink: Netlink, mtu: MtuChoice, checksums: PodChecksums) -> Self {
        let threads = netns_threads();
        Self { netlink, threads, mtu, checksums }
    }

    /// The endpoint's link, if it exists.
    ///
    /// # Errors
    /// When netlink fails.
    pub(in crate::agent) async fn find(&self, spec: &EndpointSpec) -> Result<Option<Link>> {
        Ok(self.netlink.link(&spec.link).await?)
    }

    /// Prepares both ends of the endpoint's link, which was `found` under its name: sets the MTU,
    /// and turns off the pod's TX checksum offload, unless it may stay on.
    ///
    /// # Errors
    /// When the link doesn't exist, is one of podgate's own links (`own`), or can't be prepared;
    /// the offload is then as it was before.
    pub(in crate::agent) async fn prepare(
        &self,
        spec: &EndpointSpec,
        found: Option<Link>,
        own: [u32; 2],
    ) -> Result<Prepared> {
        let mut link = found.with_context(|| {
            format!("there is no link {} in the agent's network namespace", spec.link)
        })?;
        if own.contains(&link.index) {
            bail!("link {} is podgate's own", spec.link);
        }
        let mtu = self.mtu_of(spec);
        let pod_end = self.prepare_pod_end(spec, &link, mtu).await?;
        if let Some(mtu) = mtu.map(u32::from).filter(|mtu| *mtu != link.mtu) {
            link.mtu = mtu;
            if let Err(error) = self.netlink.set_mtu(&link, mtu).await {
                if pod_end.offload.is_turned_off() {
                    self.restore_offload(spec).await;
                }
                return Err(error.into());
            }
        }
        Ok(Prepared { link, pod_end })
    }

    /// Reads the pod's end of an attached link, and turns off its TX checksum offload, unless it
    /// may stay on.
    ///
    /// # Errors
    /// When the pod's end can't be read.
    pub(in crate::agent) async fn inspect(
        &self,
        spec: &EndpointSpec,
        link: &Link,
    ) -> Result<PodEnd> {
        self.prepare_pod_end(spec, link, None).await
    }

    /// Turns the pod's TX checksum offload on again, which was on before podgate turned it off. A
    /// failure is logged.
    pub(in crate::agent) async fn restore_offload(&self, spec: &EndpointSpec) {
        if let Err(error) = restore_offload(&self.netlink, &self.threads, spec).await {
            tracing::warn!("TX checksum offload of pod {} stays off: {error:#}", spec.pod);
        }
    }

    /// The MTU to set on both ends of an endpoint's link, if any.
    fn mtu_of(&self, spec: &EndpointSpec) -> Option<PodMtu> {
        match self.mtu {
            _ if spec.mtu.is_some() || spec.netns.is_none() => spec.mtu,
            MtuChoice::Set(mtu) => Some(mtu),
            MtuChoice::Keep => None,
        }
    }

    async fn prepare_pod_end(
        &self,
        spec: &EndpointSpec,
        link: &Link,
        mtu: Option<PodMtu>,
    ) -> Result<PodEnd> {
        let found = match (&spec.netns, link.peer) {
            (Some(netns), Some(peer)) => Some(self.prepare_in_netns(netns, peer, link, mtu).await?),
            (Some(_), None) => bail!("link {} is not an end of a veth pair", link.name),
            (None, _) => {
                ensure!(
                    spec.mtu.is_none(),
                    "link {} is given an MTU without the pod's network namespace (netns), where \
                     its other end is",
                    link.name
                );
                None
            }
        };
        match (found, spec.mac) {
            (Some(found), None) => Ok(found),
            (Some(found), Some(mac)) => {
                ensure!(
                    found.interface.mac == mac.0,
                    "the pod's end of link {} has MAC address {}, not {mac}; leave --mac out",
                    link.name,
                    MacAddress(found.interface.mac)
                );
                Ok(found)
            }
            // The pod's MTU is unknown then; nearly always both ends of a pair have the same.
            (None, Some(mac)) => {
                let interface = PodInterface { mac: mac.0, mtu: link.mtu };
                Ok(PodEnd { interface, offload: ChecksumOffload::Untouched })
            }
            (None, None) => bail!(
                "link {} is given with neither the pod's network namespace (netns) nor its MAC \
                 address (mac); name one",
                link.name
            ),
        }
    }

    /// The namespace must hold the peer of just this link: with another pod's MAC address the
    /// endpoint would be cut off for no visible reason.
    async fn prepare_in_netns(
        &self,
        path: &Path,
        peer: u32,
        link: &Link,
        mtu: Option<PodMtu>,
    ) -> Result<PodEnd> {
        let turns_off = self.checksums == PodChecksums::Whole;
        at_pod_end(&self.threads, path, peer, link, async move |netlink, mut end| {
            if let Some(mtu) = mtu {
                end.mtu = mtu.into();
                netlink.set_mtu(&end, end.mtu).await?;
            }
            let turned_off = turns_off && offload::tx_checksum_off(&end.name)? == State::On;
            let offload = ChecksumOffload::turned_off_if(turned_off);
            Ok(PodEnd { interface: PodInterface { mac: end.mac, mtu: end.mtu }, offload })
        })
        .await
    }
}

/// Threads for work in pods' network namespaces.
#[must_use]
pub(crate) fn netns_threads() -> NetnsThreads {
    NetnsThreads::new(NETNS_THREADS, NETNS_LIMIT)
}

/// Turns the TX checksum offload of the pod's end on again. Returns whether there was a pod: a link
/// or a namespace that is gone needs nothing.
///
/// # Errors
/// When the namespace can't be entered or doesn't hold the peer of the link, or the driver leaves
/// the offload off.
pub(crate) async fn restore_offload(
    netlink: &Netlink,
    threads: &NetnsThreads,
    spec: &EndpointSpec,
) -> Result<bool> {
    let Some(path) = &spec.netns else { return Ok(false) };
    let Some(link) = netlink.link(&spec.link).await? else { return Ok(false) };
    let Some(peer) = link.peer else { bail!("link {} is not an end of a veth pair", link.name) };
    let restored = at_pod_end(threads, path, peer, &link, async |_, end| {
        Ok(offload::tx_checksum_on(&end.name)?)
    });
    match restored.await {
        Err(error) if is_not_found(&error) => Ok(false),
        restored => restored.map(|()| true),
    }
}

/// Whether an error is not the pod's: no thread was free or in time, there were too many open
/// files, netlink or ethtool failed.
pub(super) fn is_transient(error: &anyhow::Error) -> bool {
    (error.is::<NetnsError>() && !is_not_found(error))
        || error.is::<NetlinkError>()
        || error.downcast_ref::<OffloadError>().is_some_and(|error| error.os_error().is_some())
        || error.is::<std::io::Error>()
}

/// Whether a namespace could not be entered because its path doesn't exist.
fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<NetnsError>(),
        Some(NetnsError::Enter { source, .. }) if source.kind() == std::io::ErrorKind::NotFound
    )
}

/// Runs `work` in the network namespace `path`, on the peer of `link`.
async fn at_pod_end<T: Send + 'static>(
    threads: &NetnsThreads,
    path: &Path,
    peer: u32,
    link: &Link,
    work: impl AsyncFnOnce(&Netlink, Link) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (index, name, shown) = (link.index, link.name.clone(), path.display().to_string());
    let enter = async move || -> Result<T> {
        let netlink = Netlink::connect()?;
        let end = netlink.link_at(peer).await?;
        let end = end.filter(|end| end.peer == Some(index)).with_context(|| {
            format!("network namespace {shown} doesn't hold the other end of link {name}")
        })?;
        work(&netlink, end).await
    };
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(enter())
    };
    threads.run(path, run).await?
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn only_what_says_nothing_of_the_pod_is_transient() {
        let path = || "/run/netns/pod".into();
        let enter = |source: ErrorKind| NetnsError::Enter { path: path(), source: source.into() };
        let transient = [
            NetnsError::Busy { path: path() }.into(),
            NetnsError::TimedOut { path: path(), limit: NETNS_LIMIT }.into(),
            enter(ErrorKind::OutOfMemory).into(),
            NetlinkError::Socket(Error::other("EMFILE")).into(),
            anyhow::Error::from(Error::other("EMFILE")),
        ];
        assert!(transient.iter().all(is_transient));
        let of_the_pod = [
            enter(ErrorKind::NotFound).into(),
            anyhow::anyhow!("network namespace x doesn't hold the other end of link y"),
        ];
        assert!(!of_the_pod.iter().any(is_transient));
    }
}
