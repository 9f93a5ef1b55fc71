//! DNS names as text.

use podgate_api::{FqdnEntry, FqdnSource};

use super::{row, table};

/// `podgate fqdn list`: one row for the addresses of a name with the same source and expiry.
#[must_use]
pub(crate) fn fqdns(entries: &[FqdnEntry]) -> String {
    let heading = row(&["SOURCE", "FQDN", "TTL", "EXPIRATION", "IPS"]);
    let same = |a: &FqdnEntry, b: &FqdnEntry| {
        (&a.name, a.source, &a.expires) == (&b.name, b.source, &b.expires)
    };
    let mut entries: Vec<&FqdnEntry> = entries.iter().collect();
    entries
        .sort_by_key(|entry| (&entry.name, entry.source == FqdnSource::Connection, &entry.expires));
    let rows = entries.chunk_by(|a, b| same(a, b)).map(|alike| {
        let addresses: Vec<_> = alike.iter().map(|entry| entry.address.to_string()).collect();
        let FqdnEntry { name, source, ttl_s, expires, .. } = alike[0];
        let source = match source {
            FqdnSource::Lookup => "lookup",
            FqdnSource::Connection => "connection",
        };
        let name = if name.is_empty() { "." } else { name };
        vec![source.into(), name.into(), ttl_s.to_string(), expires.clone(), addresses.join(",")]
    });
    table(std::iter::once(heading).chain(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_name_are_in_one_row_unless_they_expire_apart() {
        let entry = |name: &str, address: &str, source, ttl_s| FqdnEntry {
            name: name.into(),
            address: address.parse().unwrap(),
            source,
            ttl_s,
            expires: format!("2026-01-01T00:00:{ttl_s:02}Z"),
            pods: vec!["demo/client".into()],
        };
        let list = fqdns(&[
            entry("a.example", "192.0.2.1", FqdnSource::Connection, 0),
            entry("a.example", "192.0.2.2", FqdnSource::Lookup, 7),
            entry("a.example", "2001:db8::1", FqdnSource::Lookup, 7),
            entry("b\x1b.example", "192.0.2.1", FqdnSource::Lookup, 7),
        ]);
        let expected = "\
SOURCE       FQDN          TTL   EXPIRATION             IPS
lookup       a.example     7     2026-01-01T00:00:07Z   192.0.2.2,2001:db8::1
connection   a.example     0     2026-01-01T00:00:00Z   192.0.2.1
lookup       b^[.example   7     2026-01-01T00:00:07Z   192.0.2.1
";
        assert_eq!(list, expected);
    }
}
