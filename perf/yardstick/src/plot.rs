//! The two plots: throughput against the number of rules, and latency by percentile.

mod chart;

use crate::measure::{Measurement, median, spread};
use chart::{Chart, Curve, Point, Scale};

/// Numbers of rules with which podgate and the kernel are compared, and the last part of the ids.
const RULE_COUNTS: [(u32, &str); 3] = [(10, "10"), (1000, "1k"), (10_000, "10k")];

/// Percentiles that are labelled on the axis.
const PERCENTILES: [f64; 6] = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];

/// Throughput of podgate and of the kernel by number of rules, if at least two were measured.
pub(crate) fn rules(measurements: &[Measurement]) -> Option<String> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut ticks, mut unit, mut name) = (Vec::new(), "", String::new());
    for (count, suffix) in RULE_COUNTS {
        let id = format!("xsk.udp64.vs_nft.{suffix}");
        let Some(measured) = measurements.iter().find(|measured| measured.id == id) else {
            continue;
        };
        let Some(baseline) = &measured.baseline else { continue };
        let x = f64::from(count).log10();
        let point = |values: &[f64]| Point { x, y: median(values), spread: Some(spread(values)) };
        ours.push(point(&measured.values));
        theirs.push(point(&baseline.values));
        ticks.push((x, count.to_string()));
        (unit, name) = (measured.unit, baseline.name.clone());
    }
    if ticks.len() < 2 {
        return None;
    }
    let curves =
        vec![Curve { name: "podgate".into(), points: ours }, Curve { name, points: theirs }];
    let chart = Chart {
        title: "UDP of 64 bytes from pod to pod, by number of rules",
        x_label: "rules",
        y_label: unit,
        x_ticks: ticks,
        y_scale: Scale::FromZero,
        curves,
    };
    Some(chart.svg())
}

/// Latency by percentile, from the curves of the request-response measurements.
pub(crate) fn latency(measurements: &[Measurement]) -> Option<String> {
    let measured: Vec<_> =
        measurements.iter().filter(|measured| measured.id.starts_with("tcp.rr.")).collect();
    let unit = measured.first()?.unit;
    let curve = |(name, points): &(String, Vec<(f64, f64)>)| {
        let points =
            points.iter().map(|(percent, y)| Point { x: nines(*percent), y: *y, spread: None });
        Curve { name: name.clone(), points: points.filter(|point| point.x.is_finite()).collect() }
    };
    let curves: Vec<Curve> =
        measured.iter().flat_map(|measured| &measured.series).map(curve).collect();
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let last = points().map(|point| point.x).fold(0.0, f64::max);
    if points().count() < 2 {
        return None;
    }
    let named = PERCENTILES.into_iter().filter(|percent| nines(*percent) <= last + 1e-9);
    let chart = Chart {
        title: "TCP request and response from pod to pod, by percentile",
        x_label: "percentile",
        y_label: unit,
        x_ticks: named.map(|percent| (nines(percent), percent.to_string())).collect(),
        y_scale: Scale::Log,
        curves,
    };
    Some(chart.svg())
}

/// Position of a percentile on an axis with equal space for each further nine.
fn nines(percent: f64) -> f64 {
    -(1.0 - percent / 100.0).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn against_nft(suffix: &str, ours: f64, theirs: f64) -> Measurement {
        Measurement::new(format!("xsk.udp64.vs_nft.{suffix}"), "Mpps", vec![ours; 3])
            .compared_with("bridge + nftables", vec![theirs; 3])
    }

    #[test]
    fn throughput_is_drawn_if_at_least_two_rule_counts_were_measured() {
        assert_eq!(rules(&[]), None);
        assert_eq!(rules(&[against_nft("10", 0.5, 0.4)]), None);
        let svg = rules(&[against_nft("10", 0.5, 0.4), against_nft("10k", 0.5, 0.02)]).unwrap();
        for part in ["podgate", "bridge + nftables", "Mpps", ">10<", ">10000<"] {
            assert!(svg.contains(part), "{part}\n{svg}");
        }
        assert!(!svg.contains(">1000<"), "was not measured");
    }

    #[test]
    fn each_further_nine_has_the_same_space() {
        let place = |percent| (nines(percent) * 1e6).round() / 1e6;
        assert_eq!([0.0, 90.0, 99.0, 99.9].map(place), [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn latency_is_drawn_from_the_curves() {
        let measured = Measurement::new("tcp.rr.p50", "µs", vec![50.0]);
        assert_eq!(latency(std::slice::from_ref(&measured)), None, "no curves");
        let points = |base: f64| vec![(0.0, base), (50.0, base + 1.0), (99.0, base * 4.0)];
        let measured = measured.curve("podgate", points(40.0)).curve("kernel bridge", points(35.0));
        let svg = latency(std::slice::from_ref(&measured)).unwrap();
        for part in ["podgate", "kernel bridge", "µs", ">50<", ">99<"] {
            assert!(svg.contains(part), "{part}\n{svg}");
        }
        assert!(!svg.contains(">99.9<"), "beyond what was measured");
        // The maximum has no position on the axis.
        let maximum = measured.curve("podgate", vec![(100.0, 9.0)]);
        assert_eq!(latency(&[maximum]).unwrap().matches("NaN").count(), 0);
    }
}
