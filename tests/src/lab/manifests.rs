//! The pods of a folder of Kubernetes manifests, for which the lab stands in for kubelet.

use std::path::Path;

use anyhow::{Context, Result};
use podgate_policy::manifest::load;
use serde_json::Value;

use super::Addresses;

/// What the lab builds for one Pod object.
#[derive(Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// Its Kubernetes namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `status.podIPs`, one of each family.
    pub addresses: Addresses,
    /// Container ports, if the image is nginx.
    pub nginx_ports: Vec<u16>,
}

/// The Pod objects of `folder`, in the order of namespace and name.
pub(super) fn pods_in(folder: &Path) -> Result<Vec<PodSpec>> {
    let mut pods = Vec::new();
    for document in load(folder) {
        // The agent reports what can't be read.
        let Ok(object) = document.value else { continue };
        if object["kind"] == "Pod" {
            pods.push(pod(&object).with_context(|| format!("{}", document.source.location))?);
        }
    }
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(pods)
}

fn pod(object: &Value) -> Result<PodSpec> {
    let text = |field: &Value| field.as_str().map(str::to_owned);
    let addresses = object["status"]["podIPs"].as_array().context("no status.podIPs")?;
    let addresses: Vec<_> = addresses.iter().filter_map(|ip| ip["ip"].as_str()).collect();
    let mut nginx_ports = Vec::new();
    for container in object["spec"]["containers"].as_array().into_iter().flatten() {
        let is_nginx = container["image"].as_str().is_some_and(|image| image.starts_with("nginx"));
        for port in container["ports"].as_array().into_iter().flatten().filter(|_| is_nginx) {
            let number = port["containerPort"].as_u64().context("no containerPort")?;
            nginx_ports.push(u16::try_from(number)?);
        }
    }
    Ok(PodSpec {
        namespace: text(&object["metadata"]["namespace"]).context("no namespace")?,
        name: text(&object["metadata"]["name"]).context("no name")?,
        addresses: Addresses {
            v4: addresses.iter().find_map(|ip| ip.parse().ok()).context("no IPv4 address")?,
            v6: addresses.iter().find_map(|ip| ip.parse().ok()).context("no IPv6 address")?,
        },
        nginx_ports,
    })
}
