//! Explanations: the tables' own verdict, and misses that fail on just what they name.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use podgate_policy::explain::{
    Criterion, DirectionExplanation, Effect, EndName, Explanation, HttpSpec, Local, Miss, Outcome,
    Query, QueryError, RequestSpec, TableRow, Transport, explain, selectors, table_rows,
};
use podgate_policy::observe::{DecidedBy, RuleName};
use podgate_policy::{Compiled, EnforcementMode, PeerName, Store, compile};
use podgate_tables::ids::SelectorId;
use podgate_tables::l7::http1::{no_fields, read_head};
use podgate_tables::l7::{L7Policy, L7Request};
use podgate_tables::policy::{Cause, Decision, LocalEnds, PeerMatch, Subject, Verdict};
use podgate_tables::proto;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use crate::generate::{HOSTS, cluster, flow, policies};

fn store_of(objects: &[Value]) -> Store {
    let mut store = Store::new();
    store.set_host_addresses(HOSTS.map(|host| host.parse().unwrap()));
    for object in objects {
        store.apply(object, None).unwrap_or_else(|r| panic!("{object}: {r:?}"));
    }
    store
}

#[test]
fn the_destination_has_its_dns_names_unless_it_is_a_pod_or_a_node() {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "x", "name": "a"},
                     "status": {"podIPs": [{"ip": "10.0.0.1"}]}});
    let mut store = store_of(&[pod]);
    let addresses = ["203.0.113.1", "10.0.0.1", HOSTS[0]].map(|text| text.parse().unwrap());
    store.learn("b.example", addresses);
    store.learn("A.example.", addresses[..1].to_vec());
    let names = |to: &str| {
        let query = Query {
            from: "10.0.0.1".parse().unwrap(),
            to: to.parse().unwrap(),
            port: Some("80/TCP".parse().unwrap()),
            request: None,
            misses_max: 0,
        };
        explain(&store, &compile(&store), &query, Local::Both).unwrap().dns_names
    };
    assert_eq!(names("203.0.113.1"), ["a.example", "b.example"]);
    assert_eq!(names("203.0.113.2"), [""; 0]);
    assert_eq!((names("10.0.0.1"), names(HOSTS[0])), (vec![], vec![]));
}

fn http() -> impl Strategy<Value = HttpSpec> {
    let method = select(&["GET", "POST", "PUT", "get"]);
    let target = select(&["/", "/a", "/a/b?c", "/b", "/a/../b", "/c"]);
    let headers = subsequence(&["x-a: 1", "X-B: one"], 0..=2);
    (method, target, select(&["host", "hos"]), headers).prop_map(
        |(method, target, host, headers)| HttpSpec {
            method: method.to_owned(),
            target: target.to_owned(),
            host: Some(host.to_owned()),
            headers: headers.iter().map(|header| (*header).to_owned()).collect(),
        },
    )
}

fn query(subject: &Subject, request: Option<HttpSpec>) -> Query {
    let tuple = &subject.tuple;
    let number = match tuple.protocol {
        proto::TCP | proto::UDP | proto::SCTP => Some(tuple.dst_port),
        proto::ICMP | proto::ICMPV6 => Some(subject.icmp_type.into()),
        _ => None,
    };
    Query {
        from: EndName::Address(tuple.src.ip()),
        to: EndName::Address(tuple.dst.ip()),
        port: Some(Transport { protocol: tuple.protocol, number }),
        request: request.map(RequestSpec::Http),
        misses_max: usize::MAX,
    }
}

/// The flow of the query, as tables match it: protocols without ports have zeros.
fn subject_of(query: &Query, mut subject: Subject) -> Subject {
    let port = query.port.unwrap();
    if port.number.is_none() || matches!(port.protocol, proto::ICMP | proto::ICMPV6) {
        subject.tuple.dst_port = 0;
    }
    subject
}

/// Whether the rules let the request pass, asked without any of the explanation's code.
fn passes(policy: &L7Policy, http: &HttpSpec) -> bool {
    let fields: String = http.headers.iter().map(|header| format!("{header}\r\n")).collect();
    let host = http.host.as_ref().unwrap();
    let head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n", http.method, http.target);
    let mut fields = no_fields();
    let request = read_head(head.as_bytes(), &mut fields).unwrap();
    policy.decide(&L7Request::Http(request)).is_allow()
}

