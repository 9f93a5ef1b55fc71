//! Flows from a file, which `observe -o jsonpb` wrote, chosen as a server would.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use jiff::Timestamp;
use tonic::Status;

use crate::filter::Filters;
use crate::json::response_from_json;
use crate::proto::observer::get_flows_response::ResponseTypes;
use crate::proto::observer::{GetFlowsRequest, GetFlowsResponse};
use crate::read::{Range, range};

/// Longest line, bytes.
const LINE_MAX: u64 = 1 << 20;

/// Why a file was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It can't be read.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// A line is no response.
    #[error("line {line}: {reason}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The request can't be understood.
    #[error("{0}")]
    Request(String),
}

/// The responses in `input`, a line each, that a server would give to `request`. The first ones
/// and all go to `take` as they are read; the last ones at the end.
///
/// # Errors
/// When the input can't be read, a line is no response, or `take` fails.
pub fn responses<E: From<InputError>>(
    mut input: impl BufRead,
    request: &GetFlowsRequest,
    mut take: impl FnMut(GetFlowsResponse) -> Result<(), E>,
) -> Result<(), E> {
    let wrong = |status: Status| InputError::Request(status.message().to_owned());
    let filters = Filters::new(&request.whitelist, &request.blacklist);
    let filters = filters.map_err(InputError::Request)?;
    let range: Range = range!(request).map_err(wrong)?;
    let last = !range.starts_at_oldest() && range.number != usize::MAX;
    let mut kept = VecDeque::new();
    let mut flows = 0;
    let mut number = 0;
    loop {
        let mut line = String::new();
        number += 1;
        let length =
            input.by_ref().take(LINE_MAX).read_line(&mut line).map_err(InputError::Read)?;
        if length == 0 || (flows == range.number && !last) {
            break;
        }
        let at_line = |reason: String| InputError::Line { line: number, reason };
        if length as u64 == LINE_MAX {
            return Err(at_line(format!("longer than {LINE_MAX} bytes")).into());
        }
        if line.trim().is_empty() {
            continue;
        }
        let response = response_from_json(&line).map_err(at_line)?;
        let is_flow = matches!(response.response_types, Some(ResponseTypes::Flow(_)));
        if !is_wanted(&response, &filters, &range) {
            continue;
        }
        flows += usize::from(is_flow);
        if !last {
            take(response)?;
            continue;
        }
        kept.push_back(response);
        while flows > range.number {
            let former = kept.pop_front().and_then(|former| former.response_types);
            flows -= usize::from(matches!(former, Some(ResponseTypes::Flow(_))));
        }
    }
    kept.into_iter().try_for_each(take)
}

/// Whether the request asks for a response. Filters don't hide what is no flow.
fn is_wanted(response: &GetFlowsResponse, filters: &Filters, range: &Range) -> bool {
    let flow = match &response.response_types {
        Some(ResponseTypes::Flow(flow)) => Some(flow),
        _ => None,
    };
    let time = response.time.or_else(|| flow.and_then(|flow| flow.time));
    let time = time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok());
    let in_range = match time {
        Some(time) => range.contains(time),
        None => range.since.is_none() && range.until.is_none(),
    };
    in_range && flow.is_none_or(|flow| filters.match_flow(flow))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::response_to_json;
    use crate::proto::flow::{Flow, FlowFilter, Verdict};

    const VERDICTS: [Verdict; 3] = [Verdict::Forwarded, Verdict::Dropped, Verdict::Error];

    /// A flow of each verdict, at 0, 100 and 200 seconds.
    fn file() -> String {
        let response = |(index, verdict): (i64, Verdict)| {
            let flow = Flow { verdict: verdict.into(), ..Flow::default() };
            let response = GetFlowsResponse {
                response_types: Some(ResponseTypes::Flow(flow.into())),
                node_name: String::new(),
                time: Some(prost_types::Timestamp { seconds: index * 100, nanos: 0 }),
            };
            response_to_json(&response).unwrap() + "\n"
        };
        (0..).zip(VERDICTS).map(response).collect()
    }

    fn chosen(request: &GetFlowsRequest) -> Vec<Verdict> {
        let mut seen = Vec::new();
        let taken = responses(file().as_bytes(), request, |response| {
            let Some(ResponseTypes::Flow(flow)) = response.response_types else {
                panic!("no flow");
            };
            seen.push(flow.verdict());
            Ok::<_, InputError>(())
        });
        taken.unwrap();
        seen
    }

    #[test]
    fn lines_are_chosen_as_a_server_does() {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        assert_eq!(chosen(&GetFlowsRequest::default()), VERDICTS);
        let range = GetFlowsRequest { since: at(50), until: at(150), ..Default::default() };
        assert_eq!(chosen(&range), [Verdict::Dropped]);
        let last = GetFlowsRequest { number: 2, ..Default::default() };
        assert_eq!(chosen(&last), VERDICTS[1..]);
        let first = GetFlowsRequest { number: 2, first: true, ..Default::default() };
        assert_eq!(chosen(&first), VERDICTS[..2]);
        let verdict = vec![Verdict::Forwarded.into(), Verdict::Error.into()];
        let whitelist = vec![FlowFilter { verdict, ..Default::default() }];
        let filtered = GetFlowsRequest { whitelist, ..Default::default() };
        assert_eq!(chosen(&filtered), [Verdict::Forwarded, Verdict::Error]);
        let last = GetFlowsRequest { number: 1, ..filtered };
        assert_eq!(chosen(&last), [Verdict::Error]);
    }

    #[test]
    fn a_line_that_is_no_response_is_named() {
        let read = |text: &str| {
            let request = GetFlowsRequest::default();
            responses(text.as_bytes(), &request, |_| Ok::<_, InputError>(()))
        };
        assert!(read("\n{}\n\n").is_ok());
        let error = read("{}\n\nnothing\n").unwrap_err().to_string();
        assert!(error.starts_with("line 3: "), "{error}");
        let long = "x".repeat(2 * LINE_MAX as usize);
        assert!(read(&long).unwrap_err().to_string().contains("longer"));
        assert!(matches!(
            responses(&b"\xff\n"[..], &GetFlowsRequest::default(), |_| Ok::<_, InputError>(())),
            Err(InputError::Read(_))
        ));
    }
}
