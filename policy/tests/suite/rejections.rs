//! What can't be enforced is rejected with object, field, reason and, where there is one, the fix.

use serde_json::{Value, json};

use podgate_policy::{Rejection, Store};

fn network_policy(spec: &str) -> Value {
    object("networking.k8s.io/v1", "NetworkPolicy", spec)
}

fn cilium(spec: &str) -> Value {
    object("cilium.io/v2", "CiliumNetworkPolicy", spec)
}

/// An object whose specification is given in YAML's flow style.
fn object(version: &str, kind: &str, spec: &str) -> Value {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": "shop", "name": "web"},
           "spec": spec})
}

fn rejections(object: &Value) -> Vec<Rejection> {
    let mut store = Store::new();
    let rejections = store.apply(object, None).expect_err("must be rejected");
    assert_eq!(store.policies().count(), 1, "a rejected policy is listed");
    rejections
}

#[track_caller]
fn assert_rejected(object: &Value, field: &str, reason: &str) {
    let rejections = rejections(object);
    let [rejection] = rejections.as_slice() else { panic!("one rejection, not {rejections:?}") };
    assert_eq!(rejection.field, field, "{rejection}");
    let text = rejection.to_string();
    assert!(text.contains(reason), "{text}");
}

#[test]
fn a_rejection_names_object_field_reason_and_fix() {
    let policy = cilium("{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: 80}]}]}]}");
    assert_eq!(
        rejections(&policy)[0].to_string(),
        "CiliumNetworkPolicy shop/web: spec.ingress[0].toPorts[0].ports[0].port: must be a string, \
         but is a number; write it with quotes: \"80\""
    );
}

#[test]
fn every_problem_of_an_object_is_told() {
    let policy = network_policy(
        "{podSelector: {matchLabel: {}}, ingress: [{form: []}, {ports: [{port: 0}]}]}",
    );
    let fields: Vec<String> =
        rejections(&policy).into_iter().map(|rejection| rejection.field).collect();
    assert_eq!(
        fields,
        ["spec.podSelector.matchLabel", "spec.ingress[0].form", "spec.ingress[1].ports[0].port",]
    );
}

#[test]
fn network_policies_are_checked_as_the_api_does() {
    let cases = [
        ("{podSelector: {}, policyTypes: [Both]}", "spec.policyTypes[0]", "Ingress or Egress"),
        ("{ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]", "podSelector"),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
            "spec.ingress[0].from[0].ipBlock",
            "alone",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}]}",
            "spec.ingress[0].from[0].ipBlock.cidr",
            "write 10.0.0.0/32",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "outside",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "leaves nothing",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [\"::/64\"]}}]}]}",
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "outside",
        ),
        (
            "{ingress: [{from: [{ipBlock: {except: []}}]}]}",
            "spec.ingress[0].from[0].ipBlock",
            "needs a cidr",
        ),
        (
            "{ingress: [{from: [{ipBlock: {cidr: \"::ffff:10.0.0.0/104\"}}]}]}",
            "spec.ingress[0].from[0].ipBlock.cidr",
            "write it as IPv4",
        ),
        ("{ingress: [{ports: [{port: 70000}]}]}", "spec.ingress[0].ports[0].port", "1 to 65535"),
        (
            "{ingress: [{ports: [{port: \"80\"}]}]}",
            "spec.ingress[0].ports[0].port",
            "without quotes",
        ),
        ("{ingress: [{ports: [{port: Web}]}]}", "spec.ingress[0].ports[0].port", "port name"),
        (
            "{ingress: [{ports: [{port: 80, endPort: 79}]}]}",
            "spec.ingress[0].ports[0].endPort",
            "less than the port",
        ),
        (
            "{ingress: [{ports: [{port: web, endPort: 80}]}]}",
            "spec.ingress[0].ports[0].endPort",
            "needs a port number",
        ),
        ("{ingress: [{ports: [{endPort: 80}]}]}", "spec.ingress[0].ports[0].endPort", "begin at"),
        ("{ingress: [{ports: [{protocol: ICMP}]}]}", "spec.ingress[0].ports[0].protocol", "TCP"),
        ("{egress: [{from: []}]}", "spec.egress[0].from", "unknown field"),
        (
            "{podSelector: {matchLabels: {\"a b\": c}}}",
            "spec.podSelector.matchLabels.a b",
            "label key",
        ),
        (
            "{podSelector: {matchLabels: {a: \"-\"}}}",
            "spec.podSelector.matchLabels.a",
            "label value",
        ),
        (
            "{podSelector: {matchLabels: {\"k8s:a\": b}}}",
            "spec.podSelector.matchLabels.k8s:a",
            "label key",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}}",
            "spec.podSelector.matchExpressions[0].operator",
            "DoesNotExist",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
            "spec.podSelector.matchExpressions[0]",
            "at least one value",
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
            "spec.podSelector.matchExpressions[0]",
            "takes no values",
        ),
        ("{podselector: {}}", "spec.podselector", "write podSelector"),
    ];
    for (spec, field, reason) in cases {
        assert_rejected(&network_policy(spec), field, reason);
    }
}

