//! Flows as text: the lines, tables and JSON of `hubble observe`
//! (cilium `hubble/pkg/printer/printer.go`).
//!
//! Whatever a pod or an object named is escaped; the escape sequences of colors are added after.

mod events;
mod paint;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt::Write as _;
use std::io::Write as _;

use podgate_policy::terminal::{escape, escape_json};
use tabwriter::TabWriter;

use self::paint::Color;
pub use self::paint::Colors;
use crate::filter::ports;
use crate::flow::event_type;
use crate::json::response_to_json;
use crate::names;
use crate::proto::flow::layer7::Record;
use crate::proto::flow::{Endpoint, Flow, L7FlowType, Policy, Service, Verdict};
use crate::proto::observer::GetFlowsResponse;
use crate::proto::observer::get_flows_response::ResponseTypes;

/// Between flows that are printed as several lines.
const SEPARATOR: &str = "------------\n";

/// Forms of output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Form {
    /// One line for each flow.
    #[default]
    Compact,
    /// A line for each fact of a flow.
    Dict,
    /// Aligned columns, when all flows are known.
    Table,
    /// JSON, a line for each response.
    Json,
}

/// How ends of flows are named.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ends {
    /// By pod, service or DNS name, if there is one.
    #[default]
    Named,
    /// By address.
    Numeric,
}

/// Whether to show something that is not shown by default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Shown {
    /// Not.
    #[default]
    No,
    /// Shown.
    Yes,
}

/// How flows are printed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Form of output.
    pub form: Form,
    /// Colors.
    pub colors: Colors,
    /// How ends are named.
    pub ends: Ends,
    /// The node that observed a flow.
    pub node_name: Shown,
    /// The policies that decided it.
    pub policy_names: Shown,
    /// Pattern of times (strftime).
    pub time: &'static str,
}

/// `Jan  2 15:04:05.678`, Hubble's usual form of times.
pub const TIME_STAMP_MILLI: &str = "%b %e %H:%M:%S.%3f";

impl Default for Options {
    fn default() -> Self {
        Self {
            form: Form::default(),
            colors: Colors::default(),
            ends: Ends::default(),
            node_name: Shown::default(),
            policy_names: Shown::default(),
            time: TIME_STAMP_MILLI,
        }
    }
}

/// What to write.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Text {
    /// To standard output.
    pub out: String,
    /// To standard error.
    pub err: String,
}

/// Prints responses, one after another.
#[derive(Debug)]
pub struct Printer {
    options: Options,
    /// Rows of a table, which are aligned at the end.
    rows: Vec<Vec<String>>,
    /// Flows so far.
    count: usize,
}

/// The cells of a flow, escaped and painted.
struct Cells {
    time: String,
    node: String,
    ends: [String; 2],
    identities: [String; 2],
    kind: String,
    verdict: String,
    summary: String,
}

impl Printer {
    /// Prints in this way.
    #[must_use]
    pub fn new(mut options: Options) -> Self {
        if options.form == Form::Table {
            // Columns are aligned by what is printed.
            options.colors = Colors::Off;
        }
        Self { options, rows: Vec::new(), count: 0 }
    }

    /// What to write for a response.
    ///
    /// # Errors
    /// When it has no JSON form.
    pub fn response(&mut self, response: &GetFlowsResponse) -> Result<Text, String> {
        let time = response.time.as_ref();
        match &response.response_types {
            Some(ResponseTypes::NodeStatus(status)) => self.node_status(status, response),
            Some(_) if self.options.form == Form::Json => {
                let json = response_to_json(response)?;
                Ok(Text { out: escape_json(&json) + "\n", err: String::new() })
            }
            Some(ResponseTypes::Flow(flow)) => Ok(self.write(|printer| printer.flow(flow))),
            Some(ResponseTypes::LostEvents(lost)) => {
                let node = &response.node_name;
                Ok(self.write(|printer| printer.lost(lost, time, node)))
            }
            None => Ok(Text::default()),
        }
    }

    /// What is left to write when there are no more responses.
    #[must_use]
    pub fn finish(&mut self) -> Text {
        let mut writer = TabWriter::new(Vec::new()).padding(3);
        for row in self.rows.drain(..) {
            // Writing to memory can't fail.
            let _ = writeln!(writer, "{}", row.join("\t"));
        }
        let aligned = writer.into_inner().unwrap_or_default();
        let lines = String::from_utf8_lossy(&aligned);
        let out = lines.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        Text { out, err: String::new() }
    }

