//! `podgate observe`: its arguments are those of `hubble observe`.

mod filters;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use podgate_hubble::client::{Address, ClientTls};
use podgate_hubble::proto::observer::GetFlowsRequest;

use self::filters::FilterArgs;
pub use self::filters::read_filters;
use super::{HUBBLE_SOCKET_NAME, SocketArgs, examples};

/// Flows that are printed if nothing else is asked for.
const LAST_DEFAULT: u64 = 20;

pub(super) const OBSERVE_ABOUT: &str = "\
Show flows as `hubble observe` does, from the agent, from another server of Hubble's API, or from a \
file.

A filter that is repeated matches any of its values; different filters must all match. --not inverts \
the filter after it. Filters without from- or to- match either end; --pod and --service match \
prefixes of names, [NAMESPACE/]PREFIX, in the namespace `default` unless one is named.";

pub(super) const OBSERVE_EXAMPLES: &str = examples! {
    "podgate observe --last 50"
    "podgate observe -f --verdict DROPPED --print-policy-names"
    "podgate observe --from-pod shop/cart --to-port 5432 --since 10m"
    "podgate observe --protocol http --http-status 5+ --not --http-path /healthz"
    "podgate observe -o jsonpb --all > flows.json"
    "podgate observe --input-file flows.json -n shop -t l7"
    "podgate observe --server 192.0.2.1:4245 -A"
};

pub(super) const FLOWS_ABOUT: &str = "\
Show flows: verdicts, drops, requests and responses. The same as `podgate observe --print-policy-names`.";

pub(super) const FLOWS_EXAMPLES: &str = examples! {
    "podgate flows --last 50"
    "podgate flows -f --verdict DROPPED"
    "podgate flows -o record --last 100 | jq 'select(.verdict == \"DROPPED\")'"
};

/// Arguments of `podgate observe` and `podgate flows`.
#[derive(Args, Debug, Clone)]
pub struct ObserveArgs {
    /// Where flows come from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Read responses from this file (- is standard input), a line of JSON each, as -o jsonpb
    /// writes them.
    #[arg(long, value_name = "FILE", conflicts_with = "follow", help_heading = "Server")]
    pub input_file: Option<PathBuf>,
    /// How many, and of what time.
    #[command(flatten)]
    pub selectors: Selectors,
    /// Which.
    #[command(flatten)]
    pub filters: FilterArgs,
    /// How they are printed.
    #[command(flatten)]
    pub format: FormatArgs,
    /// Print the filters as --allowlist and --denylist take them, and nothing else.
    #[arg(long, help_heading = "Raw filters")]
    pub print_raw_filters: bool,
}

/// Where flows come from.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Server")]
pub struct SourceArgs {
    /// Server of Hubble's API: HOST:PORT or unix:///PATH [default: the agent's hubble.sock, beside
    /// its control socket].
    #[arg(long, value_name = "ADDRESS", env = "HUBBLE_SERVER")]
    pub server: Option<Address>,
    /// Use TLS.
    #[arg(long, requires = "tls_ca_cert_file")]
    pub tls: bool,
    /// Certificates (PEM) of which one must have signed the server's.
    #[arg(long, alias = "tls-ca-cert-files", value_name = "FILE", requires = "tls")]
    pub tls_ca_cert_file: Option<PathBuf>,
    /// Certificate of this client (PEM).
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_client_key_file"])]
    pub tls_client_cert_file: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_client_cert_file")]
    pub tls_client_key_file: Option<PathBuf>,
    /// Name in the server's certificate [default: that of --server].
    #[arg(long, value_name = "NAME", requires = "tls")]
    pub tls_server_name: Option<String>,
    /// The agent.
    #[command(flatten)]
    pub socket: SocketArgs,
}

impl SourceArgs {
    /// The server.
    #[must_use]
    pub fn address(&self) -> Address {
        self.server
            .clone()
            .unwrap_or_else(|| Address::Unix(self.socket.socket.with_file_name(HUBBLE_SOCKET_NAME)))
    }

    /// How it is authenticated, if it is.
    #[must_use]
    pub fn client_tls(&self) -> Option<ClientTls> {
        let files = self.tls_client_cert_file.clone().zip(self.tls_client_key_file.clone());
        Some(ClientTls {
            ca: self.tls_ca_cert_file.clone()?,
            identity: files.map(Into::into),
            server_name: self.tls_server_name.clone(),
        })
    }
}

/// How many flows, and of what time.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Selectors")]
pub struct Selectors {
    /// All that the server has.
    #[arg(long, conflicts_with_all = ["first", "last"])]
    pub all: bool,
    /// The first N flows.
    #[arg(long, value_name = "N", conflicts_with_all = ["last", "follow"])]
    pub first: Option<u64>,
    /// The last N flows [default: 20, without other selectors].
    #[arg(long, value_name = "N")]
    pub last: Option<u64>,
    /// Continue with new flows until interrupted.
    #[arg(short, long)]
    pub follow: bool,
    /// From this time on: a duration before now (`10m`, `1h30m`), or a time (RFC 3339,
    /// `2026-01-02T15:04:05Z`, also without seconds or minutes, or a date).
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<Timestamp>,
    /// Up to this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<Timestamp>,
}

