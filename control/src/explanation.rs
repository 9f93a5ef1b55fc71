//! What explanations of the agent and of manifests have in common.

use podgate_policy::Store;

/// A note for explanations: how many objects are not in force as they were last written.
pub(crate) fn rejected_note(store: &Store) -> Option<String> {
    match store.rejected_objects() {
        0 => None,
        1 => Some("1 object is not in force as it was last written".to_owned()),
        count => Some(format!("{count} objects are not in force as they were last written")),
    }
}
