//! `podgate status`.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use super::{ClientArgs, examples};

pub(super) const STATUS_EXAMPLES: &str = examples! {
    "podgate status"
    "podgate status --verbose"
    "podgate status --wait --wait-duration 90s --brief"
    "podgate status --live"
    "podgate status -o json | jq .drops"
};

/// Arguments of `podgate status`.
#[derive(Args, Debug, Clone)]
pub struct StatusArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Print one line only.
    #[arg(long, conflicts_with = "verbose")]
    pub brief: bool,
    /// Print all tables, threads, links, rejected objects and endpoints that are not ready.
    #[arg(long)]
    pub verbose: bool,
    /// Wait until the agent is ready.
    #[arg(long)]
    pub wait: bool,
    /// Longest time that --wait waits, such as 90s, 5m or 1h.
    #[arg(long, value_name = "TIME", default_value = "5m")]
    pub wait_duration: WaitDuration,
    /// Exit with 0 if the agent answers, even if it is not ready.
    #[arg(long)]
    pub live: bool,
}

impl StatusArgs {
    /// How long to wait for the agent to be ready.
    #[must_use]
    pub fn wait_for(&self) -> Duration {
        if self.wait { self.wait_duration.0 } else { Duration::ZERO }
    }
}

/// A time to wait: a number with the unit s, m or h; up to a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitDuration(pub Duration);

impl FromStr for WaitDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("s", 1), ("m", 60), ("h", 3600)];
        let unit =
            units.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
        let (number, seconds) = unit.ok_or("write a number and its unit, such as 90s or 5m")?;
        let number: u64 =
            number.parse().map_err(|_| "write a number before the unit".to_owned())?;
        let time = Duration::from_secs(number.saturating_mul(*seconds));
        match time <= Duration::from_secs(24 * 3600) {
            true => Ok(Self(time)),
            false => Err("must be at most 24h".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_wait_has_a_unit() {
        let seconds = |text: &str| text.parse().map(|WaitDuration(time)| time.as_secs());
        for (text, expected) in [("0s", 0), ("90s", 90), ("5m", 300), ("24h", 86_400)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1.5m", "25h", "99999999999999999999s"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
