//! Services and EndpointSlices, compiled to addresses, ports and backends.

use std::net::IpAddr;

use podgate_policy::explain::{EndName, Local, Outcome, Query, QueryError, explain, service_list};
use podgate_policy::oracle::{OracleVerdict, ServiceOutcome, decide, through_service};
use podgate_policy::{Compiled, Compiler, ServicesLeftOut, Store, Translation, compile};
use podgate_tables::address::Address;
use podgate_tables::policy::{LocalEnds, Subject, Verdict};
use podgate_tables::proto;
use podgate_tables::service::{Affinity, EXTERNAL_MAX, L4Addr, WithoutBackends};
use podgate_tables::tuple::Tuple;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::{Value, json};

use crate::by_names::by_names;

fn service(name: &str, ip: &str, more: &Value) -> Value {
    let mut spec = json!({
        "clusterIP": ip,
        "clusterIPs": [ip],
        "ports": [{"name": "http", "port": 80, "targetPort": "web"}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    json!({"apiVersion": "v1", "kind": "Service",
           "metadata": {"namespace": "shop", "name": name}, "spec": spec})
}

fn slice(name: &str, of: &str, port: u16, endpoints: &Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
           "metadata": {"namespace": "shop", "name": name,
                        "labels": {"kubernetes.io/service-name": of}},
           "addressType": "IPv4",
           "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
           "endpoints": endpoints})
}

fn ready(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true}})
}

fn store_of(objects: &[Value]) -> Store {
    let mut store = Store::new();
    for object in objects {
        store.apply(object, None).unwrap();
    }
    store
}

/// The backends of TCP port 80 at an address; `None` if that isn't translated.
fn backends(store: &Store, ip: &str) -> Option<Vec<String>> {
    let address = Address::from(ip.parse::<IpAddr>().unwrap());
    let compiled = compile(store);
    let port = compiled.tables.service(L4Addr { address, port: 80 }, proto::TCP)?.ok()?;
    let text = |backend: L4Addr| format!("{}:{}", backend.address, backend.port);
    Some(port.backends.iter().map(|backend| text(backend.target())).collect())
}

const IP: &str = "10.96.0.1";

#[test]
fn ports_and_addresses_come_from_all_slices() {
    let slices = [
        slice("web-a", "web", 8080, &json!([ready("10.0.0.1"), ready("10.0.0.2")])),
        // Pods of another version name another number.
        slice("web-b", "web", 9090, &json!([ready("10.0.0.3")])),
        slice("other", "db", 5432, &json!([ready("10.0.0.9")])),
    ];
    let mut store = store_of(&slices);
    assert_eq!(backends(&store, IP), None);
    store.apply(&service("web", IP, &json!({})), None).unwrap();
    let all = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:9090"];
    assert_eq!(backends(&store, IP).unwrap(), all);
    assert_eq!(backends(&store, "10.96.0.2"), None);
}

#[test]
fn a_service_is_left_alone_until_a_slice_of_it_is_known() {
    let mut store = store_of(&[service("web", IP, &json!({}))]);
    assert_eq!(backends(&store, IP), None);
    store.apply(&slice("web-a", "web", 8080, &json!([])), None).unwrap();
    assert_eq!(backends(&store, IP), Some(Vec::new()));
}

#[test]
fn headless_and_external_services_are_ignored() {
    let endpoints = json!([ready("10.0.0.1")]);
    let headless = service("web", "None", &json!({"clusterIPs": ["None"]}));
    let external = service("db", IP, &json!({"type": "ExternalName", "externalName": "x.test"}));
    let store = store_of(&[
        headless,
        external,
        slice("a", "web", 80, &endpoints),
        slice("b", "db", 80, &endpoints),
    ]);
    assert!(compile(&store).tables.services.is_empty());
}

