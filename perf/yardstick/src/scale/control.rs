//! The control thread's part: from an object to the published snapshot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_dataplane::worker::Shared;
use podgate_policy::{Compiled, Compiler, ObjectKey, Rejection, Store};
use podgate_tables::ids::Epoch;
use podgate_tables::policy::Snapshot;
use podgate_tables::route::RouteTable;
use serde_json::Value;

use super::Error;

/// Times of the steps of a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepTimes {
    /// Parsing the object and adding it to the store, or removing it.
    pub(super) store: Duration,
    /// Compiling.
    pub(super) compile: Duration,
    /// Publishing, and dropping the snapshot before.
    pub(super) publish: Duration,
}

impl StepTimes {
    /// All steps together.
    pub(super) fn total(&self) -> Duration {
        self.store + self.compile + self.publish
    }
}

/// Store, compiler and publisher.
pub(super) struct Control {
    store: Store,
    compiler: Compiler,
    compiled: Compiled,
    shared: Arc<Shared>,
    routes: Arc<RouteTable>,
    epoch: Epoch,
}

impl Control {
    /// Publishes the compiled tables.
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

    /// Publishes to other workers from now on.
    pub(super) fn set_shared(&mut self, shared: Arc<Shared>) {
        self.shared = shared;
        self.publish();
    }

    /// The published snapshot.
    pub(super) fn snapshot(&self) -> Snapshot {
        let policy = Arc::clone(&self.compiled.tables);
        Snapshot { epoch: self.epoch, policy, routes: Arc::clone(&self.routes) }
    }

    /// Applies an object, compiles and publishes.
    ///
    /// # Errors
    /// When it is rejected.
    pub(super) fn apply(&mut self, object: &Value) -> Result<(ObjectKey, StepTimes), Error> {
        let begin = Instant::now();
        let key = self.store.apply(object, None).map_err(|rejections| rejected(&rejections))?;
        Ok((key, self.follow(begin)))
    }

    /// Deletes an object, compiles and publishes.
    pub(super) fn delete(&mut self, key: &ObjectKey) -> StepTimes {
        let begin = Instant::now();
        self.store.delete(key);
        self.follow(begin)
    }

    fn follow(&mut self, begin: Instant) -> StepTimes {
        let stored = Instant::now();
        self.compiler.update(&self.store);
        let compiled = self.compiler.compiled();
        let built = Instant::now();
        self.compiled = compiled;
        self.publish();
        StepTimes { store: stored - begin, compile: built - stored, publish: built.elapsed() }
    }

    fn publish(&mut self) {
        self.epoch.0 += 1;
        self.shared.publish(self.snapshot());
    }
}

/// The benchmark's own objects are valid, so a rejection is a bug.
pub(super) fn rejected(rejections: &[Rejection]) -> Error {
    let lines: Vec<_> = rejections.iter().map(ToString::to_string).collect();
    Error::Rejected(lines.join("; "))
}
