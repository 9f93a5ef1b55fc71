//! What each subcommand does.

mod capture;
mod fqdn;
mod inventory;
mod manual;
mod monitor;
mod observe;
mod policy;
mod sysdump;
mod top;
mod ui;
mod workload;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use podgate_api::{Client, ClientError};
use podgate_api::{ConfigOption, EndpointStatus, Family, FlowList, Request, Status};
use podgate_hubble::client::ClientError as HubbleError;
use podgate_hubble::print::Shown;
use podgate_policy::explain::ServiceEntry;
use serde::Serialize;

use crate::cli::{
    Cli, ClientArgs, CniCommand, Command, CrdsArgs, CrdsOutput, EndpointCommand, EndpointGetArgs,
    MetricsArgs, MetricsCommand, Output, RunArgs, ServiceCommand, StatusArgs, TableCommand,
    TableFlowCommand, TablePolicyCommand,
};
use crate::error::describe;
use crate::log::LogFilter;
use crate::metrics;
use crate::output::{self, Detail, print};
use crate::{agent, cleanup, cni, crds};

/// The command failed.
const FAILED: u8 = 1;
/// The agent can't be reached, or is not ready.
const NOT_READY: u8 = 3;
/// The result is not the expected one.
const UNEXPECTED: u8 = 4;

/// Carries out a command line. Errors go to standard error, in one line.
#[must_use]
pub fn main(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Run(args) => run_agent(&args).map(|()| ExitCode::SUCCESS),
        Command::Status(args) => status(&args),
        Command::Endpoint(command) => endpoint(command).map(|()| ExitCode::SUCCESS),
        Command::Policy(command) => policy::run(command),
        Command::Table(TableCommand::Policy(TablePolicyCommand::Get(args))) => {
            policy::get_table(&args).map(|()| ExitCode::SUCCESS)
        }
        Command::Table(TableCommand::Flow(command)) => {
            flow_table(command).map(|()| ExitCode::SUCCESS)
        }
        Command::Fqdn(command) => fqdn::run(command).map(|()| ExitCode::SUCCESS),
        Command::Service(ServiceCommand::List(args)) => {
            let table = |list: &Vec<ServiceEntry>| output::services(list);
            show(&args, &Request::ServiceList {}, table).map(|()| ExitCode::SUCCESS)
        }
        Command::Observe(args) => observe::run(&args, Shown::No).map(|()| ExitCode::SUCCESS),
        Command::Flows(args) => observe::run(&args, Shown::Yes).map(|()| ExitCode::SUCCESS),
        Command::Monitor(args) => monitor::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Capture(args) => capture::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Top(args) => top::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Ui(args) => ui::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Metrics(args) => metrics(&args).map(|()| ExitCode::SUCCESS),
        Command::Replay(args) => print_report(|out| podgate_replay::run(&args, out)),
        Command::Config(args) => config(&args).map(|()| ExitCode::SUCCESS),
        Command::Crds(args) => print_crds(&args).map(|()| ExitCode::SUCCESS),
        Command::Cni(CniCommand::Install(args)) => cni::install(&args).map(|()| ExitCode::SUCCESS),
        Command::Cni(CniCommand::Remove(args)) => cni::remove(&args).map(|()| ExitCode::SUCCESS),
        Command::Cleanup(args) => cleanup::run(&args.state_dir, args.bpffs.as_deref()),
        Command::Ip(command) => inventory::ip(command).map(|()| ExitCode::SUCCESS),
        Command::Identity(command) => inventory::identity(command).map(|()| ExitCode::SUCCESS),
        Command::Node(command) => inventory::node(command).map(|()| ExitCode::SUCCESS),
        Command::Sysdump(args) => sysdump::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Version(args) => version(args.output).map(|()| ExitCode::SUCCESS),
        Command::Completion(args) => manual::completion(args.shell).map(|()| ExitCode::SUCCESS),
        Command::Man(args) => manual::pages(&args.dir).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("podgate: {}", output::escape(&describe(error.as_ref())));
        let hubble = error.downcast_ref::<HubbleError>();
        match error.downcast_ref::<ClientError>() {
            Some(error) if error.is_unreachable() => NOT_READY.into(),
            None if matches!(hubble, Some(HubbleError::Unreachable { .. })) => NOT_READY.into(),
            _ => FAILED.into(),
        }
    })
}

