//! Damaged manifests, read, compiled and evaluated: no input panics.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;
use podgate_tables::address::Address;
use podgate_tables::policy::{LocalEnds, Subject};
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;

use podgate_policy::{Compiled, Compiler, Kind, Store, compile, manifest};

use crate::by_names::by_names;
use crate::mutate::{Stock, damage_bytes, tests_folder, write};

/// Reads, checks and compiles a manifest, decides a few flows, and checks what must be true of any.
/// Returns what distinguishes this input from others: the distinct reasons of rejections.
fn run(name: &str, bytes: &[u8]) -> BTreeSet<String> {
    let documents = manifest::load_from(bytes, Path::new(name));
    let lines = 1 + bytes.iter().filter(|b| b"\r\n".contains(b)).count();
    let mut store = Store::new();
    let mut compiler = Compiler::new();
    // One object a step, then all at once: the tables are the same.
    for count in 1..=documents.len().min(8) {
        store.sync(&documents[..count]);
        compiler.update(&store);
    }
    store.sync(&documents);
    compiler.update(&store);
    let compiled = compile(&store);
    assert_eq!(by_names(&compiler.compiled()), by_names(&compiled));
    decide(&store, &compiled);
    let mut reasons = BTreeSet::new();
    for rejection in store.rejections() {
        let source = rejection.source.as_ref().unwrap();
        assert!((1..=lines).contains(&(source.line as usize)), "{rejection}");
        assert!(source.column > 0, "{rejection}");
        assert!(!rejection.reason.is_empty());
        assert!(!rejection.to_string().chars().any(char::is_control), "{rejection:?}");
        // Neither what is quoted, with all that comes after, nor numbers distinguish reasons.
        let kind = rejection.object.split_once(' ').map_or("", |(kind, _)| kind);
        let kind = Kind::by_name(kind).map_or("", Kind::name);
        let words = rejection.reason.split(['"', '`', '\'']).next().unwrap_or_default();
        let words: String = words.chars().filter(|c| !c.is_ascii_digit()).collect();
        reasons.insert(format!("{kind}: {words}"));
    }
    for status in store.policies() {
        reasons.insert(format!("{} {:?}", status.key.kind, status.state));
    }
    reasons
}

/// Asks about flows between the pods and strangers.
fn decide(store: &Store, compiled: &Compiled) {
    let strangers = ["1.2.3.4", "fd00::99"].map(|address| address.parse().unwrap());
    let pods = store.pods().flat_map(|(_, pod)| pod.addresses().to_vec());
    let addresses: Vec<IpAddr> = pods.take(6).chain(strangers).collect();
    let ports = [(proto::TCP, 80), (proto::UDP, 53), (proto::ICMP, 0)];
    for source in &addresses {
        for destination in &addresses {
            for (protocol, dst_port) in ports {
                let [src, dst] = [source, destination].map(|address| Address::from(*address));
                let tuple = Tuple { src, dst, src_port: 40_000, dst_port, protocol };
                let _ = compiled.tables.decide(&Subject { tuple, icmp_type: 8 }, LocalEnds::BOTH);
            }
        }
    }
}

#[test]
fn every_manifest_that_fuzzing_found_of_interest_gets_an_answer() {
    let folder = tests_folder().join("corpora/manifests");
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() > 20);
    for file in files {
        // What one language can't say may still be read as the other.
        let bytes = fs::read(file).unwrap();
        run("x.yaml", &bytes);
        run("x.json", &bytes);
    }
}

#[test]
fn damaged_manifests_get_an_answer() {
    let stock = Stock::load();
    for seed in 0..300 {
        let (name, bytes) = damaged(&stock, &mut Rng::with_seed(seed));
        run(name, &bytes);
    }
}

#[test]
fn any_bytes_get_an_answer() {
    let mut rng = Rng::with_seed(1);
    for length in 0..300 {
        let bytes: Vec<u8> = (0..length).map(|_| rng.u8(..)).collect();
        run("x.yaml", &bytes);
        run("x.json", &bytes);
    }
}

fn damaged(stock: &Stock, rng: &mut Rng) -> (&'static str, Vec<u8>) {
    let mut objects = stock.pick(rng);
    for _ in 0..rng.usize(..4) {
        let index = rng.usize(..objects.len());
        stock.damage(&mut objects[index], rng);
    }
    write(&objects, rng)
}

/// Takes parts away as long as the input is still rejected for these reasons.
fn shrink(name: &str, mut bytes: Vec<u8>, reasons: &BTreeSet<String>) -> Vec<u8> {
    let mut size = bytes.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < bytes.len() {
            let mut less = bytes.clone();
            less.drain(at..(at + size).min(bytes.len()));
            match run(name, &less).is_superset(reasons) {
                true => bytes = less,
                false => at += size,
            }
        }
        size /= 2;
    }
    bytes
}

/// `FUZZ_SECONDS=1200 cargo test -p podgate-policy --test suite fuzz_for -- --ignored --nocapture`
///
/// Keeps, as small as it can be made, what is rejected for a reason that was not seen before, and
/// continues from there. Inputs that panic, or take longer than five seconds, are written to
/// `FUZZ_FOUND`.
#[test]
#[ignore = "runs for as long as FUZZ_SECONDS says"]
fn fuzz_for_some_time() {
    let variable = |name: &str| std::env::var(name).unwrap();
    let found = variable("FUZZ_FOUND");
    let end = Instant::now() + Duration::from_secs(variable("FUZZ_SECONDS").parse().unwrap());
    let stock = Stock::load();
    let mut rng = Rng::new();
    let mut seen = BTreeSet::new();
    let mut corpus: Vec<(&'static str, Vec<u8>)> = Vec::new();
    let (mut runs, mut failures, mut slow) = (0u64, 0u64, 0u64);
    while Instant::now() < end {
        let (name, bytes) = match rng.choice(&corpus) {
            Some((name, bytes)) if rng.bool() => {
                let mut bytes = bytes.clone();
                (0..rng.usize(1..5)).for_each(|_| damage_bytes(&mut bytes, &mut rng));
                bytes.truncate(256 * 1024);
                (*name, bytes)
            }
            _ => damaged(&stock, &mut rng),
        };
        let began = Instant::now();
        // What hangs, or exhausts the stack, is found there.
        fs::write(format!("{found}/now-{name}"), &bytes).unwrap();
        let outcome = catch_unwind(|| run(name, &bytes));
        runs += 1;
        if outcome.is_err() {
            failures += 1;
            fs::write(format!("{found}/panic-{failures}-{name}"), &bytes).unwrap();
        }
        if began.elapsed() > Duration::from_secs(5) {
            slow += 1;
            fs::write(format!("{found}/slow-{slow}-{name}"), &bytes).unwrap();
        }
        let Ok(reasons) = outcome else { continue };
        let new: BTreeSet<String> = reasons.difference(&seen).cloned().collect();
        if !new.is_empty() {
            let small = shrink(name, bytes, &new);
            fs::write(format!("{found}/new-{}-{name}", seen.len()), &small).unwrap();
            corpus.push((name, small));
            seen.extend(new);
        }
    }
    println!("{seen:#?}\n{runs} runs, {} kept, {slow} slow, {failures} failed", corpus.len());
    assert_eq!(failures, 0);
}