#[test]
fn terminating_endpoints_that_serve_are_used_while_none_is_ready() {
    let endpoint = |address: &str, ready: bool, serving: bool, terminating: bool| {
        json!({"addresses": [address],
               "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    };
    let going = [
        endpoint("10.0.0.1", false, true, true),
        endpoint("10.0.0.2", false, false, true),
        endpoint("10.0.0.3", false, true, false),
    ];
    let with = |endpoints: &[Value]| {
        store_of(&[service("web", IP, &json!({})), slice("a", "web", 80, &json!(endpoints))])
    };
    assert_eq!(backends(&with(&going), IP).unwrap(), ["10.0.0.1:80"]);
    let one_ready = [&going[..], &[json!({"addresses": ["10.0.0.4"]})]].concat();
    assert_eq!(backends(&with(&one_ready), IP).unwrap(), ["10.0.0.4:80"]);
}

#[test]
fn addresses_that_are_nobodys_are_no_backends() {
    let addresses = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.169.254", "10.0.0.1"];
    let endpoints: Vec<_> = addresses.iter().map(|address| ready(address)).collect();
    let store =
        store_of(&[service("web", IP, &json!({})), slice("a", "web", 80, &json!(endpoints))]);
    assert_eq!(backends(&store, IP).unwrap(), ["10.0.0.1:80"]);
}

#[test]
fn an_internal_traffic_policy_of_local_asks_for_a_backend_on_this_node() {
    let on = |address: &str, node: &str| json!({"addresses": [address], "nodeName": node});
    let mut store = store_of(&[
        service("web", IP, &json!({"internalTrafficPolicy": "Local"})),
        slice("a", "web", 80, &json!([on("10.0.0.1", "n1"), on("10.0.0.2", "n2")])),
        node("n1", "192.0.2.1"),
        node("n2", "192.0.2.2"),
    ]);
    let mut compiler = Compiler::new();
    let address = Address::from(IP.parse::<IpAddr>().unwrap());
    for (host, expected) in [("192.0.2.1", 1), ("192.0.2.2", 1), ("192.0.2.3", 0)] {
        store.set_host_addresses([host.parse().unwrap()]);
        compiler.update(&store);
        let compiled = compiler.compiled();
        let port = compiled.tables.service(L4Addr { address, port: 80 }, proto::TCP);
        let port = port.unwrap().unwrap();
        assert_eq!(port.backends.len(), expected, "{host}");
        assert_eq!(port.without_backends, WithoutBackends::Drop);
        let last = if host.ends_with('1') { "10.0.0.1" } else { "10.0.0.2" };
        assert!(port.backends.iter().all(|backend| backend.address().to_string() == last));
    }
}

#[test]
fn affinity_and_protocols_are_taken_from_the_service() {
    let ports = json!([{"port": 53, "protocol": "UDP"}, {"name": "http", "port": 80}]);
    let more = json!({"sessionAffinity": "ClientIP", "ports": ports});
    let store = store_of(&[
        service("web", IP, &more),
        slice("a", "web", 8080, &json!([ready("10.0.0.1")])),
    ]);
    let address = Address::from(IP.parse::<IpAddr>().unwrap());
    let compiled = compile(&store);
    let udp = compiled.tables.service(L4Addr { address, port: 53 }, proto::UDP).unwrap().unwrap();
    assert!(udp.backends.is_empty(), "the slice has no such port");
    assert_eq!(udp.affinity, Affinity::ClientIp { seconds: 10_800 });
    assert_eq!(backends(&store, IP).unwrap(), ["10.0.0.1:8080"]);
}

#[test]
fn the_timeout_of_affinity_is_taken_from_the_service() {
    let address = Address::from(IP.parse::<IpAddr>().unwrap());
    let values = [
        (json!(1), 1),
        (json!(300), 300),
        (json!(86_400), 86_400),
        // The API server rejects these.
        (json!(0), 10_800),
        (json!(86_401), 10_800),
        (json!("300"), 10_800),
        (json!(null), 10_800),
    ];
    for (value, seconds) in values {
        let config = json!({"clientIP": {"timeoutSeconds": value}});
        let more = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config});
        let store = store_of(&[
            service("web", IP, &more),
            slice("a", "web", 8080, &json!([ready("10.0.0.1")])),
        ]);
        let compiled = compile(&store);
        let port = compiled.tables.service(L4Addr { address, port: 80 }, proto::TCP);
        let port = port.unwrap().unwrap();
        assert_eq!(port.affinity, Affinity::ClientIp { seconds }, "{value}");
    }
}

#[test]
fn of_two_services_with_one_address_the_first_by_name_has_it() {
    let objects = [
        service("b", IP, &json!({})),
        service("a", IP, &json!({})),
        slice("s-a", "a", 1, &json!([ready("10.0.0.1")])),
        slice("s-b", "b", 2, &json!([ready("10.0.0.1")])),
    ];
    let mut store = store_of(&objects);
    assert_eq!(backends(&store, IP).unwrap(), ["10.0.0.1:1"]);
    let mut compiler = Compiler::new();
    compiler.update(&store);
    let key = store.apply(&service("a", "10.96.0.9", &json!({})), None).unwrap();
    assert_eq!(backends(&store, IP).unwrap(), ["10.0.0.1:2"]);
    compiler.update(&store);
    assert_eq!(by_names(&compiler.compiled()), by_names(&compile(&store)));
    store.delete(&key);
    compiler.update(&store);
    assert_eq!(by_names(&compiler.compiled()), by_names(&compile(&store)));
}

#[test]
fn translation_can_be_left_to_the_kernel() {
    let mut store = store_of(&[
        service("web", IP, &json!({})),
        slice("a", "web", 80, &json!([ready("10.0.0.1")])),
    ]);
    let mut compiler = Compiler::new();
    compiler.update(&store);
    assert_eq!(compiler.compiled().tables.services.iter().count(), 1);
    store.set_translation(Translation::Off);
    assert!(compiler.update(&store));
    assert!(compiler.compiled().tables.services.is_empty());
}

#[test]
fn a_change_of_one_service_changes_one_row() {
    let mut store = Store::new();
    for number in 0..2_000_u32 {
        let ip = format!("10.97.{}.{}", number / 250, number % 250 + 1);
        let name = format!("s{number}");
        store.apply(&service(&name, &ip, &json!({})), None).unwrap();
        let address = |last: u8| format!("10.{}.{}.{last}", number / 250, number % 250);
        let endpoints: Vec<_> = (1..=5).map(|last| ready(&address(last))).collect();
        store.apply(&slice(&name, &name, 80, &json!(endpoints)), None).unwrap();
    }
    let mut compiler = Compiler::new();
    compiler.update(&store);
    let before = compiler.compiled();
    store.apply(&slice("s7", "s7", 80, &json!([])), None).unwrap();
    assert!(compiler.update(&store));
    let after = compiler.compiled();
    let changed = before
        .tables
        .services
        .iter()
        .filter(|(address, row)| after.tables.services.at(*address) != Some(*row));
    assert_eq!(changed.count(), 1);
    assert!(!compiler.update(&store));
    let left_out = compiler.services_left_out();
    assert_eq!(
        (after.tables.services.iter().count(), left_out),
        (2_000, ServicesLeftOut::default())
    );
}

#[test]
fn services_that_are_left_out_of_the_table_are_counted_by_reason() {
    let mut store = Store::new();
    let mut compiler = Compiler::new();
    let mut left_out = |store: &Store| {
        compiler.update(store);
        compiler.services_left_out()
    };
    store.apply(&service("a", "10.97.0.1", &json!({})), None).unwrap();
    store.apply(&service("b", "10.97.0.1", &json!({})), None).unwrap();
    store.apply(&service("c", "10.97.0.2", &json!({})), None).unwrap();
    let expected =
        ServicesLeftOut { no_endpoint_slice: 2, address_taken: 1, ..ServicesLeftOut::default() };
    assert_eq!(left_out(&store), expected);
    store.apply(&slice("a", "a", 80, &json!([])), None).unwrap();
    store.apply(&slice("c", "c", 80, &json!([])), None).unwrap();
    let expected = ServicesLeftOut { address_taken: 1, ..ServicesLeftOut::default() };
    assert_eq!(left_out(&store), expected);
    store.apply(&service("b", "10.97.0.3", &json!({})), None).unwrap();
    let expected = ServicesLeftOut { no_endpoint_slice: 1, ..ServicesLeftOut::default() };
    assert_eq!(left_out(&store), expected);
    store.apply(&service("c", "10.97.0.2", &json!({"ports": []})), None).unwrap();
    store.apply(&slice("b", "b", 80, &json!([])), None).unwrap();
    assert_eq!(left_out(&store), ServicesLeftOut { no_ports: 1, ..ServicesLeftOut::default() });
}

/// The backends of a TCP port at an address; `None` if that isn't translated.
fn backends_at(compiled: &Compiled, ip: &str, port: u16) -> Option<Vec<String>> {
    let address = Address::from(ip.parse::<IpAddr>().unwrap());
    let port = compiled.tables.service(L4Addr { address, port }, proto::TCP)?.unwrap();
    Some(port.backends.iter().map(|it| it.address().to_string()).collect())
}

fn node(name: &str, address: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
           "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
}

/// `web` has a node port, an external address of its own, one that is this node's, and two of load
/// balancers, one of which keeps its traffic for itself.
fn web_outside() -> Store {
    let mut web = service(
        "web",
        IP,
        &json!({
            "type": "LoadBalancer",
            "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local",
            "externalIPs": ["203.0.113.1", "192.0.2.1", "192.0.2.2", "2001:db8::1"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
        }),
    );
    web["status"] = json!({"loadBalancer": {"ingress": [
        {"ip": "203.0.113.2"},
        {"ip": "203.0.113.3", "ipMode": "VIP"},
        {"ip": "203.0.113.4", "ipMode": "Proxy"},
        {"hostname": "lb.test"},
    ]}});
    let mut store = store_of(&[
        web,
        slice("a", "web", 8080, &json!([{"addresses": ["10.0.0.1"], "nodeName": "n2"}])),
        node("n1", "192.0.2.1"),
        node("n2", "192.0.2.2"),
    ]);
    store.set_host_addresses(["192.0.2.1".parse().unwrap()]);
    store
}

#[test]
fn node_ports_and_external_addresses_lead_to_all_endpoints() {
    let compiled = compile(&web_outside());
    let at = |ip, port| backends_at(&compiled, ip, port);
    for ip in ["203.0.113.1", "203.0.113.2", "203.0.113.3", "192.0.2.1", "192.0.2.2"] {
        assert_eq!(at(ip, 80), Some(vec!["10.0.0.1".to_owned()]), "{ip}");
        assert_eq!(at(ip, 81), None, "{ip}");
    }
    // Another node's node ports are translated there. The service has no IPv6 cluster IP.
    for (ip, is_translated) in
        [("192.0.2.1", true), ("192.0.2.2", false), ("203.0.113.1", false), ("10.96.0.9", false)]
    {
        assert_eq!(at(ip, 30080).is_some(), is_translated, "{ip}");
    }
    assert_eq!(at("203.0.113.4", 80), None);
    assert_eq!(at("2001:db8::1", 80), None);
    // `internalTrafficPolicy` is of the cluster IP only.
    assert_eq!(at(IP, 80), Some(Vec::new()));
}

/// The kernel translates what kube-proxy has told it, also if no EndpointSlice is known any more,
/// and shortly after the service is gone.
#[test]
fn a_port_of_the_node_is_a_services_as_long_as_the_kernel_may_translate_it() {
    let mut store = web_outside();
    for object in client() {
        store.apply(&object, None).unwrap();
    }
    let may_send = |store: &Store, ip: &str, port: u16| {
        let compiled = compile(store);
        let to = L4Addr { address: Address::from(ip.parse::<IpAddr>().unwrap()), port };
        let is_translated = compiled.tables.service(to, proto::TCP).is_some();
        let verdict = compiled.tables.decide(&from_client(to), FROM_HERE).verdict;
        assert_eq!(service_list(store, &compiled).is_empty(), !is_translated, "{ip}:{port}");
        (is_translated, verdict == Verdict::Allow)
    };
    let ports = [("192.0.2.1", 80), ("192.0.2.1", 30080)];
    for (ip, port) in ports {
        assert_eq!(may_send(&store, ip, port), (true, false), "{ip}:{port}");
    }
    let slice = slice("a", "web", 8080, &json!([]));
    let slice_key = store.apply(&slice, None).unwrap();
    store.delete(&slice_key);
    for (ip, port) in ports {
        assert_eq!(may_send(&store, ip, port), (false, false), "{ip}:{port}");
    }
    // Of the service, first a port and an address go, then the rest.
    let less = json!({"type": "NodePort", "ports": [{"name": "http", "port": 80}]});
    let key = store.apply(&service("web", IP, &less), None).unwrap();
    store.delete(&key);
    for (ip, port) in ports {
        assert_eq!(may_send(&store, ip, port), (false, false), "{ip}:{port}");
    }
    // The reason is told.
    let service_of = |store: &Store, port: &str| {
        let (from, to) = ("shop/client".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let port = Some(port.parse().unwrap());
        let query = Query { from, to, port, request: None, misses_max: 1 };
        let explained = explain(store, &compile(store), &query, Local::Both).unwrap();
        explained.service.map(|service| (service.name, service.translated, explained.verdict))
    };
    let told = Some(("web".to_owned(), None, Outcome::Denied));
    assert_eq!(service_of(&store, "30080/TCP"), told);
    assert_eq!(service_of(&store, "81/TCP"), None);
    // Other ports are the node's own, and other ends are judged as ever.
    assert_eq!(may_send(&store, "192.0.2.1", 81), (false, true));
    assert_eq!(may_send(&store, "192.0.2.2", 80), (false, false));
    assert!(!store.forget_former_services(), "they are new");
    assert_eq!(may_send(&store, "192.0.2.1", 30080), (false, false));
    assert!(store.forget_former_services());
    for (ip, port) in ports {
        assert_eq!(may_send(&store, ip, port), (false, true), "{ip}:{port}");
    }
    assert!(!store.forget_former_services());
}

/// Ports of services that were deleted are bounded, and beyond the bound any port may be one. The
/// same port counts once.
#[test]
fn more_former_ports_than_are_known_make_all_ports_doubtful() {
    let mut store = store_of(&client());
    store.apply(&node("n1", "192.0.2.1"), None).unwrap();
    store.set_host_addresses(["192.0.2.1", "192.0.2.3"].map(|ip| ip.parse().unwrap()));
    let mut compiler = Compiler::new();
    let mut may_send = |store: &Store, port: u16| {
        compiler.update(store);
        assert_eq!(by_names(&compiler.compiled()), by_names(&compile(store)));
        let to = L4Addr { address: Address::from(IpAddr::from([192, 0, 2, 1])), port };
        compiler.compiled().tables.decide(&from_client(to), FROM_HERE).verdict == Verdict::Allow
    };
    let lose = |store: &mut Store, name: &str, first: u16| {
        let ports = (first..first + 4096).map(|n| json!({"name": format!("p{n}"), "port": n}));
        let ports = Vec::from_iter(ports);
        let more = json!({"externalIPs": ["192.0.2.1", "192.0.2.3"], "ports": ports});
        let key = store.apply(&service(name, IP, &more), None).unwrap();
        store.delete(&key);
    };
    for name in 0..9 {
        lose(&mut store, &format!("same{name}"), 1);
        assert_eq!((may_send(&store, 4096), may_send(&store, 60_000)), (false, true), "{name}");
    }
    for range in 1..8 {
        lose(&mut store, &format!("s{range}"), range * 4096 + 1);
    }
    assert!(may_send(&store, 60_000));
    lose(&mut store, "more", 40_000);
    assert!(!may_send(&store, 60_000));
    assert!(!store.forget_former_services() && !may_send(&store, 60_000));
    assert!(store.forget_former_services());
    assert!(may_send(&store, 60_000) && may_send(&store, 4096));
}

#[test]
fn external_addresses_that_are_nobodys_are_ignored() {
    let addresses = ["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "::", "::ffff:0.0.0.0"];
    let mut store = store_of(&[
        service("web", IP, &json!({"externalIPs": addresses})),
        slice("a", "web", 8080, &json!([ready("10.0.0.1")])),
    ]);
    store.set_host_addresses(["192.0.2.1".parse().unwrap()]);
    assert_eq!(compile(&store).tables.services.iter().count(), 1);
    assert_eq!(backends_at(&compile(&store), "192.0.2.1", 80), None);
}

/// Beyond the bound the table is marked, so that nothing is allowed for being the node's.
#[test]
fn external_addresses_beyond_the_bound_are_left_out_and_known() {
    let ports: Vec<_> =
        (1..=1000).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    let addresses: Vec<_> = (0..400_u32)
        .map(|number| format!("203.0.{}.{}", number / 200 + 1, number % 200 + 1))
        .collect();
    let big = service("big", IP, &json!({"externalIPs": addresses, "ports": ports}));
    let mut store = store_of(&[big, slice("a", "big", 8080, &json!([ready("10.0.0.1")]))]);
    let mut compiler = Compiler::new();
    compiler.update(&store);
    let left_out = 400 - EXTERNAL_MAX / 1001;
    assert_eq!(compiler.services_left_out().table_full, left_out);
    assert!(compiler.compiled().tables.services.is_incomplete);
    // Node ports and cluster IPs have room all the same.
    let small = json!({"ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    store.apply(&service("small", "10.96.0.2", &small), None).unwrap();
    store.apply(&slice("b", "small", 8080, &json!([ready("10.0.0.2")])), None).unwrap();
    store.set_host_addresses(["192.0.2.1".parse().unwrap()]);
    compiler.update(&store);
    let compiled = compiler.compiled();
    assert!(backends_at(&compiled, "192.0.2.1", 30_080).is_some());
    assert!(backends_at(&compiled, "10.96.0.2", 80).is_some());
    store.apply(&service("big", IP, &json!({})), None).unwrap();
    compiler.update(&store);
    assert!(!compiler.compiled().tables.services.is_incomplete);
    assert_eq!(compiler.services_left_out(), ServicesLeftOut::default());
}

#[test]
fn a_service_without_a_cluster_ip_has_no_external_ones() {
    let more = json!({"clusterIPs": ["None"], "externalIPs": ["203.0.113.1"],
                      "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    let store = store_of(&[
        service("web", "None", &more),
        slice("a", "web", 8080, &json!([ready("10.0.0.1")])),
    ]);
    assert!(compile(&store).tables.services.is_empty());
}

#[test]
fn services_share_an_external_address_by_ports_and_the_first_by_name_has_a_port() {
    let with = |name: &str, ip: &str, ports: &[u16]| {
        let ports: Vec<_> = ports
            .iter()
            .map(|port| json!({"name": format!("p{port}"), "port": port, "nodePort": 30000 + port}))
            .collect();
        service(name, ip, &json!({"externalIPs": ["203.0.113.1"], "ports": ports}))
    };
    let slice = |name: &str, port: u16, to: &str| {
        let mut slice = slice(&format!("{name}{port}"), name, port, &json!([ready(to)]));
        slice["ports"][0]["name"] = json!(format!("p{port}"));
        slice
    };
    let mut store = store_of(&[
        with("a", IP, &[80, 81]),
        with("b", "10.96.0.2", &[81, 82]),
        slice("a", 80, "10.0.0.1"),
        slice("a", 81, "10.0.0.2"),
        slice("b", 81, "10.0.0.3"),
        slice("b", 82, "10.0.0.4"),
    ]);
    store.set_host_addresses(["192.0.2.1".parse().unwrap()]);
    let mut compiler = Compiler::new();
    compiler.update(&store);
    let compiled = compiler.compiled();
    for (port, last) in [(80, 1), (81, 2), (82, 4)] {
        let expected = Some(vec![format!("10.0.0.{last}")]);
        assert_eq!(backends_at(&compiled, "203.0.113.1", port), expected);
        assert_eq!(backends_at(&compiled, "192.0.2.1", 30_000 + port), expected);
    }
    // Port 81 of the external address, and its node port.
    let left_out = ServicesLeftOut { address_taken: 2, ..ServicesLeftOut::default() };
    assert_eq!(compiler.services_left_out(), left_out);
    let list = service_list(&store, &compiled);
    let rows: Vec<_> = list.iter().map(|it| (it.address, it.port, it.name.as_str())).collect();
    let external: IpAddr = "203.0.113.1".parse().unwrap();
    assert_eq!(rows.iter().filter(|(ip, ..)| *ip == external).count(), 3);
    assert!(rows.contains(&(external, 81, "a")) && rows.contains(&(external, 82, "b")));
    assert!(rows.contains(&("0.0.0.0".parse().unwrap(), 30_081, "a")), "{rows:?}");
    assert_eq!(by_names(&compiled), by_names(&compile(&store)));
}

fn any_object() -> impl Strategy<Value = (bool, Value)> {
    let name = prop::sample::select(&["a", "b", "c"][..]);
    let endpoint =
        (1..6_u8, any::<bool>(), any::<bool>()).prop_map(|(last, ready, terminating)| {
            json!({"addresses": [format!("10.0.0.{last}")], "nodeName": format!("n{}", last % 2),
               "conditions": {"ready": ready, "serving": true, "terminating": terminating}})
        });
    let slices = (name.clone(), 0..3_u8, 80..83_u16, prop::collection::vec(endpoint, 0..4))
        .prop_map(|(of, number, port, endpoints)| {
            slice(&format!("slice{number}"), of, port, &json!(endpoints))
        });
    let external = prop::collection::vec((1..4_u8).prop_map(|n| format!("192.0.2.{n}")), 0..3);
    let node_port = prop::option::of(30_000..30_002_u16);
    let services = (name, 1..3_u8, any::<bool>(), external, node_port).prop_map(
        |(name, last, local, external, node_port)| {
            let more = json!({
                "type": "NodePort",
                "internalTrafficPolicy": if local { "Local" } else { "Cluster" },
                "externalIPs": external,
                "ports": [{"name": "http", "port": 80, "nodePort": node_port}],
            });
            service(name, &format!("10.96.0.{last}"), &more)
        },
    );
    (prop::bool::weighted(0.7), prop_oneof![slices.boxed(), services.boxed()])
}

/// A pod of this node that may send to nobody.
const CLIENT: &str = "10.0.0.99";
const FROM_HERE: LocalEnds = LocalEnds { source: true, destination: false };

/// The pod at [`CLIENT`], and its policy.
fn client() -> [Value; 2] {
    let metadata = json!({"namespace": "shop", "name": "client", "labels": {"app": "client"}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
                     "status": {"podIPs": [{"ip": CLIENT}]}});
    let selector = json!({"matchLabels": {"app": "client"}});
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                        "metadata": {"namespace": "shop", "name": "client"},
                        "spec": {"podSelector": selector, "policyTypes": ["Egress"]}});
    [pod, policy]
}

/// A TCP flow from [`CLIENT`].
fn from_client(to: L4Addr) -> Subject {
    let src = Address::from(CLIENT.parse::<IpAddr>().unwrap());
    let (dst, src_port, dst_port) = (to.address, 40_000, to.port);
    let tuple = Tuple { src, dst, src_port, dst_port, protocol: proto::TCP };
    Subject { tuple, icmp_type: 0 }
}

/// Checks that the tables have what the oracle finds in the objects, for addresses and ports that
/// [`any_object`] uses.
fn check_with_oracle(store: &Store, compiled: &Compiled) -> Result<(), TestCaseError> {
    let addresses = ["10.96.0.1", "10.96.0.2", "192.0.2.1", "192.0.2.2", "192.0.2.3", "10.0.0.1"];
    for (ip, port) in addresses.into_iter().flat_map(|ip| [80, 30_000, 30_001].map(|n| (ip, n))) {
        let ip: IpAddr = ip.parse().unwrap();
        let to = L4Addr { address: Address::from(ip), port };
        let expected = through_service(store, ip, proto::TCP, port);
        let seen = match compiled.tables.service(to, proto::TCP) {
            None => ServiceOutcome::NotTranslated,
            Some(Err(_)) => ServiceOutcome::Rejected,
            Some(Ok(port)) if port.backends.is_empty() => match port.without_backends {
                WithoutBackends::Reject => ServiceOutcome::Rejected,
                WithoutBackends::Drop => ServiceOutcome::Dropped,
                WithoutBackends::LeaveToKernel => panic!("{to:?} is not translated"),
            },
            Some(Ok(port)) => ServiceOutcome::Backends(
                port.backends.iter().map(|it| (it.address().ip(), it.port())).collect(),
            ),
        };
        prop_assert_eq!(seen, expected, "{}:{}", ip, port);
        let subject = from_client(to);
        let expected = decide(store, &subject, FROM_HERE).iter().all(OracleVerdict::allows);
        let seen = compiled.tables.decide(&subject, FROM_HERE).verdict == Verdict::Allow;
        prop_assert_eq!(seen, expected, "{:?}", to);
    }
    Ok(())
}

proptest! {
    #[test]
    fn services_depend_on_the_objects_and_not_on_their_order(
        steps in prop::collection::vec(
            (
                any_object(),
                prop::option::weighted(0.1, (any::<bool>(), 1..4_u8)),
                prop::bool::weighted(0.2),
            ),
            0..40,
        ),
    ) {
        let mut store = store_of(&client());
        let mut compiler = Compiler::new();
        for ((apply, object), change, forget) in steps {
            let key = store.apply(&object, None).unwrap();
            if !apply {
                store.delete(&key);
            }
            if forget {
                _ = store.forget_former_services();
            }
            if let Some((on, last)) = change {
                store.set_translation(if on { Translation::On } else { Translation::Off });
                store.set_host_addresses([format!("192.0.2.{last}").parse().unwrap()]);
            }
            compiler.update(&store);
            let (compiled, again) = (compiler.compiled(), compile(&store));
            prop_assert_eq!(by_names(&compiled), by_names(&again));
            let flags = |of: &Compiled| {
                (of.tables.services.left_to_kernel, of.tables.services.is_incomplete)
            };
            prop_assert_eq!(flags(&compiled), flags(&again));
            check_with_oracle(&store, &compiled)?;
        }
    }
}

fn shop() -> Store {
    let pod = |name: &str, ip: &str, app: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
               "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
               "status": {"podIPs": [{"ip": ip}]}})
    };
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "cli"},
        "spec": {"podSelector": {"matchLabels": {"app": "cli"}}, "policyTypes": ["Egress"],
                 "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                             "ports": [{"port": 8080}]}]},
    });
    store_of(&[
        pod("cli", "10.0.0.9", "cli"),
        pod("web-0", "10.0.0.1", "web"),
        pod("web-1", "10.0.0.2", "web"),
        pod("odd", "10.0.0.3", "odd"),
        policy,
        service("web", IP, &json!({})),
        slice("a", "web", 8080, &json!([ready("10.0.0.1"), ready("10.0.0.2")])),
        service("mixed", "10.96.0.2", &json!({})),
        slice("b", "mixed", 8080, &json!([ready("10.0.0.1"), ready("10.0.0.3")])),
        service("none", "10.96.0.3", &json!({})),
        slice("c", "none", 8080, &json!([])),
    ])
}