/// In a Cilium policy, `{…}` as the one element of `ingress`.
fn ingress(rule: &str) -> Value {
    cilium(&format!("{{endpointSelector: {{}}, ingress: [{rule}]}}"))
}

fn egress(rule: &str) -> Value {
    cilium(&format!("{{endpointSelector: {{}}, egress: [{rule}]}}"))
}

#[test]
fn fields_of_cilium_policies_that_are_not_enforced_are_rejected() {
    let port = "ports: [{port: \"80\", protocol: TCP}]";
    let to_ports = |more: &str| ingress(&format!("{{toPorts: [{{{port}, {more}}}]}}"));
    let cases = [
        (cilium("{nodeSelector: {}, endpointSelector: {}, ingress: [{}]}"), "spec.nodeSelector"),
        (ingress("{fromNodes: [{}]}"), "spec.ingress[0].fromNodes"),
        (ingress("{fromGroups: [{}]}"), "spec.ingress[0].fromGroups"),
        (ingress("{fromRequires: [{}]}"), "spec.ingress[0].fromRequires"),
        (ingress("{authentication: {mode: required}}"), "spec.ingress[0].authentication.mode"),
        (egress("{toNodes: [{}]}"), "spec.egress[0].toNodes"),
        (egress("{toGroups: [{}]}"), "spec.egress[0].toGroups"),
        (egress("{toRequires: [{}]}"), "spec.egress[0].toRequires"),
        (to_ports("terminatingTLS: {}"), "spec.ingress[0].toPorts[0].terminatingTLS"),
        (to_ports("originatingTLS: {}"), "spec.ingress[0].toPorts[0].originatingTLS"),
        (to_ports("listener: {}"), "spec.ingress[0].toPorts[0].listener"),
        (to_ports("rules: {l7proto: x}"), "spec.ingress[0].toPorts[0].rules.l7proto"),
        (to_ports("rules: {l7: [{}]}"), "spec.ingress[0].toPorts[0].rules.l7"),
        (
            to_ports("rules: {http: [{headerMatches: [{name: a, secret: {name: b}}]}]}"),
            "spec.ingress[0].toPorts[0].rules.http[0].headerMatches[0].secret",
        ),
    ];
    let rewriting = ["ADD", "DELETE", "REPLACE", "log"].map(|mismatch| {
        to_ports(&format!(
            "rules: {{http: [{{headerMatches: [{{name: a, value: b, mismatch: {mismatch}}}]}}]}}"
        ))
    });
    for object in rewriting {
        let field = "spec.ingress[0].toPorts[0].rules.http[0].headerMatches[0].mismatch";
        assert_rejected(&object, field, "");
    }
    for (object, field) in cases {
        assert_rejected(&object, field, "");
    }
}

