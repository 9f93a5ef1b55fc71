//! Files of the checkout that tests run.

use std::path::{Path, PathBuf};

/// The file with this path below the checkout.
#[must_use]
pub fn in_checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The Python that has the packages of `scripts/test`.
///
/// # Panics
/// Before `scripts/test` has installed it.
#[must_use]
pub fn python() -> String {
    let python = in_checkout("target/tools/python/bin/python");
    assert!(python.exists(), "scripts/test installs {}", python.display());
    python.display().to_string()
}

/// A client or server of `tests/interop`.
#[must_use]
pub fn interop(name: &str) -> String {
    in_checkout("tests/interop").join(name).display().to_string()
}
