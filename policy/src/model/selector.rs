//! Label selectors as the API has them (`metav1.LabelSelector`), before keys get a meaning.

use std::collections::BTreeMap;

use super::metadata::{check_label_key, check_label_value};
use crate::fields::{Field, Step, quote};
use crate::labels::{Labels, split_source};

/// A label selector: all `match_labels` and all `match_expressions` must hold; an empty one always
/// matches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LabelSelector {
    /// Labels that must have exactly these values.
    pub match_labels: BTreeMap<String, String>,
    /// Further conditions.
    pub match_expressions: Vec<LabelExpression>,
}

/// One element of `matchExpressions`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LabelExpression {
    /// Label key.
    pub key: String,
    /// Operator.
    pub operator: Operator,
    /// Values; empty for [`Operator::Exists`] and [`Operator::DoesNotExist`], else not empty.
    pub values: Vec<String>,
}

/// Operators of `matchExpressions`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is missing or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is missing.
    DoesNotExist,
}

/// Which keys a selector may use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeySyntax {
    /// Plain label keys.
    Kubernetes,
    /// Keys with an optional `source:` before them.
    Cilium,
}

/// Sources of labels that peers have in Cilium but not here, and what to write instead.
const NOT_HERE: &[(&str, Option<&str>)] = &[
    ("cidr", Some("write fromCIDRSet or toCIDRSet")),
    ("cidrgroup", Some("write fromCIDRSet or toCIDRSet")),
    ("fqdn", Some("write toFQDNs")),
    // No entity stands for nodes with certain labels.
    ("node", None),
];

/// Fields of NetworkPolicies that a Cilium selector expresses by labels.
const OTHERS_FIELDS: &[(&str, &str)] = &[
    ("podSelector", "write its matchLabels and matchExpressions here"),
    (
        "namespaceSelector",
        "write its labels here, with k8s:io.cilium.k8s.namespace.labels. before each key (all \
         namespaces: the key k8s:io.kubernetes.pod.namespace with operator Exists)",
    ),
    ("ipBlock", "write it as an element of fromCIDRSet or toCIDRSet"),
];

impl KeySyntax {
    /// Checks a key, and returns it in the one form that is used from here on.
    fn read(self, field: &Field<'_>, key: &str) -> String {
        if self == Self::Kubernetes {
            check_label_key(field, key);
            return key.to_owned();
        }
        // Two short forms of the source (cilium `pkg/labels/labels.go`, `parseSource`).
        let short = || key.strip_prefix("reserved.").filter(|_| !key.contains(':'));
        let key = match key.strip_prefix('$').or_else(short) {
            Some(name) => format!("reserved:{name}"),
            None => key.to_owned(),
        };
        match split_source(&key) {
            (Some(""), _) => field.reject(format!("{} has an empty label source", quote(&key))),
            (Some("reserved"), "kube-apiserver") => field.reject_with_fix(
                "the API server is known as an entity only",
                "write kube-apiserver in fromEntities or toEntities",
            ),
            (source, name) => {
                if let Some((source, fix)) = NOT_HERE.iter().find(|known| Some(known.0) == source) {
                    let reason = format!("labels of source {source} can't be selected by");
                    match fix {
                        Some(fix) => field.reject_with_fix(reason, *fix),
                        None => field.reject(reason),
                    }
                }
                check_label_key(field, name);
            }
        }
        key
    }
}

impl LabelSelector {
    /// Whether an object with these labels is selected, keys taken as they are.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        let is_one_of = |key: &str, values: &[String]| {
            labels.get(key).is_some_and(|have| values.iter().any(|value| **value == **have))
        };
        let equal = |(key, value): (&String, &String)| is_one_of(key, std::slice::from_ref(value));
        let holds = |condition: &LabelExpression| match condition.operator {
            Operator::In => is_one_of(&condition.key, &condition.values),
            Operator::NotIn => !is_one_of(&condition.key, &condition.values),
            Operator::Exists => labels.contains_key(condition.key.as_str()),
            Operator::DoesNotExist => !labels.contains_key(condition.key.as_str()),
        };
        self.match_labels.iter().all(equal) && self.match_expressions.iter().all(holds)
    }

    /// The keys of its conditions, each with the way to it from the selector.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&str, Vec<Step>)> {
        let labels = self
            .match_labels
            .keys()
            .map(|key| (key.as_str(), vec![Step::from("matchLabels"), Step::from(key.as_str())]));
        let expressions = self.match_expressions.iter().enumerate().map(|(index, expression)| {
            let way = vec![Step::from("matchExpressions"), index.into(), Step::from("key")];
            (expression.key.as_str(), way)
        });
        labels.chain(expressions)
    }

    pub(super) fn parse(field: &Field<'_>, syntax: KeySyntax) -> Option<Self> {
        let mut object = field.object()?;
        let mut selector = Self::default();
        if let Some(labels) = object.take("matchLabels") {
            let labels = labels.entries(|key, field| {
                let key = syntax.read(field, key);
                let value = field.label_value()?;
                check_label_value(field, value);
                Some((key, value.to_owned()))
            });
            selector.match_labels = labels.unwrap_or_default().into_iter().collect();
        }
        if let Some(expressions) = object.take("matchExpressions") {
            let expressions = expressions.list(|field| LabelExpression::parse(field, syntax));
            selector.match_expressions = expressions.unwrap_or_default();
        }
        object.finish_with(match syntax {
            KeySyntax::Kubernetes => &[],
            KeySyntax::Cilium => OTHERS_FIELDS,
        });
        Some(selector)
    }
}

impl LabelExpression {
    fn parse(field: &Field<'_>, syntax: KeySyntax) -> Option<Self> {
        let mut object = field.object()?;
        let (key, operator) = (object.take("key"), object.take("operator"));
        let values_field = object.take("values");
        object.finish();
        if key.is_none() || operator.is_none() {
            field.reject("needs a key and an operator");
        }
        let key = key.and_then(|key| Some(syntax.read(&key, key.string()?)));
        let values = values_field.as_ref().and_then(|values| {
            values.list(|field| {
                let value = field.label_value()?;
                check_label_value(field, value);
                Some(value.to_owned())
            })
        });
        let values = values.unwrap_or_default();
        let operator = operator?;
        let name = operator.string()?;
        let kind = match name {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            _ => {
                operator.reject(format!(
                    "must be In, NotIn, Exists or DoesNotExist, but is {}",
                    quote(name)
                ));
                return None;
            }
        };
        let has_none = values_field.as_ref().is_none_or(Field::is_empty_list);
        match (kind, has_none) {
            (Operator::In | Operator::NotIn, true) => {
                field.reject(format!("{name} needs at least one value"));
            }
            (Operator::Exists | Operator::DoesNotExist, false) => {
                field.reject(format!("{name} takes no values"));
            }
            _ => {}
        }
        Some(Self { key: key?, operator: kind, values })
    }
}
