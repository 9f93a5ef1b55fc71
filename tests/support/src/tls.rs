//! TLS messages, as far as the inspector of server names reads them, and captured connections.

use std::fs;
use std::path::PathBuf;

use podgate_tables::tuple::FlowDirection;

/// Content types of records (RFC 8446 §B.1).
pub const CHANGE_CIPHER_SPEC: u8 = 20;
/// As above.
pub const ALERT: u8 = 21;
/// As above.
pub const HANDSHAKE: u8 = 22;
/// As above.
pub const APPLICATION_DATA: u8 = 23;

/// The random of a HelloRetryRequest: the SHA-256 of this word (RFC 8446 §4.1.3).
const RETRY_RANDOM: &str = "cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c";

fn with_len(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// A record with this content.
#[must_use]
pub fn tls_record(content_type: u8, content: &[u8]) -> Vec<u8> {
    [&[content_type, 3, 3][..], &with_len(content)].concat()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32).to_be_bytes()[1..], body].concat()
}

/// The handshake message ClientHello with this server name; without one, if it is empty.
#[must_use]
pub fn client_hello_message(name: &str) -> Vec<u8> {
    let entry = [&[0][..], &with_len(name.as_bytes())].concat();
    let extension = [&[0, 0][..], &with_len(&with_len(&entry))].concat();
    let versions = [0, 43, 0, 3, 2, 3, 4];
    let extensions = match name {
        "" => versions.to_vec(),
        _ => [&versions[..], &extension].concat(),
    };
    let start = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0]].concat();
    message(1, &[start, with_len(&extensions)].concat())
}

/// The same in one record.
#[must_use]
pub fn client_hello(name: &str) -> Vec<u8> {
    tls_record(HANDSHAKE, &client_hello_message(name))
}

/// A ServerHello in one record.
#[must_use]
pub fn server_hello() -> Vec<u8> {
    server_hello_with(&[9; 32])
}

/// A HelloRetryRequest in one record.
#[must_use]
pub fn hello_retry_request() -> Vec<u8> {
    server_hello_with(&from_hex(RETRY_RANDOM))
}

fn server_hello_with(random: &[u8]) -> Vec<u8> {
    let rest = [0, 0x13, 1, 0, 0, 6, 0, 43, 0, 2, 3, 4];
    tls_record(HANDSHAKE, &message(2, &[&[3, 3][..], random, &rest].concat()))
}

/// A captured connection: what was sent in each direction, in turn.
#[derive(Debug)]
pub struct Conversation {
    /// Name of the file.
    pub name: String,
    /// Who sent what.
    pub turns: Vec<(FlowDirection, Vec<u8>)>,
}

/// The captured connections of a folder of `tests/corpora`: lines of `>` (client) or `<` (server)
/// and bytes in hexadecimal.
///
/// # Panics
/// When a file can't be read.
#[must_use]
pub fn conversations(folder: &str) -> Vec<Conversation> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../corpora").join(folder);
    let mut files: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "hex"));
    files.sort();
    assert!(!files.is_empty());
    let read = |path: PathBuf| Conversation {
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        turns: fs::read_to_string(path).unwrap().lines().map(turn).collect(),
    };
    files.into_iter().map(read).collect()
}

fn turn(line: &str) -> (FlowDirection, Vec<u8>) {
    let (who, bytes) = line.split_once(' ').unwrap();
    let direction = if who == ">" { FlowDirection::Original } else { FlowDirection::Reply };
    (direction, from_hex(bytes))
}

/// Bytes from hexadecimal digits.
///
/// # Panics
/// When it is no such text.
#[must_use]
pub fn from_hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}