fn name(compiled: &Compiled, cause: Cause) -> String {
    match cause {
        Cause::Unenforced => "unenforced".to_owned(),
        Cause::Exempt(_) => "exempt".to_owned(),
        Cause::Allowed(rule) | Cause::Denied(rule) | Cause::Conflicting(rule) => {
            compiled.catalog.rule(rule).unwrap().to_string()
        }
        Cause::DefaultDeny(set) => {
            let names = compiled.catalog.deny_set(set).iter().map(ToString::to_string);
            names.collect::<Vec<_>>().join(", ")
        }
    }
}

fn name_of(by: &DecidedBy) -> String {
    match by {
        DecidedBy::Unenforced => "unenforced".to_owned(),
        DecidedBy::Node | DecidedBy::ToSelf | DecidedBy::NotLocal => "exempt".to_owned(),
        DecidedBy::Rule { rule, .. } | DecidedBy::Conflict { rule } => rule.in_full(),
        DecidedBy::DefaultDeny { policies } => {
            policies.iter().map(|policy| policy.in_full()).collect::<Vec<_>>().join(", ")
        }
    }
}

fn assert_is_decision(
    explanation: &Explanation,
    decision: &Decision,
    request: Option<&HttpSpec>,
    compiled: &Compiled,
) -> Result<(), TestCaseError> {
    for (direction, cause) in
        [(&explanation.egress, decision.egress), (&explanation.ingress, decision.ingress)]
    {
        prop_assert_eq!(direction.verdict.allowed, cause.allows());
        prop_assert_eq!(name_of(&direction.verdict.by), name(compiled, cause));
        assert_matching_agrees(direction)?;
    }
    let expected = match (decision.verdict, request) {
        _ if explanation.not_forwarded.is_some() => Outcome::Denied,
        (Verdict::Deny, _) => Outcome::Denied,
        (Verdict::Inspect, _) if explanation.no_inspector.is_some() => Outcome::Denied,
        (Verdict::Inspect, None) => Outcome::Inspected,
        (Verdict::Inspect, Some(request)) if !passes(&decision.l7, request) => Outcome::Denied,
        (Verdict::Allow | Verdict::Inspect, _) => Outcome::Allowed,
    };
    prop_assert_eq!(explanation.verdict, expected);
    Ok(())
}

/// Whether an address may belong to one host that is not the one that asks.
fn is_of_one_host(address: IpAddr) -> bool {
    let is_of_v4 = |v4: Ipv4Addr| v4.octets()[0] != 0 && !v4.is_broadcast();
    !address.is_multicast()
        && !address.is_loopback()
        && !address.is_unspecified()
        && matches!(address, IpAddr::V4(v4) if is_of_v4(v4)) | address.is_ipv6()
}

fn is_tiered(rule: &RuleName) -> bool {
    rule.policy.kind == "ClusterNetworkPolicy"
}

/// Among rules without tiers, the rules that are said to match decide as the tables did.
fn assert_matching_agrees(direction: &DirectionExplanation) -> Result<(), TestCaseError> {
    let request_denied = direction.request_allowed == Some(false);
    let matching = || direction.matching.iter().filter(|matching| !is_tiered(&matching.rule));
    let denies = || matching().any(|matching| matching.effect == Effect::Denies);
    match &direction.verdict.by {
        DecidedBy::Rule { rule, .. } | DecidedBy::Conflict { rule } => {
            let matches = direction.matching.iter().any(|matching| matching.rule == *rule);
            // The rule that opens a flow need not be the one that lets the request pass.
            let l7 = direction.request_allowed.is_some();
            prop_assert!(matches || l7, "{:?}", direction);
            if !is_tiered(rule) {
                let conflict = matches!(direction.verdict.by, DecidedBy::Conflict { .. });
                let denies_flow = denies() || conflict;
                prop_assert_eq!(denies_flow, !direction.verdict.allowed, "{:?}", direction);
                // A rule without L7 rules does not allow requests of another protocol than that of
                // other rules.
                let by_l7 = || matching().any(|matching| matching.l7);
                prop_assert!(!request_denied || !by_l7(), "{:?}", direction);
            }
        }
        DecidedBy::DefaultDeny { .. } | DecidedBy::Unenforced => {
            prop_assert!(matching().next().is_none(), "{:?}", direction);
        }
        DecidedBy::Node | DecidedBy::ToSelf | DecidedBy::NotLocal => {
            prop_assert!(direction.matching.is_empty() && direction.misses.is_empty());
        }
    }
    Ok(())
}