#[test]
fn combinations_that_cilium_rejects_are_rejected() {
    let http = "rules: {http: [{path: /}]}";
    let cases = [
        (cilium("{ingress: [{}]}"), "spec", "endpointSelector"),
        (cilium("{endpointSelector: {}}"), "spec", "one of ingress"),
        (
            ingress("{fromEndpoints: [{}], fromEntities: [all]}"),
            "spec.ingress[0].fromEntities",
            "write two rules",
        ),
        (
            ingress("{fromCIDR: [10.0.0.0/8], fromCIDRSet: [{cidr: 10.0.0.0/8}]}"),
            "spec.ingress[0].fromCIDRSet",
            "fromCIDR",
        ),
        (
            ingress("{fromCIDRSet: [{cidr: 10.0.0.1}]}"),
            "spec.ingress[0].fromCIDRSet[0].cidr",
            "10.0.0.1/32",
        ),
        (ingress("{fromEntities: [moon]}"), "spec.ingress[0].fromEntities[0]", "not an entity"),
        (
            ingress("{fromCIDRSet: [{except: []}]}"),
            "spec.ingress[0].fromCIDRSet[0]",
            "needs a cidr",
        ),
        (
            ingress("{fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: x}]}"),
            "spec.ingress[0].fromCIDRSet[0].cidrGroupRef",
            "write two elements",
        ),
        (
            ingress("{fromCIDRSet: [{cidrGroupRef: x, cidrGroupSelector: {}}]}"),
            "spec.ingress[0].fromCIDRSet[0].cidrGroupSelector",
            "write two elements",
        ),
        (
            ingress("{fromCIDRSet: [{cidrGroupRef: \"\"}]}"),
            "spec.ingress[0].fromCIDRSet[0].cidrGroupRef",
            "name of a CiliumCIDRGroup",
        ),
        (
            ingress("{fromCIDRSet: [{cidrGroupSelector: {matchLabels: {\"cidrgroup:a\": b}}}]}"),
            "spec.ingress[0].fromCIDRSet[0].cidrGroupSelector.matchLabels.cidrgroup:a",
            "label key",
        ),
        (egress("{toServices: [{}]}"), "spec.egress[0].toServices[0]", "k8sServiceSelector"),
        (
            egress("{toServices: [{k8sService: {serviceName: a}, k8sServiceSelector: {}}]}"),
            "spec.egress[0].toServices[0].k8sServiceSelector",
            "write two",
        ),
        (
            egress("{toServices: [{k8sService: {namespace: a}}]}"),
            "spec.egress[0].toServices[0].k8sService",
            "no serviceName",
        ),
        (
            egress("{toServices: [{k8sServiceSelector: {namespace: a}}]}"),
            "spec.egress[0].toServices[0].k8sServiceSelector",
            "no selector",
        ),
        (
            egress("{toServices: [{k8sService: {serviceName: a.b}}]}"),
            "spec.egress[0].toServices[0].k8sService.serviceName",
            "name of a service",
        ),
        (egress("{toFQDNs: [{}]}"), "spec.egress[0].toFQDNs[0]", "matchPattern"),
        (
            egress("{toFQDNs: [{matchName: a.io, matchPattern: \"*\"}]}"),
            "spec.egress[0].toFQDNs[0].matchPattern",
            "write two elements",
        ),
        (
            egress("{toFQDNs: [{matchName: \"*.a.io\"}]}"),
            "spec.egress[0].toFQDNs[0].matchName",
            "'*' is not allowed",
        ),
        (
            egress("{toFQDNs: [{matchPattern: a..io}]}"),
            "spec.egress[0].toFQDNs[0].matchPattern",
            "empty label",
        ),
        (
            egress("{toFQDNs: [{matchName: a.io}], toEntities: [world]}"),
            "spec.egress[0].toFQDNs",
            "write two rules",
        ),
        (
            cilium("{endpointSelector: {}, egressDeny: [{toFQDNs: [{matchName: a.io}]}]}"),
            "spec.egressDeny[0].toFQDNs",
            "no DNS names",
        ),
        (ingress("{toEndpoints: [{}]}"), "spec.ingress[0].toEndpoints", "unknown field"),
        (
            ingress("{fromEndpoints: [{matchLabels: {\":a\": b}}]}"),
            "spec.ingress[0].fromEndpoints[0].matchLabels.:a",
            "empty label source",
        ),
        (
            ingress("{fromEndpoints: [{matchLabels: {\"cidr:a\": b}}]}"),
            "spec.ingress[0].fromEndpoints[0].matchLabels.cidr:a",
            "write fromCIDRSet",
        ),
        (
            ingress("{fromEndpoints: [{matchLabels: {$kube-apiserver: \"\"}}]}"),
            "spec.ingress[0].fromEndpoints[0].matchLabels.$kube-apiserver",
            "fromEntities",
        ),
        (
            cilium("{endpointSelector: {}, ingress: [{}], log: {value: \"a\\tb\"}}"),
            "spec.log.value",
            "printed",
        ),
        (
            cilium("{endpointSelector: {}, ingress: [{}], labels: [{name: a}]}"),
            "spec.labels[0].name",
            "unknown field",
        ),
        (
            ingress(&format!("{{toPorts: [{{ports: [{{port: \"80\"}}], {http}}}]}}")),
            "spec.ingress[0].toPorts[0].rules",
            "with protocol: TCP",
        ),
        (
            ingress(&format!(
                "{{toPorts: [{{ports: [{{port: \"80\", protocol: UDP}}], {http}}}]}}"
            )),
            "spec.ingress[0].toPorts[0].rules",
            "TCP",
        ),
        (
            ingress(&format!("{{toPorts: [{{ports: [{{port: \"0\", protocol: TCP}}], {http}}}]}}")),
            "spec.ingress[0].toPorts[0].rules",
            "port 0",
        ),
        (
            ingress(
                "{toPorts: [{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{path: \"(\"}]}}]}",
            ),
            "spec.ingress[0].toPorts[0].rules.http[0].path",
            "regular expression",
        ),
        (
            ingress("{toPorts: [{ports: [{port: \"080\"}]}]}"),
            "spec.ingress[0].toPorts[0].ports[0].port",
            "neither a port number",
        ),
        (
            ingress("{toPorts: [{ports: [{port: \"0\", endPort: 9}]}]}"),
            "spec.ingress[0].toPorts[0].ports[0].endPort",
            "port from 1",
        ),
        (
            ingress("{toPorts: [{ports: [{protocol: TCP}]}]}"),
            "spec.ingress[0].toPorts[0].ports[0]",
            "no port",
        ),
        (
            ingress("{toPorts: [{ports: [{port: \"80\", protocol: VRRP}]}]}"),
            "spec.ingress[0].toPorts[0].ports[0].port",
            "no ports",
        ),
        (
            ingress("{toPorts: [{ports: [{port: \"80\", protocol: icmp}]}]}"),
            "spec.ingress[0].toPorts[0].ports[0].protocol",
            "TCP, UDP",
        ),
        (ingress("{toPorts: [{}], icmps: [{}]}"), "spec.ingress[0].icmps", "toPorts"),
        (
            ingress("{icmps: [{fields: [{type: Echoes}]}]}"),
            "spec.ingress[0].icmps[0].fields[0].type",
            "message type",
        ),
        (
            ingress("{icmps: [{fields: [{type: 256}]}]}"),
            "spec.ingress[0].icmps[0].fields[0].type",
            "0 to 255",
        ),
        (
            ingress("{icmps: [{fields: [{family: IPv5, type: 8}]}]}"),
            "spec.ingress[0].icmps[0].fields[0].family",
            "IPv4 or IPv6",
        ),
        (
            cilium(&format!(
                "{{endpointSelector: {{}}, ingressDeny: [{{toPorts: [{{{http}}}]}}]}}"
            )),
            "spec.ingressDeny[0].toPorts[0].rules",
            "deny rules",
        ),
        (
            cilium("{endpointSelector: {}, enableDefaultDeny: {ingress: never}, ingress: [{}]}"),
            "spec.enableDefaultDeny.ingress",
            "true or false",
        ),
    ];
    for (object, field, reason) in cases {
        assert_rejected(&object, field, reason);
    }
}

