//! Manifests made of the ones that the other tests use, and damaged in many ways.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use podgate_policy::manifest;
use serde_json::{Map, Value, json};

/// Longest list or text that one step of damage makes: enough to overflow a fixed size, not to be
/// slow.
const REPEAT_MAX: usize = 2_000;
/// Longest manifest, bytes.
const TEXT_MAX: usize = 64 * 1024;

pub(crate) fn tests_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests")
}

/// Every object of `tests/manifests` and of the truth tables, and the names of all their fields.
pub(crate) struct Stock {
    objects: Vec<Value>,
    keys: Vec<String>,
}

impl Stock {
    pub(crate) fn load() -> Self {
        let mut objects = Vec::new();
        for document in manifest::load(&tests_folder().join("manifests")) {
            objects.push(document.value.unwrap());
        }
        for document in manifest::load(&tests_folder().join("truth")) {
            if let Some(Value::Array(list)) = document.value.unwrap().get_mut("objects") {
                objects.append(list);
            }
        }
        let mut keys = Vec::new();
        objects.iter().for_each(|object| collect_keys(object, &mut keys));
        keys.sort_unstable();
        keys.dedup();
        assert!(objects.len() > 50 && keys.len() > 50);
        Self { objects, keys }
    }

    /// A few objects that may have to do with each other.
    pub(crate) fn pick(&self, rng: &mut Rng) -> Vec<Value> {
        let first = rng.usize(..self.objects.len());
        let count = rng.usize(1..6).min(self.objects.len() - first);
        self.objects[first..first + count].to_vec()
    }

    /// Damages one place of a value.
    pub(crate) fn damage(&self, value: &mut Value, rng: &mut Rng) {
        let mut places = Vec::new();
        list_places(value, String::new(), &mut places);
        let place = value.pointer_mut(rng.choice(&places).unwrap()).unwrap();
        match place {
            Value::Object(map) if rng.bool() => self.damage_mapping(map, rng),
            Value::Array(list) if !list.is_empty() && rng.bool() => self.damage_list(list, rng),
            Value::String(text) if rng.bool() => damage_text(text, rng),
            place => *place = self.junk(rng),
        }
    }

    fn damage_mapping(&self, map: &mut Map<String, Value>, rng: &mut Rng) {
        let keys: Vec<String> = map.keys().cloned().collect();
        let key = rng.choice(&keys).cloned();
        let other = rng.choice(&self.keys).unwrap().clone();
        match (rng.u8(..5), key) {
            (0, Some(key)) => drop(map.remove(&key)),
            (1, Some(key)) => {
                if let Some(value) = map.remove(&key) {
                    map.insert(other, value);
                }
            }
            (2, Some(key)) => {
                let mut damaged = key;
                damage_text(&mut damaged, rng);
                map.insert(damaged, self.junk(rng));
            }
            (3, _) => {
                for index in 0..rng.usize(..REPEAT_MAX) {
                    map.insert(format!("{other}{index}"), Value::from("x"));
                }
            }
            _ => drop(map.insert(other, self.junk(rng))),
        }
    }

    fn damage_list(&self, list: &mut Vec<Value>, rng: &mut Rng) {
        let index = rng.usize(..list.len());
        match rng.u8(..4) {
            0 => drop(list.remove(index)),
            1 => {
                let copies = vec![list[index].clone(); rng.usize(..REPEAT_MAX)];
                // Copies of copies would grow without bound.
                if list.len() < REPEAT_MAX && copies.first().is_some_and(is_small) {
                    list.extend(copies);
                }
            }
            2 => list.insert(index, self.junk(rng)),
            _ => rng.shuffle(list),
        }
    }

    /// A value that fits badly almost everywhere.
    fn junk(&self, rng: &mut Rng) -> Value {
        match rng.u8(..12) {
            0 => Value::Null,
            1 => rng.bool().into(),
            2 => json!(rng.choice([-1i64, 0, 1, 65_535, 65_536, i64::MAX, i64::MIN])),
            3 => json!(rng.choice([0.5, -0.0, 1e300, 65_535.0, 80.0])),
            4 => json!(u64::MAX),
            5 => json!([]),
            6 => json!({}),
            7 => nested(rng),
            8 | 9 => rng.choice(TEXTS).copied().unwrap().into(),
            10 => "x".repeat(rng.usize(..REPEAT_MAX)).into(),
            // A part of another object, at a place where it may not be.
            _ => {
                let object = rng.choice(&self.objects).unwrap();
                let mut places = Vec::new();
                list_places(object, String::new(), &mut places);
                object.pointer(rng.choice(&places).unwrap()).unwrap().clone()
            }
        }
    }
}

/// Text that is nearly right in some field.
const TEXTS: &[&str] = &[
    "",
    "0",
    "80",
    "00080",
    "65536",
    "*",
    "**.x.io",
    "-",
    "a/b",
    "a/b/c",
    "k8s:",
    ":app",
    "reserved:world",
    "io.kubernetes.pod.namespace",
    "k8s:io.cilium.k8s.namespace.labels.team",
    "10.0.0.0/33",
    "10.0.0.1",
    "0.0.0.0/0",
    "::/0",
    "::ffff:10.0.0.0/104",
    "fe80::1%eth0/64",
    "fd00::/129",
    "all",
    "world",
    "kube-apiserver",
    "Ingress",
    "TCP",
    "ANY",
    "ICMPv6",
    "EchoRequest",
    "(a|b)*a(a|b){20}",
    "(x+x+)+y",
    ".{1000}{1000}",
    "((((((((((((((((((((((((((((((((((((((((",
    "[[:alpha:]",
    "(?i)\\pL{300}",
    "\\",
    "$^",
    "GET|",
    "X-Header: ",
    ": value",
    "\u{0}",
    "\u{1b}[2J",
    "\u{202e}\u{feff}",
    "ÄÖ\u{10ffff}",
    "2026-02-30T00:00:00Z",
    "~",
    "null",
    "1e999",
    "0x50",
    "2024-01-01",
    "NetworkPolicy",
    "CiliumNetworkPolicy",
    "ClusterNetworkPolicy",
    "List",
];