/// One rule as the only one of a policy, reduced to some of its criteria.
struct Reduced<'a> {
    cluster: &'a [Value],
    policy: Value,
    section: &'static str,
    rule: Value,
}

impl<'a> Reduced<'a> {
    /// The rule that a path such as `specs[1].ingressDeny[0]` leads to, as one that allows.
    fn new(cluster: &'a [Value], policies: &[Value], name: &RuleName) -> Self {
        let is = |policy: &&Value| policy["metadata"]["name"] == name.policy.name.as_str();
        let policy = policies.iter().find(is).unwrap();
        let pointer = format!("/{}", name.path.replace(['.', '['], "/").replace(']', ""));
        let rule = policy.pointer(&pointer).unwrap().clone();
        let spec = policy.pointer(
            &pointer[..pointer[1..].find("/in").or(pointer[1..].find("/eg")).unwrap() + 1],
        );
        let spec = spec.unwrap();
        let section = if name.path.contains("ingress") { "ingress" } else { "egress" };
        let mut bare = json!({});
        for field in ["podSelector", "endpointSelector", "enableDefaultDeny"] {
            if let Some(value) = spec.get(field) {
                bare[field] = value.clone();
            }
        }
        if bare.get("podSelector").is_some() {
            bare["policyTypes"] = json!([if section == "ingress" { "Ingress" } else { "Egress" }]);
        }
        let mut policy = policy.clone();
        policy.as_object_mut().unwrap().remove("specs");
        policy["spec"] = bare;
        Self { cluster, policy, section, rule }
    }

    /// The rule with only those of its fields for which `keep` holds; `None` if nothing is left.
    fn with(&self, keep: impl Fn(&str) -> bool) -> Option<Compiled> {
        let mut rule = self.rule.clone();
        rule.as_object_mut().unwrap().retain(|field, value| keep(field) && !value.is_null());
        if rule.as_object().unwrap().is_empty() {
            return None;
        }
        let mut policy = self.policy.clone();
        policy["spec"][self.section] = json!([rule]);
        let mut store = store_of(self.cluster);
        store.apply(&policy, None).unwrap_or_else(|rejections| panic!("{policy}: {rejections:?}"));
        Some(compile(&store))
    }

    fn lists_no_ports(&self) -> bool {
        let mut fields = self.rule.as_object().unwrap().iter();
        fields.all(|(field, value)| {
            !is_about_ports(field) || value.as_array().is_none_or(Vec::is_empty)
        })
    }

    fn decide(&self, compiled: &Compiled, subject: &Subject) -> (Cause, L7Policy) {
        let decision = compiled.tables.decide(subject, LocalEnds::BOTH);
        let cause = if self.section == "ingress" { decision.ingress } else { decision.egress };
        let mut l7 = decision.l7;
        let other = if self.section == "ingress" { &mut l7.egress } else { &mut l7.ingress };
        other.clear();
        (cause, l7)
    }
}

fn is_about_ports(field: &str) -> bool {
    ["ports", "toPorts", "icmps"].contains(&field)
}

/// The rule reduced to one criterion matches the flow if and only if the miss doesn't name it.
fn assert_fails_on_just_that(
    miss: &Miss,
    reduced: &Reduced<'_>,
    subject: &Subject,
    request: Option<&HttpSpec>,
) -> Result<(), TestCaseError> {
    let named: BTreeSet<Criterion> = miss.failed.iter().map(|failure| failure.criterion).collect();
    prop_assert_eq!(named.len(), miss.failed.len(), "each criterion is named once");
    prop_assert!(!named.is_empty() && miss.failed.iter().all(|f| !f.reasons.is_empty()));
    if let Some(peers) = reduced.with(|field| !is_about_ports(field)) {
        let (cause, _) = reduced.decide(&peers, subject);
        let matches = matches!(cause, Cause::Allowed(_));
        prop_assert_eq!(
            matches,
            !named.contains(&Criterion::Peer),
            "{:?} {:?}",
            miss,
            reduced.rule
        );
    } else {
        // A Cilium rule with neither peers nor ports matches no peer.
        prop_assert_eq!(named.contains(&Criterion::Peer), reduced.lists_no_ports());
    }
    let port = named.contains(&Criterion::Port) || named.contains(&Criterion::Protocol);
    let Some(ports) = reduced.with(is_about_ports) else {
        prop_assert!(!port);
        return Ok(());
    };
    let (cause, l7) = reduced.decide(&ports, subject);
    if !reduced.lists_no_ports() {
        let matches = matches!(cause, Cause::Allowed(_));
        prop_assert_eq!(matches, !port, "{:?} {:?}", miss, reduced.rule);
    }
    if let Some(request) = request.filter(|_| !port) {
        let request_fails = named.contains(&Criterion::Request);
        prop_assert_eq!(passes(&l7, request), !request_fails, "{:?} {:?}", miss, reduced.rule);
    }
    Ok(())
}

