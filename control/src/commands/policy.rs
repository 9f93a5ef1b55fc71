//! `podgate policy …`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use podgate_api::Client;
use podgate_api::{
    EndpointTable, Explained, PolicyDetail, PolicyFilter, PolicyList, PolicyWaited, Request,
};
use podgate_policy::explain::{
    EndName, Explanation, Local, Outcome, Query, QueryError, SelectorInfo, explain,
    pods_in_question,
};
use podgate_policy::{Kind, PodName, Store, ThisNode, compile, manifest};

use super::{FAILED, UNEXPECTED, print_as, show, workload};
use crate::cli::{
    Expect, ExplainArgs, PolicyCommand, PolicyGetArgs, PolicyWaitArgs, TablePolicyGetArgs,
    ValidateArgs,
};
use crate::explanation::rejected_note;
use crate::output;
use crate::validate::ValidationReport;

/// Misses that are listed of each direction unless all are asked for.
const MISSES: usize = 5;

pub(super) fn run(command: PolicyCommand) -> Result<ExitCode> {
    match command {
        PolicyCommand::List(args) => {
            show(&args, &Request::PolicyList {}, |list: &PolicyList| output::policies(list))
        }
        PolicyCommand::Get(args) => get(&args),
        PolicyCommand::Selectors(args) => {
            let request = Request::PolicySelectors {};
            show(&args, &request, |list: &Vec<SelectorInfo>| output::selectors(list))
        }
        PolicyCommand::Explain(args) => return run_explain(&args),
        PolicyCommand::Wait(args) => return wait(&args),
        PolicyCommand::Validate(args) => return validate(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn get(args: &PolicyGetArgs) -> Result<()> {
    let which = policy_filter(&args.which)?;
    let request = Request::PolicyGet(which);
    show(&args.client, &request, |policies: &Vec<PolicyDetail>| output::policy_details(policies))
}

pub(super) fn get_table(args: &TablePolicyGetArgs) -> Result<()> {
    let request = Request::TablePolicyGet { endpoint: args.endpoint.clone() };
    show(&args.client, &request, |table: &EndpointTable| output::endpoint_table(table))
}

fn wait(args: &PolicyWaitArgs) -> Result<ExitCode> {
    let request = Request::PolicyWait { epoch: args.epoch, timeout_s: args.timeout };
    let waited: PolicyWaited = Client::connect(&args.client.socket.socket)?.call(&request)?;
    print_as(args.client.output, &waited, output::waited)?;
    Ok(if waited.in_force { ExitCode::SUCCESS } else { UNEXPECTED.into() })
}

fn validate(args: &ValidateArgs) -> Result<ExitCode> {
    let report = ValidationReport::of(&args.paths, std::io::stdin().lock());
    print_as(args.output, &report, ValidationReport::to_text)?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { FAILED.into() })
}

fn run_explain(args: &ExplainArgs) -> Result<ExitCode> {
    if args.port.is_none() && !matches!(args.to, EndName::Service { .. }) {
        bail!(QueryError::NoPort);
    }
    let query = Query {
        from: args.from.clone(),
        to: args.to.clone(),
        port: args.port,
        request: args.request.spec(),
        misses_max: if args.all { usize::MAX } else { MISSES },
    };
    let explained = if args.manifests.is_empty() {
        let request = Request::PolicyExplain { query, both_sides: args.both_sides };
        Client::connect(&args.client.socket.socket)?.call(&request)?
    } else {
        explain_offline(&args.manifests, &query, args.node.as_deref())?
    };
    print_as(args.client.output, &explained, output::explained)?;
    let expected = args.expect.is_none_or(|expect| is_as_expected(expect, &explained.explanation));
    Ok(if expected { ExitCode::SUCCESS } else { UNEXPECTED.into() })
}

/// A flow whose requests are inspected is open, but not everything on it passes: it counts as
/// neither allowed nor denied.
fn is_as_expected(expect: Expect, explanation: &Explanation) -> bool {
    match expect {
        Expect::Allow => explanation.verdict == Outcome::Allowed,
        Expect::Deny => explanation.verdict == Outcome::Denied,
    }
}

fn explain_offline(manifests: &[PathBuf], query: &Query, node: Option<&str>) -> Result<Explained> {
    let mut documents = Vec::new();
    for path in manifests {
        if !path.exists() {
            bail!("there are no manifests at {}", path.display());
        }
        documents.extend(manifest::load(path));
    }
    let mut store = Store::new();
    store.sync(&documents);
    let pods = pods_in_question(query, &store);
    let this_node = store.assume_node(node, &pods)?;
    let explained = explain(&store, &compile(&store), query, Local::Both);
    if let Err(QueryError::UnknownPod { name, .. }) = &explained
        && let Some(advice) = workload::advice(name, &documents, &store)
    {
        bail!(advice);
    }
    let explanation = explained?;
    let mut notes =
        vec!["the policy of both ends is applied, as if they were on one node".to_owned()];
    match &this_node {
        Some(this_node) => notes.push(format!("{this_node}; all others are remote nodes")),
        None if store.has_nodes() => notes.push(
            "it isn't known which node is this one, so all are remote nodes (--node NAME)".into(),
        ),
        None => {}
    }
    notes.extend(this_node.iter().flat_map(|this| elsewhere(this, &pods, &store)));
    notes.extend(rejected_note(&store));
    Ok(Explained { epoch: None, notes, explanation })
}

/// Pods of the query that run on another node than the one that counts as this node.
fn elsewhere(this: &ThisNode, pods: &[PodName], store: &Store) -> Vec<String> {
    let nodes = pods.iter().filter_map(|pod| Some((pod, store.node_of(pod)?)));
    let others = nodes.filter(|(_, node)| **node != *this.name);
    others
        .map(|(pod, node)| format!("pod {pod} runs on {node}, whose agent applies its policy"))
        .collect()
}

/// Reads `[KIND] [NAMESPACE/]NAME`; a kind alone is all of that kind. Kinds may be written in
/// any case, as for `kubectl`.
///
/// # Errors
/// When the first of two words is no kind of policy.
fn policy_filter(words: &[String]) -> Result<PolicyFilter> {
    let kind = |word: &str| {
        let kinds = Kind::ALL.iter().filter(|kind| kind.is_policy());
        let mut kinds = kinds.map(|kind| kind.name());
        kinds.find(|name| name.eq_ignore_ascii_case(word)).map(str::to_owned)
    };
    let (kind, name) = match words {
        [] => (None, None),
        [word] => match kind(word) {
            Some(kind) => (Some(kind), None),
            None => (None, Some(word)),
        },
        [first, name, ..] => match kind(first) {
            Some(kind) => (Some(kind), Some(name)),
            None => {
                let kinds = Kind::ALL.iter().filter(|kind| kind.is_policy());
                let kinds: Vec<_> = kinds.map(|kind| kind.name()).collect();
                bail!("{first} is not a kind of policy; there are {}", kinds.join(", "));
            }
        },
    };
    let (namespace, name) = match name.map(|name| (name, name.split_once('/'))) {
        None => (None, None),
        Some((_, Some((namespace, name)))) => (Some(namespace.to_owned()), Some(name.to_owned())),
        Some((name, None)) => (None, Some(name.clone())),
    };
    Ok(PolicyFilter { kind, namespace, name, pod: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_named_by_kind_namespace_and_name_as_far_as_needed() {
        let filter = |words: &[&str]| {
            let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
            policy_filter(&words).map(|f| (f.kind, f.namespace, f.name))
        };
        let some = |text: &str| Some(text.to_owned());
        let kind = || some("NetworkPolicy");
        assert_eq!(filter(&[]).unwrap(), (None, None, None));
        assert_eq!(filter(&["web"]).unwrap(), (None, None, some("web")));
        assert_eq!(filter(&["shop/web"]).unwrap(), (None, some("shop"), some("web")));
        assert_eq!(filter(&["networkpolicy"]).unwrap(), (kind(), None, None));
        assert_eq!(filter(&["NetworkPolicy", "web"]).unwrap(), (kind(), None, some("web")));
        assert!(filter(&["Pod", "web"]).is_err());
    }
}