#[test]
fn l7_rules_that_cilium_rejects_are_rejected() {
    let element = |ports: &str, more: &str| {
        (
            egress(&format!("{{toPorts: [{{ports: [{ports}], {more}}}]}}")),
            "spec.egress[0].toPorts[0]",
        )
    };
    let (tcp, any) = ("{port: \"80\", protocol: TCP}", "{port: \"53\"}");
    let cases = [
        (element(tcp, "rules: {http: []}"), ".rules.http", "empty list"),
        (element(tcp, "rules: {kafka: []}"), ".rules.kafka", "empty list"),
        (element(tcp, "rules: {dns: []}"), ".rules.dns", "empty list"),
        (element(tcp, "serverNames: []"), ".serverNames", "empty list"),
        (element(tcp, "rules: {http: [{}], kafka: [{}]}"), ".rules", "more than one L7 protocol"),
        (element(tcp, "rules: {http: [{method: \"(\"}]}"), ".rules.http[0].method", "regular"),
        (
            element(tcp, "rules: {http: [{headers: [\"a b\"]}]}"),
            ".rules.http[0].headers[0]",
            "Name",
        ),
        (
            element(tcp, "rules: {http: [{headerMatches: [{value: x}]}]}"),
            ".rules.http[0].headerMatches[0]",
            "no name",
        ),
        (
            element(tcp, "rules: {http: [{headerMatches: [{name: \"a b\"}]}]}"),
            ".rules.http[0].headerMatches[0]",
            "name of a header",
        ),
        (element(any, "rules: {kafka: [{}]}"), ".rules", "Kafka rules need TCP"),
        (
            element(tcp, "rules: {kafka: [{role: produce, apiKey: fetch}]}"),
            ".rules.kafka[0].apiKey",
            "excludes role",
        ),
        (element(tcp, "rules: {kafka: [{role: read}]}"), ".rules.kafka[0].role", "produce"),
        (element(tcp, "rules: {kafka: [{apiKey: x}]}"), ".rules.kafka[0].apiKey", "Kafka API key"),
        (element(tcp, "rules: {kafka: [{apiVersion: x}]}"), ".rules.kafka[0].apiVersion", ""),
        (element(tcp, "rules: {kafka: [{topic: \"a b\"}]}"), ".rules.kafka[0].topic", ""),
        (element("", "rules: {dns: [{matchName: a}]}"), ".rules", "list port"),
        (
            element("{port: \"53\", endPort: 54}", "rules: {dns: [{matchName: a}]}"),
            ".rules",
            "range",
        ),
        (
            element("{port: \"53\", protocol: SCTP}", "rules: {dns: [{matchName: a}]}"),
            ".rules",
            "TCP, UDP or ANY",
        ),
        (element("{port: \"0\"}", "rules: {dns: [{matchName: a}]}"), ".rules", "port 0"),
        (element(any, "rules: {dns: [{}]}"), ".rules.dns[0]", "matchPattern"),
        (element(any, "rules: {dns: [{matchName: \"*\"}]}"), ".rules.dns[0].matchName", "'*'"),
        (element(any, "serverNames: [a]"), "", "TLS rules need TCP"),
        (element(tcp, "serverNames: [\"\"]"), ".serverNames[0]", "empty"),
        (element(tcp, "serverNames: [a], rules: {http: [{}]}"), ".serverNames", "not terminated"),
    ];
    for ((object, place), below, reason) in cases {
        assert_rejected(&object, &format!("{place}{below}"), reason);
    }
    assert_rejected(
        &ingress("{toPorts: [{ports: [{port: \"53\"}], rules: {dns: [{matchName: a}]}}]}"),
        "spec.ingress[0].toPorts[0].rules.dns",
        "egress only",
    );
}