    /// Writes cells in one of the forms for people.
    fn write(&mut self, cells: impl FnOnce(&Self) -> (Cells, Arrow)) -> Text {
        let (cells, arrow) = cells(self);
        let out = match self.options.form {
            Form::Compact | Form::Json => self.compact(cells, arrow),
            Form::Dict => self.dict(&cells),
            Form::Table => {
                self.row(cells);
                String::new()
            }
        };
        self.count += 1;
        Text { out, err: String::new() }
    }

    fn compact(&self, cells: Cells, arrow: Arrow) -> String {
        let node = match self.options.node_name {
            Shown::Yes => format!(" [{}]", cells.node),
            Shown::No => String::new(),
        };
        let Cells { time, ends, identities, kind, verdict, summary, .. } = cells;
        let ([source, destination], [from, to]) = (ends, identities);
        let (first, arrow, second) = match arrow {
            Arrow::Lost => return format!("{kind}: {source} {summary}\n"),
            Arrow::Forth => ([source, from], "->", [destination, to]),
            Arrow::Back => ([destination, to], "<-", [source, from]),
            Arrow::Unknown => ([source, from], "<>", [destination, to]),
        };
        let [first, second] = [first, second].map(|end| end.join(" "));
        format!("{time}{node}: {first} {arrow} {second} {kind} {verdict} ({summary})\n")
    }

    fn dict(&self, cells: &Cells) -> String {
        let mut text = if self.count > 0 { SEPARATOR.to_owned() } else { String::new() };
        let [source, destination] = &cells.ends;
        let node = (self.options.node_name == Shown::Yes).then_some(("NODE", &cells.node));
        let facts = [("TIMESTAMP", &cells.time)].into_iter().chain(node).chain([
            ("SOURCE", source),
            ("DESTINATION", destination),
            ("TYPE", &cells.kind),
            ("VERDICT", &cells.verdict),
            ("SUMMARY", &cells.summary),
        ]);
        for (name, value) in facts {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{name:>11}: {value}");
        }
        text
    }

    fn row(&mut self, cells: Cells) {
        let with_node = self.options.node_name == Shown::Yes;
        let row = |time: String, node: String, rest: [String; 5]| {
            let node = with_node.then_some(node);
            std::iter::once(time).chain(node).chain(rest).collect::<Vec<_>>()
        };
        if self.rows.is_empty() {
            let rest = ["SOURCE", "DESTINATION", "TYPE", "VERDICT", "SUMMARY"];
            self.rows.push(row("TIMESTAMP".into(), "NODE".into(), rest.map(str::to_owned)));
        }
        let [source, destination] = cells.ends;
        let rest = [source, destination, cells.kind, cells.verdict, cells.summary];
        self.rows.push(row(cells.time, cells.node, rest));
    }

    fn flow(&self, flow: &Flow) -> (Cells, Arrow) {
        let arrow = match flow.is_reply {
            Some(false) => Arrow::Forth,
            Some(true) => Arrow::Back,
            None => Arrow::Unknown,
        };
        let identity = |end: &Option<Endpoint>| {
            let identity = end.as_ref().map_or(0, |end| end.identity);
            let text = match names::reserved_name(identity) {
                Some(name) => format!("({name})"),
                None => format!("(ID:{identity})"),
            };
            self.options.colors.paint(Color::Magenta, &text)
        };
        let cells = Cells {
            time: self.time(flow.time.as_ref()),
            node: escape(&flow.node_name),
            ends: self.ends(flow),
            identities: [&flow.source, &flow.destination].map(identity),
            kind: escape(&kind(flow)),
            verdict: self.verdict(flow),
            summary: escape(&flow.summary),
        };
        (cells, arrow)
    }

    fn time(&self, time: Option<&prost_types::Timestamp>) -> String {
        let time = time.and_then(|time| jiff::Timestamp::new(time.seconds, time.nanos).ok());
        time.map_or_else(|| "N/A".to_owned(), |time| time.strftime(self.options.time).to_string())
    }

    /// Source and destination.
    fn ends(&self, flow: &Flow) -> [String; 2] {
        let paint = |text: &str| self.options.colors.paint(Color::Cyan, text);
        let Some(ip) = &flow.ip else {
            let link_layer = flow.ethernet.as_ref();
            let addresses = link_layer.map(|frame| [&frame.source, &frame.destination]);
            return addresses.map(|a| a.map(|a| paint(&escape(a)))).unwrap_or_default();
        };
        let ports = flow.l4.as_ref().and_then(ports).unwrap_or_default();
        let source = (&ip.source, &flow.source, &flow.source_service, &flow.source_names);
        let destination = (
            &ip.destination,
            &flow.destination,
            &flow.destination_service,
            &flow.destination_names,
        );
        let ends = [(source, ports[0]), (destination, ports[1])];
        ends.map(|((address, endpoint, service, names), port)| {
            let host = match self.options.ends {
                Ends::Named => name(endpoint.as_ref(), service.as_ref(), names),
                Ends::Numeric => None,
            };
            let host = escape(&host.unwrap_or_else(|| address.clone()));
            if port == 0 {
                return paint(&host);
            }
            let port = self.options.colors.paint(Color::Yellow, &port.to_string());
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            paint(&format!("{host}:{port}"))
        })
    }

