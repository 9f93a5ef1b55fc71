//! Clients that wait until an epoch of policy is in force.

use std::time::Duration;

use podgate_api::PolicyWaited;
use podgate_tables::ids::Epoch;
use serde_json::json;
use tokio::time::Instant;

use super::server::{Reply, ReplySender};

/// The clients; the server bounds their number.
#[derive(Debug, Default)]
pub(super) struct EpochWaiters {
    clients: Vec<EpochWaiter>,
}

#[derive(Debug)]
struct EpochWaiter {
    wanted: Epoch,
    until: Instant,
    answer: ReplySender,
}

impl EpochWaiters {
    /// Adds a client that waits for `wanted` for at most `timeout`.
    pub(super) fn add(&mut self, wanted: Epoch, timeout: Duration, answer: ReplySender) {
        self.clients.push(EpochWaiter { wanted, until: Instant::now() + timeout, answer });
    }

    /// Whether no client waits.
    pub(super) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Answers clients whose epoch is in force or whose timeout is over. Every worker uses
    /// `in_force` or a later epoch.
    pub(super) fn answer(&mut self, in_force: Epoch, now: Instant) {
        // Clients that disconnected are dropped.
        let due = |client: &mut EpochWaiter| {
            in_force >= client.wanted || now >= client.until || client.answer.is_closed()
        };
        for client in self.clients.extract_if(.., due) {
            let waited = PolicyWaited { epoch: in_force.0, in_force: in_force >= client.wanted };
            // Fails if the client has left.
            let _ = client.answer.send(Ok(Reply::Value(json!(waited))));
        }
    }
}

#[cfg(test)]
mod tests {
    use podgate_api::ApiError;
    use tokio::sync::oneshot;

    use super::*;

    fn answered(mut waits: oneshot::Receiver<Result<Reply, ApiError>>) -> Option<PolicyWaited> {
        match waits.try_recv().ok()?.unwrap() {
            Reply::Value(value) => Some(serde_json::from_value(value).unwrap()),
            Reply::Flows { .. } | Reply::Capture(_) | Reply::Metrics(_) => None,
        }
    }

    #[test]
    fn a_client_is_answered_when_its_epoch_or_its_time_has_come_and_not_before() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let mut waiting = EpochWaiters::default();
        let mut wait = |epoch, seconds| {
            let (answer, waits) = oneshot::channel();
            waiting.add(Epoch(epoch), Duration::from_secs(seconds), answer);
            waits
        };
        let (old, next, late, never) = (wait(3, 60), wait(4, 60), wait(9, 10), wait(9, 60));
        let now = Instant::now();
        waiting.answer(Epoch(3), now);
        assert_eq!(answered(old), Some(PolicyWaited { epoch: 3, in_force: true }));
        waiting.answer(Epoch(5), now + Duration::from_secs(11));
        assert_eq!(answered(next), Some(PolicyWaited { epoch: 5, in_force: true }));
        assert_eq!(answered(late), Some(PolicyWaited { epoch: 5, in_force: false }));
        assert_eq!(answered(never), None);
    }
}