#[test]
fn two_l7_protocols_on_one_port_of_a_rule_are_rejected() {
    let rule = |first: &str, second: &str| {
        let element = |ports: &str, rules: &str| {
            format!("{{ports: [{{{ports}, protocol: TCP}}], rules: {{{rules}: [{{}}]}}}}")
        };
        let (http, kafka) = (element(first, "http"), element(second, "kafka"));
        ingress(&format!("{{toPorts: [{http}, {kafka}]}}"))
    };
    for (first, second) in [
        ("port: \"80\"", "port: \"80\""),
        ("port: web", "port: WEB"),
        ("port: \"80\", endPort: 90", "port: \"90\", endPort: 99"),
    ] {
        assert_rejected(&rule(first, second), "spec.ingress[0].toPorts", "HTTP and Kafka");
    }
    for (first, second) in
        [("port: \"80\"", "port: \"81\""), ("port: \"80\", endPort: 89", "port: \"90\"")]
    {
        assert!(Store::new().apply(&rule(first, second), None).is_ok());
    }
}

#[test]
fn a_pattern_that_needs_too_many_states_is_rejected() {
    assert_rejected(
        &ingress(
            "{toPorts: [{ports: [{port: \"80\", protocol: TCP}], rules: {http: [{path: \
             '(a|b)*a(a|b){30}'}]}}]}",
        ),
        "spec.ingress[0].toPorts[0].rules.http[0].path",
        "too many states",
    );
}