    fn verdict(&self, flow: &Flow) -> String {
        let by_policy = event_type_of(flow) == event_type::POLICY_VERDICT;
        let verdict = Verdict::try_from(flow.verdict).unwrap_or(Verdict::Unknown);
        let (color, of_policy) = match verdict {
            Verdict::Forwarded | Verdict::Redirected => (Some(Color::Green), Some("ALLOWED")),
            Verdict::Dropped | Verdict::Error => (Some(Color::Red), Some("DENIED")),
            Verdict::Audit => (Some(Color::Yellow), Some("AUDITED")),
            Verdict::Traced | Verdict::Translated => (Some(Color::Yellow), None),
            Verdict::Unknown => (None, None),
        };
        let word = match of_policy {
            Some(word) if by_policy => word,
            _ => verdict.as_str_name(),
        };
        let word =
            color.map_or_else(|| word.to_owned(), |color| self.options.colors.paint(color, word));
        let policies = match self.options.policy_names {
            Shown::Yes => policies(flow),
            Shown::No => String::new(),
        };
        if policies.is_empty() { word } else { format!("{word} BY {}", escape(&policies)) }
    }
}

/// Which way a packet went, between the end that opened the flow and the other one.
#[derive(Clone, Copy)]
enum Arrow {
    Forth,
    Back,
    Unknown,
    /// No flow: events that were lost.
    Lost,
}

fn event_type_of(flow: &Flow) -> i32 {
    flow.event_type.as_ref().map_or(0, |event| event.r#type)
}

/// The name of an end.
fn name(
    endpoint: Option<&Endpoint>,
    service: Option<&Service>,
    names: &[String],
) -> Option<String> {
    let pod = endpoint.map(|end| (&end.namespace, &end.pod_name));
    let service = service.map(|service| (&service.namespace, &service.name));
    let mut named = [pod, service].into_iter().flatten().filter(|(_, name)| !name.is_empty());
    match named.next() {
        Some((namespace, name)) if namespace.is_empty() => Some(name.clone()),
        Some((namespace, name)) => Some(format!("{namespace}/{name}")),
        None => (!names.is_empty()).then(|| names.join(",")),
    }
}

/// What happened, in one or two words.
#[must_use]
pub fn kind(flow: &Flow) -> String {
    if let Some(l7) = &flow.l7 {
        let way = match l7.r#type() {
            L7FlowType::UnknownL7Type => "unknown_l7_type",
            L7FlowType::Request => "request",
            L7FlowType::Response => "response",
            L7FlowType::Sample => "sample",
        };
        return match &l7.record {
            Some(Record::Http(_)) => format!("http-{way}"),
            Some(Record::Kafka(_)) => format!("kafka-{way}"),
            Some(Record::Dns(dns)) => format!("dns-{way} {}", dns.observation_source),
            None => format!("l7-{way}"),
        };
    }
    let sub_type = flow.event_type.as_ref().map_or(0, |event| event.sub_type);
    match event_type_of(flow) {
        event_type::TRACE => names::trace_point_name(sub_type),
        event_type::DROP => names::drop_reason(sub_type),
        event_type::POLICY_VERDICT => {
            let matched = names::match_type(flow.policy_match_type);
            format!("policy-verdict:{matched} {}", flow.traffic_direction().as_str_name())
        }
        _ => "UNKNOWN".to_owned(),
    }
}

/// The policies that decided the flow: `NAME (KIND)`, commas between them.
fn policies(flow: &Flow) -> String {
    let dropped = matches!(flow.verdict(), Verdict::Dropped | Verdict::Error);
    let lists = match dropped {
        true => [&flow.egress_denied_by, &flow.ingress_denied_by],
        false => [&flow.egress_allowed_by, &flow.ingress_allowed_by],
    };
    let name = |policy: &Policy| match policy.kind.as_str() {
        "" => policy.name.clone(),
        kind => format!("{} ({kind})", policy.name),
    };
    lists.into_iter().flatten().map(name).collect::<Vec<_>>().join(", ")
}