fn mode() -> impl Strategy<Value = EnforcementMode> {
    let modes = [EnforcementMode::Default, EnforcementMode::Always, EnforcementMode::Never];
    prop_oneof![8 => Just(modes[0]), 1 => Just(modes[1]), 1 => Just(modes[2])]
}

proptest! {
    #[test]
    fn the_verdict_is_that_of_the_tables_and_what_matches_agrees_with_it(
        cluster in cluster(),
        policies in policies(5),
        flows in vec((flow(), option::of(http())), 20),
        mode in mode(),
    ) {
        let mut store = store_of(&[cluster, policies].concat());
        store.set_mode(mode);
        let compiled = compile(&store);
        for ((subject, local), request) in flows {
            let query = query(&subject, request.clone());
            let subject = subject_of(&query, subject);
            let ends = [subject.tuple.src.ip(), subject.tuple.dst.ip()];
            let locals = ends.iter().zip([local.source, local.destination]).filter(|(_, local)| *local).map(|(ip, _)| *ip);
            let locals: BTreeSet<IpAddr> = locals.collect();
            let [source, destination] = ends.map(|end| locals.contains(&end));
            let local = LocalEnds { source, destination };
            let explanation = explain(&store, &compiled, &query, Local::Endpoints(&locals));
            let explanation = match explanation {
                Err(QueryError::NoCommonFamily) => {
                    let is_icmp = [proto::ICMP, proto::ICMPV6].contains(&subject.tuple.protocol);
                    prop_assert!(is_icmp);
                    continue;
                }
                explanation => explanation.unwrap(),
            };
            let decision = compiled.tables.decide(&subject, local);
            let is_forwarded = ends.iter().all(|end| is_of_one_host(*end));
            prop_assert_eq!(explanation.not_forwarded.is_none(), is_forwarded);
            assert_is_decision(&explanation, &decision, request.as_ref(), &compiled)?;
            let json = serde_json::to_string(&explanation).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Explanation>(&json).unwrap(), &explanation);
        }
    }

    #[test]
    fn a_miss_fails_on_just_the_criteria_that_it_names(
        cluster in cluster(),
        policies in policies(3),
        flows in vec((flow(), option::of(http())), 4),
    ) {
        let store = store_of(&[cluster.clone(), policies.clone()].concat());
        let compiled = compile(&store);
        for ((subject, _), request) in flows {
            let query = query(&subject, request.clone());
            let subject = subject_of(&query, subject);
            let Ok(explanation) = explain(&store, &compiled, &query, Local::Both) else { continue };
            let misses = explanation.egress.misses.iter().chain(&explanation.ingress.misses);
            for miss in misses.filter(|miss| !is_tiered(&miss.rule)) {
                let reduced = Reduced::new(&cluster, &policies, &miss.rule);
                assert_fails_on_just_that(miss, &reduced, &subject, request.as_ref())?;
            }
        }
    }

    #[test]
    fn a_fix_opens_the_direction(
        cluster in cluster(),
        policies in policies(3),
        flows in vec(flow(), 10),
    ) {
        let store = store_of(&[cluster.clone(), policies.clone()].concat());
        let compiled = compile(&store);
        for (subject, _) in flows {
            let query = query(&subject, None);
            let subject = subject_of(&query, subject);
            let Ok(explanation) = explain(&store, &compiled, &query, Local::Both) else { continue };
            let misses = explanation.egress.misses.iter().chain(&explanation.ingress.misses);
            for miss in misses.filter(|miss| miss.fix.is_some()) {
                let fixed = with_port(&policies, &miss.rule, &query.port.unwrap());
                let compiled = compile(&store_of(&[cluster.clone(), fixed].concat()));
                let decision = compiled.tables.decide(&subject, LocalEnds::BOTH);
                let is_ingress = miss.rule.path.contains("ingress");
                let cause = if is_ingress { decision.ingress } else { decision.egress };
                prop_assert!(cause.allows(), "{:?} {:?}", miss, cause);
            }
        }
    }

    #[test]
    fn the_rows_of_a_table_decide_as_the_table_does(
        cluster in cluster(),
        policies in policies(4),
        flows in vec(flow(), 10),
    ) {
        let store = store_of(&[cluster, policies].concat());
        let compiled = compile(&store);
        for (subject, _) in flows {
            let query = query(&subject, None);
            let subject = subject_of(&query, subject);
            let Ok(explanation) = explain(&store, &compiled, &query, Local::Both) else { continue };
            let ends = [subject.tuple.src, subject.tuple.dst];
            for (end, explained) in ends.into_iter().zip([&explanation.egress, &explanation.ingress]) {
                let rows = table_rows(&compiled, end);
                let direction = if end == ends[0] { "egress" } else { "ingress" };
                let rows: Vec<_> = rows.iter().filter(|row| row.direction == direction).collect();
                let defaults = rows.iter().filter(|row| row.rule.is_none()).count();
                prop_assert_eq!(defaults, 1, "one default");
                for matching in &explained.matching {
                    let has = |row: &&&TableRow| row.rule.as_ref() == Some(&matching.rule);
                    let row = rows.iter().find(has);
                    prop_assert_eq!(row.map(|row| row.effect), Some(matching.effect));
                }
                if let DecidedBy::DefaultDeny { policies } = &explained.verdict.by {
                    let default = rows.iter().find(|row| row.rule.is_none()).unwrap();
                    prop_assert_eq!(&default.policies, policies);
                    prop_assert_eq!(default.effect, Effect::Denies);
                }
            }
        }
    }

    #[test]
    fn a_selector_is_said_to_match_the_pods_that_the_lookup_matches(
        cluster in cluster(),
        policies in policies(4),
    ) {
        let store = store_of(&[cluster, policies].concat());
        let compiled = compile(&store);
        for info in selectors(&store, &compiled) {
            prop_assert!(info.rules > 0);
            let Some(pods) = info.pods else { continue };
            let is_named = |id: &u32| match compiled.catalog.peer(PeerMatch::Labels(SelectorId(*id))) {
                Some(PeerName::Selector(selector)) => vec![selector.to_string()] == info.selector,
                _ => false,
            };
            let id = (0..1000).find(is_named).map(SelectorId).unwrap();
            let matching = store.pods().filter(|(_, pod)| {
                pod.addresses().first().is_some_and(|address| {
                    let resolved = compiled.tables.resolve((*address).into());
                    resolved.matches(PeerMatch::Labels(id)) || resolved.matches(PeerMatch::Namespaces(id))
                })
            });
            prop_assert_eq!(pods, matching.count(), "{:?}", info);
        }
    }

    #[test]
    fn a_transport_reads_back_as_itself(protocol in any::<u8>(), number in any::<u16>()) {
        let number = match protocol {
            proto::TCP | proto::UDP | proto::SCTP => Some(number),
            proto::ICMP | proto::ICMPV6 => Some(number % 256),
            _ => None,
        };
        let transport = Transport { protocol, number };
        prop_assert_eq!(transport.to_string().parse(), Ok(transport));
    }

    #[test]
    fn any_text_is_an_end_and_a_port_or_is_rejected(text in ".{0,40}") {
        let _ = (text.parse::<EndName>(), text.parse::<Transport>(), text.parse::<HttpSpec>());
        let _ = text.parse::<podgate_policy::explain::KafkaSpec>();
    }
}

