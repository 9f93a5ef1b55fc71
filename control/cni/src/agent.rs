//! Requests to the agent.

use podgate_socket::{
    Client, ClientError, EndpointSpec, EndpointState, EndpointStatus, PluginRequest, PluginStatus,
};
use serde_json::Value;

use crate::call::Call;
use crate::error::CniError;

/// Connects to the agent.
///
/// # Errors
/// With the code for "try again later" while no agent answers.
pub(crate) fn connect(call: &Call) -> Result<Client, CniError> {
    Ok(Client::connect(&call.config.socket)?)
}

/// Puts a link under policy. When this returns, its tables are in force on every worker.
///
/// # Errors
/// When the agent does not answer, or with an error.
pub(crate) fn add(agent: &mut Client, spec: EndpointSpec) -> Result<EndpointStatus, CniError> {
    // The link of an earlier sandbox of this pod is gone, but the runtime has not deleted it yet.
    let is_stale = |other: &EndpointStatus| {
        let same = other.spec.pod.as_ref() == Some(&spec.pod) && other.spec.link != spec.link;
        same && other.state == EndpointState::Gone
    };
    for stale in list(agent)?.into_iter().filter(is_stale) {
        remove(agent, &stale.spec.link)?;
    }
    Ok(agent.call(&PluginRequest::EndpointAdd(spec))?)
}

/// All endpoints.
///
/// # Errors
/// When the agent does not answer.
pub(crate) fn list(agent: &mut Client) -> Result<Vec<EndpointStatus>, CniError> {
    Ok(agent.call(&PluginRequest::EndpointList {})?)
}

/// Removes the endpoint on a link, which may be gone. One that another call has removed meanwhile,
/// such as another DEL of the same container, counts as removed.
///
/// # Errors
/// When the agent does not answer, or with an error.
pub(crate) fn remove(agent: &mut Client, link: &str) -> Result<(), CniError> {
    let removed: Result<Value, _> =
        agent.call(&PluginRequest::EndpointRemove { link: link.to_owned() });
    match removed {
        Err(ClientError::Agent(_)) if !exists(agent, link)? => Ok(()),
        removed => Ok(removed.map(drop)?),
    }
}

fn exists(agent: &mut Client, link: &str) -> Result<bool, CniError> {
    Ok(list(agent)?.iter().any(|endpoint| endpoint.spec.link == link))
}

/// The agent's state.
///
/// # Errors
/// When the agent does not answer.
pub(crate) fn status(agent: &mut Client) -> Result<PluginStatus, CniError> {
    Ok(agent.call(&PluginRequest::Status {})?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use podgate_socket::{Answer, ApiError};
    use serde_json::json;

    use super::*;

    #[test]
    fn an_endpoint_that_another_del_has_removed_is_no_failure() {
        let endpoint = json!({
            "pod": null, "state": "ready", "addresses": [], "identity": null,
            "ingress_enforced": false, "egress_enforced": false,
        });
        let missing = || Answer::Error(ApiError::failed("there is no endpoint on link pgp1"));
        for (present, succeeds) in [("other", true), ("pgp1", false)] {
            let mut endpoint = endpoint.clone();
            endpoint["link"] = json!(present);
            let answers = [missing(), Answer::Result(json!([endpoint]))];
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("s.sock");
            let listener = UnixListener::bind(&path).unwrap();
            let agent = thread::spawn(move || {
                let mut stream = BufReader::new(listener.accept().unwrap().0);
                for answer in answers {
                    stream.read_line(&mut String::new()).unwrap();
                    stream.get_mut().write_all(answer.to_line().as_bytes()).unwrap();
                }
            });
            let removed = remove(&mut Client::connect(&path).unwrap(), "pgp1");
            assert_eq!(removed.is_ok(), succeeds, "{removed:?}");
            agent.join().unwrap();
        }
    }
}
