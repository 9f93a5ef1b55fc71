//! Objects from an API server: a minimal one, and a real one. The tests with the real one are
//! ignored by default, because no package has a `kube-apiserver`:
//! `PODGATE_KUBE_APISERVER=… cargo test -p podgate-tests --test e2e kube:: -- --ignored`.

use anyhow::{Context, Result};
use podgate_policy::Kind;
use podgate_policy::manifest::load;
use podgate_tests::lab::{
    API_SERVER_PORT, Agent, ApiServer, Family, Get, Lab, ListWatchServer, Outcome,
};
use podgate_tests::scenario::{MANIFESTS, ROWS};
use serde_json::{Value, json};

const ADMIN: &str = "admin/adminapp";
const STRANGER: &str = "other/stranger";
const NGINX: &str = "backend/nginx";
const STORE: &str = "backend/store";

/// An API server with the objects of the lab's manifests.
fn with_objects(lab: &Lab) -> Result<ApiServer<'_>> {
    let server = ApiServer::start(lab)?;
    server.install_all()?;
    server.apply_manifests()?;
    Ok(server)
}

fn ready_agent<'lab>(lab: &'lab Lab, server: &ApiServer<'_>) -> Result<Agent<'lab>> {
    let mut agent = Agent::start_for_cluster(lab, 2, &server.kubeconfig(None)?)?;
    agent.wait_ready()?;
    Ok(agent)
}

/// The object of this kind and name in the lab's manifests.
fn object(lab: &Lab, kind: &str, name: &str) -> Result<Value> {
    let objects = load(&lab.manifests()).into_iter().filter_map(|document| document.value.ok());
    let mut objects =
        objects.filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    objects.next().with_context(|| format!("no {kind} {name} in the lab"))
}

/// A policy that lets pods of namespaces with these labels connect to pods of `backend` with
/// `app: target`.
fn allow(target: &str, namespace: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "backend", "name": "extra"},
        "spec": {
            "podSelector": {"matchLabels": {"app": target}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"namespaceSelector": {"matchLabels": namespace}}]}],
        },
    })
}

/// A cluster-wide policy that denies all ingress to pods with `app: target`.
fn deny_all_to(target: &str) -> Value {
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": "closed"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": target}},
            "ingressDeny": [{"fromEntities": ["all"]}],
        },
    })
}

/// The outcome of a request from `from` to port 8080 of the store.
fn store_seen_by(lab: &Lab, from: &str) -> Result<Outcome> {
    let get = Get { port: 8080, ..Get::path("/items") };
    get.fetch(lab.host(from)?, lab.host(STORE)?, Family::V4)
}

fn reaches_store(agent: &mut Agent<'_>, from: &str, why: &str) -> Result<()> {
    agent.wait_until(&format!("{from} to reach the store: {why}"), |lab| {
        Ok(matches!(store_seen_by(lab, from)?, Outcome::Answer(_)).then_some(()))
    })
}

fn is_cut_off_from_store(agent: &mut Agent<'_>, from: &str, why: &str) -> Result<()> {
    agent.wait_until(&format!("silence for {from}: {why}"), |lab| {
        Ok((store_seen_by(lab, from)? == Outcome::NoAnswer).then_some(()))
    })
}

fn the_scenario_holds(lab: &Lab) -> Result<()> {
    for row in ROWS {
        for (family, seen) in Family::BOTH.into_iter().zip(row.run_both(lab)?) {
            assert!(row.is_met_by(&seen), "{row} over {family}: {seen:?}");
        }
    }
    Ok(())
}

/// The problems with the source of objects in `podgate status`.
fn problems(lab: &Lab) -> Result<String> {
    Ok(lab.podgate_json(&["status"])?["source"]["problems"].to_string())
}

#[test]
#[ignore = "needs a kube-apiserver, named by PODGATE_KUBE_APISERVER, and etcd"]
fn the_scenario_holds_with_objects_from_an_api_server() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let server = with_objects(&lab)?;
    let _agent = ready_agent(&lab, &server)?;
    assert_eq!(problems(&lab)?, "[]");
    the_scenario_holds(&lab)
}

