//! What each subcommand does.

mod fqdn;
mod policy;
mod workload;

use std::process::ExitCode;

use anyhow::Result;
use podgate_api::{Client, ClientError};
use podgate_api::{EndpointStatus, Family, FlowItem, Request, Status};
use podgate_policy::explain::ServiceEntry;
use serde::Serialize;

use crate::cli::{
    Cli, ClientArgs, Command, EndpointCommand, FlowsArgs, MetricsArgs, Output, RunArgs,
    ServiceCommand, StatusArgs, TableCommand, TablePolicyCommand,
};
use crate::error::describe;
use crate::log::LogFilter;
use crate::metrics;
use crate::output::{self, print};
use crate::{agent, cleanup};

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
        Command::Fqdn(command) => fqdn::run(command).map(|()| ExitCode::SUCCESS),
        Command::Service(ServiceCommand::List(args)) => {
            let table = |list: &Vec<ServiceEntry>| output::services(list);
            show(&args, &Request::ServiceList {}, table).map(|()| ExitCode::SUCCESS)
        }
        Command::Flows(args) => flows(&args).map(|()| ExitCode::SUCCESS),
        Command::Metrics(args) => metrics(&args).map(|()| ExitCode::SUCCESS),
        Command::Replay(args) => print_report(|out| podgate_replay::run(&args, out)),
        Command::Cleanup(args) => cleanup::run(&args.state_dir),
        Command::Version => print(concat!("podgate ", env!("CARGO_PKG_VERSION"), "\n"))
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("podgate: {}", output::escape(&describe(error.as_ref())));
        match error.downcast_ref::<ClientError>() {
            Some(error) if error.is_unreachable() => NOT_READY.into(),
            _ => FAILED.into(),
        }
    })
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
    let status: Status = Client::connect(&args.client.socket.socket)?.call(&Request::Status {})?;
    let table = if args.brief { output::status_brief } else { output::status };
    print_as(args.client.output, &status, table)?;
    Ok(if status.ready { ExitCode::SUCCESS } else { NOT_READY.into() })
}

fn endpoint(command: EndpointCommand) -> Result<()> {
    let table = |endpoint: &EndpointStatus| output::endpoints(std::slice::from_ref(endpoint));
    match command {
        EndpointCommand::Add(args) => show(&args.client, &Request::EndpointAdd(args.spec()), table),
        EndpointCommand::Remove(args) => {
            let request = Request::EndpointRemove { link: args.link };
            show(&args.client, &request, |(): &()| String::new())
        }
        EndpointCommand::List(args) => {
            show(&args, &Request::EndpointList {}, |list: &Vec<_>| output::endpoints(list))
        }
    }
}

fn flows(args: &FlowsArgs) -> Result<()> {
    let request = Request::Flows { follow: args.follow, last: args.last };
    let mut client = Client::connect(&args.client.socket.socket)?;
    client.stream(&request, |item: FlowItem| {
        let text = match (args.client.output, &item) {
            (Output::Table, _) => output::flow(&item),
            // One object a line: the record itself, so that filters need no wrapper.
            (Output::Json, FlowItem::Flow(record)) => json_line(record)?,
            (Output::Json, FlowItem::Lost(_)) => json_line(&item)?,
        };
        Ok::<_, anyhow::Error>(print(&text)?)
    })
}

fn json_line<T: Serialize>(value: &T) -> serde_json::Result<String> {
    Ok(output::escape_json(&serde_json::to_string(value)?) + "\n")
}

fn metrics(args: &MetricsArgs) -> Result<()> {
    let families: Vec<Family> =
        Client::connect(&args.client.socket.socket)?.call(&Request::Metrics {})?;
    print_as(args.client.output, &families, |families| metrics::to_text(families))
}
