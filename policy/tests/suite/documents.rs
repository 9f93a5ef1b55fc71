//! Files as people and tools write them: lists, marks, directives, duplicates, and broken documents
//! beside valid ones.

use std::path::Path;

use podgate_policy::manifest::{self, Document};
use podgate_policy::{ObjectCounts, Store};

fn documents(name: &str, text: &str) -> Vec<Document> {
    manifest::parse(text, Path::new(name))
}

/// The store, what it counted, and what it rejected.
fn synced(documents: &[Document]) -> (Store, ObjectCounts, Vec<String>) {
    let mut store = Store::new();
    let counts = store.sync(documents);
    let rejections = store.rejections().map(ToString::to_string).collect();
    (store, counts, rejections)
}

/// Names of the policies in force, and what is rejected.
fn of(name: &str, text: &str) -> (Vec<String>, Vec<String>) {
    let (store, _, rejections) = synced(&documents(name, text));
    let policies = store.policy_objects().map(|(key, _)| key.to_string()).collect();
    (policies, rejections)
}

/// A policy of this name.
fn policy(name: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: shop, name: \
         {name}}}\nspec: {{podSelector: {{}}}}\n"
    )
}

fn named(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("NetworkPolicy shop/{name}")).collect()
}

#[test]
fn elements_of_typed_lists_are_of_the_lists_kind_and_version() {
    let policies = r#"{"kind":"NetworkPolicyList","apiVersion":"networking.k8s.io/v1","items":[
        {"metadata":{"namespace":"shop","name":"a"},"spec":{}},
        {"kind":null,"apiVersion":null,"metadata":{"namespace":"shop","name":"b"},"spec":{}},
        {"kind":"","apiVersion":"","metadata":{"namespace":"shop","name":"d"},"spec":{}},
        {"kind":"NetworkPolicy","metadata":{"namespace":"shop","name":"c"},"spec":{}}]}"#;
    assert_eq!(of("x.json", policies), (named(&["a", "b", "c", "d"]), vec![]));
    let nested = format!(r#"{{"kind":"List","apiVersion":"v1","items":[{policies}]}}"#);
    assert_eq!(of("x.json", &nested), (named(&["a", "b", "c", "d"]), vec![]));

    let yaml = "kind: PodList\napiVersion: v1\nitems:\n- metadata: {namespace: shop, name: web}\n  \
                status: {podIPs: [{ip: 10.0.0.1}]}\n- metadata: {name: Web}\n";
    let (store, counts, rejections) = synced(&documents("x.yaml", yaml));
    assert!(store.pod("shop", "web").is_some());
    assert_eq!(counts.others, 2);
    let [rejection] = rejections.as_slice() else { panic!("{rejections:?}") };
    assert!(rejection.starts_with("x.yaml:6: Pod Web: metadata.name: "), "{rejection}");
}

#[test]
fn an_element_that_says_another_kind_has_it() {
    let list = "kind: NetworkPolicyList\napiVersion: networking.k8s.io/v1\nitems:\n- kind: Pod\n  \
                metadata: {name: web}\n- apiVersion: v1\n  metadata: {name: a}\n";
    let (_, _, rejections) = synced(&documents("x.yaml", list));
    let message = [
        "x.yaml:4: Pod web: kind: Pod of apiVersion \"\" is not enforced; write apiVersion: v1",
        "x.yaml:6: NetworkPolicy a: kind: NetworkPolicy of apiVersion \"v1\" is not enforced; \
         rewrite it",
    ];
    assert_eq!(rejections.len(), 2);
    assert_eq!(rejections[0], message[0]);
    assert!(rejections[1].starts_with("x.yaml:6: NetworkPolicy a: kind: "), "{}", rejections[1]);
}

