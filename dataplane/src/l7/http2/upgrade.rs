//! HTTP/2 by `Upgrade` from HTTP/1.1 (RFC 7540 §3.2; RFC 9113 has removed it, clients and servers
//! have not).

use httparse::Header;
use podgate_tables::time::Nanos;

use super::Http2;
use super::client::SETTINGS_MAX;
use super::frame::Settings;
use super::streams::{Stream, Streams};

/// Settings of a client that offers HTTP/2, which apply from the server's first frame on
/// (RFC 7540 §3.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UpgradeSettings {
    /// The last SETTINGS_HEADER_TABLE_SIZE, bytes.
    table_size: Option<u32>,
    /// SETTINGS_INITIAL_WINDOW_SIZE, bytes.
    initial_window: Option<u32>,
}

impl UpgradeSettings {
    /// Reads `HTTP2-Settings`. [`None`] if there is none, more than one, or it is invalid: a server
    /// must not accept the offer then.
    #[must_use]
    pub fn of(headers: &[Header<'_>]) -> Option<Self> {
        let is_settings = |field: &&Header<'_>| field.name.eq_ignore_ascii_case("http2-settings");
        let mut fields = headers.iter().filter(is_settings);
        let (field, None) = (fields.next()?, fields.next()) else { return None };
        let mut payload = [0; SETTINGS_MAX];
        let payload = decode_base64url(field.value, &mut payload)?;
        if !payload.len().is_multiple_of(6) {
            return None;
        }
        let settings = Settings::parse(payload);
        let table_size = settings.table_size.map(|(_, last)| last);
        Some(Self { table_size, initial_window: settings.initial_window })
    }
}

/// What is known of a connection when it switches to HTTP/2.
#[derive(Clone, Copy, Debug)]
pub struct Http2Upgrade {
    /// What the client has said about itself.
    pub settings: UpgradeSettings,
    /// When the request passed that offered HTTP/2.
    pub released: Nanos,
}

impl Http2 {
    /// An inspector of what follows the 101 response. The request was decided; it is stream 1,
    /// which the client has ended.
    #[must_use]
    pub fn after_upgrade(upgrade: &Http2Upgrade) -> Self {
        let mut http2 = Self::default();
        http2.client.highest = 1;
        let mut request = Stream::new(1, upgrade.released, None);
        request.client_ended = true;
        http2.streams.add(request);
        if let Some(size) = upgrade.settings.table_size {
            http2.server.set_table_limit(size);
        }
        if let Some(initial) = upgrade.settings.initial_window {
            http2.window.initial = initial;
        }
        http2
    }

    /// Bytes on the heap of [`Self::after_upgrade`].
    #[must_use]
    pub fn heap_after_upgrade() -> usize {
        Streams::default().heap_with_one()
    }
}

/// Decodes base64url without padding (RFC 4648 §5). [`None`] if `text` is none, or longer than
/// there is room for.
fn decode_base64url<'a>(text: &[u8], decoded: &'a mut [u8]) -> Option<&'a [u8]> {
    let (mut bits, mut count, mut len) = (0_u32, 0, 0);
    for byte in text {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        count += 6;
        if count >= 8 {
            count -= 8;
            *decoded.get_mut(len)? = (bits >> count) as u8;
            bits &= (1 << count) - 1;
            len += 1;
        }
    }
    // What is left is padding of the last byte.
    (count < 6 && bits == 0).then_some(&decoded[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(values: &[&str]) -> Option<UpgradeSettings> {
        let field =
            |value: &&'static str| Header { name: "HTTP2-Settings", value: value.as_bytes() };
        let fields: Vec<_> = values.iter().map(|value| field(&leak(value))).collect();
        UpgradeSettings::of(&fields)
    }

    fn leak(value: &str) -> &'static str {
        Box::leak(value.to_owned().into_boxed_str())
    }

    #[test]
    fn settings_are_base64url_without_padding() {
        let none = UpgradeSettings { table_size: None, initial_window: None };
        assert_eq!(settings(&[""]), Some(none));
        // What curl 7.88 sends: 100 streams, a window of 32 MiB, no push.
        let curl = UpgradeSettings { initial_window: Some(32 << 20), ..none };
        assert_eq!(settings(&["AAMAAABkAAQCAAAAAAIAAAAA"]), Some(curl));
        let table = UpgradeSettings { table_size: Some(0xffff_ffff), ..none };
        assert_eq!(settings(&["AAH_____"]), Some(table));
    }

    #[test]
    fn anything_else_is_no_offer() {
        let long = "AAMAAABk".repeat(65);
        for values in [
            &[][..],
            &["AAMAAABk", "AAMAAABk"],
            &["AAMAAAB"],
            &["AAMAAABkA"],
            &["AAMAAABkAA"],
            &["AAMAAABk===="],
            &["AAH/////"],
            &["AAMA AABk"],
            &[long.as_str()],
        ] {
            assert_eq!(settings(values), None, "{values:?}");
        }
    }
}
