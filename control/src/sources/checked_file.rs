//! Text files with a first line that has the format, its version and a checksum of the rest.

use std::path::Path;

use podgate_policy::manifest;

/// A format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub(super) magic: &'static str,
    pub(super) version: u32,
}

/// A hash that doesn't depend on the build (FNV-1a, 64 bits).
#[must_use]
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Format {
    /// The content of a file with this body.
    #[must_use]
    pub(super) fn encode(self, body: &str) -> Vec<u8> {
        let Self { magic, version } = self;
        format!("{magic} {version} {:016x}\n{body}", hash(body.as_bytes())).into_bytes()
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
        if checksum.ok_or("is of another version")? != format!("{:016x}", hash(body.as_bytes())) {
            return Err(damaged());
        }
        drop(text.drain(..=first.len()));
        Ok(text)
    }
}
