//! What messages advise: it never changes what was meant, and all errors are reported at once.

use std::path::Path;

use podgate_policy::{Store, manifest};

/// What is rejected of a text.
fn rejections(text: &str) -> Vec<String> {
    let mut store = Store::new();
    store.sync(&manifest::parse(text, Path::new("x.yaml")));
    store.rejections().map(ToString::to_string).collect()
}

fn hints(text: &str) -> Vec<String> {
    let mut store = Store::new();
    store.sync(&manifest::parse(text, Path::new("x.yaml")));
    assert_eq!(store.rejections().count(), 0, "{:?}", store.rejections().collect::<Vec<_>>());
    store.hints().map(ToString::to_string).collect()
}

fn network_policy(spec: &str) -> String {
    format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy,\n metadata: {{namespace: shop, \
         name: web}},\n spec: {spec}}}\n"
    )
}

fn cilium(spec: &str) -> String {
    format!(
        "{{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy,\n metadata: {{namespace: shop, \
         name: web}},\n spec: {spec}}}\n"
    )
}

#[test]
fn what_needs_quotes_is_quoted_as_it_is_written() {
    for written in [
        "1.10",
        "12e4",
        "007",
        "0x10",
        "0o17",
        "1_000",
        "+1",
        "-0",
        "1.0",
        "1e3",
        "0.10",
        "true",
        "True",
        "FALSE",
        "18446744073709551616",
        "123456789012345678901234567890",
        "1E400",
        ".5",
    ] {
        let messages = [
            rejections(&network_policy(&format!(
                "{{podSelector: {{matchLabels: {{version: {written}}}}}}}"
            ))),
            rejections(&network_policy(&format!(
                "{{podSelector: {{matchExpressions: [{{key: a, operator: In,\n  values: \
                 [{written}]}}]}}}}"
            ))),
            rejections(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels:\n    version: \
                 {written}   # as released\n"
            )),
        ];
        for messages in messages {
            // What YAML reads as text needs no quotes.
            let Some(messages) = messages.first() else { continue };
            let is_quoted = messages.ends_with(&format!("write it with quotes: \"{written}\""));
            let is_no_number =
                messages.contains("finite number") || messages.contains("not a label value");
            assert!(is_quoted || is_no_number, "{messages}");
        }
    }
    let messages = rejections(&network_policy("{podSelector: {matchLabels: {version: 1.10}}}"));
    assert_eq!(messages.len(), 1);
}

#[test]
fn a_port_with_quotes_is_told_to_lose_them_only_if_nothing_else_changes() {
    let port = |port: &str| {
        rejections(&network_policy(&format!("{{ingress: [{{ports: [{{port: {port}}}]}}]}}")))
    };
    assert!(port("\"80\"")[0].ends_with("write the number 80 without quotes"));
    for other in ["\"080\"", "\"+80\"", "\"0x50\""] {
        assert!(
            !port(other).iter().any(|messages| messages.contains("write")),
            "{:?}",
            port(other)
        );
    }
}

