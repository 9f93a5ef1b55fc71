//! Answers from the control socket. Only requests that read are sent.

use std::collections::BTreeMap;
use std::path::Path;

use podgate_api::{Client, EndpointStatus, PodName, PolicyDetail, PolicyFilter, Request};
use podgate_policy::explain::{HttpSpec, Query, RequestSpec};
use serde::Serialize;
use serde_json::Value;

/// Misses that are listed of each direction.
const MISSES_MAX: usize = 5;

/// Parameters of a URL.
pub(crate) type Parameters = BTreeMap<String, String>;

/// What the page asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ApiCall {
    /// [`podgate_api::Status`].
    Status,
    /// [`EndpointStatus`]es.
    Endpoints,
    /// [`podgate_api::PolicyList`].
    Policies,
    /// [`PolicyDetail`]s of `kind`, `namespace` and `name`.
    Policy,
    /// The [`Pod`] `name`.
    Pod,
    /// [`podgate_api::Explained`], of the flow `from` `to` `port`, and perhaps of a request on it.
    Explain,
}

/// A pod, and the policies that select it.
#[derive(Serialize)]
struct Pod {
    /// Its endpoint, if it has one on this node.
    endpoint: Option<EndpointStatus>,
    /// The policies.
    policies: Vec<PolicyDetail>,
}

/// Asks the agent.
///
/// # Errors
/// When a parameter is missing or malformed, the agent can't be reached, or denies it; one line.
pub(crate) fn ask(socket: &Path, call: ApiCall, parameters: &Parameters) -> Result<Value, String> {
    let text = |error: podgate_api::ClientError| error.to_string();
    let request = match call {
        ApiCall::Status => Request::Status {},
        ApiCall::Endpoints => Request::EndpointList {},
        ApiCall::Policies => Request::PolicyList {},
        ApiCall::Policy => Request::PolicyGet(filter(parameters)),
        ApiCall::Explain => Request::PolicyExplain { query: query(parameters)?, both_sides: false },
        ApiCall::Pod => {
            let mut client = Client::connect(socket).map_err(text)?;
            let name = required(parameters, "name")?.parse().map_err(|e| format!("name: {e}"))?;
            let pod = pod(&mut client, name).map_err(text)?;
            return serde_json::to_value(pod).map_err(|error| error.to_string());
        }
    };
    Client::connect(socket).and_then(|mut client| client.call(&request)).map_err(text)
}

fn required<'a>(parameters: &'a Parameters, name: &str) -> Result<&'a str, String> {
    parameters.get(name).map(String::as_str).ok_or_else(|| format!("{name} is missing"))
}

fn filter(parameters: &Parameters) -> PolicyFilter {
    let value = |name: &str| parameters.get(name).filter(|value| !value.is_empty()).cloned();
    let [kind, namespace, name] = ["kind", "namespace", "name"].map(value);
    PolicyFilter { kind, namespace, name, pod: None }
}

fn pod(client: &mut Client, name: PodName) -> Result<Pod, podgate_api::ClientError> {
    let endpoints: Vec<EndpointStatus> = client.call(&Request::EndpointList {})?;
    let endpoint = endpoints.into_iter().find(|endpoint| endpoint.spec.pod.as_ref() == Some(&name));
    let of_pod = PolicyFilter { pod: Some(name), ..PolicyFilter::default() };
    Ok(Pod { endpoint, policies: client.call(&Request::PolicyGet(of_pod))? })
}

/// The flow to explain, and its request.
fn query(parameters: &Parameters) -> Result<Query, String> {
    let wrong = |name: &str, error: &str| format!("{name}: {error}");
    let end = |name: &str| required(parameters, name)?.parse().map_err(|error| wrong(name, error));
    let port = required(parameters, "port")?.parse().map_err(|error| wrong("port", error))?;
    Ok(Query {
        from: end("from")?,
        to: end("to")?,
        port: Some(port),
        request: request(parameters)?,
        misses_max: MISSES_MAX,
    })
}

fn request(parameters: &Parameters) -> Result<Option<RequestSpec>, String> {
    if let Some(text) = parameters.get("http") {
        let mut http: HttpSpec = text.parse().map_err(str::to_owned)?;
        // Of a URL, the rules see the path and the host, as in the request itself.
        if let Some((_, rest)) = http.target.split_once("://") {
            let path = rest.find('/').unwrap_or(rest.len());
            http.host = Some(rest[..path].to_owned());
            http.target = if path < rest.len() { rest[path..].to_owned() } else { "/".to_owned() };
        }
        return Ok(Some(RequestSpec::Http(http)));
    }
    if let Some(text) = parameters.get("kafka") {
        return Ok(Some(RequestSpec::Kafka(text.parse()?)));
    }
    Ok(parameters.get("dns").map(|name| RequestSpec::Dns(name.clone())))
}

#[cfg(test)]
mod tests {
    use podgate_api::ClientAccess;

    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_flow_is_explained_with_the_request_as_rules_see_it() {
        let flow = [("from", "shop/cart-0"), ("to", "192.0.2.7"), ("port", "80/TCP")];
        let http = |url| query(&parameters(&[&flow[..], &[("http", url)]].concat()));
        let Some(RequestSpec::Http(spec)) = http("GET http://web:80/docs?a=1").unwrap().request
        else {
            panic!("no request");
        };
        assert_eq!((spec.target.as_str(), spec.host.as_deref()), ("/docs?a=1", Some("web:80")));
        let Some(RequestSpec::Http(spec)) = http("GET http://web").unwrap().request else {
            panic!("no request");
        };
        assert_eq!((spec.target.as_str(), spec.host.as_deref()), ("/", Some("web")));
        assert!(query(&parameters(&flow)).unwrap().request.is_none());
        assert!(http("GET").is_err());
        let missing = query(&parameters(&flow[..2])).unwrap_err();
        assert_eq!(missing, "port is missing");
        let wrong = query(&parameters(&[("from", "A B"), flow[1], flow[2]])).unwrap_err();
        assert!(wrong.starts_with("from: write "), "{wrong}");
    }

    #[test]
    fn nothing_that_the_page_asks_for_changes_anything() {
        let flow = [("from", "shop/cart-0"), ("to", "192.0.2.7"), ("port", "80/TCP")];
        let query = query(&parameters(&flow)).unwrap();
        for request in [
            Request::Status {},
            Request::EndpointList {},
            Request::PolicyList {},
            Request::PolicyGet(PolicyFilter::default()),
            Request::PolicyExplain { query, both_sides: false },
        ] {
            assert_eq!(request.access(), ClientAccess::ReadOnly, "{request:?}");
        }
    }

    #[test]
    fn an_agent_that_is_not_there_is_an_error_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("none");
        let error = ask(&socket, ApiCall::Status, &Parameters::new()).unwrap_err();
        assert!(error.contains("the agent can't be reached") && !error.contains('\n'), "{error}");
    }
}
