//! `podgate metrics`: arguments.

use clap::{Args, Subcommand};
use regex::Regex;

use super::local::local_examples;
use super::{ClientArgs, Output, examples};

pub(super) const METRICS_EXAMPLES: &str = examples! {
    "podgate metrics > /var/lib/node_exporter/podgate.prom"
    "podgate metrics -o json | jq '.[] | select(.name == \"podgate_epoch\")'"
    "podgate metrics list fqdn"
};

const LIST_ABOUT: &str = "\
Describe each metric of the agent: its name, its kind, its labels and what it means.

It needs no agent. JSON also has the bound on each metric's series, as docs/operate/metrics.md has \
it.";

const LIST_EXAMPLES: &str = local_examples! {
    "podgate metrics list"
    "podgate metrics list '^hubble_.*_total$'"
    "podgate metrics list -o json | jq -r '.[].name'"
};

/// Arguments of `podgate metrics`.
#[derive(Args, Debug, Clone)]
#[command(args_conflicts_with_subcommands = true)]
pub struct MetricsArgs {
    /// Shared arguments; as a table, metrics are in the Prometheus text format.
    #[command(flatten)]
    pub client: ClientArgs,
    /// What to do instead.
    #[command(subcommand)]
    pub command: Option<MetricsCommand>,
}

/// `podgate metrics …`.
#[derive(Subcommand, Debug, Clone)]
pub enum MetricsCommand {
    /// Describe each metric: its name, kind and labels, and what it means.
    #[command(long_about = LIST_ABOUT, after_help = LIST_EXAMPLES)]
    List(MetricsListArgs),
}

/// Arguments of `podgate metrics list`.
#[derive(Args, Debug, Clone)]
pub struct MetricsListArgs {
    /// Only metrics whose names match this regular expression somewhere.
    #[arg(value_name = "PATTERN")]
    pub pattern: Option<Regex>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}