#[test]
fn a_wrong_field_is_named_with_the_right_one() {
    let cases = [
        (cilium("{podSelector: {}, ingress: [{}]}"), "spec.podSelector", "write endpointSelector"),
        (cilium("{nodeSelector: {}, ingress: [{}]}"), "spec.nodeSelector", "policies for nodes"),
        (
            cilium("{endpointSelector: {}, ingress: [{from: []}]}"),
            "spec.ingress[0].from",
            "write fromEndpoints",
        ),
        (
            cilium("{endpointSelector: {}, egress: [{to: []}]}"),
            "spec.egress[0].to",
            "write toEndpoints",
        ),
        (
            cilium("{endpointSelector: {}, egress: [{fromEndpoints: []}]}"),
            "spec.egress[0].fromEndpoints",
            "write toEndpoints",
        ),
        (
            cilium("{endpointSelector: {}, ingress: [{toEndpoints: []}]}"),
            "spec.ingress[0].toEndpoints",
            "write fromEndpoints",
        ),
        (
            cilium("{endpointSelector: {}, ingress: [{ports: []}]}"),
            "spec.ingress[0].ports",
            "write toPorts",
        ),
        (
            cilium("{endpointSelector: {}, ingress: [{fromEndpoints: [{podSelector: {}}]}]}"),
            "spec.ingress[0].fromEndpoints[0].podSelector",
            "matchLabels",
        ),
        (
            cilium("{endpointSelector: {}, ingress: [{fromEndpoints: [{namespaceSelector: {}}]}]}"),
            "spec.ingress[0].fromEndpoints[0].namespaceSelector",
            "io.cilium.k8s.namespace.labels",
        ),
        (
            cilium("{endpointSelector: {}, policyTypes: [Ingress], ingress: [{}]}"),
            "spec.policyTypes",
            "write ingress or egress instead",
        ),
        (network_policy("{endpointSelector: {}}"), "spec.endpointSelector", "write podSelector"),
        (network_policy("{ingressDeny: []}"), "spec.ingressDeny", "CiliumNetworkPolicy"),
        (
            network_policy("{ingress: [{fromEndpoints: []}]}"),
            "spec.ingress[0].fromEndpoints",
            "write from",
        ),
        (network_policy("{ingress: [{to: []}]}"), "spec.ingress[0].to", "write from"),
        (network_policy("{egress: [{from: []}]}"), "spec.egress[0].from", "write to"),
        (network_policy("{egress: [{toPorts: []}]}"), "spec.egress[0].toPorts", "write ports"),
        (
            network_policy("{ingress: [{from: [{matchLabels: {}}]}]}"),
            "spec.ingress[0].from[0].matchLabels",
            "podSelector",
        ),
    ];
    for (text, field, advice) in cases {
        let messages = rejections(&text);
        let [messages] = messages.as_slice() else { panic!("{messages:?}") };
        assert!(
            messages.contains(&format!(" {field}: ")) && messages.contains(advice),
            "{messages}"
        );
    }
}

#[test]
fn nobody_is_advised_to_select_every_pod_or_to_drop_a_condition() {
    for text in [
        cilium("{ingress: [{}]}"),
        cilium("{podSelector: {matchLabels: {a: b}}, ingress: [{}]}"),
        cilium("{nodeSelector: {}, ingress: [{}]}"),
        cilium("{endpointSelector: {}, ingress: [{authentication: {mode: required}}]}"),
        cilium(
            "{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}],\n \
             rules: {http: []}}]}]}",
        ),
        cilium(
            "{endpointSelector: {}, ingress: [{toPorts: [{ports: [{port: \"80\", protocol: TCP}],\n \
             serverNames: [a.io], rules: {http: [{}]}}]}]}",
        ),
        cilium("{endpointSelector: {}, egress: [{toFQDNs: [{}]}]}"),
        "{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy,\n metadata: \
         {name: a}, spec: {tier: Admin, priority: 1, subject: {pods: {}}}}"
            .to_owned(),
    ] {
        let messages = rejections(&text);
        assert!(!messages.is_empty(), "{text}");
        for messages in messages {
            for bad in
                ["{} to", "every pod", "all pods", "leave", "disabled", "only one", "every name"]
            {
                assert!(!messages.contains(bad), "{messages}");
            }
        }
    }
}

#[test]
fn policies_of_other_kinds_get_the_way_out() {
    let cases = [
        ("projectcalico.org/v3", "NetworkPolicy", "networking.k8s.io/v1"),
        ("crd.projectcalico.org/v1", "NetworkPolicy", "CiliumNetworkPolicy"),
        ("projectcalico.org/v3", "GlobalNetworkPolicy", "ClusterNetworkPolicy"),
        ("crd.projectcalico.org/v1", "GlobalNetworkPolicy", "CiliumClusterwideNetworkPolicy"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy", "tier: Admin"),
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy", "tier: Baseline"),
        ("crd.antrea.io/v1beta1", "NetworkPolicy", "rewrite it"),
    ];
    for (version, kind, advice) in cases {
        let messages = rejections(&format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {{order: 1}}\n"
        ));
        let [messages] = messages.as_slice() else { panic!("{messages:?}") };
        assert!(messages.contains(advice) && !messages.contains("write apiVersion"), "{messages}");
    }
    let old = "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: a}\n";
    assert!(rejections(old)[0].ends_with("write apiVersion: networking.k8s.io/v1"));
}

