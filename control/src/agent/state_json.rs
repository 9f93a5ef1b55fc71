//! The JSON files of the state directory: each has a version and a checksum of its content, is read
//! if it is a regular file within a bound, set aside if it is damaged, and replaced atomically.

use std::io;
use std::path::Path;

use podgate_policy::manifest::{ReadError, read_regular};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{atomic_file, damaged_file};

/// The content of a file: its fields beside `version` and `checksum`.
pub(super) trait Content: Serialize + DeserializeOwned {
    /// Version of the format.
    const VERSION: u32;
    /// Longest file, bytes.
    const MAX: usize;
    /// Whether a file without a checksum is read: those of earlier versions of the program.
    const MAY_LACK_CHECKSUM: bool;

    /// [`checksum`] of the version and of all that is in the file.
    ///
    /// # Errors
    /// When it can't be written as JSON.
    fn checksum(&self) -> io::Result<u32>;
}

/// CRC-32C of a file's content.
///
/// # Errors
/// When it can't be written as JSON.
pub(super) fn checksum(content: &impl Serialize) -> io::Result<u32> {
    Ok(crc32c::crc32c(&serde_json::to_vec(content)?))
}

/// What is in a file.
#[derive(Serialize)]
struct Envelope<'a, C> {
    version: u32,
    #[serde(flatten)]
    content: &'a C,
    checksum: u32,
}

/// The bytes of a file.
///
/// # Errors
/// When the content can't be written as JSON.
pub(super) fn to_bytes<C: Content>(content: &C) -> io::Result<Vec<u8>> {
    let envelope = Envelope { version: C::VERSION, content, checksum: content.checksum()? };
    let mut bytes = serde_json::to_vec(&envelope)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Replaces the file at `path` atomically.
///
/// # Errors
/// When it can't be written; the former content stays.
pub(super) fn write<C: Content>(path: &Path, content: &C) -> io::Result<()> {
    atomic_file::write(path, &to_bytes(content)?)
}

/// The content of the file at `path`, if there is one. One that is not usable is set aside.
///
/// # Errors
/// One line that says what is wrong with the file.
pub(super) fn read<C: Content>(path: &Path) -> Result<Option<C>, String> {
    let content = match read_regular(path) {
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(format!("it {error}")),
        Ok((bytes, _)) if bytes.len() > C::MAX => {
            Err(format!("it is larger than {} MiB", C::MAX >> 20))
        }
        Ok((bytes, _)) => parse(&bytes),
    };
    content.map(Some).map_err(|reason| damaged_file::set_aside_line(path, &reason))
}

fn parse<C: Content>(bytes: &[u8]) -> Result<C, String> {
    let text = |error: serde_json::Error| error.to_string();
    let value: Value = serde_json::from_slice(bytes).map_err(text)?;
    // First, since another version may have other fields.
    let version = &value["version"];
    if *version != C::VERSION {
        return Err(format!("its version is {version}, not {}", C::VERSION));
    }
    let found: Option<u32> = serde_json::from_value(value["checksum"].clone()).map_err(text)?;
    let content: C = serde_json::from_value(value).map_err(text)?;
    let wanted = content.checksum().map_err(|error| error.to_string())?;
    match found {
        Some(found) if found == wanted => Ok(content),
        None if C::MAY_LACK_CHECKSUM => Ok(content),
        Some(_) => Err("its checksum is wrong".to_owned()),
        None => Err("it has no checksum".to_owned()),
    }
}