/// The policies, with one more port in a rule.
fn with_port(policies: &[Value], name: &RuleName, port: &Transport) -> Vec<Value> {
    let mut policies = policies.to_vec();
    let is = |policy: &&mut Value| policy["metadata"]["name"] == name.policy.name.as_str();
    let policy = policies.iter_mut().find(is).unwrap();
    let pointer = format!("/{}/ports", name.path.replace(['.', '['], "/").replace(']', ""));
    let text = port.to_string();
    let (number, protocol) = text.split_once('/').unwrap();
    let number: u16 = number.parse().unwrap();
    let ports = policy.pointer_mut(&pointer).and_then(Value::as_array_mut).unwrap();
    ports.push(json!({"port": number, "protocol": protocol}));
    policies
}

/// Three pods and two policies, for questions with known answers.
fn shop() -> Store {
    let pod = |name: &str, app: &str, ip: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
               "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
               "spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}]},
               "status": {"podIPs": [{"ip": ip}]}})
    };
    let peers = json!([
        {"podSelector": {"matchLabels": {"app": "web"}}},
        {"ipBlock": {"cidr": "198.51.100.0/24", "except": ["198.51.100.128/25"]}},
    ]);
    let database = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "db"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}},
                 "ingress": [{"from": peers, "ports": [{"port": 5432}]},
                             {"from": [{"podSelector": {}}], "ports": [{"port": "web"}]}]}});
    let http =
        json!([{"method": "GET", "path": "/docs"}, {"path": "/v1/.*", "headers": ["X-Key: 1"]}]);
    let web = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"endpointSelector": {"matchLabels": {"app": "web"}},
                 "ingress": [{"fromCIDR": ["10.0.0.0/8"]},
                             {"fromEndpoints": [{}],
                              "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}],
                                           "rules": {"http": http}}]}]}});
    let objects = [
        pod("web-0", "web", "10.0.0.1"),
        pod("db-0", "db", "10.0.0.2"),
        pod("cron-0", "cron", "10.0.0.3"),
        database,
        web,
    ];
    store_of(&objects)
}

