//! Every field of a filter: what it matches, and what it doesn't.

use super::budget::FILTERS_MAX;
use super::*;
use crate::proto::flow::{
    CiliumEventType, Dns, EventTypeFilter, Http, HttpHeader, IcmPv4, Ip, IpTraceId, IpVersion,
    Layer7, Sctp, Tcp, TraceContext, TraceParent, Udp,
};

fn strings(values: &[&str]) -> Vec<String> {
    values.iter().map(|value| (*value).to_owned()).collect()
}

/// A denied connection from shop/cart-0 to crew/db-0.
fn packet() -> Flow {
    let endpoint = |namespace: &str, pod: &str, identity, label: &str| Endpoint {
        identity,
        namespace: namespace.into(),
        pod_name: pod.into(),
        labels: strings(&[label, "k8s:tier=one", "reserved:x"]),
        workloads: vec![Workload { name: pod[..2].into(), kind: "Deployment".into() }],
        cluster_name: "default".into(),
        ..Endpoint::default()
    };
    let flags = Some(TcpFlags { syn: true, ack: true, ..TcpFlags::default() });
    Flow {
        uuid: "u-1".into(),
        verdict: 2,
        drop_reason_desc: 133,
        ip: Some(Ip {
            source: "10.0.1.7".into(),
            destination: "fd00::9".into(),
            ip_version: IpVersion::IPv4.into(),
            source_xlated: "192.0.2.9".into(),
            encrypted: true,
        }),
        l4: Some(Layer4 {
            protocol: Some(Protocol::Tcp(Tcp { source_port: 40000, destination_port: 80, flags })),
        }),
        source: Some(endpoint("shop", "cart-0", 1001, "k8s:app=cart")),
        destination: Some(endpoint("crew", "db-0", 1002, "k8s:app=db")),
        source_names: strings(&["cart.shop.example."]),
        destination_names: strings(&["db.example", "other.example"]),
        source_service: Some(Service { name: "carts".into(), namespace: "shop".into() }),
        destination_service: Some(Service { name: "dbs".into(), namespace: "crew".into() }),
        node_name: "node-1".into(),
        node_labels: strings(&["zone=a"]),
        event_type: Some(CiliumEventType { r#type: 1, sub_type: 133 }),
        traffic_direction: 1,
        is_reply: Some(false),
        interface: Some(NetworkInterface { index: 4, name: "lxc4".into() }),
        trace_context: Some(TraceContext { parent: Some(TraceParent { trace_id: "t1".into() }) }),
        ip_trace_id: Some(IpTraceId { trace_id: 77, ip_option_type: 1 }),
        ..Flow::default()
    }
}

fn l7_flow(record: Record) -> Flow {
    let l7 = Layer7 { record: Some(record), ..Layer7::default() };
    let event_type = Some(CiliumEventType { r#type: 129, sub_type: 0 });
    Flow { l7: Some(l7), event_type, ..packet() }
}

fn request() -> Flow {
    let header = HttpHeader { key: "X-Id".into(), value: "7".into() };
    let (method, url) = ("GET".into(), "http://db:80/items/7?q=a".into());
    l7_flow(Record::Http(Http { method, url, headers: vec![header], ..Http::default() }))
}

fn response() -> Flow {
    l7_flow(Record::Http(Http { code: 404, ..Http::default() }))
}

fn query() -> Flow {
    l7_flow(Record::Dns(Dns { query: "db.example.com.".into(), ..Dns::default() }))
}

fn matches(filter: FlowFilter, flow: &Flow) -> bool {
    Filters::new(&[filter], &[]).map_err(|error| panic!("{error}")).unwrap().match_flow(flow)
}

/// For each row: the flow, a field, values that match and values that don't.
macro_rules! table {
    ($($flow:ident $field:ident: $yes:expr; $no:expr;)+) => {$(
        for (values, expected) in [(Vec::from($yes), true), (Vec::from($no), false)] {
            for value in values {
                let shown = format!("{} {value:?}", stringify!($field));
                let filter = FlowFilter { $field: vec![value.into()], ..FlowFilter::default() };
                assert_eq!(matches(filter, &$flow()), expected, "{shown}");
            }
        }
    )+};
}

#[test]
fn fields_about_ends() {
    table! {
        packet source_ip: ["10.0.1.7", "10.0.0.0/16", "0.0.0.0/0"]; ["10.0.1.8", "10.1.0.0/16", "::/0"];
        packet destination_ip: ["fd00::9", "fd00::/64"]; ["10.0.1.7", "fd01::/64"];
        packet source_ip_xlated: ["192.0.2.9", "192.0.2.0/24"]; ["10.0.1.7"];
        packet source_pod: ["shop/cart", "shop/cart-0", "shop/", "/cart"]; ["cart", "crew/cart", "shop/art", "/db"];
        packet destination_pod: ["crew/db"]; ["shop/db", "db"];
        packet source_fqdn: ["cart.shop.example", "*.example", "CART.*", "cart.shop.example."]; ["shop.example", "*.com"];
        packet destination_fqdn: ["other.example", "*b.example"]; ["b.example"];
        packet source_service: ["shop/cart", "shop/"]; ["carts", "crew/cart"];
        packet destination_service: ["crew/dbs"]; ["shop/dbs"];
        packet source_cluster_name: ["default"]; ["other"];
        packet destination_cluster_name: ["default"]; ["def"];
        packet source_port: ["40000"]; ["80"];
        packet destination_port: ["80"]; ["40000", "8"];
        packet source_identity: [1001_u32]; [1002_u32];
        packet destination_identity: [1002_u32]; [1001_u32];
    }
    let workload =
        |name: &str, kind: &str| Workload { name: name.to_owned(), kind: kind.to_owned() };
    table! {
        packet source_workload: [workload("ca", "Deployment"), workload("ca", ""), workload("", "Deployment")]; [workload("ca", "Job"), workload("db", "")];
        packet destination_workload: [workload("db", "")]; [workload("ca", "")];
    }
    // An end without fields has no name.
    let world = Flow { source: Some(Endpoint::default()), ..packet() };
    let any = FlowFilter { source_pod: strings(&["/x"]), ..FlowFilter::default() };
    assert!(!matches(any, &world));
}

#[test]
fn fields_about_labels() {
    table! {
        packet source_label: [
            "app=cart", "app==cart", "k8s:app=cart", "any:app=cart", "k8s.app=cart", "app", "!nothing",
            "app!=db", "app in (db, cart)", "app notin (db,x)", "app=cart,tier=one", "reserved:x", "x",
            "k8s:app in (cart), !k8s:x", "tier notin (two)", "",
        ]; [
            "app=db", "k8s:app=db", "reserved:app=cart", "!app", "app!=cart", "app in (db)",
            "app notin (cart)", "app=cart,tier=two", "nothing", "k8s:x",
        ];
        packet destination_label: ["app=db"]; ["app=cart"];
        packet node_labels: ["zone=a", "zone in (a,b)"]; ["zone=b"];
    }
}

#[test]
fn fields_about_what_happened() {
    let kind =
        |r#type, match_sub_type, sub_type| EventTypeFilter { r#type, match_sub_type, sub_type };
    let link = |index, name: &str| NetworkInterface { index, name: name.to_owned() };
    table! {
        packet uuid: ["u-1"]; ["u"];
        packet verdict: [2]; [1];
        packet drop_reason_desc: [133]; [181];
        packet traffic_direction: [1]; [2, 0];
        packet event_type: [kind(1, false, 0), kind(1, true, 133), kind(0, false, 0)]; [kind(5, false, 0), kind(1, true, 0)];
        packet reply: [false]; [true];
        packet node_name: ["node-1", "node*", "*", "default/", "default/node-1", "/", "de*/n*1"]; ["node", "other/", "x/node-1"];
        packet interface: [link(4, ""), link(0, "lxc4"), link(4, "lxc4")]; [link(5, ""), link(4, "lxc5")];
        packet trace_id: ["t1"]; ["t"];
        packet ip_trace_id: [77_u64]; [7_u64];
        packet encrypted: [true]; [false];
        packet ip_version: [1]; [2];
    }
    // A flow whose direction is unknown matches neither value.
    let unknown = Flow { is_reply: None, ..packet() };
    for reply in [true, false] {
        let filter = FlowFilter { reply: vec![reply], ..FlowFilter::default() };
        assert!(!matches(filter, &unknown));
    }
    let named = Flow { node_name: "prod/node-1".into(), ..packet() };
    let filter = |name: &str| FlowFilter { node_name: strings(&[name]), ..FlowFilter::default() };
    assert!(matches(filter("prod/"), &named) && matches(filter("node-1"), &named));
    assert!(!matches(filter("default/"), &named));
}

#[test]
fn fields_about_protocols() {
    let of = |protocol| Flow { l4: Some(Layer4 { protocol: Some(protocol) }), ..packet() };
    let icmp = || of(Protocol::IcmPv4(IcmPv4::default()));
    let udp = || of(Protocol::Udp(Udp { source_port: 53, destination_port: 54 }));
    let sctp = || of(Protocol::Sctp(Sctp { source_port: 1, destination_port: 2 }));
    let flags = |syn, fin| TcpFlags { syn, fin, ..TcpFlags::default() };
    table! {
        packet protocol: ["tcp", "TCP"]; ["udp", "icmp", "http", "sctp", "vrrp", "igmp"];
        icmp protocol: ["icmp", "ICMPv4"]; ["icmpv6", "tcp"];
        udp protocol: ["udp"]; ["tcp", "dns"];
        sctp protocol: ["sctp"]; ["udp"];
        udp source_port: ["53"]; ["54"];
        sctp destination_port: ["2"]; ["1"];
        icmp destination_port: [""; 0]; ["0"];
        request protocol: ["http", "tcp"]; ["kafka", "dns"];
        query protocol: ["dns"]; ["http"];
        packet tcp_flags: [flags(true, false), flags(false, false)]; [flags(true, true), flags(false, true)];
        udp tcp_flags: Vec::<TcpFlags>::new(); [flags(false, false)];
    }
}

#[test]
fn fields_about_requests() {
    let header = |key: &str, value: &str| HttpHeader { key: key.into(), value: value.into() };
    table! {
        response http_status_code: ["404", "4+", "40+"]; ["403", "5+", "41+"];
        request http_status_code: [""; 0]; ["404"];
        request http_method: ["GET", "get"]; ["POST", "GE"];
        request http_path: ["^/items/[0-9]+$", "items"]; ["^/$", "q=a"];
        request http_url: ["db:80/items/7\\?q=a$", "^http://"]; ["^/items"];
        request http_header: [header("X-Id", "7")]; [header("X-Id", "8"), header("X", "7")];
        response http_path: [""; 0]; [".*"];
        query dns_query: ["db", "^db\\.example\\.com\\.$"]; ["^example"];
        request dns_query: [""; 0]; [".*"];
    }
}

#[test]
fn fields_of_a_filter_are_all_needed_and_lists_add_up() {
    let of = |pod: &str, port: &str| FlowFilter {
        source_pod: strings(&[pod, "/nobody"]),
        destination_port: strings(&[port]),
        ..FlowFilter::default()
    };
    let (yes, no, all) = (of("shop/", "80"), of("shop/", "81"), FlowFilter::default());
    let seen = |allow: &[&FlowFilter], deny: &[&FlowFilter]| {
        let own =
            |filters: &[&FlowFilter]| filters.iter().map(|f| (*f).clone()).collect::<Vec<_>>();
        Filters::new(&own(allow), &own(deny))
            .map_err(|error| panic!("{error}"))
            .unwrap()
            .match_flow(&packet())
    };
    assert!(
        seen(&[], &[]) && seen(&[&yes], &[]) && seen(&[&no, &yes], &[&no]) && seen(&[&all], &[])
    );
    assert!(!seen(&[&no], &[]) && !seen(&[], &[&yes]) && !seen(&[&yes], &[&no, &yes]));
    assert!(!seen(&[&all], &[&all]));
}

#[test]
fn wrong_values_are_rejected_by_field_and_value() {
    macro_rules! wrong {
        ($($field:ident: $($value:expr),+;)+) => {$($(
            let filter = FlowFilter { $field: vec![$value.into()], ..FlowFilter::default() };
            let error = Filters::new(&[], &[filter]).err().expect($value);
            let begin = format!("{} {:?}: ", stringify!($field), $value);
            assert!(error.starts_with(&begin), "{error}");
        )+)+};
    }
    wrong! {
        source_ip: "nowhere", "10.0.0.0/33", "";
        source_pod: "";
        destination_service: "";
        source_fqdn: "", "a|b", "a..", "a b";
        destination_label: "a=b=c", "a in (b", "a in b)", "a,,b", "=x", "a b", "a like (b)", "!";
        source_port: "http", "65536", "-1", "";
        node_name: "", "a/b/c", "a|b";
        protocol: "quic", "";
        http_status_code: "4", "+", "600", "4x+", "40", "099", "4+4";
        http_path: "(", "(?<a";
        http_url: "[";
        dns_query: "\\8";
    }
    let packets = vec![EventTypeFilter { r#type: 1, ..EventTypeFilter::default() }];
    let filter =
        FlowFilter { event_type: packets, http_method: strings(&["GET"]), ..FlowFilter::default() };
    let error = Filters::new(&[filter], &[]).err().unwrap();
    assert!(error.starts_with("http_method: event_type must contain L7"), "{error}");
    let cel = crate::proto::flow::flow_filter::Experimental { cel_expression: strings(&["true"]) };
    let filter = FlowFilter { experimental: Some(cel), ..FlowFilter::default() };
    assert!(Filters::new(&[filter], &[]).err().unwrap().starts_with("cel_expression"));
}

#[test]
fn what_a_request_costs_is_bounded() {
    assert!(Filters::new(&vec![FlowFilter::default(); FILTERS_MAX + 1], &[]).is_err());
    let long = FlowFilter { uuid: vec!["x".repeat(100_000)], ..FlowFilter::default() };
    assert!(Filters::new(&[long], &[]).is_err());
    let many = FlowFilter { http_url: vec!["x".into(); 100], ..FlowFilter::default() };
    assert!(Filters::new(&[many], &[]).is_err());
    let large = FlowFilter { http_path: strings(&["(a{1000}){1000}"]), ..FlowFilter::default() };
    assert!(Filters::new(&[large], &[]).is_err());
}

/// The error of so many equal filters, half of them in the denylist.
fn error_of(filter: &FlowFilter, count: usize) -> Option<String> {
    let (allow, deny) = (vec![filter.clone(); count / 2], vec![filter.clone(); count - count / 2]);
    Filters::new(&allow, &deny).err()
}

/// For each field: a value, how many a request may have in all of its filters, and the error of one
/// more.
macro_rules! limits {
    ($($field:ident: $value:expr, $max:literal, $what:literal;)+) => {$(
        for in_each in [1, 4] {
            let filter = FlowFilter { $field: vec![$value.into(); $max / 4], ..FlowFilter::default() };
            let last = FlowFilter { $field: vec![$value.into(); in_each], ..FlowFilter::default() };
            let allow = [filter.clone(), filter.clone()];
            let error = Filters::new(&allow, &[filter.clone(), filter.clone()]).err();
            assert_eq!(error, None, "{}", stringify!($field));
            let error = Filters::new(&allow, &[filter.clone(), filter, last]).err().unwrap();
            let field = stringify!($field);
            let expected = format!("{field}: the filters of a request have at most {} {} in all", $max, $what);
            assert_eq!(error, expected);
        }
    )+};
}

#[test]
fn all_filters_of_a_request_share_its_limits() {
    limits! {
        source_fqdn: "*", 256, "patterns of names";
        destination_fqdn: "a*.b", 256, "patterns of names";
        node_name: "q", 256, "patterns of names";
        http_path: "/a+", 16, "regular expressions";
        http_url: "/a+", 16, "regular expressions";
        dns_query: "^a", 16, "regular expressions";
        uuid: "", 2048, "values";
        source_pod: "/", 2048, "values";
        source_label: "a", 2048, "values";
        node_labels: "!a", 2048, "values";
        source_ip: "::", 2048, "values";
        source_workload: Workload::default(), 2048, "values";
        http_method: "GET", 2048, "values";
        destination_port: "80", 2048, "values";
        tcp_flags: TcpFlags::default(), 2048, "values";
        verdict: 1, 2048, "values";
    }
}

#[test]
fn requests_of_many_patterns_are_rejected() {
    let names = FlowFilter { source_fqdn: vec!["*".into(); 21_000], ..FlowFilter::default() };
    let error = error_of(&names, 1).unwrap();
    assert!(error.starts_with("source_fqdn: ") && error.contains(" 256 "), "{error}");
    assert!(error_of(&names, 4).is_some());
    let paths = FlowFilter { http_path: vec![r"\w{4}".into(); 16], ..FlowFilter::default() };
    let error = error_of(&paths, 256).unwrap();
    assert!(error.starts_with("http_path"), "{error}");
    let selector = FlowFilter { source_label: vec!["a,".repeat(9000)], ..FlowFilter::default() };
    let error = error_of(&selector, 1).unwrap();
    assert!(error.starts_with("source_label: ") && error.contains(" 2048 "), "{error}");
    let text = FlowFilter { http_url: vec![r"\w".repeat(1025)], ..FlowFilter::default() };
    let error = error_of(&text, 1).unwrap();
    assert!(error.starts_with("http_url: ") && error.contains(" bytes in regular"), "{error}");
    // Each is compiled with what the others have left.
    let half = FlowFilter { dns_query: strings(&[r"(?:a?){3000}"]), ..FlowFilter::default() };
    assert_eq!(error_of(&half, 1), None);
    let error = error_of(&half, 16).unwrap();
    assert!(error.starts_with("dns_query \"") && error.ends_with("most 524288 bytes"), "{error}");
}

#[test]
fn usual_patterns_have_room() {
    let filter = FlowFilter {
        source_fqdn: strings(&["*.cluster.local", "api.example.com"]),
        node_name: strings(&["node-*", "prod/"]),
        http_path: strings(&[r"^/api/v\d+/[^/]+/items$", r"(?i)/health[a-z]*", r"/\w+/\w+\.html"]),
        http_url: strings(&["https?://.*[.]example[.]com/"]),
        dns_query: strings(&[r".*\.svc\.cluster\.local\.?$"]),
        ..FlowFilter::default()
    };
    assert_eq!(error_of(&filter, 2), None);
}