impl ObserveArgs {
    /// The request to the server.
    ///
    /// # Errors
    /// For filters that can't be combined or understood; one line.
    pub fn request(&self) -> Result<GetFlowsRequest, String> {
        let Selectors { all, first, last, follow, since, until } = self.selectors;
        let in_range = since.is_some() || until.is_some();
        let from_file = self.input_file.is_some();
        let number = match first.or(last) {
            Some(number) => number,
            None if all && !in_range => u64::MAX,
            None if in_range || follow || from_file => 0,
            None => LAST_DEFAULT,
        };
        let (whitelist, blacklist) = self.filters.lists()?;
        Ok(GetFlowsRequest {
            number,
            first: first.is_some(),
            follow,
            whitelist,
            blacklist,
            since: since.map(podgate_hubble::timestamp),
            until: until.filter(|_| !follow).map(podgate_hubble::timestamp),
            ..GetFlowsRequest::default()
        })
    }
}

/// Reads a time, or a duration before now.
fn time(text: &str) -> Result<Timestamp, String> {
    time_at(text, Timestamp::try_from(SystemTime::now()).unwrap_or_default())
}

fn time_at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let wrong = || "is neither a duration, such as 10m, nor a time, such as 2026-01-02T15:04:05Z";
    if let Some(before) = duration(text) {
        return now.checked_sub(before).map_err(|_| wrong().to_owned());
    }
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let date: Result<jiff::civil::Date, _> = text.parse();
    let midnight = date.ok().filter(|_| text.len() == "2026-01-02".len());
    let midnight = midnight.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
    midnight.map(|zoned| zoned.timestamp()).ok_or_else(|| wrong().to_owned())
}

/// Reads durations as Go writes them: `1h30m`, `500ms`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total = total.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

/// How flows are printed.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Format")]
pub struct FormatArgs {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: ObserveOutput,
    /// Print the node that observed a flow.
    #[arg(long)]
    pub print_node_name: bool,
    /// Print the policies that decided a flow.
    #[arg(long)]
    pub print_policy_names: bool,
    /// Form of times in compact, dict and table.
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub time_format: TimeFormat,
    /// Print addresses in place of names.
    #[arg(long)]
    pub numeric: bool,
    /// Print names in place of addresses.
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1,
          default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pub ip_translation: bool,
    /// When to print colors; `auto` is on a terminal, unless NO_COLOR is set.
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
}

/// Output formats.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ObserveOutput {
    /// A line for each flow.
    #[default]
    Compact,
    /// A line for each fact of a flow.
    Dict,
    /// Aligned columns; not with --follow.
    #[value(alias = "tab")]
    Table,
    /// The same as jsonpb.
    Json,
    /// A line of JSON for each response of the API.
    Jsonpb,
    /// A line of JSON for each of podgate's own records, from the control socket: both directions
    /// of a verdict, and the rule. Without filters; only --last and --follow choose.
    Record,
}

/// Forms of times.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[value(rename_all = "PascalCase")]
pub enum TimeFormat {
    /// Jan  2 15:04:05.000
    #[default]
    StampMilli,
    /// 2026-01-02
    YearMonthDay,
    /// 2026-01-02T15Z
    YearMonthDayHour,
    /// 2026-01-02T15:04Z
    YearMonthDayHourMinute,
    /// 2026-01-02T15:04:05Z
    #[value(name = "RFC3339")]
    Rfc3339,
    /// 2026-01-02T15:04:05.000Z
    #[value(name = "RFC3339Milli")]
    Rfc3339Milli,
    /// 2026-01-02T15:04:05.000000Z
    #[value(name = "RFC3339Micro")]
    Rfc3339Micro,
    /// 2026-01-02T15:04:05.999999999Z
    #[value(name = "RFC3339Nano")]
    Rfc3339Nano,
    /// Fri, 02 Jan 2026 15:04:05 +0000
    #[value(name = "RFC1123Z")]
    Rfc1123Z,
}

impl TimeFormat {
    /// As a pattern of strftime; times are UTC.
    #[must_use]
    pub const fn pattern(self) -> &'static str {
        match self {
            Self::StampMilli => podgate_hubble::print::TIME_STAMP_MILLI,
            Self::YearMonthDay => "%Y-%m-%d",
            Self::YearMonthDayHour => "%Y-%m-%dT%HZ",
            Self::YearMonthDayHourMinute => "%Y-%m-%dT%H:%MZ",
            Self::Rfc3339 => "%Y-%m-%dT%H:%M:%SZ",
            Self::Rfc3339Milli => "%Y-%m-%dT%H:%M:%S.%3fZ",
            Self::Rfc3339Micro => "%Y-%m-%dT%H:%M:%S.%6fZ",
            Self::Rfc3339Nano => "%Y-%m-%dT%H:%M:%S%.fZ",
            Self::Rfc1123Z => "%a, %d %b %Y %H:%M:%S +0000",
        }
    }
}

/// When to print colors.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ColorChoice {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}
