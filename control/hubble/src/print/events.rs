//! Responses other than flows: events that were lost, and changes of nodes.

use podgate_policy::terminal::{escape, escape_json};

use super::{Arrow, Cells, Form, Printer, SEPARATOR, Text};
use crate::json::response_to_json;
use crate::proto::flow::LostEvent;
use crate::proto::observer::GetFlowsResponse;
use crate::proto::relay::{NodeState, NodeStatusEvent};

/// Names of nodes that are printed, characters; one is always.
const NODES_MAX: usize = 50;

impl Printer {
    pub(super) fn lost(
        &self,
        lost: &LostEvent,
        time: Option<&prost_types::Timestamp>,
        node: &str,
    ) -> (Cells, Arrow) {
        let source = lost.source().as_str_name();
        let cpu = lost.cpu.unwrap_or(0);
        let separator = if self.options.form == Form::Compact { " " } else { " - " };
        let cells = Cells {
            time: self.time(time),
            node: escape(node),
            ends: [source.to_owned(), String::new()],
            identities: Default::default(),
            kind: "EVENTS LOST".to_owned(),
            verdict: String::new(),
            summary: format!("CPU({cpu}){separator}{}", lost.num_events_lost),
        };
        (cells, Arrow::Lost)
    }

    /// Nodes whose flows are missing; other states of nodes are not printed.
    pub(super) fn node_status(
        &mut self,
        status: &NodeStatusEvent,
        response: &GetFlowsResponse,
    ) -> Result<Text, String> {
        let state = status.state_change();
        if !matches!(state, NodeState::NodeError | NodeState::NodeUnavailable) {
            return Ok(Text::default());
        }
        let time = self.time(response.time.as_ref());
        let nodes = escape(&joined(&status.node_names));
        let count = status.node_names.len();
        let message = escape(&status.message);
        let err = match self.options.form {
            Form::Json => escape_json(&response_to_json(response)?) + "\n",
            Form::Dict => {
                let separator = if self.count > 0 { SEPARATOR } else { "" };
                self.count += 1;
                let message =
                    if message.is_empty() { "N/A".into() } else { format!("\"{message}\"") };
                format!(
                    "{separator}  TIMESTAMP: {time}\n      STATE: {}\n      NODES: {nodes}\n    \
                     MESSAGE: {message}\n",
                    state.as_str_name()
                )
            }
            Form::Compact | Form::Table => {
                let head = format!("{time} [{}]", escape(&response.node_name));
                match state {
                    NodeState::NodeError => {
                        format!("{head}: Error \"{message}\" on {count} nodes: {nodes}\n")
                    }
                    _ => format!("{head}: {count} nodes are unavailable: {nodes}\n"),
                }
            }
        };
        Ok(Text { out: String::new(), err })
    }
}

/// Names with commas between them; the number of those that don't fit follows.
fn joined(names: &[String]) -> String {
    let mut length = 0;
    let fits = |name: &&String| {
        length += name.len() + 2;
        length <= NODES_MAX
    };
    let shown = names.iter().take_while(fits).count().max(1).min(names.len());
    let text = names[..shown].join(", ");
    match names.len() - shown {
        0 => text,
        more => format!("{text} (and {more} more)"),
    }
}
