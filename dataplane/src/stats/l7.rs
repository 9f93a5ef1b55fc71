//! Counters of L7 requests and responses, and a histogram of the time between them.

use podgate_tables::event::{RequestRecord, ResponseStatus};

use super::Counter;

/// Protocols of requests, as in labels, by their index.
pub const REQUEST_PROTOCOLS: [&str; 4] = ["http", "dns", "tls", "kafka"];

/// Protocols of responses, as in labels, by their index. Those of HTTP whose calls have a gRPC
/// status count as gRPC.
pub const RESPONSE_PROTOCOLS: [&str; 4] = ["http", "grpc", "dns", "kafka"];

/// Upper bounds of the histogram's buckets, nanoseconds; one more is without a bound.
pub const LATENCY_BOUNDS: [u64; 16] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// The bucket of a time, nanoseconds: the first whose bound is not less.
#[must_use]
pub fn bucket(latency_ns: u64) -> usize {
    LATENCY_BOUNDS.partition_point(|bound| *bound < latency_ns)
}

/// Results of responses: the index of the protocol, and the label.
pub const RESULTS: [(usize, &str); 33] = [
    (0, "1xx"),
    (0, "2xx"),
    (0, "3xx"),
    (0, "4xx"),
    (0, "5xx"),
    (0, "other"),
    (1, "ok"),
    (1, "cancelled"),
    (1, "unknown"),
    (1, "invalid_argument"),
    (1, "deadline_exceeded"),
    (1, "not_found"),
    (1, "already_exists"),
    (1, "permission_denied"),
    (1, "resource_exhausted"),
    (1, "failed_precondition"),
    (1, "aborted"),
    (1, "out_of_range"),
    (1, "unimplemented"),
    (1, "internal"),
    (1, "unavailable"),
    (1, "data_loss"),
    (1, "unauthenticated"),
    (1, "other"),
    (2, "no_error"),
    (2, "format_error"),
    (2, "server_failure"),
    (2, "no_such_name"),
    (2, "not_implemented"),
    (2, "refused"),
    (2, "other"),
    (3, "no_error"),
    (3, "error"),
];

/// Index of the first result of each protocol.
const FIRST: [usize; 4] = [0, 6, 24, 31];

/// The last index of a protocol's results.
const fn last(protocol: usize) -> usize {
    if protocol + 1 < FIRST.len() { FIRST[protocol + 1] - 1 } else { RESULTS.len() - 1 }
}

/// Index of a response's protocol, and of its result.
fn result_of(status: ResponseStatus) -> (usize, usize) {
    let (protocol, number) = match status {
        ResponseStatus::Http { status, .. } => (0, usize::from(status / 100).wrapping_sub(1)),
        ResponseStatus::Grpc(code) => (1, usize::from(code)),
        ResponseStatus::Dns(result) => (2, usize::from(result.rcode)),
        ResponseStatus::Kafka(result) => (3, usize::from(result.error_code != 0)),
    };
    (protocol, FIRST[protocol].saturating_add(number).min(last(protocol)))
}

/// How many responses took how long.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    /// By bucket, not cumulative; the last one has no bound.
    pub buckets: [Counter; LATENCY_BOUNDS.len() + 1],
    /// Sum of all times, nanoseconds.
    pub sum_ns: Counter,
}

impl LatencyHistogram {
    fn count(&self, latency_ns: u64) {
        self.buckets[bucket(latency_ns)].add(1);
        self.sum_ns.add(latency_ns);
    }
}

/// L7 counters of one worker.
#[derive(Debug, Default)]
pub struct L7Counters {
    /// Requests allowed, by protocol.
    pub allowed: [Counter; REQUEST_PROTOCOLS.len()],
    /// Requests denied, by protocol.
    pub denied: [Counter; REQUEST_PROTOCOLS.len()],
    /// Responses by their result.
    pub results: Results,
    /// Time between request and response, by the protocol of the response.
    pub latency: [LatencyHistogram; RESPONSE_PROTOCOLS.len()],
}

/// A counter for each of [`RESULTS`].
#[derive(Debug)]
pub struct Results(pub [Counter; RESULTS.len()]);

impl Default for Results {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// Position of a request's protocol in the counters.
const fn protocol_of(request: &RequestRecord) -> usize {
    match request {
        RequestRecord::Http(_) => 0,
        RequestRecord::Dns(_) => 1,
        RequestRecord::ServerName(_) => 2,
        RequestRecord::Kafka(_) => 3,
    }
}

impl L7Counters {
    /// Counts a request that is allowed.
    pub fn count_allowed(&self, request: &RequestRecord) {
        self.allowed[protocol_of(request)].add(1);
    }

    /// Counts a request that is denied.
    pub fn count_denied(&self, request: &RequestRecord) {
        self.denied[protocol_of(request)].add(1);
    }

    /// Counts a response that was forwarded `latency_ns` after its request.
    pub fn count_response(&self, status: ResponseStatus, latency_ns: u64) {
        let (protocol, result) = result_of(status);
        self.results.0[result].add(1);
        self.latency[protocol].count(latency_ns);
    }
}

#[cfg(test)]
mod tests {
    use podgate_tables::event::{HttpVersion, KafkaResult};

    use super::*;

    fn label(status: ResponseStatus) -> String {
        let (protocol, result) = result_of(status);
        assert_eq!(RESULTS[result].0, protocol);
        format!("{} {}", RESPONSE_PROTOCOLS[protocol], RESULTS[result].1)
    }

    #[test]
    fn every_status_has_a_result_of_its_protocol() {
        let http = [(0, "other"), (100, "1xx"), (204, "2xx"), (599, "5xx"), (600, "other")];
        for (code, expected) in http.into_iter().chain([(u16::MAX, "other")]) {
            let status = ResponseStatus::Http { version: HttpVersion::Http2, status: code };
            assert_eq!(label(status), format!("http {expected}"));
        }
        for (code, expected) in [(0, "ok"), (7, "permission_denied"), (16, "unauthenticated")] {
            assert_eq!(label(ResponseStatus::Grpc(code)), format!("grpc {expected}"));
        }
        assert_eq!(label(ResponseStatus::Grpc(17)), "grpc other");
        for (error_code, expected) in [(0, "kafka no_error"), (-1, "kafka error")] {
            let result = KafkaResult { api_key: 1, error_code };
            assert_eq!(label(ResponseStatus::Kafka(result)), expected);
        }
    }

    #[test]
    fn a_time_is_in_the_first_bucket_whose_bound_is_not_less() {
        let counters = L7Counters::default();
        let status = ResponseStatus::Http { version: HttpVersion::Http11, status: 200 };
        for latency in [0, 100_000, 100_001, u64::from(u32::MAX), 20_000_000_000] {
            counters.count_response(status, latency);
        }
        let buckets = &counters.latency[0].buckets;
        let filled: Vec<_> = (0..17).filter(|at| buckets[*at].get() > 0).collect();
        assert_eq!(filled, [0, 1, 14, 16]);
        assert_eq!(buckets[0].get(), 2);
    }
}
