//! `podgate capture`: copies of packets on their way from the workers to a client.
//!
//! One capture runs at a time. Its copies wait on the capture's ring until there is room in the
//! channel to the client, so that a slow client costs a bounded memory, and what it loses is
//! counted in one place.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use podgate_api::{ApiError, CaptureItem, CaptureRequest, CaptureSide, PacketCopy, PacketFilter};
use podgate_dataplane::worker::{
    Capture, CaptureFilter, CapturePoint, CaptureSpec, CapturedPacket, CapturedPod, Clock,
    Disposition,
};
use podgate_policy::Compiled;
use podgate_policy::observe::{cause_words, rule_name};
use podgate_tables::address::Address;
use podgate_tables::ids::LinkId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Agent;
use super::epochs::Epochs;
use super::host_network::HOST_SLOT;
use super::server::{Reply, ReplySender};

/// Copies on their way to the client.
const CHANNEL: usize = 256;

/// Names of links, with those of their pods.
type LinkNames = BTreeMap<LinkId, (String, Option<String>)>;

/// The capture that runs, if one does.
#[derive(Default)]
pub(super) struct Captures {
    running: Option<Running>,
    /// When workers that may still copy packets are asked again to stop.
    stop_at: Option<Instant>,
}

/// Time from a missing answer of a worker to the next attempt.
const STOP_AGAIN_AFTER: Duration = Duration::from_secs(1);

struct Running {
    capture: Arc<Capture>,
    to: mpsc::Sender<CaptureItem>,
    until: Instant,
    links: LinkNames,
    /// Why it has ended; copies may still wait.
    ended: Option<String>,
}

impl Agent {
    /// Starts a capture; the reply has its copies.
    pub(super) fn start_capture(&mut self, request: &CaptureRequest, reply: ReplySender) {
        let answer = self.begin_capture(request).map(Reply::Capture);
        // Fails if the client has left; the capture ends at the next check.
        let _ = reply.send(answer);
    }

    fn begin_capture(
        &mut self,
        request: &CaptureRequest,
    ) -> Result<mpsc::Receiver<CaptureItem>, ApiError> {
        request.check().map_err(ApiError::failed)?;
        self.pass_captured();
        if self.captures.running.is_some() {
            return Err(ApiError::failed("another capture runs; stop it first"));
        }
        let pods = request.pods.iter().map(|pod| {
            let found = self.endpoints.iter().find(|(_, endpoint)| endpoint.spec.pod == *pod);
            let attached =
                found.and_then(|(_, endpoint)| Some((endpoint, endpoint.link.as_ref().ok()?)));
            let (endpoint, link) = attached.ok_or_else(|| {
                ApiError::failed(format!("{pod} is not an endpoint of this node"))
            })?;
            let addresses = endpoint.addresses(self.plane.store()).unwrap_or_default();
            let addresses = addresses.iter().copied().map(Address::from).collect();
            Ok(CapturedPod { link: link.slot, addresses })
        });
        let spec = CaptureSpec {
            pods: pods.collect::<Result<_, ApiError>>()?,
            filters: request.filters.iter().map(filter).collect(),
            snap_len: request.snap_len,
            packets: request.packets,
            bytes: request.bytes,
        };
        let mut links = LinkNames::from([(HOST_SLOT, (self.host.xsk_name().to_owned(), None))]);
        for (link, endpoint) in self.endpoints.iter() {
            if let Ok(attached) = &endpoint.link {
                let pod = endpoint.spec.pod.to_string();
                links.insert(attached.slot, (link.clone(), Some(pod)));
            }
        }
        let (to, copies) = mpsc::channel(CHANNEL);
        // There is room: the channel is new.
        let _ = to.try_send(CaptureItem::Started {});
        let capture = Capture::new(spec);
        if let Err(error) = self.dataplane().set_capture(Some(&capture)) {
            self.captures.stop_at = Some(Instant::now());
            return Err(ApiError::failed(error));
        }
        self.captures.stop_at = None;
        let until = Instant::now() + Duration::from_secs(request.seconds.into());
        let pods: Vec<_> = request.pods.iter().map(ToString::to_string).collect();
        info!("a capture of packets of {} starts", pods.join(", "));
        self.captures.running = Some(Running { capture, to, until, links, ended: None });
        Ok(copies)
    }

