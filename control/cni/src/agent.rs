//! Requests to the agent.

use podgate_api::{Client, EndpointSpec, EndpointState, EndpointStatus, Request, Status};
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
/// When the agent does not answer, or refuses.
pub(crate) fn add(agent: &mut Client, spec: EndpointSpec) -> Result<EndpointStatus, CniError> {
    // The link of an earlier sandbox of this pod is gone, but the runtime has not deleted it yet.
    let is_stale = |other: &EndpointStatus| {
        let same = other.spec.pod.as_ref() == Some(&spec.pod) && other.spec.link != spec.link;
        same && other.state == EndpointState::Gone
    };
    for stale in list(agent)?.into_iter().filter(is_stale) {
        remove(agent, &stale.spec.link)?;
    }
    Ok(agent.call(&Request::EndpointAdd(spec))?)
}

/// All endpoints.
///
/// # Errors
/// When the agent does not answer.
pub(crate) fn list(agent: &mut Client) -> Result<Vec<EndpointStatus>, CniError> {
    Ok(agent.call(&Request::EndpointList {})?)
}

/// Removes the endpoint on a link, which may be gone.
///
/// # Errors
/// When the agent does not answer, or there is no such endpoint.
pub(crate) fn remove(agent: &mut Client, link: &str) -> Result<(), CniError> {
    let _: Value = agent.call(&Request::EndpointRemove { link: link.to_owned() })?;
    Ok(())
}

/// The agent's state.
///
/// # Errors
/// When the agent does not answer.
pub(crate) fn status(agent: &mut Client) -> Result<Status, CniError> {
    Ok(agent.call(&Request::Status {})?)
}
