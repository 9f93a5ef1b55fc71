//! A rejection names the line and column of the field at fault.

use std::path::Path;

use podgate_policy::{Store, manifest};

/// `line:column field` of every rejection of a text.
fn places(name: &str, text: &str) -> Vec<String> {
    let mut store = Store::new();
    store.sync(&manifest::parse(text, Path::new(name)));
    let place = |rejection: &podgate_policy::Rejection| {
        let source = rejection.source.as_ref().unwrap();
        format!("{}:{} {}", source.line, source.column, rejection.field)
    };
    store.rejections().map(place).collect()
}

fn yaml(text: &str) -> Vec<String> {
    places("x.yaml", text)
}

const HEAD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: web}
";

#[test]
fn fields_in_block_style() {
    let text = format!(
        "# comment\n---\n{HEAD}\
spec:
  podSelector:
    matchLabels:
      # a comment
      'a b': c
  ingress:
  - from:
    - podSelector: {{}}
    -
      ipBlock:
        cidr: >-
          10.0.0.0/33
    - {{}}
  - ports:
    - port: 80
    - protocol: TCP
      port:
        70000
    \"form\": []
"
    );
    assert_eq!(
        yaml(&text),
        [
            "10:7 spec.podSelector.matchLabels.a b",
            "16:9 spec.ingress[0].from[1].ipBlock.cidr",
            "18:7 spec.ingress[0].from[2]",
            "22:7 spec.ingress[1].ports[1].port",
            "24:5 spec.ingress[1].form",
        ]
    );
}

#[test]
fn fields_in_flow_style() {
    let text =
        format!("{HEAD}spec: {{podSelector: {{}},\n ingress: [{{from: [], \"form\":\n 1}}]}}\n");
    assert_eq!(yaml(&text), ["5:23 spec.ingress[0].form"]);
    let text = format!("{HEAD}spec: {{ingress: [{{ports: [{{port: 80}}, {{port: 0}}]}}]}}");
    assert_eq!(yaml(&text), ["4:40 spec.ingress[0].ports[1].port"]);
}

#[test]
fn what_aliases_and_merge_keys_repeat_is_where_it_was_written() {
    let text = format!(
        "{HEAD}\
spec:
  podSelector: {{}}
  ingress:
  - from: &peers
    - ipBlock: &block {{cidr: 10.0.0.0/8,
        except: [11.0.0.0/8]}}
  - from: *peers
  egress:
  - to:
    - ipBlock:
        <<: *block
        cidr: fd00::/8
"
    );
    assert_eq!(
        yaml(&text),
        [
            "9:18 spec.ingress[0].from[0].ipBlock.except[0]",
            "9:18 spec.ingress[1].from[0].ipBlock.except[0]",
            "9:18 spec.egress[0].to[0].ipBlock.except[0]",
        ]
    );
}

#[test]
fn missing_fields_are_where_they_belong() {
    assert_eq!(yaml("apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {}\n"), ["3:1 metadata"]);
    assert_eq!(yaml("\n\napiVersion: v1\n"), ["3:1 "]);
    assert_eq!(yaml("[1, 2]\n---\n7\n"), ["1:1 ", "3:1 "]);
}

