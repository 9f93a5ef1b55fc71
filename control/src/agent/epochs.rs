//! The tables of past epochs, so that flow records have the names that were in force at their time.

use std::collections::VecDeque;

use podgate_policy::Compiled;
use podgate_tables::ids::Epoch;

/// Most epochs. Events reach the control thread within some tens of milliseconds; at a thousand
/// epochs a second this is a quarter of a second. Epochs share what did not change between them.
const EPOCHS_MAX: usize = 256;

/// Published tables, newest last.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    epochs: VecDeque<(Epoch, Compiled)>,
}

impl Epochs {
    /// Adds the tables of `epoch`, which is later than all others.
    pub(super) fn push(&mut self, epoch: Epoch, compiled: Compiled) {
        if self.epochs.len() == EPOCHS_MAX {
            self.epochs.pop_front();
        }
        self.epochs.push_back((epoch, compiled));
    }

    /// The tables of `epoch`, if that is not too long ago.
    #[must_use]
    pub(super) fn get(&self, epoch: Epoch) -> Option<&Compiled> {
        let index = self.epochs.binary_search_by_key(&epoch, |(epoch, _)| *epoch).ok()?;
        Some(&self.epochs[index].1)
    }

    /// The last tables.
    #[must_use]
    pub(super) fn last(&self) -> Option<&Compiled> {
        self.epochs.back().map(|(_, compiled)| compiled)
    }
}
