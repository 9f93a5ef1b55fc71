//! Records of frames that the BPF programs dropped: when there are some, and how many were lost.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use podgate_xdp_redirect::{DroppedFrame, Redirect};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long after a record the counter of lost ones is read. Records are lost if the ring is full
/// or a link's limit is reached, and the limit is refilled in less time than this.
const LOSSES_AFTER: Duration = Duration::from_secs(1);

/// The state of reading the records.
pub(super) struct DroppedFrames {
    readable: AsyncFd<OwnedFd>,
    last: Option<Instant>,
    lost: u64,
}

impl DroppedFrames {
    /// # Errors
    /// When the ring can't be polled.
    #[expect(deprecated, reason = "unsound only with types that don't own their descriptor")]
    pub(super) fn new(redirect: &Redirect) -> Result<Self> {
        let what = "can't poll the ring of dropped frames";
        let ring = redirect.dropped_fd().try_clone_to_owned().context(what)?;
        let readable = AsyncFd::with_interest(ring, Interest::READABLE).context(what)?;
        Ok(Self { readable, last: None, lost: 0 })
    }

    /// Waits until there is a record; only the first one wakes the caller.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.readable.poll_read_ready(cx) {
            Poll::Ready(Ok(_)) => Poll::Ready(()),
            // Only a runtime that shuts down fails.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Takes at most `max` records.
    pub(super) fn take(
        &mut self,
        redirect: &mut Redirect,
        max: usize,
        mut take: impl FnMut(&DroppedFrame<'_>),
    ) {
        // Before reading, so that one that comes meanwhile makes it readable again.
        let not_readable = |_: &OwnedFd| Err::<(), _>(io::ErrorKind::WouldBlock.into());
        let _ = self.readable.try_io(Interest::READABLE, not_readable);
        let mut some = false;
        redirect.take_dropped(max, |frame| {
            some = true;
            take(frame);
        });
        if some {
            self.last = Some(Instant::now());
        }
        if self.last.is_some_and(|last| last.elapsed() < LOSSES_AFTER) {
            match redirect.drops_unrecorded() {
                Ok(lost) => self.lost = lost,
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    /// Drops without a record.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}
