//! What the JSON files of the state directory have in common: a version, and a checksum of the
//! other fields.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Parses a file of this version.
///
/// # Errors
/// One line that says what is wrong with it.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], version: u32) -> Result<T, String> {
    let value: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    // First, since another version may have other fields.
    let found = &value["version"];
    if *found != version {
        return Err(format!("its version is {found}, not {version}"));
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

/// CRC-32C of what a file is about.
///
/// # Errors
/// When it can't be written as JSON.
pub(crate) fn checksum(content: &impl Serialize) -> io::Result<u32> {
    Ok(crc32c::crc32c(&serde_json::to_vec(content)?))
}
