//! A manifest all the way to verdicts, object by object and at once.

use std::net::IpAddr;
use std::path::Path;

use podgate_policy::{Compiled, Compiler, Store, compile, manifest};
use podgate_tables::address::Address;
use podgate_tables::policy::{LocalEnds, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::tuple::Tuple;

/// Input: a manifest; it is read as JSON when it begins with a brace, and as YAML otherwise.
pub fn manifests(data: &[u8]) {
    let name = if data.starts_with(b"{") { "fuzz.json" } else { "fuzz.yaml" };
    let documents = manifest::load_from(data, Path::new(name));
    let lines = 1 + data.iter().filter(|b| b"\r\n".contains(b)).count();
    let mut store = Store::new();
    let mut compiler = Compiler::new();
    for count in 1..=documents.len().min(4) {
        store.sync(&documents[..count]);
        compiler.update(&store);
    }
    store.sync(&documents);
    compiler.update(&store);
    let verdicts = verdicts(&store, &compile(&store));
    assert_eq!(self::verdicts(&store, &compiler.compiled()), verdicts, "change by change");
    for rejection in store.rejections() {
        let source = rejection.source.as_ref().expect("a rejection has a place");
        assert!((1..=lines).contains(&(source.line as usize)), "{rejection}");
        assert!(source.column > 0, "{rejection}");
        assert!(!rejection.reason.is_empty());
        assert!(!rejection.to_string().chars().any(char::is_control), "{rejection:?}");
    }
}

/// Verdicts on some flows between the pods and strangers.
fn verdicts(store: &Store, compiled: &Compiled) -> Vec<Verdict> {
    let strangers = ["1.2.3.4", "fd00::99"].map(|address| address.parse().unwrap());
    let pods = store.pods().flat_map(|(_, pod)| pod.addresses().to_vec());
    let addresses: Vec<IpAddr> = pods.take(4).chain(strangers).collect();
    let mut verdicts = Vec::new();
    for source in &addresses {
        for destination in &addresses {
            for (protocol, dst_port) in [(proto::TCP, 80), (proto::UDP, 53), (proto::ICMP, 0)] {
                let [src, dst] = [source, destination].map(|address| Address::from(*address));
                let tuple = Tuple { src, dst, src_port: 40_000, dst_port, protocol };
                let subject = Subject { tuple, icmp_type: 8 };
                verdicts.push(compiled.tables.decide(&subject, LocalEnds::BOTH).verdict);
            }
        }
    }
    verdicts
}