#[test]
fn an_empty_kind_is_none_and_an_empty_version_hides_no_object() {
    let empty = policy("a").replace("kind: NetworkPolicy", "kind: \"\"");
    let (_, counts, rejections) = synced(&documents("x.yaml", &empty));
    let [rejection] = rejections.as_slice() else { panic!("{rejections:?}") };
    assert!(rejection.contains("has no kind: this is not a Kubernetes object"), "{rejection}");
    assert_eq!((counts.others, counts.ignored), (1, 0));
    let blank = policy("a").replace("kind: NetworkPolicy", "kind: \" \"");
    assert_eq!(synced(&documents("x.yaml", &blank)).2.len(), 1);
    for kind in ["NetworkPolicy", "EndpointSlice"] {
        let text = format!("apiVersion: \"\"\nkind: {kind}\nmetadata: {{name: a}}\n");
        let (_, counts, rejections) = synced(&documents("x.yaml", &text));
        let [rejection] = rejections.as_slice() else { panic!("{kind}: {rejections:?}") };
        assert!(rejection.contains("of apiVersion \"\" is not enforced"), "{rejection}");
        assert_eq!(counts.ignored, 0, "{kind}");
    }
}

#[test]
fn an_answer_of_an_api_server_without_objects_is_rejected_with_its_message() {
    let error = "kind: Status\napiVersion: v1\nstatus: Failure\nmessage: \"no \\e[1m\"\n";
    for text in [error.to_owned(), error.replace(": v1", ": meta.k8s.io/v1")] {
        let (_, counts, rejections) = synced(&documents("x.yaml", &text));
        let message = "x.yaml:1: is an error answer of an API server: no \\u{1b}[1m";
        assert_eq!((counts.others, rejections), (1, vec![message.to_owned()]));
    }
    for kind in ["Table", "APIGroupList", "APIResourceList", "APIVersions"] {
        let (_, _, rejections) = synced(&documents("x.yaml", &format!("kind: {kind}\n")));
        assert_eq!(rejections.len(), 1, "{kind}: {rejections:?}");
    }
    let of_others = "kind: Status\napiVersion: example.com/v1\n";
    let (_, counts, rejections) = synced(&documents("x.yaml", of_others));
    assert_eq!((counts.ignored, rejections), (1, vec![]));
}

#[test]
fn a_list_without_items_is_rejected() {
    for (kind, version) in [
        ("List", "v1"),
        ("NetworkPolicyList", "networking.k8s.io/v1"),
        ("PodList", "v1"),
        ("CiliumNetworkPolicyList", "cilium.io/v2"),
    ] {
        for rest in ["", "items:\n", "metadata: {}\nitems: null\n"] {
            let text = format!("kind: {kind}\napiVersion: {version}\n{rest}");
            let (_, _, rejections) = synced(&documents("x.yaml", &text));
            let expected =
                format!("x.yaml:1: this {kind} has no items; an empty one has items: []");
            assert_eq!(rejections, [expected], "{text}");
        }
        let empty = format!("kind: {kind}\napiVersion: {version}\nitems: []\n");
        assert_eq!(synced(&documents("x.yaml", &empty)).2, [""; 0]);
    }
    let of_others = "kind: AllowList\napiVersion: example.com/v1\nspec: {}\n";
    let (_, counts, rejections) = synced(&documents("x.yaml", of_others));
    assert_eq!((counts.ignored, rejections.len()), (1, 0));
}

#[test]
fn nothing_as_the_value_of_a_label_is_an_empty_one() {
    let text = "\
apiVersion: v1
kind: Pod
metadata: {namespace: shop, name: web, labels: {a: , b: null, c: x}}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: a}
spec:
  podSelector:
    matchLabels: {a: null}
    matchExpressions: [{key: b, operator: In, values: [null]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: shop, name: a}
spec: {endpointSelector: {matchLabels: {a: }}, ingress: [{}]}
";
    let (store, _, rejections) = synced(&documents("x.yaml", text));
    assert_eq!(rejections, [""; 0]);
    for (key, _) in store.policy_objects() {
        let selected: Vec<_> = store.selected_pods(key).map(ToString::to_string).collect();
        assert_eq!(selected, ["shop/web"], "{key}");
    }
}