#[test]
fn explain_shows_the_verdict_on_each_backend() {
    let store = shop();
    let compiled = compile(&store);
    let ask = |to: &str, port: &str| {
        let query = Query {
            from: "shop/cli".parse().unwrap(),
            to: to.parse().unwrap(),
            port: Some(port.parse().unwrap()),
            request: None,
            misses_max: 1,
        };
        explain(&store, &compiled, &query, Local::Both)
    };
    for to in ["shop/web:http", "web:80", IP] {
        let explained = ask(to, "80").unwrap();
        assert_eq!(explained.verdict, Outcome::Allowed, "{to}");
        assert_eq!(explained.destination.peer.port, Some(8080));
        let service = explained.service.unwrap();
        assert_eq!(service.translated.unwrap().to_string(), "10.96.0.1:80");
        let pods: Vec<_> =
            service.verdicts.iter().map(|it| it.backend.peer.pod.clone().unwrap()).collect();
        assert_eq!(pods, ["web-0", "web-1"]);
    }
    let mixed = ask("shop/mixed:80", "80").unwrap();
    assert_eq!(mixed.verdict, Outcome::Denied, "that of the backend that is denied");
    let verdicts: Vec<_> = mixed.service.unwrap().verdicts.iter().map(|it| it.verdict).collect();
    assert_eq!(verdicts, [Outcome::Denied, Outcome::Allowed]);
    for (to, port, reason) in [
        ("shop/none:80", "80", "Service shop/none has no ready backend for port 80/TCP"),
        ("shop/web:81", "81", "Service shop/web has no such port; it has 80/TCP"),
        (IP, "53/UDP", "Service shop/web has no such port; it has 80/TCP"),
    ] {
        let explained = ask(to, port).unwrap();
        assert_eq!(explained.verdict, Outcome::Denied, "{to}");
        assert_eq!(explained.not_forwarded.as_deref(), Some(reason));
        assert!(explained.service.unwrap().verdicts.is_empty());
    }
    for to in ["224.0.0.1", "255.255.255.255", "127.0.0.1", "0.0.0.0"] {
        let explained = ask(to, "1/UDP").unwrap();
        assert_eq!(explained.verdict, Outcome::Denied, "{to}");
        assert!(explained.not_forwarded.unwrap().contains("never forwarded"), "{to}");
    }
    let message = |to: &str, port: &str| ask(to, port).unwrap_err().to_string();
    assert_eq!(message("shop/web:htpp", "80"), "Service shop/web has no port htpp; it has 80/TCP");
    assert_eq!(message("shop/nobody:80", "80"), "there is no Service shop/nobody");
    let text = "shop/web:http";
    assert_eq!(text.parse::<EndName>().unwrap().to_string(), text);
    assert!("shop/web:".parse::<EndName>().is_err() && "a:b:c".parse::<EndName>().is_err());
    let list = service_list(&store, &compiled);
    let frontends: Vec<_> = list.iter().map(|it| format!("{}/{}", it.address, it.name)).collect();
    assert_eq!(frontends, ["10.96.0.1/web", "10.96.0.2/mixed", "10.96.0.3/none"]);
    assert_eq!(list[0].backends.len(), 2);
}