#[test]
#[ignore = "needs a kube-apiserver, named by PODGATE_KUBE_APISERVER, and etcd"]
fn changes_at_the_api_server_reach_live_traffic() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let server = with_objects(&lab)?;
    let mut agent = ready_agent(&lab, &server)?;
    is_cut_off_from_store(&mut agent, STRANGER, "no policy allows it")?;

    let other = json!({"kubernetes.io/metadata.name": "other"});
    server.apply(&allow("store", &other))?;
    reaches_store(&mut agent, STRANGER, "a policy was added")?;
    server.apply(&allow("store", &json!({"trusted": "yes"})))?;
    is_cut_off_from_store(&mut agent, STRANGER, "the policy was changed")?;

    let mut namespace = object(&lab, "Namespace", "other")?;
    namespace["metadata"]["labels"]["trusted"] = "yes".into();
    server.apply(&namespace)?;
    reaches_store(&mut agent, STRANGER, "its namespace got the label")?;
    server.delete(&allow("store", &other))?;
    is_cut_off_from_store(&mut agent, STRANGER, "the policy was deleted")?;

    let mut admin = object(&lab, "Pod", "adminapp")?;
    admin["metadata"]["labels"]["app"] = "something-else".into();
    server.apply(&admin)?;
    is_cut_off_from_store(&mut agent, ADMIN, "the pod lost its label")?;
    admin["metadata"]["labels"]["app"] = "adminapp".into();
    server.apply(&admin)?;
    reaches_store(&mut agent, ADMIN, "the pod got its label back")?;

    server.delete(&admin)?;
    is_cut_off_from_store(&mut agent, ADMIN, "the pod was deleted")?;
    server.apply(&admin)?;
    reaches_store(&mut agent, ADMIN, "the pod was created again")
}

#[test]
#[ignore = "needs a kube-apiserver, named by PODGATE_KUBE_APISERVER, and etcd"]
fn an_invalid_update_at_the_api_server_is_reported_and_the_last_good_policy_stays() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let server = with_objects(&lab)?;
    let mut agent = ready_agent(&lab, &server)?;
    let good = object(&lab, "CiliumNetworkPolicy", "allow-api-from-admin")?;
    let mut bad = good.clone();
    bad["spec"]["ingress"][0]["toPorts"][0]["ports"][0]["port"] = "123456".into();
    server.apply(&bad)?;
    let rejected = agent.wait_until("a rejection", |lab| {
        let list = lab.podgate_json(&["policy", "list"])?;
        Ok(list["rejected"].get(0).cloned())
    })?;
    assert_eq!(rejected["object"], "CiliumNetworkPolicy backend/allow-api-from-admin");
    assert!(rejected["field"].as_str().is_some_and(|f| f.contains("ports[0].port")), "{rejected}");
    the_scenario_holds(&lab)?;
    server.apply(&good)?;
    agent.wait_until("no rejection", |lab| {
        let list = lab.podgate_json(&["policy", "list"])?;
        Ok((list["rejected"] == json!([])).then_some(()))
    })
}

#[test]
#[ignore = "needs a kube-apiserver, named by PODGATE_KUBE_APISERVER, and etcd"]
fn a_kind_installed_later_is_watched() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let server = ApiServer::start(&lab)?;
    server.install(Kind::CiliumNetworkPolicy)?;
    server.apply_manifests()?;
    let mut agent = ready_agent(&lab, &server)?;
    let problems = problems(&lab)?;
    assert!(problems.contains("CiliumClusterwideNetworkPolicy is not installed"), "{problems}");
    reaches_store(&mut agent, ADMIN, "the manifests allow it")?;
    server.install(Kind::CiliumClusterwideNetworkPolicy)?;
    server.apply(&deny_all_to("store"))?;
    is_cut_off_from_store(&mut agent, ADMIN, "a policy of the new kind denies it")
}

