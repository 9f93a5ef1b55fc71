//! Commands that need no agent: `podgate crds`, `cleanup`, `version`, `completion`, `man`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Output, STATE_DIR, examples};

/// Exit codes of commands that need no agent.
macro_rules! local_examples {
    ($($line:literal)+) => {
        examples! { $($line)+; codes "
  0  the command did what it says
  1  it failed; one line on stderr says why
  2  the command line is wrong" }
    };
}
pub(super) use local_examples;

pub(super) const CRDS_ABOUT: &str = "\
Print the CustomResourceDefinitions of the custom kinds that podgate reads.

These are CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy, CiliumCIDRGroup and \
ClusterNetworkPolicy. Fields that a schema doesn't know are stored, so that podgate rejects a policy \
with such a field instead of enforcing a part of it. Where another program installed a definition, \
leave that in place.";

pub(super) const CRDS_EXAMPLES: &str = local_examples! {
    "podgate crds | kubectl apply -f -"
    "podgate crds -o json | jq -r '.[].metadata.name'"
};

pub(super) const CLEANUP_ABOUT: &str = "\
Detach everything that a stopped agent left attached.

A stopped agent leaves its XDP programs attached, so that pods stay cut off rather than \
unprotected. This command removes the programs, the pg-host/pg-xsk pair with its routes, and the \
contents of the state directory, and restores the pods' TX checksum offload. Afterwards no policy \
applies to pods. If something can't be removed, it is listed, and the exit code is 1.";

pub(super) const CLEANUP_EXAMPLES: &str = local_examples! {
    "podgate cleanup"
    "podgate cleanup --state-dir /run/podgate-test"
};

pub(super) const VERSION_EXAMPLES: &str = local_examples! {
    "podgate version"
    "podgate version -o json"
};

pub(super) const COMPLETION_EXAMPLES: &str = local_examples! {
    "podgate completion bash > /etc/bash_completion.d/podgate"
    "podgate completion zsh > /usr/share/zsh/site-functions/_podgate"
    "podgate completion fish > ~/.config/fish/completions/podgate.fish"
};

pub(super) const MAN_EXAMPLES: &str = local_examples! {
    "podgate man /usr/share/man/man1"
};

/// Arguments of `podgate crds`.
#[derive(Args, Debug, Clone)]
pub struct CrdsArgs {
    /// Output format: YAML documents, or one list as JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: CrdsOutput,
}

/// Output formats of `podgate crds`.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CrdsOutput {
    /// For `kubectl apply -f -`.
    #[default]
    Yaml,
    /// For programs.
    Json,
}

/// Arguments of `podgate cleanup`.
#[derive(Args, Debug, Clone)]
pub struct CleanupArgs {
    /// The state directory of the stopped agent.
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub state_dir: PathBuf,
    /// The agent's --bpffs, if it had one.
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

/// Arguments of `podgate version`.
#[derive(Args, Debug, Clone)]
pub struct VersionArgs {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Arguments of `podgate completion`.
#[derive(Args, Debug, Clone)]
pub struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Shells with completion.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// Arguments of `podgate man`.
#[derive(Args, Debug, Clone)]
pub struct ManArgs {
    /// The directory to write to.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}
