//! What the reader reports to the control thread: changes of files, and problems.

use std::ffi::OsString;

use podgate_policy::manifest;
use tracing::warn;

use super::super::messages::DirectoryUpdate;
use super::{BATCH, Reader};
use crate::sources::Update;

/// Most problems that are reported one by one.
const PROBLEMS_MAX: usize = 16;

impl Reader {
    /// Reports changes to the control thread. Returns whether it still exists.
    pub(super) fn flush(&mut self) -> bool {
        // Until everything was read once, nothing is published, so that there is no hurry.
        let hurry = self.synced || self.unobserved == 0 || self.batch.len() >= BATCH;
        let was_synced = self.synced;
        self.synced |= self.is_complete();
        let status = (self.synced, self.problems());
        let reported = self.last_status.as_ref() == Some(&status);
        let unsaved = self.saver.pending();
        let settled = unsaved != self.reported_unsaved && self.saver.is_idle();
        if !settled && (self.batch.is_empty() || !hurry) && reported && was_synced == self.synced {
            return !self.updates.is_closed();
        }
        if !reported {
            let former = self.last_status.take().map(|(_, problems)| problems).unwrap_or_default();
            for problem in status.1.iter().filter(|problem| !former.contains(problem)) {
                warn!("{}", crate::output::escape(problem));
            }
            self.last_status = Some(status.clone());
        }
        self.reported_unsaved = unsaved;
        let files = std::mem::take(&mut self.batch);
        let (synced, problems) = status;
        let update = DirectoryUpdate { files, synced, problems, unsaved };
        self.updates.blocking_send(Update::Manifests(update)).is_ok()
    }

    /// Whether everything was read once and no file may hold unknown objects.
    fn is_complete(&self) -> bool {
        let hides =
            |name: &OsString| self.files.get(name).is_some_and(|file| file.state.hides_objects());
        let known = self.fault.is_none() || self.files.values().any(|f| f.state.is_known());
        self.listed
            && self.unobserved == 0
            && self.excess.is_none()
            && known
            && !self.troubled.iter().any(hides)
    }

    fn problems(&self) -> Vec<String> {
        let dir = self.dir.display();
        let mut problems = Vec::new();
        if let Some(fault) = &self.fault {
            let stays = match self.files.is_empty() {
                true => "",
                false => "; the objects read from it before stay in force",
            };
            problems.push(format!("{dir} {fault}{stays}"));
        }
        if self.unproven && self.fault.is_none() && !self.may_be_proven() {
            problems.push(format!(
                "{dir} was replaced by a directory in which no manifest can be read; the objects \
                 read from it before stay in force"
            ));
        }
        if let Some((count, first)) = &self.excess {
            let (max, first) = (manifest::FILES_MAX, first.display());
            problems.push(format!(
                "{dir} has {count} files more than the {max} that are read: {first}"
            ));
        }
        problems.extend(self.saver.problems());
        if !self.synced {
            let damaged = self.damaged.iter().take(PROBLEMS_MAX);
            problems.extend(damaged.map(|why| format!("saved objects can't be used: {why}")));
        }
        for name in self.troubled.iter().take(PROBLEMS_MAX) {
            let Some(file) = self.files.get(name) else { continue };
            let path = file.path.display();
            let hides = match file.state.hides_objects() && !self.synced {
                true => "; pods stay cut off until it can be read or is removed",
                false => "",
            };
            if let Some(problem) = file.state.problem() {
                problems.push(format!("{path} {problem}{hides}"));
            }
            if file.hangs {
                problems.push(format!("{path} can't be read: the file system does not answer"));
            }
        }
        let more = self.troubled.len().saturating_sub(PROBLEMS_MAX);
        if more > 0 {
            problems.push(format!("{more} more files of {dir} have problems"));
        }
        problems
    }
}
