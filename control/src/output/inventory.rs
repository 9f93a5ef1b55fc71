//! Addresses, identities and nodes as text.

use podgate_api::{IdentityEntry, IpEntry, NodeEntry};

use super::{or_dash, row, table};

/// `podgate ip list`, `podgate ip get`.
#[must_use]
pub(crate) fn addresses(entries: &[IpEntry]) -> String {
    let heading = row(&["IP", "IDENTITY", "POD", "LABELS"]);
    let rows = entries.iter().map(|entry| {
        let IpEntry { address, identity, pod, labels } = entry;
        let labels = or_dash(Some(&labels.join(",")));
        vec![address.to_string(), identity.to_string(), or_dash(pod.as_deref()), labels]
    });
    table(std::iter::once(heading).chain(rows))
}

/// `podgate identity list`, `podgate identity get`: a row for each label, as cilium-dbg has it.
#[must_use]
pub(crate) fn identities(entries: &[IdentityEntry]) -> String {
    let mut rows = vec![row(&["ID", "LABELS"])];
    for entry in entries {
        let mut labels = entry.labels.iter();
        rows.push(vec![entry.identity.to_string(), or_dash(labels.next().map(String::as_str))]);
        rows.extend(labels.map(|label| vec![String::new(), label.clone()]));
    }
    table(rows)
}

/// `podgate node list`.
#[must_use]
pub(crate) fn nodes(entries: &[NodeEntry]) -> String {
    let heading = row(&["NAME", "ADDRESSES"]);
    let rows = entries.iter().map(|entry| {
        let addresses: Vec<_> = entry.addresses.iter().map(ToString::to_string).collect();
        vec![entry.name.clone(), or_dash(Some(&addresses.join(",")))]
    });
    table(std::iter::once(heading).chain(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_identity_and_pod() {
        let entries = [
            IpEntry {
                address: "10.0.0.1".parse().unwrap(),
                identity: 4711,
                pod: Some("shop/web".into()),
                labels: vec!["k8s:app=web".into(), "k8s:tier=front".into()],
            },
            IpEntry {
                address: "2001:db8::1".parse().unwrap(),
                identity: 1,
                pod: None,
                labels: Vec::new(),
            },
        ];
        let expected = "\
IP            IDENTITY   POD        LABELS
10.0.0.1      4711       shop/web   k8s:app=web,k8s:tier=front
2001:db8::1   1          -          -
";
        assert_eq!(addresses(&entries), expected);
    }

    #[test]
    fn an_identity_has_a_row_for_each_label() {
        let labels = vec!["k8s:app=web".into(), "k8s:tier=front".into()];
        let list = identities(&[IdentityEntry { identity: 4711, labels }]);
        assert_eq!(list, "ID     LABELS\n4711   k8s:app=web\n       k8s:tier=front\n");
    }

    #[test]
    fn a_node_without_addresses_has_a_dash() {
        let list = nodes(&[NodeEntry { name: "a".into(), addresses: Vec::new() }]);
        assert_eq!(list, "NAME   ADDRESSES\na      -\n");
    }
}
