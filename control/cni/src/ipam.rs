//! The plugin that assigns addresses, which is run with this plugin's own configuration and
//! environment (CNI specification, "Plugin Delegation").

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::call::Call;
use crate::error::{CniError, Code};
use crate::result::CniResult;

/// Runs the plugin for `command`. Returns what it prints.
///
/// # Errors
/// When there is no such plugin, or it fails.
fn run(call: &Call, plugin: &str, command: &str) -> Result<Vec<u8>, CniError> {
    let failed =
        |error: &std::io::Error| CniError::io(&format!("can't run plugin {plugin}"), error);
    let mut child = Command::new(find(call, plugin)?)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that does not read its configuration says why in its output.
        let _ = stdin.write_all(&call.stdin);
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(CniError::of_plugin(plugin, &output.stdout))
    }
}

fn find(call: &Call, plugin: &str) -> Result<PathBuf, CniError> {
    if plugin.is_empty() || plugin.contains('/') {
        let message = format!("ipam.type {plugin:?} is not a name of a plugin");
        return Err(CniError::new(Code::Config, message));
    }
    let found = call.path.iter().map(|folder| folder.join(plugin)).find(|path| path.is_file());
    found.ok_or_else(|| {
        let folders: Vec<_> = call.path.iter().map(|path| path.display().to_string()).collect();
        let message = format!("there is no plugin {plugin} in CNI_PATH ({})", folders.join(", "));
        CniError::new(Code::Config, message)
    })
}

/// Assigns addresses.
///
/// # Errors
/// When the plugin fails, or assigns none.
pub(crate) fn add(call: &Call, plugin: &str) -> Result<CniResult, CniError> {
    let printed = run(call, plugin, "ADD")?;
    let value: Value = serde_json::from_slice(&printed).map_err(|error| {
        CniError::new(Code::Decode, format!("plugin {plugin} did not print a result: {error}"))
    })?;
    let result = CniResult::parse(&value)?;
    if result.ips.is_empty() {
        return Err(CniError::new(Code::Config, format!("plugin {plugin} assigned no address")));
    }
    Ok(result)
}

/// Releases the addresses; or has them checked, with `command` CHECK.
///
/// # Errors
/// When the plugin fails.
pub(crate) fn other(call: &Call, plugin: &str, command: &str) -> Result<(), CniError> {
    run(call, plugin, command).map(|_| ())
}
