//! `podgate observe` and `podgate flows`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal};
use std::mem;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use podgate_api::{Client as ControlClient, FlowItem, Request};
use podgate_hubble::client::Client;
use podgate_hubble::input::{InputError, responses};
use podgate_hubble::json::filter_to_json;
use podgate_hubble::print::{Colors, Ends, Form, Options, Printer, Shown, Text};
use podgate_hubble::proto::flow::FlowFilter;
use podgate_hubble::proto::observer::{GetFlowsRequest, GetFlowsResponse};

use super::require_answer;
use crate::cli::{ColorChoice, ObserveArgs, ObserveOutput};
use crate::output::{self, exit_with_reader, print};

/// Flows that arrive together are written together, up to these bytes.
const WRITTEN_AT_ONCE: usize = 1 << 16;

/// Shows flows; `policies` is whether the policies that decided them are shown in any case.
pub(super) fn run(args: &ObserveArgs, policies: Shown) -> Result<()> {
    let request = args.request().map_err(anyhow::Error::msg)?;
    if args.print_raw_filters {
        return Ok(print(&raw_filters(&request)?)?);
    }
    if request.follow {
        exit_with_reader();
    }
    if args.format.output == ObserveOutput::Record {
        return records(args);
    }
    let options = options(args, policies);
    ensure!(
        options.form != Form::Table || !request.follow,
        "--follow: not with -o table, whose columns are aligned when all flows are known"
    );
    let mut printer = Printer::new(options);
    match &args.input_file {
        Some(file) => from_file(file, &request, &mut printer)?,
        None => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(from_server(args, request, &mut printer))?;
        }
    }
    write(&printer.finish())
}

fn options(args: &ObserveArgs, policies: Shown) -> Options {
    let format = &args.format;
    let shown = |shown| if shown { Shown::Yes } else { Shown::No };
    Options {
        form: match format.output {
            ObserveOutput::Compact | ObserveOutput::Record => Form::Compact,
            ObserveOutput::Dict => Form::Dict,
            ObserveOutput::Table => Form::Table,
            ObserveOutput::Json | ObserveOutput::Jsonpb => Form::Json,
        },
        colors: colors(format.color),
        ends: match format.numeric || !format.ip_translation {
            true => Ends::Numeric,
            false => Ends::Named,
        },
        node_name: shown(format.print_node_name),
        policy_names: shown(format.print_policy_names || policies == Shown::Yes),
        time: format.time_format.pattern(),
    }
}

/// Whether to print colors, by the option, the terminal, and the variable `NO_COLOR`.
fn colors(choice: ColorChoice) -> Colors {
    let no_color = || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match choice {
        ColorChoice::Always => Colors::On,
        ColorChoice::Auto if io::stdout().is_terminal() && !no_color() => Colors::On,
        ColorChoice::Auto | ColorChoice::Never => Colors::Off,
    }
}

fn from_file(file: &Path, request: &GetFlowsRequest, printer: &mut Printer) -> Result<()> {
    let name = file.display();
    let input: Box<dyn BufRead> = match file.as_os_str() == "-" {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(file).with_context(|| name.to_string())?)),
    };
    let read = responses(input, request, |response| show(printer, &response).map_err(Failure::Own));
    read.map_err(|failure| match failure {
        Failure::Own(error) => error,
        Failure::Input(error) => anyhow::Error::new(error).context(name.to_string()),
    })
}

/// Why a file was not printed.
enum Failure {
    Input(InputError),
    Own(anyhow::Error),
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

async fn from_server(
    args: &ObserveArgs,
    request: GetFlowsRequest,
    printer: &mut Printer,
) -> Result<()> {
    let source = &args.source;
    let mut client = Client::connect(&source.address(), source.client_tls().as_ref()).await?;
    let mut flows = client.flows(request).await?;
    let mut text = Text::default();
    loop {
        let response = match flows.arrived() {
            Some(response) if text.out.len() < WRITTEN_AT_ONCE => response,
            Some(response) => {
                write(&mem::take(&mut text))?;
                response
            }
            None => {
                write(&mem::take(&mut text))?;
                flows.next().await
            }
        };
        let printed = match response {
            Ok(Some(response)) => printer.response(&response).map_err(anyhow::Error::msg),
            Ok(None) => break,
            Err(error) => Err(error.into()),
        };
        match printed {
            Ok(printed) => {
                text.out += &printed.out;
                text.err += &printed.err;
            }
            Err(error) => {
                write(&text)?;
                return Err(error);
            }
        }
    }
    write(&text)
}

fn show(printer: &mut Printer, response: &GetFlowsResponse) -> Result<()> {
    write(&printer.response(response).map_err(anyhow::Error::msg)?)
}

fn write(text: &Text) -> Result<()> {
    if !text.err.is_empty() {
        eprint!("{}", text.err);
    }
    if !text.out.is_empty() {
        print(&text.out)?;
    }
    Ok(())
}

/// The filters as YAML, of which each is a value for `--allowlist` or `--denylist`.
fn raw_filters(request: &GetFlowsRequest) -> Result<String> {
    let list = |name: &str, filters: &[FlowFilter]| -> Result<String> {
        let mut text = String::new();
        for filter in filters {
            let json = filter_to_json(filter).map_err(anyhow::Error::msg)?;
            let json = output::escape_json(&json).replace('\'', "''");
            text += &format!("    - '{json}'\n");
        }
        Ok(if text.is_empty() { text } else { format!("{name}:\n{text}") })
    };
    Ok(list("allowlist", &request.whitelist)? + &list("denylist", &request.blacklist)?)
}

/// Prints podgate's own records, from the control socket.
fn records(args: &ObserveArgs) -> Result<()> {
    let selectors = &args.selectors;
    let chosen =
        selectors.first.is_some() || selectors.since.is_some() || selectors.until.is_some();
    if chosen || !args.filters.is_empty() || args.input_file.is_some() {
        bail!("-o record takes only --last, --all and --follow; filter its output with jq");
    }
    let last = match (selectors.all, args.request().map_err(anyhow::Error::msg)?.number) {
        (true, _) => podgate_api::LAST_MAX,
        (false, number) => u32::try_from(number).unwrap_or(u32::MAX),
    };
    let request = Request::Flows { follow: selectors.follow, last };
    if selectors.follow {
        require_answer(&args.source.socket.socket)?;
    }
    let mut client = ControlClient::connect(&args.source.socket.socket)?;
    client.stream(&request, |item: FlowItem| {
        let text = match &item {
            // The record itself, so that filters need no wrapper.
            FlowItem::Flow(record) => serde_json::to_string(record)?,
            FlowItem::Lost(_) => serde_json::to_string(&item)?,
        };
        Ok::<_, anyhow::Error>(print(&(output::escape_json(&text) + "\n"))?)
    })
}
