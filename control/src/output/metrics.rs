//! `podgate metrics list`.

use super::{or_dash, row, table};
use crate::metrics::Metric;

/// `podgate metrics list`.
#[must_use]
pub(crate) fn metrics(metrics: &[Metric]) -> String {
    let rows = metrics.iter().map(|metric| {
        let Metric { name, kind, labels, help, .. } = metric;
        vec![name.clone(), kind.to_string(), or_dash(Some(&labels.join(","))), help.clone()]
    });
    table(std::iter::once(row(&["NAME", "KIND", "LABELS", "MEANING"])).chain(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_for_people() {
        insta::assert_snapshot!(metrics(&crate::metrics::metrics()));
    }

    #[test]
    fn a_metric_for_programs() {
        let mut list = crate::metrics::metrics();
        list.retain(|metric| metric.name == "podgate_link_quota_exceeded_total");
        insta::assert_snapshot!(serde_json::to_string_pretty(&list).unwrap());
    }
}