/// Prints what the parser says of a command line: help to standard output, an error to standard
/// error.
#[must_use]
pub fn explain_usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        eprint!("{}", usage_text(error));
        return u8::try_from(error.exit_code()).unwrap_or(FAILED).into();
    }
    match error.print().and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("podgate: {error}");
            FAILED.into()
        }
        _ => ExitCode::SUCCESS,
    }
}

/// What is wrong with a command line. It has arguments as they were given.
fn usage_text(error: &clap::Error) -> String {
    let text = error.render().to_string();
    text.lines().map(|line| output::escape(line) + "\n").collect()
}

/// Prints what `make` writes, even if it fails: a capture may be damaged at its end only.
fn print_report<E>(make: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<ExitCode>
where
    anyhow::Error: From<E>,
{
    let mut report = Vec::new();
    let made = make(&mut report);
    print(&String::from_utf8_lossy(&report))?;
    made?;
    Ok(ExitCode::SUCCESS)
}

fn run_agent(args: &RunArgs) -> Result<()> {
    let log = LogFilter::start(&args.log)?;
    agent::run(args, &log)
}

fn version(output: Output) -> Result<()> {
    let version = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": podgate_api::VERSION,
    });
    print_as(output, &version, |_| concat!("podgate ", env!("CARGO_PKG_VERSION"), "\n").to_owned())
}

/// Sends a request and prints its result.
fn show<T: Serialize + serde::de::DeserializeOwned>(
    args: &ClientArgs,
    request: &Request,
    table: impl Fn(&T) -> String,
) -> Result<()> {
    let result: T = Client::connect(&args.socket.socket)?.call(request)?;
    print_as(args.output, &result, table)
}

fn print_as<T: Serialize>(output: Output, value: &T, table: impl Fn(&T) -> String) -> Result<()> {
    let text = match output {
        Output::Table => table(value),
        Output::Json => output::escape_json(&serde_json::to_string_pretty(value)?) + "\n",
    };
    Ok(print(&text)?)
}

fn status(args: &StatusArgs) -> Result<ExitCode> {
    let status = wait_for_status(args)?;
    let detail = if args.verbose { Detail::All } else { Detail::Normal };
    print_as(args.client.output, &status, |status| match args.brief {
        true => output::status_brief(status),
        false => output::status(status, detail),
    })?;
    Ok(if status.ready || args.live { ExitCode::SUCCESS } else { NOT_READY.into() })
}

fn config(args: &ClientArgs) -> Result<()> {
    show(args, &Request::Config {}, |options: &Vec<ConfigOption>| output::config(options))
}

fn print_crds(args: &CrdsArgs) -> Result<()> {
    let definitions = crds::all();
    let text = match args.output {
        CrdsOutput::Yaml => crds::to_yaml(&definitions),
        CrdsOutput::Json => serde_json::to_string_pretty(&definitions)? + "\n",
    };
    Ok(print(&text)?)
}

/// How often the status is asked for while waiting.
const STATUS_PERIOD: Duration = Duration::from_millis(500);

/// The status as soon as the agent is ready, or when the time to wait is over. While waiting, each
/// answer may take what is left of that time.
fn wait_for_status(args: &StatusArgs) -> Result<Status, ClientError> {
    let (begin, limit) = (Instant::now(), args.wait_for());
    loop {
        let left = limit.saturating_sub(begin.elapsed()).max(STATUS_PERIOD);
        let each = if args.wait { left } else { Duration::MAX };
        let client = Client::connect_within(&args.client.socket.socket, each);
        let status = client.and_then(|mut client| client.call::<Status>(&Request::Status {}));
        let wait = match &status {
            Ok(status) => !status.ready,
            Err(error) => error.is_unreachable(),
        };
        if !wait || begin.elapsed() >= limit {
            return status;
        }
        sleep(STATUS_PERIOD);
    }
}

