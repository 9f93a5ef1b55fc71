//! `podgate ui`: arguments.

use std::net::SocketAddr;

use clap::Args;

use super::examples;
use super::observe::SourceArgs;

pub(super) const UI_ABOUT: &str = "\
Serve a web page: live flows with the filters of `podgate observe`, a map of services, explanations of \
verdicts, policies of pods, and what is not ready.

It reads flows from Hubble's API and the rest from the control socket, and changes nothing. The URL \
that it prints has a token, without which the page is not served. It listens on loopback only: from \
another machine, use an SSH tunnel.";

pub(super) const UI_EXAMPLES: &str = examples! {
    "podgate ui"
    "podgate ui --listen 127.0.0.1:0"
    "podgate ui --socket /run/podgate-read.sock --server unix:///run/podgate/hubble.sock"
    "ssh -L 12000:127.0.0.1:12000 node-1 podgate ui"
};

/// Arguments of `podgate ui`.
#[derive(Args, Debug, Clone)]
pub struct UiArgs {
    /// Where the page is served; port 0 is any free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:12000")]
    pub listen: SocketAddr,
    /// Allow a --listen address that other machines reach. The connection is not encrypted.
    #[arg(long)]
    pub allow_remote: bool,
    /// Where flows and the rest come from.
    #[command(flatten)]
    pub source: SourceArgs,
}