    /// Passes copies to the client, and ends the capture when that is due. Returns whether copies
    /// still wait: then it has to be called again soon.
    pub(super) fn pass_captured(&mut self) -> bool {
        let now = Instant::now();
        let dataplane = self.endpoints.links().dataplane();
        if let Some(running) = &mut self.captures.running
            && running.ended.is_none()
            && let Some(reason) = running.end_reason()
        {
            running.ended = Some(reason);
            self.captures.stop_at = Some(now);
        }
        // A stuck worker would block this: the workers are asked once it makes progress.
        if self.health.dead_worker(now).is_none() {
            self.captures.stop_if_due(now, || dataplane.set_capture(None));
        }
        let Some(running) = &mut self.captures.running else { return false };
        if running.pass(dataplane.clock(), self.plane.epochs()) {
            info!("the capture has ended");
            self.captures.running = None;
        }
        self.captures.running.as_ref().is_some_and(|running| running.capture.has_waiting())
    }
}

impl Captures {
    /// Whether one runs, or is to be stopped.
    pub(super) fn is_active(&self) -> bool {
        self.running.is_some() || self.stop_at.is_some()
    }

    /// Stops the workers' copying, if that is due; again and again, until all have answered.
    fn stop_if_due<E: Display>(&mut self, now: Instant, stop: impl FnOnce() -> Result<(), E>) {
        if self.stop_at.is_none_or(|due| now < due) {
            return;
        }
        self.stop_at = match stop() {
            Ok(()) => None,
            Err(error) => {
                warn!("a capture can't be stopped yet: {error}");
                Some(now + STOP_AGAIN_AFTER)
            }
        };
    }
}

impl Running {
    fn end_reason(&self) -> Option<String> {
        if self.to.is_closed() {
            Some("the client left".to_owned())
        } else if self.capture.is_full() {
            Some("it has as many packets or bytes as were asked for".to_owned())
        } else {
            (Instant::now() >= self.until).then(|| "its time is over".to_owned())
        }
    }

    /// Passes copies while there is room. Returns whether the capture has ended and all is passed.
    fn pass(&mut self, clock: Clock, epochs: &Epochs) -> bool {
        for _ in 0..CHANNEL {
            let permit = match self.to.try_reserve() {
                Ok(permit) => permit,
                Err(mpsc::error::TrySendError::Full(())) => return false,
                Err(mpsc::error::TrySendError::Closed(())) => return self.ended.is_some(),
            };
            match self.capture.pop() {
                Some(packet) => {
                    let tables = epochs.get(packet.epoch);
                    let lost = self.capture.lost();
                    permit.send(item(&packet, tables, &self.links, clock, lost));
                }
                None => {
                    let Some(reason) = self.ended.take() else { return false };
                    permit.send(CaptureItem::Ended { reason, lost: self.capture.lost() });
                    return true;
                }
            }
        }
        false
    }
}

fn filter(filter: &PacketFilter) -> CaptureFilter {
    CaptureFilter {
        protocol: filter.protocol,
        port: filter.port,
        address: filter.address.map(Address::from),
        dropped: filter.dropped,
    }
}

fn item(
    packet: &CapturedPacket,
    tables: Option<&Compiled>,
    links: &LinkNames,
    clock: Clock,
    lost: u64,
) -> CaptureItem {
    let since = clock.wall(packet.time).duration_since(UNIX_EPOCH).unwrap_or_default();
    let number = || (format!("link {}", packet.link.0), None);
    let (link, pod) = links.get(&packet.link).cloned().unwrap_or_else(number);
    let side = match packet.point {
        CapturePoint::Received(_) => CaptureSide::Before,
        CapturePoint::Transmitted | CapturePoint::Made => CaptureSide::After,
    };
    CaptureItem::Packet(Box::new(PacketCopy {
        time_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        link,
        pod,
        side,
        comment: comment(packet, tables),
        len: packet.len,
        data: STANDARD.encode(&packet.data),
        lost,
    }))
}