/// Fails if the agent does not answer. The absence of new records would not show that: there may be
/// none for any time.
fn require_answer(socket: &Path) -> Result<(), ClientError> {
    let answer = Client::connect(socket)?.call::<serde_json::Value>(&Request::Config {});
    answer.map(|_| ())
}

fn endpoint(command: EndpointCommand) -> Result<()> {
    let table = |endpoint: &EndpointStatus| output::endpoints(std::slice::from_ref(endpoint));
    match command {
        EndpointCommand::Add(args) => show(&args.client, &Request::EndpointAdd(args.spec()), table),
        EndpointCommand::Remove(args) => {
            let request = Request::EndpointRemove { link: args.link };
            show(&args.client, &request, |(): &()| String::new())
        }
        EndpointCommand::Get(args) => {
            let found = find_endpoint(&args)?;
            print_as(args.client.output, &found, table)
        }
        EndpointCommand::Health(args) => {
            let found = find_endpoint(&args)?;
            print_as(args.client.output, &found, output::endpoint_health)
        }
        EndpointCommand::Log(args) => {
            let request = Request::EndpointLog { endpoint: args.endpoint };
            show(&args.client, &request, |log: &Vec<_>| output::endpoint_log(log))
        }
        EndpointCommand::List(args) => {
            show(&args, &Request::EndpointList {}, |list: &Vec<_>| output::endpoints(list))
        }
    }
}

/// The endpoint that is named by its pod or link.
fn find_endpoint(args: &EndpointGetArgs) -> Result<EndpointStatus> {
    let mut client = Client::connect(&args.client.socket.socket)?;
    let list: Vec<EndpointStatus> = client.call(&Request::EndpointList {})?;
    let is_meant = |endpoint: &EndpointStatus| {
        let pod = endpoint.spec.pod.as_ref().map(ToString::to_string);
        endpoint.spec.link == args.endpoint || pod.as_ref() == Some(&args.endpoint)
    };
    match list.into_iter().find(is_meant) {
        Some(found) => Ok(found),
        None => bail!("{} is neither the pod nor the link of an endpoint", args.endpoint),
    }
}

fn flow_table(command: TableFlowCommand) -> Result<()> {
    match command {
        TableFlowCommand::List(args) => {
            let request = Request::TableFlowList(args.which.selector());
            show(&args.client, &request, |list: &FlowList| output::flow_table(list))
        }
        TableFlowCommand::Flush(args) => {
            let request = Request::TableFlowFlush(args.which.selector());
            show(&args.client, &request, |removed: &u64| format!("{removed} entries removed\n"))
        }
    }
}

fn metrics(args: &MetricsArgs) -> Result<()> {
    if let Some(MetricsCommand::List(args)) = &args.command {
        let mut list = metrics::metrics();
        list.retain(|metric| args.pattern.as_ref().is_none_or(|p| p.is_match(&metric.name)));
        return print_as(args.output, &list, |list| output::metrics(list));
    }
    let families: Vec<Family> =
        Client::connect(&args.client.socket.socket)?.call(&Request::Metrics {})?;
    print_as(args.client.output, &families, |families| metrics::to_text(families))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_escaped_in_what_is_said_of_a_command_line() {
        for arguments in
            [["status", "--\u{202e}x"], ["\u{202e}x", "list"], ["completion", "\u{202e}x"]]
        {
            let line = std::iter::once("podgate").chain(arguments);
            let error = crate::config::parse(line.map(Into::into)).unwrap_err();
            let text = usage_text(&error);
            assert!(text.contains(r"\u{202e}x") && !text.contains('\u{202e}'), "{text}");
            assert!(text.lines().count() > 2, "{text}");
        }
    }
}
