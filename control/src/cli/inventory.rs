//! Arguments of the commands that show what the agent knows.

use std::ffi::OsString;
use std::net::IpAddr;

use clap::parser::ValueSource;
use clap::{Args, CommandFactory, Subcommand};
use podgate_api::OptionEntry;

use super::{Cli, ClientArgs, examples};

/// `podgate ip …`.
#[derive(Subcommand, Debug)]
pub enum IpCommand {
    /// List the addresses of pods and nodes with their identities.
    #[command(after_help = IP_LIST_EXAMPLES)]
    List(ClientArgs),
    /// Show the identity that policy sees behind an address; unknown ones are `world`.
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

pub(super) const CONFIG_EXAMPLES: &str = examples! {
    "podgate config"
    "podgate config -o json | jq '.[] | select(.source != \"default\")'"
};

/// The options of `podgate run` with this command line, and where their values came from.
///
/// # Errors
/// When the command line is not one of `podgate run`.
pub fn run_options(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OptionEntry>, clap::Error> {
    let program = Cli::command();
    let matches = program.clone().try_get_matches_from(arguments)?;
    let mut options = Vec::new();
    let Some((name, matches)) = matches.subcommand() else { return Ok(options) };
    let Some(command) = program.find_subcommand(name) else { return Ok(options) };
    for argument in command.get_arguments() {
        let Some(long) = argument.get_long() else { continue };
        let id = argument.get_id().as_str();
        // What clap adds itself has no value.
        let Ok(values) = matches.try_get_raw(id) else { continue };
        let values: Vec<_> =
            values.into_iter().flatten().map(|value| value.to_string_lossy()).collect();
        let source = match matches.value_source(id) {
            Some(ValueSource::CommandLine) => "command line",
            Some(ValueSource::EnvVariable) => "environment",
            _ => "default",
        };
        let value = (!values.is_empty()).then(|| values.join(","));
        options.push(OptionEntry { option: format!("--{long}"), value, source: source.into() });
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_option_has_its_value_and_where_it_came_from() {
        let line = ["podgate", "run", "--manifests", "/p", "--workers", "2"];
        let options = run_options(line.map(OsString::from)).unwrap();
        let of = |name: &str| {
            let option = options.iter().find(|option| option.option == name).unwrap();
            (option.value.as_deref(), &*option.source)
        };
        assert_eq!(of("--workers"), (Some("2"), "command line"));
        assert_eq!(of("--manifests"), (Some("/p"), "command line"));
        assert_eq!(of("--max-endpoints"), (Some("31"), "default"));
        assert_eq!(of("--metrics-listen"), (None, "default"));
        assert!(run_options(["podgate", "run"].map(OsString::from)).is_err());
    }
}
