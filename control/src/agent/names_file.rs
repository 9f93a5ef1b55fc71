//! The file of DNS names over a restart: `names.json`. It grants nothing by itself: a name in it
//! has addresses in policy only if a rule matches the name.
//!
//! Times are milliseconds since the kernel's boot; after another boot the file is not used.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use podgate_policy::NameTable;
use podgate_tables::time::Nanos;
use serde::{Deserialize, Serialize};

use super::state_json;

const NANOS_PER_MS: u64 = 1_000_000;

/// Names with the ends of their addresses' TTLs, milliseconds since the boot.
type Saved = BTreeMap<String, BTreeMap<IpAddr, u64>>;

/// The content of a file.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub(crate) struct NamesFile {
    /// Id of the kernel's boot.
    boot: String,
    /// What no pod of the node asked for. A file of an earlier version has all names here.
    names: Saved,
    /// What each pod asked for, by `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pods: BTreeMap<String, Saved>,
}

impl state_json::Content for NamesFile {
    const VERSION: u32 = 1;
    /// 131,072 places, each of a name of its own, take about 44 MB.
    const MAX: usize = 64 << 20;
    const MAY_LACK_CHECKSUM: bool = false;

    fn checksum(&self) -> io::Result<u32> {
        match self.pods.is_empty() {
            true => state_json::checksum(&(Self::VERSION, &self.boot, &self.names)),
            false => state_json::checksum(&(Self::VERSION, &self.boot, &self.names, &self.pods)),
        }
    }
}

/// Whether JSON needs no escapes for a name. Names with escapes could make the file longer than
/// [`state_json::Content::MAX`], and are not saved.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\'))
}

impl NamesFile {
    /// The names of `table`.
    pub(crate) fn of(table: &NameTable, boot: &str) -> Self {
        let mut pods = BTreeMap::<String, Saved>::new();
        for (pod, name, address, expires) in table.places().filter(|place| is_plain(place.1)) {
            let expires_ms = expires.0 / NANOS_PER_MS;
            let names = match pods.get_mut(pod) {
                Some(names) => names,
                None => pods.entry(pod.to_owned()).or_default(),
            };
            match names.get_mut(name) {
                Some(addresses) => _ = addresses.insert(address, expires_ms),
                None => _ = names.insert(name.to_owned(), [(address, expires_ms)].into()),
            }
        }
        let names = pods.remove("").unwrap_or_default();
        Self { boot: boot.to_owned(), names, pods }
    }

    /// Writes it to `path` atomically.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        state_json::write(path, self)
    }

    /// Reads what an agent of this boot wrote to `path`. Returns the number of addresses that were
    /// added to `table`. A file that is not usable is set aside.
    ///
    /// # Errors
    /// One line that says what is wrong with the file.
    pub(crate) fn load(
        path: &Path,
        table: &mut NameTable,
        boot: &str,
        now: Nanos,
    ) -> Result<usize, String> {
        let Some(file) = state_json::read::<Self>(path)? else { return Ok(0) };
        if file.boot != boot {
            return Ok(0);
        }
        let before = table.counts().addresses;
        let pods = file.pods.iter().map(|(pod, names)| (pod.as_str(), names));
        for (pod, names) in pods.chain([("", &file.names)]) {
            for (name, addresses) in names {
                for (address, expires_ms) in addresses {
                    let expires = Nanos(expires_ms.saturating_mul(NANOS_PER_MS));
                    table.restore(pod, name, *address, expires, now);
                }
            }
        }
        Ok(table.counts().addresses - before)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::damaged_file;

    const NOW: Nanos = Nanos(7_000 * NANOS_PER_MS);

    fn table() -> NameTable {
        let mut table = NameTable::default();
        table.learn("", "b.example", [("192.0.2.1".parse().unwrap(), 5)], NOW);
        let both = ["192.0.2.1", "2001:db8::1"].map(|text| (text.parse().unwrap(), 60));
        table.learn("shop/web", "a.example", both, NOW);
        table.learn("shop/api", "a.example", [("192.0.2.1".parse().unwrap(), 90)], NOW);
        table
    }

    fn entries(table: &NameTable) -> Vec<(String, IpAddr, Nanos)> {
        let entries = table.iter();
        entries.map(|(name, address, entry)| (name.to_owned(), address, entry.expires)).collect()
    }

    #[test]
    fn names_are_there_again_after_a_restart_but_not_after_a_boot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.json");
        let load = |boot| {
            let mut table = NameTable::default();
            let count = NamesFile::load(&path, &mut table, boot, NOW);
            (count, entries(&table))
        };
        assert_eq!(load("boot"), (Ok(0), vec![]));
        NamesFile::of(&table(), "boot").write(&path).unwrap();
        assert_eq!(load("boot"), (Ok(3), entries(&table())));
        assert_eq!(load("other"), (Ok(0), vec![]));
        assert_eq!(damaged_file::set_aside_before(&path), [] as [&Path; 0]);
    }

    #[test]
    fn a_file_has_the_pods_that_asked_and_one_without_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.json");
        let places = |table: &NameTable| {
            let places = table.places();
            places.map(|it| (it.0.to_owned(), it.1.to_owned(), it.2, it.3)).collect::<Vec<_>>()
        };
        NamesFile::of(&table(), "boot").write(&path).unwrap();
        let mut restored = NameTable::default();
        NamesFile::load(&path, &mut restored, "boot", NOW).unwrap();
        assert_eq!(places(&restored), places(&table()));
        // As the version before wrote it.
        let address = IpAddr::from([192, 0, 2, 1]);
        let names = Saved::from([("a.example".into(), [(address, 8)].into())]);
        let checksum = state_json::checksum(&(1, "boot", &names)).unwrap();
        let file = serde_json::json!({
            "version": 1, "boot": "boot", "names": names, "checksum": checksum,
        });
        fs::write(&path, file.to_string()).unwrap();
        let mut restored = NameTable::default();
        assert_eq!(NamesFile::load(&path, &mut restored, "boot", NOW), Ok(1));
        assert_eq!(restored.pods_of("a.example", address), ["".into()]);
    }

    #[test]
    fn the_largest_file_is_read() {
        let mut table = NameTable::default();
        for odd in ["a", "\u{1}", "\"", "\\", "\u{fffd}"] {
            table.learn("shop/web", &odd.repeat(200), [([192, 0, 2, 1].into(), 60)], NOW);
        }
        let file = NamesFile::of(&table, "boot");
        let names: Vec<_> = file.pods["shop/web"].keys().map(String::len).collect();
        assert_eq!(names, [200], "others would take more than a byte for each character");
        let longest_address = "ffff:".len() * 8;
        let place = 255 + "'':{'':},".len() + longest_address + u64::MAX.to_string().len();
        assert!(place * table.limits().places < <NamesFile as state_json::Content>::MAX);
    }

    #[test]
    fn a_damaged_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.json");
        NamesFile::of(&table(), "boot").write(&path).unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let other = good.replace("192.0.2.1", "192.0.2.2");
        for broken in ["", "[]", r#"{"version":2}"#, r#"{"version":1}"#, &good[..40], &other] {
            fs::write(&path, broken).unwrap();
            let mut table = NameTable::default();
            let problem = NamesFile::load(&path, &mut table, "boot", NOW).unwrap_err();
            assert!(problem.contains("names.json.bad-"), "{problem}");
            assert_eq!(table.counts().addresses, 0, "{broken}");
            assert!(!path.exists());
        }
        let aside = damaged_file::set_aside_before(&path);
        assert_eq!(fs::read_to_string(aside.last().unwrap()).unwrap(), other);
    }
}