fn ask(from: &str, to: &str, port: &str, http: Option<&str>) -> Result<Explanation, QueryError> {
    let store = shop();
    let query = Query {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        port: Some(port.parse().unwrap()),
        request: http.map(|http| RequestSpec::Http(http.parse().unwrap())),
        misses_max: 5,
    };
    explain(&store, &compile(&store), &query, Local::Both)
}

/// The nearest misses of the ingress, one line for each reason.
fn misses(from: &str, to: &str, port: &str, http: Option<&str>) -> String {
    let explanation = ask(from, to, port, http).unwrap();
    let lines = explanation.ingress.misses.iter().flat_map(|miss| {
        let reasons = miss.failed.iter().flat_map(|f| f.reasons.iter().map(|r| (f.criterion, r)));
        reasons.map(|(criterion, reason)| format!("{} {criterion:?}: {reason}", miss.rule.path))
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn misses_say_what_is_wanted_and_what_is_there() {
    let cases = [
        ("cron-0", "db-0", "5432", None),
        ("web-0", "db-0", "5433", None),
        ("198.51.100.200", "db-0", "5432/UDP", None),
        ("cron-0", "web-0", "81", None),
        ("cron-0", "web-0", "80", Some("POST /docs")),
        ("cron-0", "web-0", "80", Some("/docs/../v1/x")),
    ];
    let text = cases.map(|(from, to, port, http)| {
        let request = http.unwrap_or_default();
        format!("{from} -> {to} {port} {request}\n{}\n", misses(from, to, port, http))
    });
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn a_request_of_another_protocol_than_the_rules_fails_even_beside_a_port_without_rules() {
    let policy = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
        "metadata": {"namespace": "shop", "name": "queue"},
        "spec": {"endpointSelector": {"matchLabels": {"app": "cron"}},
                 "ingress": [{"toPorts": [{"ports": [{"port": "0", "protocol": "TCP"}]},
                                          {"ports": [{"port": "81", "protocol": "TCP"}],
                                           "rules": {"kafka": [{"topic": "jobs"}]}}]}]}});
    let mut store = shop();
    store.apply(&policy, None).unwrap();
    let failures = |port: &str| {
        let query = Query {
            from: "web-0".parse().unwrap(),
            to: "cron-0".parse().unwrap(),
            port: Some(port.parse().unwrap()),
            request: Some(RequestSpec::Http("GET /".parse().unwrap())),
            misses_max: 5,
        };
        let explanation = explain(&store, &compile(&store), &query, Local::Both).unwrap();
        let failed = explanation.ingress.misses.into_iter().flat_map(|miss| miss.failed);
        let failed: Vec<_> = failed.map(|failure| (failure.criterion, failure.reasons)).collect();
        (explanation.ingress.request_allowed, failed)
    };
    let reasons = vec!["its L7 rules are for Kafka".to_owned()];
    assert_eq!(failures("81"), (Some(false), vec![(Criterion::Request, reasons)]));
    assert_eq!(failures("82"), (None, vec![]));
}

#[test]
fn a_query_about_nobody_is_answered_with_who_may_be_meant() {
    let fails = |from, port| ask(from, "db-0", port, None).unwrap_err().to_string();
    assert_eq!(fails("shop/crn-0", "80"), "there is no pod shop/crn-0; is shop/cron-0 meant?");
    assert_eq!(fails("something-else", "80"), "there is no pod something-else");
    for (from, port) in [("fd00::1", "80"), ("web-0", "icmpv6/128")] {
        assert!(fails(from, port).contains("no IP version in common"));
    }
}

#[test]
fn a_port_is_written_in_one_of_a_few_ways() {
    let read = |text: &str| text.parse::<Transport>().map(|transport| transport.to_string());
    for (text, same) in [
        ("80", "80/TCP"),
        ("80/tcp", "80/TCP"),
        ("tcp/80", "80/TCP"),
        ("53/UDP", "53/UDP"),
        ("icmp", "ICMPv4"),
        ("icmp/8", "ICMPv4/8"),
        ("icmpv6/128", "ICMPv6/128"),
        ("gre", "proto/47"),
        ("proto/47", "proto/47"),
    ] {
        assert_eq!(read(text).as_deref(), Ok(same), "{text}");
    }
    for text in
        ["", "tcp", "http", "80/http", "70000", "icmp/256", "proto/6", "proto/256", "/", "80/"]
    {
        assert!(read(text).is_err(), "{text:?}");
    }
}

fn shop_with_services() -> Store {
    let pod = |name: &str, ip: &str, app: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
               "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
               "status": {"podIPs": [{"ip": ip}]}})
    };
    let service = |name: &str, ips: &[&str], selector: &Value| {
        json!({"apiVersion": "v1", "kind": "Service",
               "metadata": {"namespace": "shop", "name": name},
               "spec": {"selector": selector, "clusterIP": ips[0], "clusterIPs": ips}})
    };
    store_of(&[
        pod("web-7d9f-a", "10.10.0.1", "web"),
        pod("web-7d9f-b", "10.10.0.2", "web"),
        pod("cli", "10.10.0.3", "cli"),
        service("web", &["10.96.0.10", "fd00:96::10"], &json!({"app": "web"})),
        service("headless", &["None"], &json!({"app": "web"})),
        service("outside", &["10.96.0.11"], &Value::Null),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
               "metadata": {"namespace": "shop", "name": "outside-x",
                            "labels": {"kubernetes.io/service-name": "outside"}},
               "endpoints": [{"addresses": ["192.0.2.7"]}]}),
    ])
}

