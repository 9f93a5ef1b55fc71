//! The command line: what `podgate --help` shows.

mod capture;
mod cni;
mod endpoint;
mod flow_table;
mod fqdn;
mod inventory;
mod local;
mod metrics;
mod monitor;
mod observe;
mod policy;
mod run;
mod service;
mod status;
mod sysdump;
mod top;
mod ui;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use podgate_replay::Output;

pub use self::capture::CaptureArgs;
use self::capture::{CAPTURE_ABOUT, CAPTURE_EXAMPLES};
pub use self::cni::{CniCommand, CniInstallArgs, CniMode, CniRemoveArgs};
pub use self::endpoint::{EndpointAddArgs, EndpointCommand, EndpointGetArgs, EndpointRemoveArgs};
pub use self::flow_table::{
    FlowSelectorArgs, TableFlowCommand, TableFlowFlushArgs, TableFlowListArgs,
};
pub use self::fqdn::{FqdnArgs, FqdnCommand};
pub use self::inventory::{IdentityCommand, IdentityGetArgs, IpCommand, IpGetArgs, NodeCommand};
use self::local::{
    CLEANUP_ABOUT, CLEANUP_EXAMPLES, COMPLETION_EXAMPLES, CRDS_ABOUT, CRDS_EXAMPLES, MAN_EXAMPLES,
    VERSION_EXAMPLES,
};
pub use self::local::{
    CleanupArgs, CompletionArgs, CrdsArgs, CrdsOutput, ManArgs, Shell, VersionArgs,
};
use self::metrics::METRICS_EXAMPLES;
pub use self::metrics::{MetricsArgs, MetricsCommand, MetricsListArgs};
use self::monitor::{MONITOR_ABOUT, MONITOR_EXAMPLES};
pub use self::monitor::{MonitorArgs, MonitorType};
pub use self::observe::{
    ColorChoice, ObserveArgs, ObserveOutput, SourceArgs as ObserveSource, read_filters,
};
use self::observe::{FLOWS_ABOUT, FLOWS_EXAMPLES, OBSERVE_ABOUT, OBSERVE_EXAMPLES};
pub use self::policy::{
    Expect, ExplainArgs, PolicyCommand, PolicyGetArgs, PolicyWaitArgs, TableCommand,
    TablePolicyCommand, TablePolicyGetArgs, ValidateArgs,
};
pub use self::run::{
    DnsDenied, HubbleArgs, MtuChoice, PodChecksums, PolicyStatus, Poll, RunArgs, Seccomp, Settle,
    SourceArgs,
};
use self::run::{RUN_ABOUT, RUN_EXAMPLES};
pub use self::service::{ServiceCommand, Services};
use self::status::STATUS_EXAMPLES;
pub use self::status::{StatusArgs, WaitDuration};
pub use self::sysdump::SysdumpArgs;
use self::sysdump::{SYSDUMP_ABOUT, SYSDUMP_EXAMPLES};
use self::top::{TOP_ABOUT, TOP_EXAMPLES};
pub use self::top::{Tab, TopArgs};
pub use self::ui::UiArgs;
use self::ui::{UI_ABOUT, UI_EXAMPLES};

/// The default state directory.
pub const STATE_DIR: &str = "/run/podgate";

/// Name of the control socket in the state directory.
pub const SOCKET_NAME: &str = "podgate.sock";

/// The default path of the read-only socket. The state directory is only for root.
pub const READ_SOCKET: &str = "/run/podgate-read.sock";

/// Name of the socket of Hubble's API in the state directory.
pub const HUBBLE_SOCKET_NAME: &str = "hubble.sock";

