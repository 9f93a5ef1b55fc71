//! `podgate ip`, `identity`, `node`: what the agent knows.

use anyhow::{Result, bail};
use podgate_api::{Client, IdentityEntry, IpEntry, NodeEntry, Request};

use super::{print_as, show};
use crate::cli::{IdentityCommand, IpCommand, NodeCommand};
use crate::output;

pub(super) fn ip(command: IpCommand) -> Result<()> {
    let (client, address) = match command {
        IpCommand::List(client) => (client, None),
        IpCommand::Get(args) => (args.client, Some(args.address)),
    };
    show(&client, &Request::IpList { address }, |list: &Vec<IpEntry>| output::addresses(list))
}

pub(super) fn identity(command: IdentityCommand) -> Result<()> {
    let (client, wanted) = match command {
        IdentityCommand::List(client) => (client, None),
        IdentityCommand::Get(args) => (args.client, Some(args.identity)),
    };
    let mut connection = Client::connect(&client.socket.socket)?;
    let mut list: Vec<IdentityEntry> = connection.call(&Request::IdentityList {})?;
    if let Some(wanted) = wanted {
        list.retain(|entry| entry.identity == wanted);
        if list.is_empty() {
            bail!("there is no identity {wanted}; see podgate identity list");
        }
    }
    print_as(client.output, &list, |list| output::identities(list))
}

pub(super) fn node(command: NodeCommand) -> Result<()> {
    let NodeCommand::List(client) = command;
    show(&client, &Request::NodeList {}, |list: &Vec<NodeEntry>| output::nodes(list))
}