/// Verdict, reason and rules of a packet, in words.
fn comment(packet: &CapturedPacket, tables: Option<&Compiled>) -> String {
    let mut parts = vec![match packet.point {
        CapturePoint::Received(Disposition::Forwarded) => "before policy: FORWARDED".to_owned(),
        CapturePoint::Received(Disposition::Dropped(reason)) => {
            format!("before policy: DROPPED, {}", reason.label())
        }
        CapturePoint::Received(Disposition::HandedOff) => {
            "before policy: handed off to the worker of its flow".to_owned()
        }
        CapturePoint::Received(Disposition::Held) => {
            "before policy: held for reassembly or inspection".to_owned()
        }
        CapturePoint::Transmitted => "after policy: FORWARDED".to_owned(),
        CapturePoint::Made => "after policy: made by podgate".to_owned(),
    }];
    let Some(tables) = tables else { return parts.remove(0) };
    let [egress, ingress] = packet.verdict.causes;
    for (direction, cause) in [("egress", egress), ("ingress", ingress)] {
        if let Some(cause) = cause {
            parts.push(format!("{direction} {}", cause_words(cause, tables)));
        }
    }
    match packet.verdict.request {
        Some((true, Some(rule))) => {
            parts.push(format!("request allowed by {}", rule_name(rule, tables).in_full()));
        }
        Some((true, None)) => parts.push("request allowed".to_owned()),
        Some((false, _)) => parts.push("request DENIED".to_owned()),
        None => {}
    }
    parts.push(format!("worker {}, epoch {}", packet.worker, packet.epoch.0));
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use podgate_dataplane::worker::CapturedVerdict;
    use podgate_tables::drop_reason::DropReason;
    use podgate_tables::ids::{Epoch, RuleId};
    use podgate_tables::policy::Cause;
    use podgate_tables::time::Nanos;

    use super::*;

    fn packet(point: CapturePoint, causes: [Option<Cause>; 2]) -> CapturedPacket {
        CapturedPacket {
            time: Nanos(1),
            epoch: Epoch(3),
            worker: 1,
            link: LinkId(2),
            point,
            verdict: CapturedVerdict { causes, request: None },
            tuple: None,
            len: 60,
            data: vec![0; 60].into(),
        }
    }

    #[test]
    fn a_comment_names_the_verdict_the_reason_and_what_decided() {
        let tables = podgate_policy::compile(&podgate_policy::Store::default());
        let dropped = CapturePoint::Received(Disposition::Dropped(DropReason::PolicyDenyRule));
        let causes = [Some(Cause::Unenforced), Some(Cause::Denied(RuleId(7)))];
        let text = comment(&packet(dropped, causes), Some(&tables));
        let expected = "before policy: DROPPED, policy_deny_rule; \
                        egress allowed, as no policy selects the pod; \
                        ingress denied by unknown rule 7 ; worker 1, epoch 3";
        assert_eq!(text, expected);
        let sent = packet(CapturePoint::Transmitted, [None; 2]);
        assert_eq!(comment(&sent, Some(&tables)), "after policy: FORWARDED; worker 1, epoch 3");
        assert_eq!(comment(&sent, None), "after policy: FORWARDED");
    }

    #[tokio::test]
    async fn workers_are_told_to_stop_until_all_have_answered() {
        let mut captures = Captures::default();
        let begin = Instant::now();
        let mut told = 0;
        let mut stop = |captures: &mut Captures, at, result: Result<(), &str>| {
            captures.stop_if_due(at, || {
                told += 1;
                result
            });
            told
        };
        assert_eq!(stop(&mut captures, begin, Ok(())), 0, "nothing has run");
        captures.stop_at = Some(begin);
        assert_eq!(stop(&mut captures, begin, Err("worker 1 is stuck")), 1);
        assert_eq!(stop(&mut captures, begin, Err("worker 1 is stuck")), 1, "too early");
        assert_eq!(stop(&mut captures, begin + STOP_AGAIN_AFTER, Ok(())), 2);
        assert_eq!(stop(&mut captures, begin + 9 * STOP_AGAIN_AFTER, Ok(())), 2);
    }

    #[test]
    fn an_ended_capture_says_why_once_there_is_room() {
        let spec = CaptureSpec {
            pods: Vec::new(),
            filters: Vec::new(),
            snap_len: 64,
            packets: 10,
            bytes: 1 << 20,
        };
        let (to, mut copies) = mpsc::channel(1);
        let capture = Capture::new(spec);
        let links = LinkNames::new();
        let until = Instant::now();
        let ended = Some("its time is over".to_owned());
        let mut running = Running { capture, to, until, links, ended };
        let dataplane =
            podgate_dataplane::worker::Dataplane::start(podgate_dataplane::worker::Config {
                shared: podgate_dataplane::worker::SharedConfig {
                    flows_per_worker: 16,
                    ..Default::default()
                },
                frames: 64,
                poll: podgate_dataplane::worker::PollMode::Adaptive,
            })
            .unwrap();
        let clock = dataplane.clock();
        running.to.try_send(CaptureItem::Started {}).unwrap();
        assert!(!running.pass(clock, &Epochs::default()), "the channel is full");
        assert_eq!(copies.try_recv(), Ok(CaptureItem::Started {}));
        assert!(running.pass(clock, &Epochs::default()));
        let reason = "its time is over".to_owned();
        assert_eq!(copies.try_recv(), Ok(CaptureItem::Ended { reason, lost: 0 }));
    }
}
