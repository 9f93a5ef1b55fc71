//! podgate: the release agent with one worker, and a receiving pod for each size of the rule set.

use std::fmt::Write;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;
use podgate_tests::lab::{Agent, Lab};

use super::{BULK_PORT, ECHO_PORT, ForwarderPath, MEASURED_PORT, on_forwarder_core, other_rule};
use crate::traffic::Flow;

/// MTU of both ends of the pods' links, bytes: large packets instead of TSO, which AF_XDP lacks.
const MTU: u16 = 65_000;
/// The cluster IP of the service of [`lab_with_service`].
pub(crate) const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The sending pod.
pub(crate) const CLIENT: &str = "bench/client";

/// The receiving pod with `rules` policies that don't match.
#[must_use]
pub(crate) fn server(rules: u32) -> String {
    format!("bench/server-{rules}")
}

/// A lab with a client, and a server for each number in `rules`.
///
/// # Errors
/// Without root.
pub(crate) fn lab(rules: &[u32]) -> Result<Lab> {
    lab_with(rules, &[])
}

/// The same with additional pods `others`, which no policy selects.
///
/// # Errors
/// Without root.
pub(crate) fn lab_with(rules: &[u32], others: &[&str]) -> Result<Lab> {
    let folder = tempfile::tempdir()?;
    write_manifests(folder.path(), rules, others)?;
    lab_of(folder.path())
}

/// The same with one server, and a service at [`CLUSTER_IP`] that it is the backend of.
///
/// # Errors
/// Without root.
pub(crate) fn lab_with_service(rules: u32) -> Result<Lab> {
    let folder = tempfile::tempdir()?;
    write_manifests(folder.path(), &[rules], &[])?;
    fs::write(folder.path().join("service.yaml"), service_objects())?;
    lab_of(folder.path())
}

/// A lab with these objects.
fn lab_of(manifests: &Path) -> Result<Lab> {
    let lab = Lab::new(manifests)?;
    for pod in lab.pods() {
        lab.node().netns.ip(&format!("link set {} mtu {MTU}\n", pod.link))?;
        pod.netns.ip(&format!("link set eth0 mtu {MTU}\n"))?;
    }
    Ok(lab)
}

/// Starts the agent, with its worker on the forwarders' core. Pods keep their checksum offload, as
/// those of the kernel's bridge do.
///
/// # Errors
/// When it doesn't become ready.
pub(crate) fn start(lab: &Lab) -> Result<Agent<'_>> {
    on_forwarder_core(|| Agent::start_with(lab, 1, &["--pod-checksums", "leave"]))
}

/// The path to the server with `rules` policies that don't match.
///
/// # Errors
/// As [`ForwarderPath::new`].
pub(crate) fn path(lab: &Lab, rules: u32) -> Result<ForwarderPath<'_>> {
    let (client, server) = (lab.host(CLIENT)?, lab.host(&server(rules))?);
    let flow = Flow {
        source_mac: client.mac("eth0")?,
        target_mac: lab.node().mac(&client.link)?,
        source: client.addresses.v4,
        target: server.addresses.v4,
        port: MEASURED_PORT,
    };
    ForwarderPath::new(&format!("podgate.{rules}"), &client.netns, &server.netns, flow, None)
}

fn write_manifests(folder: &Path, rules: &[u32], others: &[&str]) -> Result<()> {
    let mut pods = String::from(
        "{apiVersion: v1, kind: Namespace, metadata: {name: bench}}\n\
         ---\n",
    );
    write_pod(&mut pods, "client", 1)?;
    for (number, rules) in (2..).zip(rules) {
        let name = format!("server-{rules}");
        write_pod(&mut pods, &name, number)?;
        fs::write(folder.join(format!("{name}.yaml")), policies(&name, *rules)?)?;
    }
    for (number, name) in (100..).zip(others) {
        write_pod(&mut pods, name, number)?;
    }
    fs::write(folder.join("pods.yaml"), pods)?;
    Ok(())
}

fn write_pod(text: &mut String, name: &str, number: u8) -> Result<()> {
    writeln!(
        text,
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: bench, labels: {{app: \
         {name}}}}}, status: {{podIPs: [{{ip: 10.64.1.{number}}}, {{ip: \"fd64::{number}\"}}]}}}}\n\
         ---"
    )?;
    Ok(())
}

/// A service whose backend is the first server, and its slice.
fn service_objects() -> String {
    let ports = format!("{{name: bulk, port: {BULK_PORT}}}, {{name: echo, port: {ECHO_PORT}}}");
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: server, namespace: bench}}, spec: \
         {{clusterIP: {CLUSTER_IP}, ports: [{ports}]}}}}\n\
         ---\n\
         {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: server, \
         namespace: bench, labels: {{kubernetes.io/service-name: server}}}}, addressType: IPv4, \
         ports: [{ports}], endpoints: [{{addresses: [10.64.1.2]}}]}}\n"
    )
}

/// One NetworkPolicy for each rule.
fn policies(server: &str, rules: u32) -> Result<String> {
    let mut text = String::new();
    for index in 0..rules {
        let (source, port) = other_rule(index);
        write_policy(
            &mut text,
            server,
            &format!("other-{index}"),
            &format!("ipBlock: {{cidr: {source}/32}}"),
            &format!("{{protocol: UDP, port: {port}}}"),
        )?;
    }
    write_policy(
        &mut text,
        server,
        "measured",
        "podSelector: {matchLabels: {app: client}}",
        &format!(
            "{{protocol: UDP, port: {MEASURED_PORT}}}, {{protocol: TCP, port: {BULK_PORT}}}, \
             {{protocol: TCP, port: {ECHO_PORT}}}"
        ),
    )?;
    Ok(text)
}

fn write_policy(
    text: &mut String,
    server: &str,
    name: &str,
    peer: &str,
    ports: &str,
) -> Result<()> {
    writeln!(
        text,
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: \
         {server}-{name}, namespace: bench}}, spec: {{podSelector: {{matchLabels: {{app: \
         {server}}}}}, ingress: [{{from: [{{{peer}}}], ports: [{ports}]}}]}}}}\n\
         ---"
    )?;
    Ok(())
}