#[test]
#[ignore = "needs a kube-apiserver, named by PODGATE_KUBE_APISERVER, and etcd"]
fn policy_survives_an_api_server_outage_and_catches_up() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut server = with_objects(&lab)?;
    let extra = allow("store", &json!({"kubernetes.io/metadata.name": "other"}));
    server.apply(&extra)?;
    let mut agent = ready_agent(&lab, &server)?;
    reaches_store(&mut agent, STRANGER, "a policy allows it")?;

    server.kill()?;
    agent.wait_until("the agent to say so", |lab| {
        Ok(problems(lab)?.contains("NetworkPolicy can't be watched").then_some(()))
    })?;
    assert!(matches!(store_seen_by(&lab, STRANGER)?, Outcome::Answer(_)));
    assert_eq!(
        Get::path("/docs").fetch(lab.host(STRANGER)?, lab.host(NGINX)?, Family::V6)?,
        Outcome::NoAnswer
    );

    // On a port that the agent doesn't know, so that it misses the deletion.
    server.resume(API_SERVER_PORT + 1)?;
    server.delete(&extra)?;
    server.kill()?;
    server.resume(API_SERVER_PORT)?;
    is_cut_off_from_store(&mut agent, STRANGER, "the policy was deleted meanwhile")?;
    the_scenario_holds(&lab)
}

#[test]
#[ignore = "needs a kube-apiserver, named by PODGATE_KUBE_APISERVER, and etcd"]
fn nothing_passes_before_the_api_server_was_read() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut server = with_objects(&lab)?;
    server.kill()?;
    let mut agent = Agent::start_for_cluster(&lab, 2, &server.kubeconfig(None)?)?;
    nothing_passes_because(&mut agent, "refused")?;
    server.resume(API_SERVER_PORT)?;
    agent.wait_ready()?;
    the_scenario_holds(&lab)?;
    agent.stop()?;

    let mut agent = Agent::start_for_cluster(&lab, 2, &server.kubeconfig(Some("wrong"))?)?;
    nothing_passes_because(&mut agent, "Unauthorized")
}

/// Waits until the agent reports `problem`, and checks that what policy allows doesn't pass yet.
fn nothing_passes_because(agent: &mut Agent<'_>, problem: &str) -> Result<()> {
    agent.wait_until(&format!("the agent to say {problem}"), |lab| {
        let status = lab.podgate(&["status", "-o", "json"])?;
        if status.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&status.stdout);
        if !text.contains(problem) {
            return Ok(None);
        }
        assert_eq!(store_seen_by(lab, ADMIN)?, Outcome::NoAnswer);
        // The node's kernel has no route to the pods yet, and answers outside hosts with ICMP.
        let office = store_seen_by(lab, "office")?;
        assert!(matches!(office, Outcome::NoAnswer | Outcome::Failure(_)), "{office:?}");
        assert_eq!(lab.host(NGINX)?.ping(lab.host(ADMIN)?, Family::V6)?, Outcome::NoAnswer);
        Ok(Some(()))
    })
}

#[test]
fn a_confined_agent_follows_an_api_server() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let mut server = ListWatchServer::start(&lab)?;
    let mut agent = Agent::start_for_cluster(&lab, 2, &server.kubeconfig()?)?;
    agent.wait_ready()?;
    the_scenario_holds(&lab)?;
    assert_eq!(problems(&lab)?, "[]");

    // The seccomp filter is in force: the name is resolved, and TLS set up, under it.
    server.restart()?;
    server.add(&allow("store", &json!({"kubernetes.io/metadata.name": "other"})))?;
    reaches_store(&mut agent, STRANGER, "a policy allows it")?;
    server.remove_added()?;
    is_cut_off_from_store(&mut agent, STRANGER, "the policy is gone")?;
    agent.wait_until("no problem", |lab| Ok((problems(lab)? == "[]").then_some(())))?;
    agent.stop()
}

