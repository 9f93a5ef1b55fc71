//! `podgate sysdump`.

use std::path::PathBuf;

use clap::Args;

use super::{SocketArgs, examples};

pub(super) const SYSDUMP_ABOUT: &str = "\
Collect diagnostics into one archive, without secrets.

It has the status, options, metrics, endpoints with their tables, policies, identities, addresses, \
nodes, DNS names, flow records, versions, and what the kernel says about itself and podgate's \
links. errors.txt has a line for what can't be collected. Tokens, passwords, private keys, \
credentials and queries of URLs, and the values of Authorization and Cookie header fields are \
replaced by REDACTED. Names of pods, policies and hosts remain.";

pub(super) const SYSDUMP_EXAMPLES: &str = examples! {
    "podgate sysdump"
    "podgate sysdump --file /tmp/node-1.tar.gz --flows 10000"
};

/// Arguments of `podgate sysdump`.
#[derive(Args, Debug, Clone)]
pub struct SysdumpArgs {
    /// How to reach the agent.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The archive, which must not exist [default: podgate-sysdump-TIME.tar.gz].
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Number of flow records.
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    pub flows: u32,
}
