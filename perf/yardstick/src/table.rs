//! The report as a table.

use std::io::{self, Write};

use tabwriter::TabWriter;

use crate::measure::{Measurement, median};
use crate::report::BenchReport;

/// Prints `report` to `out`.
///
/// # Errors
/// When writing to `out` fails.
pub(crate) fn print(report: &BenchReport, out: &mut impl Write) -> io::Result<()> {
    if cfg!(debug_assertions) {
        writeln!(out, "A debug build: the figures below say nothing about podgate.")?;
    }
    let quick =
        if report.quick { " Quick: short measurements, so the figures are rough." } else { "" };
    writeln!(out, "Medians of {} rounds; comparisons are interleaved.{quick}\n", report.rounds)?;
    let mut rows = TabWriter::new(Vec::new()).padding(2);
    writeln!(rows, "ID\tMEDIAN\tMIN–MAX\tUNIT\tAGAINST\tMEDIAN\tRATIO\tBAR")?;
    report.measurements.iter().try_for_each(|measured| row(measured, &mut rows))?;
    let rows = rows.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
    for row in String::from_utf8_lossy(&rows).lines() {
        writeln!(out, "{}", row.trim_end())?;
    }
    writeln!(out)?;
    for Measurement { id, notes, .. } in &report.measurements {
        notes.iter().try_for_each(|note| writeln!(out, "{id}: {note}"))?;
    }
    for (id, why) in &report.skipped {
        writeln!(out, "{id}: skipped, {why}")?;
    }
    for (id, why) in &report.failed {
        writeln!(out, "{id}: FAILED, {why}")?;
    }
    Ok(())
}

fn row(measured: &Measurement, out: &mut impl Write) -> io::Result<()> {
    let [min, max] = measured.spread().map(number);
    let baseline = measured.baseline.as_ref();
    let against = baseline.map_or("-", |baseline| baseline.name.as_str());
    let its_median = baseline.map_or_else(String::new, |baseline| number(median(&baseline.values)));
    let ratio = measured.ratio().map_or_else(String::new, |ratio| format!("{ratio:.2}×"));
    let bar = match (measured.bar, measured.met()) {
        (Some(bar), Some(true)) => format!("{bar}: met"),
        (Some(bar), _) => format!("{bar}: MISSED"),
        (None, _) => "-".into(),
    };
    let (id, median, unit) = (&measured.id, number(measured.median()), measured.unit);
    writeln!(out, "{id}\t{median}\t{min}–{max}\t{unit}\t{against}\t{its_median}\t{ratio}\t{bar}")
}

/// Three significant digits, or all digits before the decimal point.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Limit;

    #[test]
    fn numbers_have_three_significant_digits() {
        let shown = [0.0, 0.0123, 1.234, 12.34, 123.4, 1_234_567.0].map(number);
        assert_eq!(shown, ["0", "0.012", "1.23", "12.3", "123", "1234567"]);
    }

    #[test]
    fn a_row_has_the_spread_the_comparison_and_the_bar() {
        let measurements = vec![
            Measurement::new("tcp.bulk.vs_ovs", "Gb/s", vec![8.0, 7.5, 9.0])
                .compared_with("OVS", vec![2.0, 2.5, 2.0])
                .ratio_bar(Limit::AtLeast(3.0)),
            Measurement::new("idle.cpu", "%", vec![2.0]).bar(Limit::AtMost(1.0)).note("warm"),
        ];
        let skipped = vec![("a".to_owned(), "valgrind is missing".to_owned())];
        let failed = vec![("b".to_owned(), "no root".to_owned())];
        let report = BenchReport { quick: true, rounds: 3, measurements, skipped, failed };
        let mut shown = Vec::new();
        print(&report, &mut shown).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        for part in [
            "Medians of 3 rounds",
            "Quick",
            "tcp.bulk.vs_ovs  8.00    7.50–9.00  Gb/s  OVS      2.00    4.00×  ≥ 3×: met",
            "idle.cpu         2.00    2.00–2.00  %     -                       ≤ 1: MISSED",
            "idle.cpu: warm",
            "a: skipped, valgrind is missing",
            "b: FAILED, no root",
        ] {
            assert!(shown.contains(part), "{part}\n{shown}");
        }
    }
}
