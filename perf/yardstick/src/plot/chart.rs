//! A chart of curves as SVG.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
/// Margins of the plot: left, right, top, bottom.
const MARGIN: [f64; 4] = [74.0, 24.0, 78.0, 56.0];
/// Distinguishable with most kinds of colour blindness, and by lightness in greyscale.
const COLOURS: [&str; 4] = ["#0b62a4", "#d1741c", "#3a923a", "#8a5a9e"];

/// One chart.
pub(super) struct Chart<'c> {
    pub(super) title: &'c str,
    pub(super) x_label: &'c str,
    pub(super) y_label: &'c str,
    /// Positions and labels of the ticks on the axis.
    pub(super) x_ticks: Vec<(f64, String)>,
    pub(super) y_scale: Scale,
    pub(super) curves: Vec<Curve>,
}

/// Scale of the vertical axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scale {
    /// Linear, from zero.
    FromZero,
    /// Logarithmic.
    Log,
}

/// A named line through points.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<Point>,
}

/// A point, with the minimum and maximum of the values that it is the median of.
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) spread: Option<[f64; 2]>,
}

impl Chart<'_> {
    /// The chart as an SVG document.
    pub(super) fn svg(&self) -> String {
        let frame = self.frame();
        let mut out = String::new();
        let mut put = |line: &str| {
            out.push_str(line);
            out.push('\n');
        };
        put(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">"
        ));
        put("<rect width=\"100%\" height=\"100%\" fill=\"white\"/>");
        let [left, right, top, bottom] = MARGIN;
        put(&text(left, 26.0, "start", "font-size=\"16\"", self.title));
        for (y, label) in frame.y_ticks() {
            let at = frame.y(y);
            put(&line([left, at], [WIDTH - right, at], "stroke=\"#dddddd\""));
            put(&text(left - 8.0, at + 4.5, "end", "", &label));
        }
        for (x, label) in &self.x_ticks {
            let (at, foot) = (frame.x(*x), HEIGHT - bottom);
            put(&line([at, foot], [at, foot + 5.0], "stroke=\"#444444\""));
            put(&text(at, foot + 20.0, "middle", "", label));
        }
        let foot = HEIGHT - bottom;
        put(&line([left, foot], [WIDTH - right, foot], "stroke=\"#444444\""));
        put(&text(f64::midpoint(left, WIDTH - right), HEIGHT - 12.0, "middle", "", self.x_label));
        put(&text(left, top - 10.0, "end", "", self.y_label));
        let mut legend = left + 24.0;
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            put(&frame.curve(curve, colour));
            let middle = 46.0;
            let style = format!("stroke=\"{colour}\" stroke-width=\"2.5\"");
            put(&line([legend, middle], [legend + 22.0, middle], &style));
            put(&text(legend + 28.0, middle + 4.5, "start", "", &curve.name));
            legend += 56.0 + 7.5 * curve.name.chars().count() as f64;
        }
        put("</svg>");
        out
    }

    /// The area that contains all points.
    fn frame(&self) -> Frame {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let across = || points().map(|point| point.x).chain(self.x_ticks.iter().map(|tick| tick.0));
        let heights = || points().flat_map(|point| point.spread.unwrap_or([point.y; 2]));
        let x =
            [across().fold(f64::INFINITY, f64::min), across().fold(f64::NEG_INFINITY, f64::max)];
        let highest = heights().fold(f64::MIN_POSITIVE, f64::max);
        let y = match self.y_scale {
            Scale::FromZero => {
                let step = step(highest);
                [0.0, (highest / step).ceil() * step]
            }
            Scale::Log => {
                let lowest = heights().filter(|height| *height > 0.0).fold(f64::INFINITY, f64::min);
                [lowest.min(highest) / 1.2, highest * 1.2]
            }
        };
        Frame { x, y, scale: self.y_scale }
    }
}

/// Maps values to positions.
struct Frame {
    x: [f64; 2],
    y: [f64; 2],
    scale: Scale,
}

impl Frame {
    fn x(&self, x: f64) -> f64 {
        let [left, right, ..] = MARGIN;
        let [from, to] = self.x;
        // Some padding, so that no point lies on the frame.
        let (inset, width) = (24.0, WIDTH - left - right - 48.0);
        let part = if to > from { (x - from) / (to - from) } else { 0.5 };
        left + inset + part * width
    }

