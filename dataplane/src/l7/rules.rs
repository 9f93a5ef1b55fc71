//! Placeholder.
/// Placeholder.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpRule;
/// Placeholder.
#[derive(Debug, PartialEq, Eq)]
pub struct L7Rules;
