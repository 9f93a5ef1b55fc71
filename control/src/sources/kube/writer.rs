//! Writes to the API server: conditions of policies, and Events.
//!
//! A task of its own sends them, one after the other and at most at [`RATE`]. Of each policy
//! only the latest writes wait; at most [`JOBS_MAX`] policies do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::core::params::{Patch, PatchParams, PostParams};
use kube::core::{Request, Status};
use podgate_policy::{Kind, ObjectKey};
use podgate_tables::time::Nanos;
use podgate_tables::token_bucket::{Rate, TokenBucket};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, warn};

use super::client::{ApiClient, Cause};
use super::report::Write;
use super::watch::path;
use crate::error::describe;

/// Most writes: five a second in the long run, and ten at once after a pause.
const RATE: Rate = Rate::per_second(5, 10);
/// Most policies whose writes wait.
const JOBS_MAX: usize = 16_384;
/// A write that failed this many times is given up.
const TRIES_MAX: u32 = 10;
/// Timeout of one write.
const TIMEOUT: Duration = Duration::from_secs(30);
/// What the server forbids is tried again after this long.
const FORBIDDEN_FOR: Duration = Duration::from_secs(600);
/// A failure is shown for this long.
const FAILURE_SHOWN: Duration = Duration::from_secs(600);

/// Counts of writes by outcome.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct WriteCounts {
    /// Statuses that were written.
    pub(crate) statuses: u64,
    /// Events that were written, by this node or by another one.
    pub(crate) events: u64,
    /// Writes that were tried again.
    pub(crate) retried: u64,
    /// Writes that were given up.
    pub(crate) failed: u64,
    /// Writes of policies that were deleted meanwhile.
    pub(crate) gone: u64,
    /// Policies whose writes were dropped because too many waited.
    pub(crate) dropped: u64,
    /// Policies whose writes wait.
    pub(crate) waiting: u64,
}

/// The writes of one policy.
#[derive(Debug)]
struct Job {
    writes: Vec<Write>,
    due: Instant,
    tries: u32,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: BTreeMap<ObjectKey, Job>,
    counts: WriteCounts,
    /// What the server forbids, since when, and its message.
    forbidden: BTreeMap<(Kind, &'static str), (Instant, String)>,
    /// The last write that was given up, and when.
    failure: Option<(Instant, String)>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where writes are given to the task. The task ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    task: Option<tokio::task::AbortHandle>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Writer {
    /// Starts the task.
    pub(super) fn start(client: ApiClient) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(Arc::clone(&shared), client)).abort_handle();
        Self { shared, task: Some(task) }
    }

