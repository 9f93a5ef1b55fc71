//! `podgate fqdn …`.

use anyhow::Result;
use podgate_api::{FqdnEntry, Request};

use super::show;
use crate::cli::FqdnCommand;
use crate::output;

pub(super) fn run(command: FqdnCommand) -> Result<()> {
    match command {
        FqdnCommand::List(args) => {
            let request = Request::FqdnList { pattern: args.name };
            show(&args.client, &request, |list: &Vec<FqdnEntry>| output::fqdns(list))
        }
        FqdnCommand::Clean(args) => {
            let request = Request::FqdnClean { pattern: args.name };
            show(&args.client, &request, |removed: &usize| format!("{removed} addresses removed\n"))
        }
    }
}
