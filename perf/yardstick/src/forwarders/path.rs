//! The path of the measured frames through one forwarder.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use podgate_tests::lab::{Daemon, Netns, interrupted, wait_for};

use super::{DENIED_PORT, MEASURED_PORT};
use crate::traffic::{Arrivals, Flow, Generator, LiveFrames, SendSocket, rate};

/// Warm-up before a measurement, to fill flow tables and the caches of a process that was stopped.
const WARM_UP: Duration = Duration::from_millis(150);
/// Number of frames of each kind that a check sends.
const CHECK_FRAMES: u32 = 256;
/// Timeout for a check's frames to arrive.
const CHECK_BOUND: Duration = Duration::from_secs(10);

/// From a pod through a forwarder to a pod.
pub(crate) struct ForwarderPath<'forwarder> {
    name: String,
    from: &'forwarder Netns,
    flow: Flow,
    arrivals: Arrivals,
    spinning: Option<&'forwarder Daemon>,
}

impl<'forwarder> ForwarderPath<'forwarder> {
    /// The path of `flow` between two pods. A `spinning` forwarder is suspended (SIGSTOP) until
    /// [`Self::rate`] needs it.
    ///
    /// # Errors
    /// When arrivals can't be counted.
    pub(crate) fn new(
        name: &str,
        from: &'forwarder Netns,
        to: &'forwarder Netns,
        flow: Flow,
        spinning: Option<&'forwarder Daemon>,
    ) -> Result<Self> {
        let arrivals = Arrivals::attach(to, MEASURED_PORT)?;
        Ok(Self { name: name.to_owned(), from, flow, arrivals, spinning })
    }

    /// Name of the forwarder.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Checks that the flow passes and, if the forwarder `enforces`, that another port doesn't.
    /// Suspends a spinning forwarder again.
    ///
    /// # Errors
    /// When one of these doesn't hold.
    pub(crate) fn check(&self, enforces: bool) -> Result<()> {
        let result = self.check_running(enforces);
        self.signal(Signal::SIGSTOP)?;
        result.with_context(|| format!("{} can't be measured", self.name))
    }

    fn check_running(&self, enforces: bool) -> Result<()> {
        self.from.inside(|| {
            let mut allowed = LiveFrames::new("eth0", &self.flow)?;
            let mut denied = LiveFrames::new("eth0", &Flow { port: DENIED_PORT, ..self.flow })?;
            self.pass(&mut allowed)?;
            denied.send(CHECK_FRAMES)?;
            // Frames after them in the same queues have arrived, so these would have arrived, too.
            self.pass(&mut allowed)?;
            let other = self.arrivals.count()?.other;
            ensure!(
                !enforces || other == 0,
                "{other} frames passed without a rule that allows them"
            );
            ensure!(enforces || other > 0, "it drops frames that it should forward");
            Ok(())
        })
    }

    /// Sends frames until some arrive.
    fn pass(&self, generator: &mut LiveFrames) -> Result<()> {
        let before = self.arrivals.count()?.measured;
        wait_for("frames to arrive", CHECK_BOUND, || {
            generator.send(CHECK_FRAMES)?;
            Ok((self.arrivals.count()?.measured > before).then_some(()))
        })
    }

    /// Frames per second that arrive during `window`.
    ///
    /// # Errors
    /// When the generator fails, or nothing arrives.
    pub(crate) fn rate(&self, window: Duration) -> Result<f64> {
        self.rate_of(|| LiveFrames::new("eth0", &self.flow), window)
    }

    /// The same with the slower generator.
    ///
    /// # Errors
    /// As [`Self::rate`].
    pub(crate) fn rate_by_socket(&self, window: Duration) -> Result<f64> {
        self.rate_of(|| SendSocket::new("eth0", &self.flow), window)
    }

    fn rate_of<G: Generator>(
        &self,
        prepare: impl FnOnce() -> Result<G> + Send,
        window: Duration,
    ) -> Result<f64> {
        ensure!(!interrupted(), "interrupted");
        self.signal(Signal::SIGCONT)?;
        let rate = rate(self.from, prepare, &self.arrivals, WARM_UP, window);
        self.signal(Signal::SIGSTOP)?;
        let rate = rate.with_context(|| self.name.clone())?;
        ensure!(rate > 0.0, "{}: nothing arrives", self.name);
        Ok(rate)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.spinning.map_or(Ok(()), |daemon| daemon.signal(signal))
    }
}