#[test]
fn patterns_that_need_too_many_states_together_are_rejected() {
    let rules: Vec<Value> =
        (0..400).map(|i| json!({"path": format!("/{i}/(a|b)*a(a|b){{10}}")})).collect();
    let mut object = ingress("{toPorts: [{ports: [{port: \"80\", protocol: TCP}]}]}");
    let element = &mut object["spec"]["ingress"][0]["toPorts"][0];
    element["rules"] = json!({"http": rules[..20]});
    Store::new().apply(&object, None).unwrap();
    object["spec"]["ingress"][0]["toPorts"][0]["rules"] = json!({"http": rules});
    let rejections = rejections(&object);
    let [.., last, _further] = rejections.as_slice() else { panic!("{rejections:?}") };
    let last = last.to_string();
    assert!(
        last.contains("the patterns of this policy before it use up its pattern budget"),
        "{last}"
    );
}

/// Ingress rules with this many overlapping ranges of ports and this many peers by labels.
fn sized(ranges: u16, peers: usize) -> Value {
    let ports: Vec<Value> =
        (0..ranges).map(|i| json!({"port": 1 + i, "endPort": 20_000 + i})).collect();
    let peers: Vec<Value> = (0..peers)
        .map(|i| json!({"podSelector": {"matchLabels": {"app": format!("a{i}")}}}))
        .collect();
    let mut policy = network_policy("{}");
    policy["spec"] = json!({"ingress": [{"from": peers, "ports": ports}]});
    policy
}

#[test]
fn a_policy_that_needs_too_large_tables_is_rejected() {
    // Each range spans the beginnings of those after it and the ends of those before it.
    for (ranges, peers) in [(300, 1), (1, 50_000), (50, 40), (0, 100_000)] {
        Store::new().apply(&sized(ranges, peers), None).unwrap();
    }
    for (ranges, peers) in [(320, 1), (1, 100_001), (10_000, 1_000), (100, 100), (0, 100_001)] {
        assert_rejected(&sized(ranges, peers), "spec", "at most 100000 fit");
    }
}

#[test]
fn networks_count_once_however_many_there_are() {
    let peers: Vec<Value> = (0..50_000u32)
        .map(|i| json!({"ipBlock": {"cidr": format!("{}/32", std::net::Ipv4Addr::from(i))}}))
        .collect();
    let mut policy = network_policy("{}");
    policy["spec"] = json!({"ingress": [{"from": peers, "ports": [{"port": 80}, {"port": 443}]}]});
    Store::new().apply(&policy, None).unwrap();
}

#[test]
fn objects_that_can_t_be_named_are_rejected() {
    let cases = [
        (json!([]), "", "must be a mapping"),
        (json!({}), "", "no kind"),
        (json!({"kind": "AdminNetworkPolicy"}), "kind", "not enforced"),
        (
            json!({"kind": "NetworkPolicy", "apiVersion": "extensions/v1beta1"}),
            "kind",
            "write apiVersion: networking.k8s.io/v1",
        ),
        (json!({"kind": "Pod", "apiVersion": "v1"}), "", "no metadata"),
        (json!({"kind": "Pod", "apiVersion": "v1", "metadata": {}}), "metadata", "no name"),
        (
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "A"}}),
            "metadata.name",
            "lower-case",
        ),
        (
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "b.c"}}),
            "metadata.namespace",
            "DNS label",
        ),
    ];
    for (object, field, reason) in cases {
        let rejections = Store::new().apply(&object, None).unwrap_err();
        assert_eq!(rejections[0].field, field);
        assert!(rejections[0].to_string().contains(reason), "{}", rejections[0]);
    }
}

#[test]
fn complaints_about_one_object_are_bounded() {
    let ports: Vec<Value> = vec![json!({"port": -1}); 1000];
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                        "metadata": {"name": "x"}, "spec": {"ingress": [{"ports": ports}]}});
    // The last one counts the others.
    assert_eq!(rejections(&policy).len(), 33);
}

fn cluster(spec: &str) -> Value {
    object("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", spec)
}

/// A ClusterNetworkPolicy with one rule of ingress and one of egress.
fn cluster_rules(ingress: &str, egress: &str) -> Value {
    cluster(&format!(
        "{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}, ingress: [{ingress}], \
         egress: [{egress}]}}"
    ))
}