    fn y(&self, y: f64) -> f64 {
        let [.., top, bottom] = MARGIN;
        let part = match self.scale {
            Scale::FromZero => y / self.y[1],
            Scale::Log => {
                let [low, high] = self.y.map(f64::ln);
                (y.max(self.y[0]).ln() - low) / (high - low)
            }
        };
        HEIGHT - bottom - part * (HEIGHT - top - bottom)
    }

    fn y_ticks(&self) -> Vec<(f64, String)> {
        let [low, high] = self.y;
        let values: Vec<f64> = match self.scale {
            Scale::FromZero => {
                let step = step(high);
                (0..=(high / step).round() as u32).map(|n| f64::from(n) * step).collect()
            }
            Scale::Log => (-12..=12)
                .flat_map(|power| [1.0, 2.0, 5.0].map(|first| first * 10_f64.powi(power)))
                .filter(|value| (low..=high).contains(value))
                .collect(),
        };
        // Twelve digits distinguish all ticks and hide rounding errors of sums.
        let label = |value: f64| ((value * 1e9).round() / 1e9).to_string();
        values.into_iter().map(|value| (value, label(value))).collect()
    }

    fn curve(&self, curve: &Curve, colour: &str) -> String {
        let mut out = String::new();
        let mut path = String::new();
        for Point { x, y, spread } in &curve.points {
            let (across, height) = (self.x(*x), self.y(*y));
            let _ = write!(path, "{across:.1},{height:.1} ");
            if let Some([min, max]) = spread {
                let style =
                    format!("stroke=\"{colour}\" stroke-opacity=\"0.5\" stroke-width=\"5\"");
                let [from, to] = [*min, *max].map(|y| [across, self.y(y)]);
                out.push_str(&(line(from, to, &style) + "\n"));
                let _ = writeln!(
                    out,
                    "<circle cx=\"{across:.1}\" cy=\"{height:.1}\" r=\"4\" fill=\"{colour}\"/>"
                );
            }
        }
        let _ = write!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>",
            path.trim_end()
        );
        out
    }
}

/// A round number that is about a fifth of `highest`.
fn step(highest: f64) -> f64 {
    let rough = highest / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let first = [1.0, 2.0, 5.0].into_iter().find(|first| first * power >= rough * 0.999);
    first.unwrap_or(10.0) * power
}

fn line([x1, y1]: [f64; 2], [x2, y2]: [f64; 2], style: &str) -> String {
    format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>")
}

fn text(x: f64, y: f64, anchor: &str, style: &str, words: &str) -> String {
    let words = escaped(words);
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{words}</text>")
}

/// `words` as character data (XML 1.0 §2.4).
fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(y_scale: Scale, heights: &[f64]) -> Chart<'static> {
        let point = |(x, y): (usize, &f64)| Point { x: x as f64, y: *y, spread: None };
        let points = heights.iter().enumerate().map(point).collect();
        let curves = vec![Curve { name: "a < b & c".into(), points }];
        let x_ticks = vec![(0.0, "0".into())];
        Chart { title: "T", x_label: "x", y_label: "y", x_ticks, y_scale, curves }
    }

    #[test]
    fn names_are_escaped() {
        let svg = chart(Scale::FromZero, &[1.0, 2.0]).svg();
        assert!(svg.contains("a &lt; b &amp; c"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn every_point_is_inside_the_frame() {
        let samples: [&[f64]; 4] = [&[0.0, 0.0], &[0.013, 0.5], &[7.0], &[1e6, 3.0]];
        for scale in [Scale::FromZero, Scale::Log] {
            for heights in samples {
                let chart = chart(scale, heights);
                let frame = chart.frame();
                for point in &chart.curves[0].points {
                    let (x, y) = (frame.x(point.x), frame.y(point.y));
                    assert!((0.0..=WIDTH).contains(&x), "{x}");
                    assert!((MARGIN[2]..=HEIGHT - MARGIN[3]).contains(&y), "{y} of {heights:?}");
                }
            }
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        let labels = |scale, heights: &[f64]| {
            let ticks = chart(scale, heights).frame().y_ticks();
            ticks.into_iter().map(|(_, label)| label).collect::<Vec<_>>()
        };
        assert_eq!(labels(Scale::FromZero, &[0.47]), ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]);
        assert_eq!(labels(Scale::Log, &[30.0, 400.0]), ["50", "100", "200"]);
    }
}
