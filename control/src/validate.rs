//! `podgate policy validate`: which objects of a set of files can't be enforced.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use podgate_api::RejectedField;
use podgate_policy::{Rejection, Store, manifest};
use serde::Serialize;

use crate::output::escape;

/// The path that stands for standard input, and how that is called in messages.
const STDIN: (&str, &str) = ("-", "stdin");

/// What was found.
#[derive(Serialize, Debug)]
pub(crate) struct ValidationReport {
    policies: usize,
    /// Other objects that verdicts depend on, and documents that are no objects.
    other_objects: usize,
    /// Objects of kinds that no verdict depends on.
    ignored: usize,
    rejected_objects: usize,
    /// By file and line.
    rejected: Vec<RejectedField>,
    /// Parts of policies in force that are probably not meant as written; by file and line.
    hints: Vec<RejectedField>,
}

impl ValidationReport {
    /// Checks all files as one set.
    pub(crate) fn of(paths: &[PathBuf], mut stdin: impl Read) -> Self {
        let load = |path: &PathBuf| match path.as_os_str() == STDIN.0 {
            true => manifest::load_from(&mut stdin, Path::new(STDIN.1)),
            false => manifest::load(path),
        };
        let documents: Vec<_> = paths.iter().flat_map(load).collect();
        let mut store = Store::new();
        let tally = store.sync(&documents);
        Self {
            policies: tally.policies,
            other_objects: tally.others,
            ignored: tally.ignored,
            rejected_objects: store.rejected_objects(),
            rejected: in_order(store.rejections()),
            hints: in_order(store.hints()),
        }
    }

    /// Whether everything can be enforced.
    pub(crate) const fn is_clean(&self) -> bool {
        self.rejected.is_empty()
    }

    /// For people: a line for each rejected field and each hint, then one for all.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for rejected in &self.rejected {
            // Writing to memory can't fail.
            let _ = writeln!(text, "{}", escape(&rejected.to_string()));
        }
        for hint in &self.hints {
            let _ = writeln!(text, "hint: {}", escape(&hint.to_string()));
        }
        if !text.is_empty() {
            text.push('\n');
        }
        let policies = match self.policies {
            1 => "1 policy".to_owned(),
            count => format!("{count} policies"),
        };
        let more = [(self.other_objects, "other objects"), (self.ignored, "ignored")];
        let more = more.iter().filter(|(count, _)| *count > 0);
        let more: String = more.map(|(count, what)| format!(", {count} {what}")).collect();
        let _ = writeln!(text, "{policies}{more}, {} rejected", self.rejected_objects);
        text
    }
}

/// Rejected fields by file and line.
fn in_order<'a>(rejections: impl Iterator<Item = &'a Rejection>) -> Vec<RejectedField> {
    let mut rejections: Vec<_> = rejections.collect();
    // Equal places keep the order in which the problems were found.
    rejections.sort_by_key(|rejection| &rejection.source);
    rejections.into_iter().map(RejectedField::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::ffi::OsStrExt;

    const GOOD: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: good}
spec: {podSelector: {}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: shop, name: services}
spec:
  endpointSelector: {}
  ingress:
  - fromEndpoints: [{}]
";

    const BAD: &str = "\
# A port as text, a misspelt field, and a rule without peers.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  namespace: shop
  name: web
spec:
  podselector: {}
  ingress:
  - from:
    - {}
    ports:
    - protocol: TCP
      port: \"80\"
---
apiVersion: v1
kind: Pod
metadata:
  name: Web
---
apiVersion: policy.networking.k8s.io/v1alpha1
kind: AdminNetworkPolicy
metadata: {name: first}
---
apiVersion: networking.k8s.io/v1
kind: Networkpolicy
metadata: {name: second}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: good}
---
apiVersion: serving.knative.dev/v1
kind: Service
metadata: {name: a}
---
spec: [
";

    const STREAM: &str = "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n\
        {\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"shop\"}},\n\
        {\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"\x1b\"}}]}\n";

    /// What is said of a folder with the two files, then of the stream, and which folder that was.
    fn report() -> (ValidationReport, String) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yaml"), GOOD).unwrap();
        fs::write(folder.path().join("b.yaml"), BAD).unwrap();
        let paths = ["", "none.yaml", "-"].map(|name| match name {
            "-" => name.into(),
            _ => folder.path().join(name),
        });
        let report = ValidationReport::of(&paths, STREAM.as_bytes());
        (report, folder.path().join("").display().to_string())
    }

    #[test]
    fn every_rejected_field_is_printed_with_its_line() {
        let (report, folder) = report();
        assert!(!report.is_clean());
        insta::assert_snapshot!(report.to_text().replace(&folder, ""));
    }

    #[test]
    fn every_rejected_field_is_in_the_json() {
        let (report, folder) = report();
        let json = serde_json::to_string_pretty(&report).unwrap();
        insta::assert_snapshot!(json.replace(&folder, ""));
    }

    #[test]
    fn good_files_get_one_line() {
        let report = ValidationReport::of(&["-".into()], GOOD.as_bytes());
        assert!(report.is_clean());
        assert_eq!(report.to_text(), "2 policies, 1 ignored, 0 rejected\n");
    }

    #[test]
    fn a_hint_is_told_and_is_no_error() {
        let text = GOOD.replace("  ingress:\n  - fromEndpoints: [{}]\n", "  ingress: []\n");
        let report = ValidationReport::of(&["-".into()], text.as_bytes());
        assert!(report.is_clean());
        assert_eq!(
            report.to_text(),
            "hint: stdin:13: CiliumNetworkPolicy shop/services: spec: has no rule, so it neither \
             allows nor denies anything, and isolates no pod (newer versions of Cilium reject \
             it)\n\n2 policies, 1 ignored, 0 rejected\n"
        );
    }

    #[test]
    fn workers_can_inspect_the_requests_of_every_protocol() {
        let policy = |name: &str, port: &str, rules: &str| {
            format!(
                "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n\
                 metadata: {{namespace: shop, name: {name}}}\nspec:\n  endpointSelector: {{}}\n  \
                 egress:\n  - toPorts: [{{ports: [{{port: \"{port}\", protocol: TCP}}], {rules}}}]\n\
                 ---\n"
            )
        };
        let text = [
            policy("kafka", "9092", "rules: {kafka: [{topic: a}]}"),
            policy("dns", "53", "rules: {dns: [{matchName: a.example}]}"),
            policy("tls", "443", "serverNames: [a.example]"),
            policy("http", "80", "rules: {http: [{path: /a}]}"),
        ]
        .concat();
        let report = ValidationReport::of(&["-".into()], text.as_bytes());
        assert!(report.is_clean());
        assert_eq!(report.to_text(), "4 policies, 0 rejected\n");
    }

    #[test]
    fn a_path_that_is_no_text_is_no_obstacle() {
        let path = std::ffi::OsStr::from_bytes(b"/nowhere/\xff\x1b.yaml");
        let text = ValidationReport::of(&[path.into()], &b""[..]).to_text();
        assert!(text.contains("can't be read") && !text.contains('\x1b'), "{text}");
    }
}