#[test]
fn each_document_and_each_element_of_a_list() {
    let object = |port: &str, indent: &str| {
        let object = format!("{HEAD}spec:\n  ingress:\n  - ports: [{{port: {port}}}]\n");
        let lines: Vec<_> = object.lines().map(|line| format!("{indent}{line}\n")).collect();
        lines.concat().replace("web", &format!("web{port}"))
    };
    let list = |kind: &str, indent: &str, items: &[String]| {
        let items: Vec<_> =
            items.iter().map(|item| format!("{indent}-{}", &item[indent.len() + 1..])).collect();
        format!("{indent}kind: {kind}\n{indent}items:\n{}", items.concat())
    };
    let inner = list("NetworkPolicyList", "    ", &[object("0", "      ")]);
    let outer = list("List", "", &[object("80", "  "), object("-1", "  "), inner]);
    let text = format!("{}---\n{outer}---   # last\n\n{}", object("65536", ""), object("1.5", ""));
    let place = "spec.ingress[0].ports[0].port";
    let lines: Vec<u32> = text
        .lines()
        .zip(1..)
        .filter(|(line, _)| {
            ["65536}]", "-1}]", " 0}]", "1.5}]"].iter().any(|bad| line.contains(bad))
        })
        .map(|(_, line)| line)
        .collect();
    let mut messages = yaml(&text);
    messages.sort_unstable_by_key(|place| place.split(':').next().unwrap().parse::<u32>().unwrap());
    assert_eq!(
        messages,
        [
            format!("{}:14 {place}", lines[0]),
            format!("{}:16 {place}", lines[1]),
            format!("{}:20 {place}", lines[2]),
            format!("{}:14 {place}", lines[3]),
        ]
    );
}

#[test]
fn line_ends_of_two_characters_and_a_byte_order_mark_count_nothing() {
    let text = format!("\u{feff}{HEAD}spec:\n  x: 1\n---\nkind: 1\n").replace('\n', "\r\n");
    assert_eq!(yaml(&text), ["5:3 spec.x", "7:1 kind"]);
}

#[test]
fn fields_of_json() {
    let text = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
	"metadata": {"name": "caf\u00e9\ud83d\ude00", "labels": {"a\/b": "c"}},
	"spec": {
		"podSelector": {"matchLabels": {"a": "\ud83d\ude00\n"}},
		"ingress": [{"ports":
			[ {"port": 80}, {"protocol" :
				"tcp"}]}]
	}
}"#;
    let below = ["4:35 spec.podSelector.matchLabels.a", "6:21 spec.ingress[0].ports[1].protocol"];
    assert_eq!(places("x.json", text), ["2:15 metadata.name", below[0], below[1]]);
    let text = text.replacen("caf\\u00e9\\ud83d\\ude00", "web", 1);
    let text = format!("  {{\"kind\": 3}} {{\"kind\": 4}}\n{text}\n");
    assert_eq!(
        places("x.json", &text),
        [
            "5:35 spec.podSelector.matchLabels.a",
            "7:21 spec.ingress[0].ports[1].protocol",
            "1:4 kind",
            "1:16 kind"
        ]
    );
}

#[test]
fn broken_text_is_told_where_it_breaks() {
    let messages = |name: &str, text: &str| {
        let mut store = Store::new();
        store.sync(&manifest::parse(text, Path::new(name)));
        let messages: Vec<_> = store.rejections().map(ToString::to_string).collect();
        messages.join("\n")
    };
    insta::assert_snapshot!(
        [
            messages("x.yaml", "a: 1\n---\nb: [1\n---\nc: {\n"),
            messages("x.yaml", "a: 1\n---\nb: 1\nb: 2\n---\n  - x\n  y: 1\n"),
            messages(
                "x.yaml",
                "a:\n\tb: 1\n---\na: *b\n---\n\"a\n---\n%YAML 3.0\n--- x\n---\na: \u{0}\n"
            ),
            messages("x.yaml", "a: .inf\n---\na: {b: 1, ? [x] : 2}\n---\na: 1e999\n---\na\n...\nb\n"),
            messages("x.yaml", "kind: List\nitems: {}\n---\nkind: List\n---\n{kind: List,\n items: [{kind: PodList, items: 1}]}"),
        messages("x.json", "{}\n{\"a\": }"),
            messages("x.json", "{\"a\": 1, \"b\": 2,\n \"a\": 3}"),
            messages("x.json", "{\"a\": 1e999}"),
            messages("x.json", "{\"a\": \"\u{1}\"}"),
        ]
        .join("\n")
    );
}
