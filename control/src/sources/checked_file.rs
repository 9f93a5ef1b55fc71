//! Text files with a first line that has the format, its version and a checksum of the rest.

use std::path::Path;

use podgate_policy::manifest;
use ring::digest::{SHA256, digest as sha};

/// A format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub(super) magic: &'static str,
    pub(super) version: u32,
}

/// The first 128 bits of SHA-256: nobody can find other bytes with the digest of given ones.
#[must_use]
pub(super) fn digest(bytes: &[u8]) -> u128 {
    let whole = sha(&SHA256, bytes);
    whole.as_ref().iter().take(16).fold(0, |digest, byte| digest << 8 | u128::from(*byte))
}

/// Name of the file for what has this name.
#[must_use]
pub(super) fn file_name(of: &[u8]) -> String {
    format!("{:032x}.json", digest(of))
}

/// Whether a file has a name of [`file_name`].
pub(super) fn has_digest_name(path: &Path) -> bool {
    let digits = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json"));
    digits.is_some_and(|digits| digits.len() == 32 && u128::from_str_radix(digits, 16).is_ok())
}

impl Format {
    /// The content of a file with this body.
    #[must_use]
    pub(super) fn encode(self, body: &str) -> Vec<u8> {
        let Self { magic, version } = self;
        format!("{magic} {version} {:032x}\n{body}", digest(body.as_bytes())).into_bytes()
    }

    /// Reads a file's body.
    ///
    /// # Errors
    /// Why it can't be used.
    pub(super) fn read(self, path: &Path) -> Result<String, String> {
        let Self { magic, version } = self;
        let (bytes, _) = manifest::read_regular(path).map_err(|error| error.to_string())?;
        let mut text = String::from_utf8(bytes).map_err(|_| "is damaged: not UTF-8".to_owned())?;
        let damaged = || "is damaged: the checksum does not match".to_owned();
        let (first, body) = text.split_once('\n').ok_or_else(damaged)?;
        let checksum = first.strip_prefix(&format!("{magic} {version} "));
        if checksum.ok_or("is of another version")? != format!("{:032x}", digest(body.as_bytes())) {
            return Err(damaged());
        }
        drop(text.drain(..=first.len()));
        Ok(text)
    }
}
