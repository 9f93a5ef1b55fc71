//! `podgate fqdn …`.

use clap::{Args, Subcommand};

use super::{ClientArgs, examples};

/// `podgate fqdn …`.
#[derive(Subcommand, Debug)]
pub enum FqdnCommand {
    /// List the addresses that DNS names resolve to in policy.
    #[command(long_about = LIST_ABOUT, after_help = LIST_EXAMPLES)]
    List(FqdnArgs),
    /// Remove the addresses of DNS names.
    #[command(long_about = CLEAN_ABOUT, after_help = CLEAN_EXAMPLES)]
    Clean(FqdnArgs),
}

const LIST_ABOUT: &str = "\
List the addresses that DNS names resolve to in policy.

They are from DNS answers to pods of this node, for names that a rule matches. An address with the \
source `lookup` counts until its TTL is over, and then, with the source `connection`, as long as a \
connection to it is alive.";

const LIST_EXAMPLES: &str = examples! {
    "podgate fqdn list"
    "podgate fqdn list --name '*.example.com'"
    "podgate fqdn list -o json | jq -r '.[] | select(.name == \"example.com\").address'"
};

const CLEAN_ABOUT: &str = "\
Remove the addresses of DNS names.

Connections to them that only a rule on names allows are then denied, until a pod asks for the name \
again.";

const CLEAN_EXAMPLES: &str = examples! {
    "podgate fqdn clean"
    "podgate fqdn clean --name example.com"
};

/// Arguments of `podgate fqdn list` and `podgate fqdn clean`.
#[derive(Args, Debug, Clone)]
pub struct FqdnArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Only names that match, as in a policy's `matchPattern`.
    #[arg(long, value_name = "PATTERN")]
    pub name: Option<String>,
}
