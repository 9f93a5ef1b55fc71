//! `podgate-cni`, the CNI plugin (CNI specification 1.1.0): a container runtime runs it for each
//! pod that starts or stops.
//!
//! | module | content |
//! |---|---|
//! | [`call`] | what the runtime asks for: environment and network configuration |
//! | [`result`] | what the plugin answers, in the form of each version of the specification |
//! | [`error`] | errors with the specification's codes |
//! | [`agent`] | requests to the agent |
//! | [`ipam`] | the plugin that assigns addresses |
//! | [`pod_link`] | the veth pair of a pod |
//! | [`commands`] | ADD, DEL, CHECK, STATUS, GC and VERSION |
//!
//! Without a `prevResult` the plugin creates the pod's link; chained after another plugin, it takes
//! over the link that the other one created. In both cases ADD returns when policy is enforced on
//! the pod's link, so that no packet of the pod's first process bypasses policy.
#![forbid(unsafe_code)]

mod agent;
mod call;
mod commands;
mod error;
mod ipam;
mod pod_link;
mod result;
mod version;

use std::io::{Read, Write};
use std::process::ExitCode;

use call::Call;
use error::CniError;

/// Longest network configuration that is read, bytes.
const CONFIG_MAX: u64 = 1 << 20;

fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let read = std::io::stdin().take(CONFIG_MAX).read_to_end(&mut stdin);
    let outcome = read
        .map_err(|error| CniError::io("can't read the network configuration", &error))
        .and_then(|_| Call::parse(&|name| std::env::var(name).ok(), stdin))
        .and_then(|call| commands::run(&call));
    let (text, code) = match outcome {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(result)) => (result.to_string(), ExitCode::SUCCESS),
        Err(error) => (error.to_json().to_string(), ExitCode::FAILURE),
    };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}
