//! Errors as one line for people.

use std::error::Error;

/// The error and its causes, without those that its text contains already.
#[must_use]
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_cause_text_once() {
        let cause = std::io::Error::other("no such file");
        let error = anyhow::Error::new(cause).context("can't read x: no such file").context("stop");
        assert_eq!(describe(error.as_ref()), "stop: can't read x: no such file");
    }
}
