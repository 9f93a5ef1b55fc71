//! The names of past epochs, so that a record tells what was in force when it was made.

use std::collections::VecDeque;

use podgate_policy::Compiled;
use podgate_tables::ids::Epoch;

/// Epochs kept. Records reach the control thread within some tens of milliseconds; at a thousand
/// epochs a second this is a quarter of one. Epochs share what did not change between them.
const EPOCHS_MAX: usize = 256;

/// What was published, newest last.
#[derive(Debug, Default)]
pub(crate) struct Names {
    epochs: VecDeque<(Epoch, Compiled)>,
}

impl Names {
    /// Notes what is published as `epoch`, which is later than all others.
    pub(crate) fn push(&mut self, epoch: Epoch, compiled: Compiled) {
        if self.epochs.len() == EPOCHS_MAX {
            self.epochs.pop_front();
        }
        self.epochs.push_back((epoch, compiled));
    }

    /// What was published as `epoch`, if that is not too long ago.
    #[must_use]
    pub(crate) fn get(&self, epoch: Epoch) -> Option<&Compiled> {
        let index = self.epochs.binary_search_by_key(&epoch, |(epoch, _)| *epoch).ok()?;
        Some(&self.epochs[index].1)
    }

    /// What was published last.
    #[must_use]
    pub(crate) fn last(&self) -> Option<&Compiled> {
        self.epochs.back().map(|(_, compiled)| compiled)
    }
}
