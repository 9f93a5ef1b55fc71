//! The control thread's part: from an object to the snapshot that workers have.

use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_dataplane::worker::Shared;
use podgate_policy::{Compiled, Compiler, ObjectKey, Rejection, Store};
use podgate_tables::ids::Epoch;
use podgate_tables::policy::Snapshot;
use podgate_tables::route::RouteTable;
use serde_json::Value;

use super::Error;

/// How long the steps of a change took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// Checking the object and putting it into the store, or out of it.
    pub(super) store: Duration,
    /// Compiling.
    pub(super) compile: Duration,
    /// Publishing, and letting go of what was published before.
    pub(super) publish: Duration,
}

impl Took {
    /// All steps together.
    pub(super) fn total(&self) -> Duration {
        self.store + self.compile + self.publish
    }
}

/// What holds the objects, compiles and publishes them.
pub(super) struct Control {
    store: Store,
    compiler: Compiler,
    compiled: Compiled,
    shared: Arc<Shared>,
    routes: Arc<RouteTable>,
    epoch: Epoch,
}

impl Control {
    /// Publishes what is compiled.
    pub(super) fn new(
        store: Store,
        compiler: Compiler,
        routes: RouteTable,
        shared: Arc<Shared>,
    ) -> Self {
        let (compiled, routes) = (compiler.compiled(), Arc::new(routes));
        let mut control = Self { store, compiler, compiled, shared, routes, epoch: Epoch(0) };
        control.publish();
        control
    }

    /// Has workers on another meeting place from now on.
    pub(super) fn serve(&mut self, shared: Arc<Shared>) {
        self.shared = shared;
        self.publish();
    }

    /// What workers have now.
    pub(super) fn snapshot(&self) -> Snapshot {
        let policy = Arc::clone(&self.compiled.tables);
        Snapshot { epoch: self.epoch, policy, routes: Arc::clone(&self.routes) }
    }

    /// Applies an object, compiles and publishes.
    ///
    /// # Errors
    /// When it is refused.
    pub(super) fn apply(&mut self, object: &Value) -> Result<(ObjectKey, Took), Error> {
        let begin = Instant::now();
        let key = self.store.apply(object, None).map_err(|refusals| refused(&refusals))?;
        Ok((key, self.follow(begin)))
    }

    /// Deletes an object, compiles and publishes.
    pub(super) fn delete(&mut self, key: &ObjectKey) -> Took {
        let begin = Instant::now();
        self.store.delete(key);
        self.follow(begin)
    }

    fn follow(&mut self, begin: Instant) -> Took {
        let stored = Instant::now();
        self.compiler.update(&self.store);
        let compiled = self.compiler.compiled();
        let built = Instant::now();
        self.compiled = compiled;
        self.publish();
        Took { store: stored - begin, compile: built - stored, publish: built.elapsed() }
    }

    fn publish(&mut self) {
        self.epoch.0 += 1;
        self.shared.publish(self.snapshot());
    }
}

/// Objects are ours, so a refusal is a bug; it is told in full.
pub(super) fn refused(refusals: &[Rejection]) -> Error {
    let lines: Vec<_> = refusals.iter().map(ToString::to_string).collect();
    Error::Refused(lines.join("; "))
}
