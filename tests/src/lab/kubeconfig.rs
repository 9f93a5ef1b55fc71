//! Kubeconfigs for the lab's API servers.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use super::{API_SERVER_PORT, Lab};

/// Bearer token of a server's only user.
pub(super) const TOKEN: &str = "lab-token";

/// Writes a kubeconfig for the server at `host`, whose certificate is the file `certificate` of the
/// lab's `api` folder.
///
/// # Errors
/// When the file can't be written.
pub(super) fn write(lab: &Lab, host: &str, certificate: &str, token: &str) -> Result<PathBuf> {
    let folder = lab.file("api");
    let file = folder.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {
            "server": format!("https://{host}:{API_SERVER_PORT}"),
            "certificate-authority": folder.join(certificate),
        }}],
        "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    });
    fs::write(&file, config.to_string())?;
    Ok(file)
}