#[test]
fn identical_doubles_are_one_object_and_others_an_error_with_both_places() {
    let double = format!("{}---\n{}", policy("a"), policy("a"));
    let (_, counts, rejections) = synced(&documents("x.yaml", &double));
    assert_eq!((counts.policies, rejections), (1, vec![]));
    // What policy doesn't read of an object makes no difference.
    let annotated = policy("a").replace("name: a", "annotations: {x: y}, name: a");
    let (_, counts, rejections) =
        synced(&documents("x.yaml", &format!("{}---\n{annotated}", policy("a"))));
    assert_eq!((counts.policies, rejections), (1, vec![]));

    // Nor do a field that is null, an empty text or a status.
    for same in [
        policy("a").replace("podSelector: {}", "podSelector: {}, ingress: null"),
        policy("a").replace("podSelector: {}", "podSelector: {matchLabels: null}"),
        policy("a") + "status: {}\n",
        policy("a") + "status: {conditions: [{type: Accepted}]}\n",
    ] {
        let both = format!("{}---\n{same}", policy("a"));
        assert_eq!(synced(&documents("x.yaml", &both)).2, [""; 0], "{same}");
        let mut both = documents("x.yaml", &policy("a"));
        both.extend(documents("y.yaml", &same));
        assert_eq!(synced(&both).2, [""; 0], "{same}");
    }
    // What is null in a mapping of texts is an empty one, and a pod's addresses are in its status.
    let pod = "{apiVersion: v1, kind: Pod, metadata: {namespace: a, name: x, labels: {a: b}}, \
               status: {podIPs: [{ip: 10.0.0.1}]}}";
    for other in [
        pod.replace("a: b", "a: b, c: null"),
        pod.replace("10.0.0.1", "10.0.0.2"),
        pod.replace("podIPs: [{ip: 10.0.0.1}]", ""),
    ] {
        let (_, _, rejections) = synced(&documents("x.yaml", &format!("{pod}\n---\n{other}\n")));
        assert_eq!(rejections.len(), 1, "{other}: {rejections:?}");
    }

    let other = policy("a").replace("podSelector: {}", "policyTypes: [Egress]");
    let mut both = documents("x.yaml", &policy("a"));
    both.extend(documents("y.yaml", &format!("\n{other}")));
    let (_, counts, rejections) = synced(&both);
    let message = "y.yaml:2: NetworkPolicy shop/a: is defined otherwise at x.yaml:1, which counts";
    assert_eq!((counts.policies, rejections), (2, vec![message.to_owned()]));

    let broken = policy("a").replace("podSelector", "podselector");
    let (_, _, rejections) = synced(&documents("x.yaml", &format!("{broken}---\n{broken}")));
    assert_eq!(rejections.len(), 1, "{rejections:?}");
}

#[test]
fn marks_and_directives_before_any_document_are_read() {
    let (a, b, c) = (policy("a"), policy("b"), policy("c"));
    let all = named(&["a", "b", "c"]);
    for text in [
        format!("\u{feff}{a}---\n\u{feff}{b}\u{feff}---\n{c}"),
        format!("\u{feff}{a}\u{feff}{b}\u{feff}{c}"),
        format!("%YAML 1.2\n---\n{a}%YAML 1.2\n---\n{b}...\n%YAML 1.1\n# comment\n---\n{c}"),
        format!("\u{feff}%YAML 1.2\n---\n{a}...\n\u{feff}%YAML 1.2\n---\n{b}---\n{c}..."),
        format!("{a}...\n{b}...\n...\n{c}"),
        format!("--- # one\n{a}\n--- \n{b}---\t\n{c}---"),
        format!("{a}---\r\n{b}\r\n...\r\n{c}").replace("\r\r", "\r"),
        format!("%TAG !e! tag:example.com,2000:\n---\n{a}---\n{b}---\n{c}"),
    ] {
        assert_eq!(of("x.yaml", &text), (all.clone(), vec![]), "{text:?}");
    }
    let json = |name| {
        format!(
            "{{\"apiVersion\": \"networking.k8s.io/v1\", \"kind\": \"NetworkPolicy\", \
             \"metadata\": {{\"namespace\": \"shop\", \"name\": \"{name}\"}}}}"
        )
    };
    let text = format!("\u{feff}{}\u{feff}\n{}\n\u{feff}{}", json("a"), json("b"), json("c"));
    assert_eq!(of("x.json", &text), (all, vec![]));
}