#[test]
fn explain_takes_the_port_that_is_given_beside_a_services_port() {
    let mut store = shop();
    let both = json!({"ports": [{"name": "dns", "port": 53, "protocol": "UDP"},
                                {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]});
    let mut targets = slice("d", "dns", 0, &json!([ready("10.0.0.3")]));
    targets["ports"] = json!([{"name": "dns", "port": 5300, "protocol": "UDP"},
                              {"name": "dns-tcp", "port": 5301, "protocol": "TCP"}]);
    for object in [service("dns", "10.96.0.4", &both), targets] {
        store.apply(&object, None).unwrap();
    }
    let compiled = compile(&store);
    let ask = |to: &str, port: Option<&str>| {
        let query = Query {
            from: "shop/web-0".parse().unwrap(),
            to: to.parse().unwrap(),
            port: port.map(|port| port.parse().unwrap()),
            request: None,
            misses_max: 1,
        };
        explain(&store, &compiled, &query, Local::Both)
    };
    for (to, port, explained) in [
        ("shop/dns:53", None, "5301/TCP"),
        ("shop/dns:53", Some("53/UDP"), "5300/UDP"),
        ("shop/dns:53", Some("53"), "5301/TCP"),
        ("shop/dns:dns", None, "5300/UDP"),
        ("shop/dns:dns", Some("53/UDP"), "5300/UDP"),
        ("shop/dns:dns-tcp", Some("53/TCP"), "5301/TCP"),
        ("shop/web:http", None, "8080/TCP"),
        ("shop/web:81", None, "81/TCP"),
        ("shop/web:80", Some("80/UDP"), "80/UDP"),
    ] {
        assert_eq!(ask(to, port).unwrap().port.to_string(), explained, "{to} {port:?}");
    }
    let rejected = ask("shop/web:80", Some("80/UDP")).unwrap();
    let reason = "Service shop/web has no such port; it has 80/TCP";
    assert_eq!(
        (rejected.verdict, rejected.not_forwarded.as_deref()),
        (Outcome::Denied, Some(reason))
    );
    for (to, is, port) in [
        ("shop/dns:dns", "53/UDP", "53/TCP"),
        ("shop/web:80", "80/TCP", "8080/TCP"),
        ("shop/web:http", "80/TCP", "80/UDP"),
        ("shop/web:80", "80/TCP", "ICMPv4"),
    ] {
        let expected = format!(
            "--to {to} is port {is} of the Service, but --port is {port}: leave out --port, or give \
             the same port"
        );
        assert_eq!(ask(to, Some(port)).unwrap_err().to_string(), expected);
    }
    let error = ask("shop/web:81", Some("80/TCP")).unwrap_err();
    let ports = vec!["80/TCP".to_owned()];
    let (service, port) = ("shop/web".to_owned(), "81".into());
    assert_eq!(error, QueryError::UnknownServicePort { service, port, ports });
    let error = ask("shop/web-0", None).unwrap_err().to_string();
    assert_eq!(error, "give --port, such as --port 80/TCP");
}

#[test]
fn explain_says_if_there_are_backends_but_none_on_this_node() {
    let local = json!({"internalTrafficPolicy": "Local"});
    let mut store = shop();
    store.apply(&service("web", IP, &local), None).unwrap();
    store.apply(&service("none", "10.96.0.3", &local), None).unwrap();
    let compiled = compile(&store);
    for (to, reason) in [
        (
            "shop/web:80",
            "Service shop/web has no ready backend on this node for port 80/TCP, and its \
             internalTrafficPolicy is Local",
        ),
        ("shop/none:80", "Service shop/none has no ready backend for port 80/TCP"),
    ] {
        let query = Query {
            from: "shop/cli".parse().unwrap(),
            to: to.parse().unwrap(),
            port: None,
            request: None,
            misses_max: 1,
        };
        let explained = explain(&store, &compiled, &query, Local::Both).unwrap();
        assert_eq!(explained.not_forwarded.as_deref(), Some(reason));
    }
}