#[test]
fn an_unrendered_template_is_called_that() {
    for text in [
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: {{ .Values.name }}\n",
        "{{- if .Values.policy }}\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n{{- end }}\n",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: a\n  labels:\n    {{- include \"x.labels\" . | nindent 4 }}\n",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: \"{{ .Release.Name }}-web\"}\n",
        "apiVersion: v1\nkind: \"{{ .Values.kind }}\"\nmetadata: {name: a}\n",
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: a}\nspec: {podSelector: {matchLabels: {app: '{{ .Values.app }}'}}}\n",
    ] {
        let messages = rejections(text);
        let [messages] = messages.as_slice() else { panic!("{messages:?}") };
        assert!(
            messages.contains("unrendered Helm template") && messages.contains("helm template"),
            "{messages}"
        );
    }
    // Templates in texts that policy does not read are accepted, and hide no other fault.
    let messages =
        rejections("apiVersion: v1\nkind: Pod\nmetadata: {annotations: {a: '{{ x }}'}, name: [}\n");
    assert!(!messages[0].contains("Helm"), "{messages:?}");
}

#[test]
fn everything_wrong_is_told_at_once() {
    let network_policy = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: Shop, name: web_}
spec:
  podSelector: []
  policyTypes: [Ingress, Egress, Both]
  ingress: {}
  egress:
  - to: {}
    ports: [{port: 0, endPort: x, protocol: ICMP}]
  - to: [{podSelector: 1, namespaceSelector: 2, ipBlock: 3}]
  other: 1
";
    let cilium = "\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: 1
  enableDefaultDeny: 2
  ingress:
  - fromEndpoints: [{matchExpressions: [{key: '-', operator: Like, values: [1]}]}]
    toPorts:
    - ports: [{port: 80, protocol: Tcp, endPort: 0.5}]
      rules: {http: [{method: 1, headers: 2, headerMatches: 3, path: (}]}
  - toPorts: 4
    icmps: 5
specs: 6
";
    let pod = "\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {a: 1, b: '-'}}
spec: {containers: [{ports: [{name: 1, containerPort: 0, protocol: x}]}]}
status: {podIPs: [{ip: x}], hostIP: y}
";
    let fields = |text: &str| {
        let mut store = Store::new();
        store.sync(&manifest::parse(text, Path::new("x.yaml")));
        let mut fields: Vec<_> =
            store.rejections().map(|rejection| rejection.field.clone()).collect();
        fields.sort_unstable();
        fields
    };
    assert_eq!(
        fields(network_policy),
        [
            "metadata.name",
            "metadata.namespace",
            "spec.egress[0].ports[0].endPort",
            "spec.egress[0].ports[0].port",
            "spec.egress[0].ports[0].protocol",
            "spec.egress[0].to",
            "spec.egress[1].to[0].ipBlock",
            "spec.egress[1].to[0].ipBlock",
            "spec.egress[1].to[0].namespaceSelector",
            "spec.egress[1].to[0].podSelector",
            "spec.ingress",
            "spec.other",
            "spec.podSelector",
            "spec.policyTypes",
            "spec.policyTypes[2]",
        ]
    );
    let rule = "spec.ingress[0].fromEndpoints[0].matchExpressions[0]";
    let element = "spec.ingress[0].toPorts[0]";
    assert_eq!(
        fields(cilium),
        [
            "spec.enableDefaultDeny".to_owned(),
            "spec.endpointSelector".to_owned(),
            format!("{rule}.key"),
            format!("{rule}.operator"),
            format!("{rule}.values[0]"),
            format!("{element}.ports[0].endPort"),
            format!("{element}.ports[0].port"),
            format!("{element}.ports[0].protocol"),
            format!("{element}.rules.http[0].headerMatches"),
            format!("{element}.rules.http[0].headers"),
            format!("{element}.rules.http[0].method"),
            format!("{element}.rules.http[0].path"),
            "spec.ingress[1].icmps".to_owned(),
            "spec.ingress[1].toPorts".to_owned(),
            "specs".to_owned(),
        ]
    );
    assert_eq!(
        fields(pod),
        [
            "metadata.labels.a",
            "metadata.labels.b",
            "spec.containers[0].ports[0].containerPort",
            "spec.containers[0].ports[0].name",
            "spec.containers[0].ports[0].protocol",
            "status.hostIP",
            "status.podIPs[0].ip",
        ]
    );
}

#[test]
fn problems_beyond_those_that_are_kept_are_counted() {
    let bad: Vec<_> = (0..40).map(|port| format!("{{port: {}}}", 70_000 + port)).collect();
    let messages =
        rejections(&network_policy(&format!("{{ingress: [{{ports: [{}]}}]}}", bad.join(", "))));
    assert_eq!(messages.len(), 33);
    assert!(messages[32].ends_with("8 more problems are not listed"), "{}", messages[32]);
}

#[test]
fn three_policy_types_are_rejected_and_two_are_not() {
    let types = |types: &str| rejections(&network_policy(&format!("{{policyTypes: [{types}]}}")));
    assert_eq!(types("Ingress, Egress"), [""; 0]);
    assert_eq!(types("Ingress, Ingress"), [""; 0]);
    let [messages] = types("Ingress, Egress, Ingress").try_into().unwrap();
    let messages: String = messages;
    assert!(
        messages.contains("spec.policyTypes: has 3 elements, but may have at most 2"),
        "{messages}"
    );
}

#[test]
fn what_is_hardly_meant_gets_a_hint_and_is_in_force() {
    for (text, field, reason) in [
        (cilium("{endpointSelector: {}, ingress: []}"), "spec", "has no rule"),
        (cilium("{endpointSelector: {}, ingress: [], egressDeny: []}"), "spec", "has no rule"),
        (
            cilium(
                "{endpointSelector: {matchLabels: {\"k8s:io.kubernetes.pod.namespace\": x}}, ingress: [{}]}",
            ),
            "spec.endpointSelector.matchLabels.k8s:io.kubernetes.pod.namespace",
            "selects no pod",
        ),
        (
            network_policy(
                "{podSelector: {matchLabels: {io.cilium.k8s.policy.serviceaccount: a}}}",
            ),
            "spec.podSelector.matchLabels.io.cilium.k8s.policy.serviceaccount",
            "Cilium gives this label",
        ),
        (
            network_policy(
                "{ingress: [{}, {from: [{namespaceSelector: {matchExpressions: [{key: \
                 io.cilium.k8s.namespace.labels.a, operator: Exists}]}}]}]}",
            ),
            "spec.ingress[1].from[0].namespaceSelector.matchExpressions[0].key",
            "Cilium gives this label",
        ),
        (
            network_policy(
                "{egress: [{to: [{podSelector: {matchLabels: {io.kubernetes.pod.namespace: a}}}]}]}",
            ),
            "spec.egress[0].to[0].podSelector.matchLabels.io.kubernetes.pod.namespace",
            "Cilium gives this label",
        ),
    ] {
        let messages = hints(&text);
        let [messages] = messages.as_slice() else { panic!("{text}: {messages:?}") };
        assert!(
            messages.contains(&format!(" {field}: ")) && messages.contains(reason),
            "{messages}"
        );
    }
    for text in [
        cilium(
            "{endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: shop}}, ingress: [{}]}",
        ),
        cilium("{endpointSelector: {}, ingress: [], enableDefaultDeny: {ingress: true}}"),
        cilium("{endpointSelector: {}, ingress: [], egress: [{}]}"),
        network_policy("{podSelector: {matchLabels: {app: a}}}"),
    ] {
        assert_eq!(hints(&text), [""; 0], "{text}");
    }
}