    /// Has `writes` sent after `delay`. They replace the policy's statuses that still wait, and its
    /// waiting Events if they have an Event.
    pub(super) fn submit(&self, key: &ObjectKey, mut writes: Vec<Write>, delay: Duration) {
        let mut queue = self.shared.queue();
        let mut due = Instant::now() + delay;
        // A later state does not wait longer than the earlier one.
        if let Some(former) = queue.jobs.remove(key) {
            due = due.min(former.due);
            add_events(&mut writes, former.writes);
        }
        if writes.is_empty() {
            return;
        }
        if queue.jobs.len() >= JOBS_MAX {
            queue.counts.dropped += 1;
            return;
        }
        queue.jobs.insert(key.clone(), Job { writes, due, tries: 0 });
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Drops what waits for a policy that was deleted.
    pub(super) fn forget(&self, key: &ObjectKey) {
        let mut queue = self.shared.queue();
        if queue.jobs.remove(key).is_some() {
            queue.counts.gone += 1;
        }
    }

    pub(super) fn counts(&self) -> WriteCounts {
        let queue = self.shared.queue();
        WriteCounts { waiting: queue.jobs.len() as u64, ..queue.counts }
    }

    /// What is not written, one line each.
    pub(super) fn problems(&self) -> Vec<String> {
        let queue = self.shared.queue();
        let forbidden = queue.forbidden.iter().map(|((kind, what), (_, message))| {
            format!("{what} of {kind} objects are not written: {message}")
        });
        let failure = queue.failure.iter().filter(|(at, _)| at.elapsed() < FAILURE_SHOWN);
        forbidden.chain(failure.map(|(_, text)| text.clone())).collect()
    }
}

/// Lets writes pass at [`RATE`].
struct RateLimit {
    bucket: TokenBucket,
    begin: Instant,
}

impl RateLimit {
    /// When the next write may be sent; its token is taken.
    fn next(&mut self, now: Instant) -> Instant {
        let since = now.saturating_duration_since(self.begin);
        let now = Nanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        self.begin + Duration::from_nanos(self.bucket.reserve(now, RATE).0)
    }
}

async fn run(shared: Arc<Shared>, client: ApiClient) {
    let mut limit = RateLimit { bucket: TokenBucket::default(), begin: Instant::now() };
    loop {
        let due = shared.queue().jobs.values().map(|job| job.due).min();
        match due {
            None => shared.wake.notified().await,
            Some(due) if due > Instant::now() => {
                tokio::select! {
                    () = sleep_until(due) => {}
                    () = shared.wake.notified() => {}
                }
            }
            Some(_) => {
                sleep_until(limit.next(Instant::now())).await;
                let first = take_first(&mut shared.queue(), Instant::now());
                if let Some((key, job)) = first {
                    send_one(&shared, &client, key, job).await;
                }
            }
        }
    }
}

/// Takes the job that is due first, without what is forbidden.
fn take_first(queue: &mut Queue, now: Instant) -> Option<(ObjectKey, Job)> {
    queue.forbidden.retain(|_, (since, _)| now.duration_since(*since) < FORBIDDEN_FOR);
    let (key, job) = queue.jobs.iter().min_by_key(|(_, job)| job.due)?;
    if job.due > now {
        return None;
    }
    let key = key.clone();
    let mut job = queue.jobs.remove(&key)?;
    job.writes.retain(|write| !queue.forbidden.contains_key(&(key.kind, write.what())));
    (!job.writes.is_empty()).then_some((key, job))
}

/// Sends the first write of a job, and puts the rest back.
async fn send_one(shared: &Shared, client: &ApiClient, key: ObjectKey, mut job: Job) {
    let write = job.writes.remove(0);
    let answer = send(client, &key, &write).await;
    let mut queue = shared.queue();
    take_answer(&mut queue, key, write, job, answer, Instant::now());
}

/// What the server answered.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Answer {
    Written,
    Gone,
    Forbidden(String),
    Again(String),
    Failed(String),
}

fn take_answer(
    queue: &mut Queue,
    key: ObjectKey,
    write: Write,
    mut job: Job,
    answer: Answer,
    now: Instant,
) {
    match answer {
        Answer::Written => {
            match write {
                Write::Status { .. } => queue.counts.statuses += 1,
                Write::Event { .. } => queue.counts.events += 1,
            }
            (job.tries, job.due) = (0, now);
        }
        Answer::Gone => {
            queue.counts.gone += 1;
            return;
        }
        Answer::Forbidden(message) => {
            warn!("{} of {} objects are not written: {message}", write.what(), key.kind);
            queue.forbidden.insert((key.kind, write.what()), (now, message));
        }
        Answer::Again(message) if job.tries < TRIES_MAX => {
            debug!("{key}: {message}; it is written again later");
            queue.counts.retried += 1;
            let pause = Duration::from_millis(500 << job.tries.min(7)).min(Duration::from_secs(60));
            job.due = now + pause.mul_f64(0.5 + fastrand::f64());
            job.tries += 1;
            job.writes.insert(0, write);
        }
        Answer::Again(message) | Answer::Failed(message) => {
            queue.counts.failed += 1;
            warn!("{} of {key} can't be written: {message}", write.what());
            let text = format!("{} of {key} can't be written: {message}", write.what());
            queue.failure = Some((now, text));
        }
    }
    // A later state of the policy replaces what is left of this one, except an Event: the written
    // status itself came back as a change, and that change has no Event.
    match queue.jobs.get_mut(&key) {
        Some(later) => add_events(&mut later.writes, job.writes),
        None if job.writes.is_empty() => {}
        None => drop(queue.jobs.insert(key, job)),
    }
}

