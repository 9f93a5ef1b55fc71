//! Tables with names in place of their numbers, to be compared: numbers depend on earlier changes,
//! and what the tables say must not.

use std::collections::BTreeSet;
use std::fmt::Debug;

use podgate_policy::{Catalog, Compiled};
use podgate_tables::ids::SelectorId;
use podgate_tables::policy::{AddressSet, Entry, PeerMatch, RuleTable, SelectorSet};

/// Everything that the tables say, a line each, sorted.
pub(crate) fn by_names(compiled: &Compiled) -> Vec<String> {
    let Compiled { tables, catalog } = compiled;
    let mut lines = Vec::new();
    for (address, row) in tables.addresses.iter() {
        let labels = catalog.identity(row.identity).unwrap().labels();
        let ports: Option<BTreeSet<_>> = row.named_ports.as_ref().map(|ports| {
            ports.iter().map(|(name, of, port)| (catalog.port_name(name), of, port)).collect()
        });
        let owner = catalog.pod_at(address.ip()).map(ToString::to_string);
        lines.push(format!("{}: {labels:?} {ports:?} {owner:?}", address.ip()));
    }
    for (index, row) in tables.identities.iter() {
        let Some(info) = catalog.identity(index) else {
            assert_eq!(*row, Default::default(), "a row without a name");
            continue;
        };
        let labels = info.labels();
        let namespace = tables.namespaces.get(row.namespace).cloned().unwrap_or_default();
        lines.push(format!(
            "{labels:?}: {} = {} {:?} {:?}",
            row.number,
            info.number,
            selectors(catalog, &namespace, PeerMatch::Namespaces),
            selectors(catalog, &row.selectors, PeerMatch::Labels),
        ));
        lines.push(format!("{labels:?} egress: {}", direction(catalog, &row.egress)));
        lines.push(format!("{labels:?} ingress: {}", direction(catalog, &row.ingress)));
    }
    for (index, set) in tables.address_sets.iter() {
        // A row that is no longer used, or of a name without a known address, is like one that
        // never was.
        if **set == AddressSet::default() {
            continue;
        }
        let peers = catalog.peer(PeerMatch::Addresses(SelectorId(index)));
        lines.push(format!("{peers:?}: {set:?}"));
    }
    for (address, row) in tables.services.iter() {
        for port in row.ports() {
            let name = catalog.service_of(address, port.protocol, port.port).unwrap();
            lines.push(format!("service {address:?} {name}: {port:?}"));
        }
    }
    lines.extend(catalog.everything().map(|name| format!("name {name}")));
    lines.sort_unstable();
    lines
}

fn selectors(
    catalog: &Catalog,
    set: &SelectorSet,
    kind: impl Fn(SelectorId) -> PeerMatch,
) -> BTreeSet<String> {
    set.iter().map(|id| shown(catalog.peer(kind(id)).unwrap())).collect()
}

fn shown(value: impl Debug) -> String {
    format!("{value:?}")
}

fn direction(catalog: &Catalog, table: &RuleTable) -> String {
    let class = |class: u32| -> Vec<String> {
        table.classes[class as usize].iter().map(|entry| shown_entry(catalog, entry)).collect()
    };
    let mut protocols: Vec<_> = table
        .protocols
        .iter()
        .map(|p| {
            (p.protocol, p.ranges.iter().map(|(port, of)| (*port, class(*of))).collect::<Vec<_>>())
        })
        .collect();
    protocols.sort_unstable();
    let default_deny = table.default_deny.map(|set| catalog.deny_set(set));
    format!("{protocols:?} {:?} {default_deny:?}", table.other.map(class))
}

fn shown_entry(catalog: &Catalog, entry: &Entry) -> String {
    let Entry { rank, action, peer, port_name, ports, l7, rule } = entry;
    let peer = catalog.peer(*peer).unwrap();
    let port = port_name.map(|name| catalog.port_name(name));
    let rule = catalog.rule(*rule).unwrap();
    format!("{rank:?} {action:?} {peer:?} {port:?} {ports:?} {l7:?} {rule}")
}
