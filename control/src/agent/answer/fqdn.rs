//! Answers about DNS names.

use podgate_api::{ApiError, ErrorCode, FqdnEntry};
use podgate_tables::l7::NamePattern;

use super::super::Agent;

impl Agent {
    /// The names that match a pattern.
    pub(super) fn fqdn_list(&self, pattern: Option<&str>) -> Result<Vec<FqdnEntry>, ApiError> {
        Ok(self.names.list(parse(pattern)?.as_ref()))
    }

    /// Removes the names that match a pattern. Returns the number of addresses.
    pub(super) fn fqdn_clean(&mut self, pattern: Option<&str>) -> Result<usize, ApiError> {
        let removed = self.names.clean(parse(pattern)?.as_ref());
        self.publish_names();
        Ok(removed)
    }
}

fn parse(pattern: Option<&str>) -> Result<Option<NamePattern>, ApiError> {
    let parsed = pattern.map(NamePattern::dns).transpose();
    parsed.map_err(|error| {
        let message = format!("the pattern of names {error}");
        ApiError::new(ErrorCode::BadRequest, message)
    })
}