#[test]
fn cluster_network_policies_are_checked_as_the_api_does() {
    let subject = "subject: {namespaces: {}}";
    let cases = [
        ("{priority: 1, subject: {namespaces: {}}}".to_owned(), "spec", "needs a tier"),
        (format!("{{tier: Admin, {subject}}}"), "spec", "a priority"),
        ("{tier: Admin, priority: 1}".to_owned(), "spec", "a subject"),
        (format!("{{tier: Normal, priority: 1, {subject}}}"), "spec.tier", "Admin or Baseline"),
        (format!("{{tier: Admin, priority: 1001, {subject}}}"), "spec.priority", "0 to 1000"),
        (format!("{{tier: Admin, priority: -1, {subject}}}"), "spec.priority", "0 to 1000"),
        (format!("{{tier: Admin, priority: 1, {subject}, pass: []}}"), "spec.pass", "unknown"),
        (
            "{tier: Admin, priority: 1, subject: {}}".to_owned(),
            "spec.subject",
            "namespaces or pods",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}, pods: {podSelector: {}}}}"
                .to_owned(),
            "spec.subject",
            "not both",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {}, nodes: {}}}".to_owned(),
            "spec.subject.nodes",
            "unknown",
        ),
        (
            "{tier: Admin, priority: 1, subject: {pods: {namespaceSelector: {}}}}".to_owned(),
            "spec.subject.pods",
            "needs a podSelector",
        ),
        (
            "{tier: Admin, priority: 1, subject: {namespaces: {matchLabels: {\"k8s:a\": b}}}}"
                .to_owned(),
            "spec.subject.namespaces.matchLabels.k8s:a",
            "label key",
        ),
    ];
    for (spec, field, reason) in cases {
        assert_rejected(&cluster(&spec), field, reason);
    }
    let empty = json!({"apiVersion": "policy.networking.k8s.io/v1alpha2",
                       "kind": "ClusterNetworkPolicy", "metadata": {"name": "x"}});
    assert_rejected(&empty, "", "needs a spec");
}

#[test]
fn rules_of_cluster_network_policies_are_checked_as_the_api_does() {
    let from = "from: [{namespaces: {}}]";
    let name = "n".repeat(101);
    let cases = [
        (format!("{{{from}}}"), "", "needs an action and from"),
        ("{action: Deny}".to_owned(), "", "needs an action and from"),
        ("{action: Deny, to: [{namespaces: {}}], from: [{}]}".to_owned(), ".to", "unknown field"),
        ("{action: Deny, from: []}".to_owned(), ".from", "at least one"),
        (format!("{{action: Allow, {from}}}"), ".action", "Accept, Deny or Pass"),
        (format!("{{action: Deny, name: {name}, {from}}}"), ".name", "at most 100"),
        (
            "{action: Deny, from: [{namespaces: {}, pods: {podSelector: {}}}]}".to_owned(),
            ".from[0]",
            "one element for each",
        ),
        ("{action: Deny, from: [{pods: {}}]}".to_owned(), ".from[0].pods", "needs a podSelector"),
    ];
    for (rule, field, reason) in cases {
        assert_rejected(&cluster_rules(&rule, ""), &format!("spec.ingress[0]{field}"), reason);
    }
}

#[test]
fn protocols_of_cluster_network_policies_are_checked_as_the_api_does() {
    let one = |port: &str| format!("[{{tcp: {{destinationPort: {port}}}}}]");
    let cases = [
        ("[]".to_owned(), "", "at least one"),
        ("[{}]".to_owned(), "[0]", "needs one of tcp"),
        (
            "[{tcp: {destinationPort: {number: 1}}, destinationNamedPort: web}]".to_owned(),
            "[0]",
            "only one",
        ),
        ("[{destinationNamedPort: Web}]".to_owned(), "[0].destinationNamedPort", "port name"),
        ("[{destinationNamedPort: \"\"}]".to_owned(), "[0].destinationNamedPort", "port name"),
        ("[{tcp: {}}]".to_owned(), "[0].tcp", "destinationPort"),
        (
            "[{tcp: {sourcePort: 1, destinationPort: {number: 1}}}]".to_owned(),
            "[0].tcp.sourcePort",
            "unknown field",
        ),
        (one("{}"), "[0].tcp.destinationPort", "a number or a range"),
        (one("{number: 0}"), "[0].tcp.destinationPort.number", "1 to 65535"),
        (one("{number: 65536}"), "[0].tcp.destinationPort.number", "1 to 65535"),
        (one("{range: {start: 1}}"), "[0].tcp.destinationPort.range", "a start and an end"),
        (one("{range: {start: 80, end: 80}}"), "[0].tcp.destinationPort.range", "less than"),
        (one("{number: 1, range: {start: 1, end: 2}}"), "[0].tcp.destinationPort", "not both"),
    ];
    for (protocols, field, reason) in cases {
        let rule =
            format!("{{action: Deny, from: [{{namespaces: {{}}}}], protocols: {protocols}}}");
        let field = format!("spec.ingress[0].protocols{field}");
        assert_rejected(&cluster_rules(&rule, ""), &field, reason);
    }
}