/// Examples, then the exit codes, for the end of a command's help. A command with a code of its own
/// names it last.
macro_rules! examples {
    ($($line:literal)+ $(; 4 => $four:literal)?) => {
        examples! { $($line)+; codes "
  0  the command did what it says
  1  it failed; one line on stderr says why
  2  the command line is wrong
  3  the agent can't be reached, or is not ready" $("\n  4  ", $four)? }
    };
    ($($line:literal)+; codes $($codes:literal $(,)?)+) => {
        concat!("Examples:\n", $("  ", $line, "\n",)+ "\nExit codes:", $($codes,)+)
    };
}
pub(crate) use examples;

const EXAMPLES: &str = examples! {
    "podgate run --manifests ./policies --endpoints endpoints.yaml"
    "podgate run --kubeconfig /etc/kubernetes/admin.conf --workers 2"
    "podgate endpoint add --link veth1a --pod shop/cart-0 --netns /run/netns/cart"
    "podgate status --brief && echo ready"
    "podgate flows --follow"
    "podgate policy list -o json"
    "podgate policy explain --from shop/cart-0 --to shop/db-0 --port 5432/TCP"
};

/// Network policy for the pods of this node, enforced in userspace over AF_XDP.
#[derive(Parser, Debug)]
#[command(name = "podgate", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(arg_required_else_help = true, propagate_version = false)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the agent until SIGTERM or SIGINT.
    #[command(long_about = RUN_ABOUT, after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Show whether the agent is ready, and its counters.
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// Attach pods to the dataplane, detach them, list them.
    #[command(subcommand)]
    Endpoint(EndpointCommand),
    /// Explain verdicts; show enforced policies and rejected objects.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Show the addresses that DNS names resolve to in policy, or remove them.
    #[command(subcommand)]
    Fqdn(FqdnCommand),
    /// List services.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Show the tables in which workers look up policy.
    #[command(subcommand)]
    Table(TableCommand),
    /// Show the addresses that policy knows, with their identities.
    #[command(subcommand)]
    Ip(IpCommand),
    /// Show identities: the sets of labels that policy decides by.
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Show nodes.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Show flows as `hubble observe` does.
    #[command(long_about = OBSERVE_ABOUT, after_help = OBSERVE_EXAMPLES)]
    Observe(ObserveArgs),
    /// Show flows: verdicts, drops, requests and responses; the short form of `observe`.
    #[command(long_about = FLOWS_ABOUT, after_help = FLOWS_EXAMPLES)]
    Flows(ObserveArgs),
    /// Show what the workers report, as `cilium-dbg monitor` does.
    #[command(long_about = MONITOR_ABOUT, after_help = MONITOR_EXAMPLES)]
    Monitor(MonitorArgs),
    /// Write packets of pods to a file, with their verdicts.
    #[command(long_about = CAPTURE_ABOUT, after_help = CAPTURE_EXAMPLES)]
    Capture(CaptureArgs),
    /// Show rates of endpoints and rules, drops, slow requests and the workers' load.
    #[command(long_about = TOP_ABOUT, after_help = TOP_EXAMPLES)]
    Top(TopArgs),
    /// Serve a web page of flows, the service map, explanations and what is not ready.
    #[command(long_about = UI_ABOUT, after_help = UI_EXAMPLES)]
    Ui(UiArgs),
    /// Print all metrics in the Prometheus text format, or describe them.
    #[command(after_help = METRICS_EXAMPLES)]
    Metrics(MetricsArgs),
    /// Evaluate policy for a packet capture without an agent, and measure performance.
    Replay(podgate_replay::Args),
    /// Show each option of the agent, its value, and where it is set.
    #[command(long_about = CONFIG_ABOUT, after_help = CONFIG_EXAMPLES)]
    Config(ClientArgs),
    /// Print the CustomResourceDefinitions of the custom kinds that podgate reads.
    #[command(long_about = CRDS_ABOUT, after_help = CRDS_EXAMPLES)]
    Crds(CrdsArgs),
    /// Install the CNI plugin and its configuration on this node, or remove the configuration.
    #[command(subcommand)]
    Cni(CniCommand),
    /// Detach everything that a stopped agent left attached.
    #[command(long_about = CLEANUP_ABOUT, after_help = CLEANUP_EXAMPLES)]
    Cleanup(CleanupArgs),
    /// Collect diagnostics into one archive, without secrets.
    #[command(long_about = SYSDUMP_ABOUT, after_help = SYSDUMP_EXAMPLES)]
    Sysdump(SysdumpArgs),
    /// Print the version.
    #[command(after_help = VERSION_EXAMPLES)]
    Version(VersionArgs),
    /// Print a shell's completion script.
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion(CompletionArgs),
    /// Write the man pages, one for each command.
    #[command(hide = true, after_help = MAN_EXAMPLES)]
    Man(ManArgs),
}

const CONFIG_ABOUT: &str = "\
Show each option of the agent, its value, and where it is set.

An option of `podgate run` is set by its flag, else by an environment variable (PODGATE_ and its \
name, as PODGATE_MAX_ENDPOINTS for --max-endpoints), else in the file of --config, else it has its \
default.";

const CONFIG_EXAMPLES: &str = examples! {
    "podgate config"
    "podgate config -o json | jq '.[] | select(.origin != \"default\")'"
};

/// How to reach the agent.
#[derive(Args, Debug, Clone)]
pub struct SocketArgs {
    /// The agent's control socket.
    #[arg(
        long,
        value_name = "PATH",
        env = "PODGATE_SOCKET",
        default_value = "/run/podgate/podgate.sock"
    )]
    pub socket: PathBuf,
}

/// Arguments that all client commands share.
#[derive(Args, Debug, Clone)]
pub struct ClientArgs {
    /// How to reach the agent.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// The words of a command line, as a shell splits it; a quoted text is one word.
    fn words(line: &str) -> Vec<&str> {
        let parts = line.split('\'').enumerate();
        let words = parts.map(|(index, part)| match index % 2 {
            0 => part.split_whitespace().collect(),
            _ => vec![part],
        });
        words.collect::<Vec<_>>().concat()
    }

    #[test]
    fn every_command_has_examples_that_it_accepts() {
        fn check(command: &clap::Command, program: &clap::Command) {
            for command in command.get_subcommands() {
                check(command, program);
            }
            let Some(help) = command.get_after_help().map(ToString::to_string) else {
                let is_leaf = !command.has_subcommands();
                assert!(!is_leaf || ["help"].contains(&command.get_name()));
                return;
            };
            let lines = help.lines().map(str::trim).filter(|line| line.starts_with("podgate "));
            for line in lines {
                let words = words(line);
                let words = words.iter().take_while(|word| !"&&|>".contains(**word));
                let parsed = program.clone().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{line}");
            }
        }
        check(&Cli::command(), &Cli::command());
    }
}
