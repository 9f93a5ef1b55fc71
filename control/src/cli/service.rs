//! `podgate service …`.

use clap::{Subcommand, ValueEnum};

use super::{ClientArgs, examples};

/// `podgate service …`.
#[derive(Subcommand, Debug)]
pub enum ServiceCommand {
    /// List the services that workers translate, with their backends.
    #[command(long_about = LIST_ABOUT, after_help = LIST_EXAMPLES)]
    List(ClientArgs),
}

const LIST_ABOUT: &str = "\
List the services that workers translate, with their backends.

A pod's packet to a cluster IP, to an external address, or to a node port of its node (0.0.0.0 or [::] \
in the list) is sent to one of the backends, and policy decides on that backend. Services without a \
cluster IP, and those of which no EndpointSlice is known, are not translated.";

const LIST_EXAMPLES: &str = examples! {
    "podgate service list"
    "podgate service list -o json | jq '.[] | select(.backends == [])'"
};

/// Who translates packets of pods to services.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Services {
    /// Workers, before policy.
    On,
    /// The node's kernel (kube-proxy), after policy.
    Off,
}