#[test]
fn peers_of_egress_of_cluster_network_policies_are_checked_as_the_api_does() {
    let cases = [
        ("Deny", "{networks: []}", ".networks", "at least one"),
        ("Deny", "{networks: [10.0.0.1]}", ".networks[0]", "10.0.0.1/32"),
        ("Deny", "{networks: [\"::ffff:10.0.0.0/104\"]}", ".networks[0]", "write it as IPv4"),
        ("Deny", "{domainNames: [example.com]}", ".domainNames", "Accept rules"),
        ("Pass", "{domainNames: [example.com]}", ".domainNames", "Accept rules"),
        ("Accept", "{domainNames: [example]}", ".domainNames[0]", "not a domain name"),
        ("Accept", "{domainNames: [\"*\"]}", ".domainNames[0]", "not a domain name"),
        ("Accept", "{domainNames: [\"www.*.com\"]}", ".domainNames[0]", "not a domain name"),
        ("Accept", "{domainNames: [\"*w.example.com\"]}", ".domainNames[0]", "not a domain name"),
        ("Accept", "{domainNames: [\"**.example.com\"]}", ".domainNames[0]", "not a domain name"),
        ("Accept", "{domainNames: [-x.com]}", ".domainNames[0]", "not a domain name"),
        ("Accept", "{domainNames: [x..com]}", ".domainNames[0]", "not a domain name"),
        ("Accept", "{nodes: {}, networks: [10.0.0.0/8]}", "", "one element for each"),
    ];
    for (action, peer, field, reason) in cases {
        let rule = format!("{{action: {action}, to: [{peer}]}}");
        let field = format!("spec.egress[0].to[0]{field}");
        assert_rejected(&cluster_rules("", &rule), &field, reason);
    }
    for peer in ["{networks: [10.0.0.0/8]}", "{nodes: {}}", "{domainNames: [example.com]}"] {
        let named = "protocols: [{destinationNamedPort: web}]";
        let rule = format!("{{action: Accept, to: [{{namespaces: {{}}}}, {peer}], {named}}}");
        let field = "spec.egress[0].protocols";
        assert_rejected(&cluster_rules("", &rule), field, "only pods have named ports");
    }
}

#[test]
fn lists_of_cluster_network_policies_have_at_most_25_elements() {
    let many = |element: &str| vec![element; 26].join(", ");
    let rule = "{action: Deny, from: [{namespaces: {}}]}";
    let peers = many("{namespaces: {}}");
    let ports = many("{tcp: {destinationPort: {number: 1}}}");
    let networks = many("10.0.0.0/8");
    let cases = [
        (cluster_rules(&many(rule), ""), "spec.ingress"),
        (cluster_rules(&format!("{{action: Deny, from: [{peers}]}}"), ""), "spec.ingress[0].from"),
        (
            cluster_rules(
                &format!("{{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{ports}]}}"),
                "",
            ),
            "spec.ingress[0].protocols",
        ),
        (
            cluster_rules("", &format!("{{action: Deny, to: [{{networks: [{networks}]}}]}}")),
            "spec.egress[0].to[0].networks",
        ),
    ];
    for (object, field) in cases {
        assert_rejected(&object, field, "has 26 elements, but may have at most 25");
    }
}

#[test]
fn the_older_and_newer_versions_of_cluster_network_policies_are_rejected() {
    for version in ["v1alpha1", "v1beta1"] {
        let version = format!("policy.networking.k8s.io/{version}");
        let object = object(&version, "ClusterNetworkPolicy", "{}");
        let rejections = Store::new().apply(&object, None).unwrap_err();
        let fix = rejections[0].fix.as_deref();
        assert_eq!(fix, Some("write apiVersion: policy.networking.k8s.io/v1alpha2"));
    }
}
