//! Versions of the CNI specification.

/// The latest version that is supported.
pub(crate) const LATEST: &str = "1.1.0";
/// Versions that are supported.
pub(crate) const SUPPORTED: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", LATEST];
