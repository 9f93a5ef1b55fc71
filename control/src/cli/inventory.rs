//! Arguments of the commands that show what the agent knows.

use std::net::IpAddr;

use clap::{Args, Subcommand};

use super::{ClientArgs, examples};

/// `podgate ip …`.
#[derive(Subcommand, Debug)]
pub enum IpCommand {
    /// List the addresses of pods and nodes with their identities.
    #[command(after_help = IP_LIST_EXAMPLES)]
    List(ClientArgs),
    /// Show the identity of an address; unknown addresses are `world`.
    #[command(after_help = IP_GET_EXAMPLES)]
    Get(IpGetArgs),
}

const IP_LIST_EXAMPLES: &str = examples! {
    "podgate ip list"
    "podgate ip list -o json | jq '.[] | select(.pod == null)'"
};

const IP_GET_EXAMPLES: &str = examples! {
    "podgate ip get 192.0.2.7"
};

/// Arguments of `podgate ip get`.
#[derive(Args, Debug, Clone)]
pub struct IpGetArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// The address.
    #[arg(value_name = "ADDRESS")]
    pub address: IpAddr,
}

/// `podgate identity …`.
#[derive(Subcommand, Debug)]
pub enum IdentityCommand {
    /// List identities: reserved ones, and those of pods' labels.
    #[command(after_help = IDENTITY_LIST_EXAMPLES)]
    List(ClientArgs),
    /// Show the labels of an identity.
    #[command(after_help = IDENTITY_GET_EXAMPLES)]
    Get(IdentityGetArgs),
}

const IDENTITY_LIST_EXAMPLES: &str = examples! {
    "podgate identity list"
};

const IDENTITY_GET_EXAMPLES: &str = examples! {
    "podgate identity get 1"
};

/// Arguments of `podgate identity get`.
#[derive(Args, Debug, Clone)]
pub struct IdentityGetArgs {
    /// Shared arguments.
    #[command(flatten)]
    pub client: ClientArgs,
    /// Its number, as in flow records.
    #[arg(value_name = "NUMBER")]
    pub identity: u32,
}

/// `podgate node …`.
#[derive(Subcommand, Debug)]
pub enum NodeCommand {
    /// List the nodes that objects name, with their internal addresses.
    #[command(after_help = NODE_LIST_EXAMPLES)]
    List(ClientArgs),
}

const NODE_LIST_EXAMPLES: &str = examples! {
    "podgate node list"
};