#[test]
fn a_broken_document_takes_no_neighbour_along() {
    let (a, c) = (policy("a"), policy("c"));
    for broken in [
        "kind: [",
        "a: \"b",
        "a: 'b",
        "a: {b",
        "a: *b",
        "a: 1\na: 2",
        "\tx: 1",
        "%YAML 9.9\n---\na: 1",
        "%YAML 1.2",
        "a: \u{0}",
        "a: |\n b\n%c",
        "- a\nb: c",
        "? {",
        "name: {{ .Values.name }}",
        "{{- if .Values.x }}\na: 1\n{{- end }}",
        "!!binary",
        "a: .nan",
        "a: &x [*x]",
        "@",
        "7",
    ] {
        for [before, behind] in [["---\n", "\n---\n"], ["...\n", "\n...\n"]] {
            let text = format!("{a}{before}{broken}{behind}{c}");
            let (policies, rejections) = of("x.yaml", &text);
            assert_eq!(policies, named(&["a", "c"]), "{text:?}: {rejections:?}");
            // A text that is a whole document of its own may also be nothing at all.
            assert!(rejections.len() <= 1 || broken == "%YAML 1.2", "{text:?}: {rejections:?}");
        }
    }
    let latin: Vec<u8> = [a.as_bytes(), b"---\na: caf\xe9\n---\n", c.as_bytes()].concat();
    let documents = manifest::load_from(latin.as_slice(), Path::new("x.yaml"));
    let (store, _, rejections) = synced(&documents);
    assert_eq!(store.policies().count(), 2);
    assert_eq!(rejections, ["x.yaml:6: is not UTF-8"]);
}

#[test]
fn a_broken_json_value_takes_no_neighbour_along() {
    let value = |name: &str, spec: &str| {
        format!(
            "{{\n \"apiVersion\": \"networking.k8s.io/v1\",\n \"kind\": \"NetworkPolicy\",\n \
             \"metadata\": {{\"namespace\": \"shop\", \"name\": \"{name}\"}},\n \"spec\": {spec}\n}}\n"
        )
    };
    let (a, c) = (value("a", "{}"), value("c", "{}"));
    for broken in ["{", "{]}", "{\"a\": }", "{\"a\": \"b}", "{\"a\": 1, \"a\": 2}", "1e999"] {
        let broken = value("b", broken);
        for [a, broken, c] in [
            [a.clone(), broken.clone(), c.clone()],
            [&a, &broken, &c].map(|text| text.replace('\n', "") + "\n"),
        ] {
            let (policies, rejections) = of("x.json", &format!("{a}{broken}{c}"));
            assert_eq!(policies, named(&["a", "c"]), "{broken}: {rejections:?}");
            assert!(!rejections.is_empty(), "{broken}");
        }
    }
    let latin: Vec<u8> = [a.as_bytes(), b"{\"a\": \"\xe9\"}\n", c.as_bytes()].concat();
    let (store, _, rejections) =
        synced(&manifest::load_from(latin.as_slice(), Path::new("x.json")));
    assert_eq!(store.policies().count(), 2);
    assert_eq!(rejections, ["x.json:7: is not UTF-8"]);
}

#[test]
fn a_text_of_nothing_but_null_is_blank() {
    // What `jq .items` and `yq` print of an answer that lacks what they look for.
    for text in
        ["", "null", "null\n", "---\nnull\n---\n~\n", "--- null\n", "# none\n---\n", "\u{feff}\n"]
    {
        assert!(manifest::is_blank(text.as_bytes()), "{text:?}");
        assert_eq!(documents("x.yaml", text).len(), 0, "{text:?}");
    }
    for text in ["nil", "{}", "kind: Pod", "null: null"] {
        assert!(!manifest::is_blank(text.as_bytes()), "{text:?}");
    }
}