/// Pieces that mean something to a YAML or JSON parser.
const TOKENS: &[&str] = &[
    "---\n",
    "...\n",
    "--- ",
    "%YAML 1.2\n",
    "%TAG ! x\n",
    "&a ",
    "*a",
    "*a: ",
    "<<: *a\n",
    "<<: [*a, *a]",
    "!!binary ",
    "!!str ",
    "!!int ",
    "!!null ",
    "!x ",
    "!<tag:x> ",
    "? ",
    ": ",
    "- ",
    "| ",
    ">-\n",
    "|9\n",
    "\t",
    "\r",
    "\r\n",
    "\n\n",
    "\u{feff}",
    "\u{0}",
    "\u{85}",
    "\u{2028}",
    "\"",
    "'",
    "\\u",
    "\\ud800",
    "{",
    "}",
    "[",
    "]",
    ",",
    "#",
    " #",
    ".inf",
    ".nan",
    "-.inf",
    "0o17",
    "1_000",
    "1e400",
    "9999999999999999999999",
    "~",
    "{\"kind\": ",
    "kind: List\nitems:\n- ",
    "items: ",
    "apiVersion: v1\n",
];

fn damage_text(text: &mut String, rng: &mut Rng) {
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let at = *rng.choice(&places).unwrap();
    match rng.u8(..4) {
        0 => text.truncate(at),
        1 => text.insert_str(at, rng.choice(TEXTS).unwrap()),
        2 => text.insert(at, rng.char(..)),
        _ => *text = text.to_uppercase(),
    }
}

/// A mapping or list in a mapping or list, and so on.
fn nested(rng: &mut Rng) -> Value {
    let mut value = Value::from(1);
    for _ in 0..rng.usize(1..150) {
        value = if rng.bool() { json!([value]) } else { json!({"a": value}) };
    }
    value
}

fn is_small(value: &Value) -> bool {
    value.to_string().len() < 200
}

fn collect_keys(value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            keys.extend(map.keys().cloned());
            map.values().for_each(|value| collect_keys(value, keys));
        }
        Value::Array(list) => list.iter().for_each(|value| collect_keys(value, keys)),
        _ => {}
    }
}

/// JSON pointers of everything in a value.
fn list_places(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                list_places(value, format!("{at}/{key}"), places);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                list_places(value, format!("{at}/{index}"), places);
            }
        }
        _ => {}
    }
    places.push(at);
}

/// Objects as a manifest, in one of several styles; the name says which language it is.
pub(crate) fn write(objects: &[Value], rng: &mut Rng) -> (&'static str, Vec<u8>) {
    let mut text = String::new();
    let name = match rng.u8(..5) {
        0 => {
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            text = list.to_string();
            "x.json"
        }
        1 => {
            for object in objects {
                let _ = writeln!(text, "{object:#}");
            }
            "x.json"
        }
        2 => {
            text.push_str("kind: List\nitems:\n");
            for object in objects {
                text.push_str("- ");
                write_block(object, 1, &mut text);
            }
            "x.yaml"
        }
        _ => {
            for object in objects {
                text.push_str("---\n");
                write_block(object, 0, &mut text);
            }
            "x.yaml"
        }
    };
    let mut bytes = text.into_bytes();
    if rng.bool() {
        for _ in 0..rng.usize(1..4) {
            damage_bytes(&mut bytes, rng);
        }
    }
    bytes.truncate(TEXT_MAX);
    (name, bytes)
}

/// Block style where there is anything in it, else JSON. The cursor stands after the indentation.
fn write_block(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() && depth < 40 => {
            for (index, (key, value)) in map.iter().enumerate() {
                let indent = if index == 0 { "" } else { &indent };
                let _ = write!(text, "{indent}{}:", Value::from(key.as_str()));
                write_below(value, depth, text);
            }
        }
        Value::Array(list) if !list.is_empty() && depth < 40 => {
            for (index, value) in list.iter().enumerate() {
                let indent = if index == 0 { "" } else { &indent };
                let _ = write!(text, "{indent}-");
                write_below(value, depth, text);
            }
        }
        value => {
            let _ = writeln!(text, "{value}");
        }
    }
}

fn write_below(value: &Value, depth: usize, text: &mut String) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    match is_block && depth + 1 < 40 {
        true => {
            let _ = write!(text, "\n{}", "  ".repeat(depth + 1));
        }
        false => text.push(' '),
    }
    write_block(value, depth + 1, text);
}

pub(crate) fn damage_bytes(bytes: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.usize(..=bytes.len());
    let end = (at + rng.usize(..40)).min(bytes.len());
    match rng.u8(..8) {
        0 => drop(bytes.splice(at..at, rng.choice(TOKENS).unwrap().bytes())),
        1 => drop(bytes.splice(at..end, rng.choice(TOKENS).unwrap().bytes())),
        2 => bytes.insert(at, rng.u8(..)),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let piece = bytes[at..end].repeat(rng.usize(1..20));
            bytes.splice(at..at, piece);
        }
        // Line ends of other systems.
        5 => *bytes = bytes.split(|b| *b == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..]),
        6 => {
            let piece = bytes[at..end].to_vec();
            let to = rng.usize(..=bytes.len());
            bytes.splice(to..to, piece);
        }
        _ => bytes.truncate(at),
    }
}