/// The condition of this type that was applied to `object` last.
fn condition(server: &ListWatchServer<'_>, object: &Value, r#type: &str) -> Result<Value> {
    let writes = server.writes()?;
    let mut of_object = writes.iter().rev().filter(|write| {
        write["kind"] == object["kind"] && write["metadata"]["name"] == object["metadata"]["name"]
    });
    let conditions = of_object.find_map(|write| {
        let condition = &write["status"]["conditions"][0];
        (condition["type"] == r#type).then(|| condition.clone())
    });
    Ok(conditions.unwrap_or(Value::Null))
}

#[test]
fn the_status_of_policies_and_the_latency_of_changes_are_told() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let server = ListWatchServer::start(&lab)?;
    let mut agent = Agent::start_for_cluster(&lab, 2, &server.kubeconfig()?)?;
    agent.wait_ready()?;
    let mut closed = deny_all_to("store");
    server.add(&closed)?;
    is_cut_off_from_store(&mut agent, ADMIN, "a policy denies it")?;
    agent.wait_until("the condition Valid=True", |_| {
        Ok((condition(&server, &closed, "Valid")?["status"] == "True").then_some(()))
    })?;
    closed["spec"]["unknownField"] = 1.into();
    server.add(&closed)?;
    let valid = agent.wait_until("the condition Valid=False", |_| {
        let valid = condition(&server, &closed, "Valid")?;
        Ok((valid["status"] == "False").then_some(valid))
    })?;
    let message = valid["message"].as_str().unwrap_or_default();
    assert!(message.contains("unknownField"), "{valid}");
    let event = agent.wait_until("an Event", |_| {
        Ok(server.writes()?.into_iter().find(|write| write["kind"] == "Event"))
    })?;
    assert_eq!(event["regarding"]["name"], "closed");
    assert_eq!(event["type"], "Warning");
    // It has to be rejected on every node, and every node has a part of its own.
    agent.wait_until("this node's own condition", |_| {
        let own = server.writes()?.into_iter().rev().find(|write| {
            let manager = write["manager"].as_str().unwrap_or_default();
            write["metadata"]["name"] == "closed" && manager.starts_with("podgate-")
        });
        let own = own.unwrap_or_default();
        let condition = &own["status"]["conditions"][0];
        let message = condition["message"].as_str().unwrap_or_default();
        Ok((condition["status"] == "False" && message.contains("an earlier one")).then_some(()))
    })?;
    let status = lab.podgate_json(&["status"])?;
    assert!(status["api_server"]["changes"].as_u64() >= Some(1), "{status}");
    assert!(status["api_server"]["latency_us"][1].as_u64() > Some(0), "{status}");
    agent.stop()
}

#[test]
fn the_last_valid_version_of_a_rejected_policy_outlives_a_restart() -> Result<()> {
    let lab = Lab::new(MANIFESTS.as_ref())?;
    let server = ListWatchServer::start(&lab)?;
    let mut agent = Agent::start_for_cluster(&lab, 2, &server.kubeconfig()?)?;
    agent.wait_ready()?;
    let mut closed = deny_all_to("store");
    server.add(&closed)?;
    is_cut_off_from_store(&mut agent, ADMIN, "a policy denies it")?;
    agent.wait_until("the valid version on disk", |lab| {
        let status = lab.podgate_json(&["status"])?;
        Ok((status["source"]["unsaved"].as_u64().unwrap_or(0) == 0).then_some(()))
    })?;
    agent.stop()?;
    closed["spec"]["unknownField"] = 1.into();
    server.add(&closed)?;

    let mut agent = Agent::start_for_cluster(&lab, 2, &server.kubeconfig()?)?;
    agent.wait_ready()?;
    assert_eq!(store_seen_by(&lab, ADMIN)?, Outcome::NoAnswer);
    let list = lab.podgate_json(&["policy", "list"])?;
    let rejected = list["rejected"].to_string();
    assert!(rejected.contains("unknownField"), "{list}");
    server.remove_added()?;
    reaches_store(&mut agent, ADMIN, "the policy is gone")?;
    agent.stop()
}
