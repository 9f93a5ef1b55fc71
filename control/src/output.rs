//! How answers look on a terminal.

mod explain;
mod flow_table;
mod fqdn;
mod inventory;
mod metrics;
mod policy;
mod services;
mod status;

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use podgate_api::{ConfigOption, EndpointState, EndpointStatus, Origin};
pub(crate) use podgate_policy::terminal::{escape, escape_json};
use tabwriter::TabWriter;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::runtime;

pub(crate) use self::explain::explained;
pub(crate) use self::flow_table::{endpoint_health, endpoint_log, flow_table};
pub(crate) use self::fqdn::fqdns;
pub(crate) use self::inventory::{addresses, identities, nodes};
pub(crate) use self::metrics::metrics;
pub(crate) use self::policy::{endpoint_table, policies, policy_details, selectors, waited};
pub(crate) use self::services::services;
#[cfg(test)]
pub(crate) use self::status::status_without_links;
pub(crate) use self::status::{Detail, status, status_brief};

/// Rows with aligned columns; the first row is the heading.
pub(crate) fn table(rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut writer = TabWriter::new(Vec::new()).padding(3);
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| escape(cell)).collect();
        // Writing to memory can't fail, here and below.
        let _ = writeln!(writer, "{}", cells.join("\t"));
    }
    let bytes = writer.into_inner().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// `-` where there is nothing.
fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// `podgate config`.
#[must_use]
pub(crate) fn config(options: &[ConfigOption]) -> String {
    let rows = options.iter().map(|option| {
        let origin = match &option.origin {
            Origin::Default => "default".to_owned(),
            Origin::File(path) => format!("file {}", path.display()),
            Origin::Environment(name) => format!("environment {name}"),
            Origin::Flag => "flag".to_owned(),
        };
        vec![option.name.clone(), or_dash(option.value.as_deref()), origin]
    });
    table(std::iter::once(row(&["OPTION", "VALUE", "ORIGIN"])).chain(rows))
}

/// `podgate endpoint list`.
#[must_use]
pub(crate) fn endpoints(endpoints: &[EndpointStatus]) -> String {
    let heading =
        row(&["LINK", "POD", "STATE", "INGRESS", "EGRESS", "IDENTITY", "ADDRESSES", "REASON"]);
    // An endpoint that is not ready is cut off, whatever the policies say.
    let enforced = |endpoint: &EndpointStatus, enforced: bool| {
        let word = match (endpoint.state, enforced) {
            (EndpointState::Ready, true) => "enforced",
            (EndpointState::Ready, false) => "open",
            _ => "-",
        };
        word.to_owned()
    };
    let rows = endpoints.iter().map(|endpoint| {
        let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
        vec![
            endpoint.spec.link.clone(),
            endpoint.spec.pod.as_ref().map_or("unknown".to_owned(), ToString::to_string),
            endpoint.state.to_string(),
            enforced(endpoint, endpoint.ingress_enforced),
            enforced(endpoint, endpoint.egress_enforced),
            or_dash(endpoint.identity.map(|identity| identity.to_string()).as_deref()),
            or_dash(Some(&addresses.join(","))),
            or_dash(endpoint.reason.as_deref()),
        ]
    });
    table(std::iter::once(heading).chain(rows))
}

/// Writes to standard output. A reader that left, as `head` does, ends the program quietly.
///
/// # Errors
/// When the output can't be written for another reason.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

/// Ends the program, as [`print()`] does, as soon as the reader of standard output has left, even
/// while there is nothing to print.
pub(crate) fn exit_with_reader() {
    std::thread::spawn(|| {
        let out = io::stdout().as_fd().try_clone_to_owned();
        if out.and_then(wait_for_reader_to_leave).is_ok() {
            std::process::exit(0);
        }
    });
}

/// Waits until a pipe has no reader any more (`EPOLLERR`, `epoll_ctl(2)`).
///
/// # Errors
/// When it is a file that can't be polled, such as a regular one.
fn wait_for_reader_to_leave(out: OwnedFd) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        // Nothing is written to this handle, so it may be in blocking mode.
        let out = pipe::Sender::from_owned_fd_unchecked(out)?;
        out.ready(Interest::ERROR).await.map(|_| ())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use podgate_api::{EndpointSpec, PolicyList, PolicyState, PolicyStatus, RejectedField, Source};

    fn endpoint(link: &str, pod: Option<&str>, state: EndpointState) -> EndpointStatus {
        let pod = pod.map(|pod| pod.parse().unwrap());
        let spec = EndpointSpec {
            link: link.into(),
            pod,
            netns: None,
            mac: None,
            mtu: None,
            assigned: Vec::new(),
        };
        EndpointStatus {
            spec,
            state,
            reason: None,
            addresses: Vec::new(),
            identity: None,
            ingress_enforced: false,
            egress_enforced: false,
        }
    }

    #[test]
    fn endpoints_for_people() {
        let ready = EndpointStatus {
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            identity: Some(1001),
            ingress_enforced: true,
            ..endpoint("veth1a", Some("shop/cart-0"), EndpointState::Ready)
        };
        let waiting = EndpointStatus {
            reason: Some("pod shop/web-with-a-long-name is not known".into()),
            ..endpoint("v", Some("shop/web-with-a-long-name"), EndpointState::Waiting)
        };
        insta::assert_snapshot!(endpoints(&[ready, waiting]));
    }

    #[test]
    fn an_endpoint_whose_pod_is_not_known_is_listed_as_such() {
        let list = endpoints(&[endpoint("veth9", None, EndpointState::Waiting)]);
        assert!(list.contains("veth9   unknown   waiting"), "{list}");
    }

    #[test]
    fn policies_for_people() {
        let policy = |kind: &str, namespace: Option<&str>, state| PolicyStatus {
            kind: kind.into(),
            namespace: namespace.map(str::to_owned),
            name: "web".into(),
            state,
            pods: 2,
        };
        let list = PolicyList {
            epoch: 7,
            policies: vec![
                policy("NetworkPolicy", Some("shop"), PolicyState::Enforced),
                policy("CiliumClusterwideNetworkPolicy", None, PolicyState::Outdated),
            ],
            rejected: vec![RejectedField {
                object: "CiliumClusterwideNetworkPolicy web".into(),
                source: Some(Source { file: "/p/web.yaml".into(), line: 14, column: 9 }),
                field: "spec.ingress[0].toPorts[0].port".into(),
                reason: "must be a string, but is a number".into(),
                fix: Some("write it with quotes: \"80\"".into()),
            }],
        };
        insta::assert_snapshot!(policies(&list));
    }

    #[test]
    fn it_is_noticed_that_the_reader_of_a_pipe_has_left() {
        let (reader, writer) = io::pipe().unwrap();
        let waiter = std::thread::spawn(move || wait_for_reader_to_leave(writer.into()));
        drop(reader);
        waiter.join().unwrap().unwrap();
        assert!(wait_for_reader_to_leave(tempfile::tempfile().unwrap().into()).is_err());
    }

    #[test]
    fn a_table_can_not_be_broken_by_its_cells() {
        let text = table([row(&["A", "B"]), row(&["x\ty\n\x1b[2J", "z"])]);
        assert_eq!(text, "A             B\nx^Iy^J^[[2J   z\n");
    }
}
