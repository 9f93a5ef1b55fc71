//! Services as text.

use std::net::SocketAddr;

use podgate_policy::explain::ServiceEntry;

use super::{row, table};

/// `podgate service list`: a row for each address and port, and one for each further backend.
#[must_use]
pub(crate) fn services(entries: &[ServiceEntry]) -> String {
    let heading = row(&["ID", "FRONTEND", "SERVICE TYPE", "SERVICE", "BACKEND"]);
    let rows = entries.iter().flat_map(|entry| {
        let frontend = SocketAddr::new(entry.address, entry.port);
        let mut backends = entry.backends.iter();
        let numbered = |(number, backend): (usize, &SocketAddr)| {
            format!("{number} => {backend}/{}", entry.protocol)
        };
        let first = backends.next().map_or_else(|| "none".to_owned(), |it| numbered((1, it)));
        let first = vec![
            entry.id.to_string(),
            format!("{frontend}/{}", entry.protocol),
            entry.service_type.clone(),
            format!("{}/{}", entry.namespace, entry.name),
            first,
        ];
        let further = (2..).zip(backends).map(move |it| {
            let mut cells = vec![String::new(); 4];
            cells.push(numbered(it));
            cells
        });
        std::iter::once(first).chain(further)
    });
    table(std::iter::once(heading).chain(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_a_row_for_each_backend() {
        let entry = |id, address: &str, backends: &[&str]| ServiceEntry {
            id,
            namespace: "shop".into(),
            name: "db".into(),
            address: address.parse().unwrap(),
            port: 5432,
            protocol: "TCP".into(),
            service_type: "ClusterIP".into(),
            client_ip_affinity: false,
            backends: backends.iter().map(|backend| backend.parse().unwrap()).collect(),
        };
        let list = services(&[
            entry(1, "10.96.0.1", &["10.0.0.1:5432", "10.0.0.2:5432"]),
            entry(2, "fd96::1", &[]),
        ]);
        let expected = "\
ID   FRONTEND             SERVICE TYPE   SERVICE   BACKEND
1    10.96.0.1:5432/TCP   ClusterIP      shop/db   1 => 10.0.0.1:5432/TCP
                                                   2 => 10.0.0.2:5432/TCP
2    [fd96::1]:5432/TCP   ClusterIP      shop/db   none
";
        assert_eq!(list, expected);
    }
}