fn asked(store: &Store, from: &str, to: &str) -> Result<Explanation, QueryError> {
    let query = Query {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        port: Some("80".parse().unwrap()),
        request: None,
        misses_max: 1,
    };
    explain(store, &compile(store), &query, Local::Both)
}

#[test]
fn a_cluster_ip_is_told_with_its_service_and_what_stands_behind_it() {
    let store = shop_with_services();
    let service = |to: &str| asked(&store, "192.0.2.1", to).unwrap().service;
    let web = service("10.96.0.10").unwrap();
    assert_eq!((web.namespace.as_str(), web.name.as_str()), ("shop", "web"));
    assert_eq!(web.backends, ["shop/web-7d9f-a", "shop/web-7d9f-b"]);
    assert_eq!(service("10.96.0.11").unwrap().backends, ["192.0.2.7"]);
    assert_eq!(service("10.96.0.12"), None);
    assert_eq!(service("10.10.0.1"), None);
    let v6 = asked(&store, "2001:db8::1", "fd00:96::10").unwrap().service.unwrap();
    assert_eq!(v6.name, "web");
}

#[test]
fn the_name_of_a_service_or_of_a_deployment_leads_to_what_can_be_asked_for() {
    let store = shop_with_services();
    let message = |to: &str| asked(&store, "shop/cli", to).unwrap_err().to_string();
    assert_eq!(
        message("shop/web"),
        "there is no pod shop/web, but a Service: ask for its cluster IP 10.96.0.10 or its cluster \
         IP fd00:96::10 or shop/web-7d9f-a behind it or shop/web-7d9f-b behind it"
    );
    assert_eq!(
        message("web-7d9f"),
        "there is no pod web-7d9f; is shop/web-7d9f-a or shop/web-7d9f-b meant?"
    );
    assert_eq!(message("shop/nobody"), "there is no pod shop/nobody");
}