/// Adds the Events of an earlier state of a policy to the writes of a later one that has none.
fn add_events(later: &mut Vec<Write>, earlier: Vec<Write>) {
    let is_event = |write: &Write| matches!(write, Write::Event { .. });
    if !later.iter().any(is_event) {
        later.extend(earlier.into_iter().filter(is_event));
    }
}

async fn send(client: &ApiClient, key: &ObjectKey, write: &Write) -> Answer {
    let request = match write {
        Write::Status { manager, body } => status_request(key, manager, body),
        Write::Event { namespace, body } => {
            let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
            Request::new(path).create(&PostParams::default(), body.to_string().into_bytes())
        }
    };
    let request = match request {
        Ok(request) => request,
        Err(error) => return Answer::Failed(describe(&error)),
    };
    let (sender, used) = client.get();
    let Ok(result) = timeout(TIMEOUT, sender.request::<Value>(request)).await else {
        client.renew(used, Cause::Unreachable).await;
        return Answer::Again("the server doesn't answer".into());
    };
    match result {
        Ok(_) => Answer::Written,
        Err(kube::Error::Api(status)) if status.code == 401 => {
            client.renew(used, Cause::Rejected).await;
            Answer::Again(status.message)
        }
        Err(kube::Error::Api(status)) if is_terminating(&status) => Answer::Gone,
        Err(kube::Error::Api(status)) => answer(status.code, status.message, write),
        Err(kube::Error::SerdeError(_)) => Answer::Written,
        Err(error) => {
            if matches!(error, kube::Error::Service(_) | kube::Error::HyperError(_)) {
                client.renew(used, Cause::Unreachable).await;
            }
            Answer::Again(describe(&error))
        }
    }
}

/// Whether a denial says that the object's namespace is being deleted, and not that the agent has
/// no right.
fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403 && causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

fn status_request(
    key: &ObjectKey,
    manager: &str,
    body: &Value,
) -> Result<http::Request<Vec<u8>>, kube::core::request::Error> {
    let version = key.kind.api_version();
    let path = match &key.namespace {
        Some(namespace) => {
            format!("/apis/{version}/namespaces/{namespace}/{}", key.kind.plural())
        }
        None => path(key.kind, version),
    };
    let params = PatchParams::apply(manager).force();
    Request::new(path).patch_subresource("status", &key.name, &params, &Patch::Apply(body))
}

fn answer(code: u16, message: String, write: &Write) -> Answer {
    match (code, write) {
        // Another node has written it, or this one before.
        (409, Write::Event { .. }) => Answer::Written,
        (404, _) => Answer::Gone,
        (403, _) => Answer::Forbidden(message),
        (409 | 429 | 500..=599, _) => Answer::Again(message),
        _ => Answer::Failed(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stays_when_a_later_state_of_its_policy_waits() {
        let key = ObjectKey {
            kind: Kind::CiliumNetworkPolicy,
            namespace: Some("a".into()),
            name: "x".into(),
        };
        let status = || Write::Status { manager: "podgate".into(), body: Value::Null };
        let event = || Write::Event { namespace: "a".into(), body: Value::Null };
        let job = |writes| Job { writes, due: Instant::now(), tries: 0 };
        let mut queue = Queue::default();
        queue.jobs.insert(key.clone(), job(vec![status()]));
        let rest = job(vec![status(), event()]);
        take_answer(&mut queue, key.clone(), status(), rest, Answer::Written, Instant::now());
        assert_eq!(queue.jobs[&key].writes, [status(), event()]);
        // The later state has an Event of its own.
        let rest = job(vec![event()]);
        take_answer(&mut queue, key.clone(), status(), rest, Answer::Written, Instant::now());
        assert_eq!(queue.jobs[&key].writes.len(), 2);
    }
}
