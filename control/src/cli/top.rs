//! `podgate top`: arguments.

use clap::{Args, ValueEnum};

use super::examples;
use super::observe::SourceArgs;

pub(super) const TOP_ABOUT: &str = "\
Show what happens now: rates of endpoints and rules, drops by reason, the slowest requests, the \
workers' load.

Counters, also those of rules, come from the control socket. Requests and the policies of a \
default deny are counted from the flows of Hubble's API: flows that it lost are missing, and their \
number is shown.

Keys: Tab and Shift-Tab or 1 to 5 choose a table, s and r sort it, the arrows scroll, / filters \
rows, p pauses, q quits.";

pub(super) const TOP_EXAMPLES: &str = examples! {
    "podgate top"
    "podgate top --tab rules --interval 5"
    "podgate top --once --tab rules --rows 5"
    "podgate top --once"
    "podgate top --batch --count 60 --tab drops > drops.txt"
};

/// Arguments of `podgate top`.
#[derive(Args, Debug, Clone)]
pub struct TopArgs {
    /// Where flows and counters come from.
    #[command(flatten)]
    pub source: SourceArgs,
    /// Time between two updates, seconds.
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    pub interval: u64,
    /// The table to begin with; with --once and --batch, the only one.
    #[arg(long, value_enum)]
    pub tab: Option<Tab>,
    /// Most rows of a table that --once and --batch print, from the busiest on.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub rows: usize,
    /// Print all tables once, as text, after one interval.
    #[arg(long, conflicts_with = "batch")]
    pub once: bool,
    /// Print all tables again and again, as text.
    #[arg(long)]
    pub batch: bool,
    /// How often --batch prints them [default: until interrupted].
    #[arg(long, value_name = "N", requires = "batch")]
    pub count: Option<u64>,
}

/// Tables.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tab {
    /// Rates of endpoints.
    #[default]
    Endpoints,
    /// Rates of rules.
    Rules,
    /// Drops by reason.
    Drops,
    /// Requests by server, method and path, and how long they take.
    Requests,
    /// Load of workers.
    Workers,
}

impl Tab {
    /// All, in the order of the keys 1 to 5.
    pub const ALL: [Self; 5] =
        [Self::Endpoints, Self::Rules, Self::Drops, Self::Requests, Self::Workers];

    /// Its heading.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Endpoints => "Endpoints",
            Self::Rules => "Rules",
            Self::Drops => "Drops",
            Self::Requests => "Requests",
            Self::Workers => "Workers",
        }
    }
}
