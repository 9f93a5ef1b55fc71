//! Networks as policies write them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::fields::{Field, quote};

/// Reads `address/prefix`; host bits are cut off, as the API does.
pub(super) fn parse_network(field: &Field<'_>) -> Option<IpNet> {
    let text = field.string()?;
    let Ok(network) = text.parse::<IpNet>() else {
        match text.parse::<IpAddr>() {
            Ok(address) => field.reject_with_fix(
                format!("{} has no prefix length", quote(text)),
                format!("write {}", IpNet::from(address)),
            ),
            Err(_) => field.reject(format!("{} is not a network (address/prefix)", quote(text))),
        }
        return None;
    };
    reject_mapped(field, network)
}

/// Reads `address/prefix` or a bare address.
pub(super) fn parse_network_or_address(field: &Field<'_>) -> Option<IpNet> {
    match field.string()?.parse::<IpAddr>() {
        Ok(address) => reject_mapped(field, address.into()),
        Err(_) => parse_network(field),
    }
}

/// Packets with IPv4-mapped addresses are dropped, so a rule with such a network can only be a
/// mistake.
fn reject_mapped(field: &Field<'_>, network: IpNet) -> Option<IpNet> {
    if let IpNet::V6(v6) = network
        && v6.prefix_len() >= 96
        && v6.addr().to_ipv4_mapped().is_some()
    {
        field.reject_with_fix("is an IPv4 network in IPv6 form", "write it as IPv4");
        return None;
    }
    Some(network.trunc())
}

/// How a block whose exceptions cover all of it is treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EmptyBlock {
    /// It is rejected.
    Rejected,
    /// It selects nothing.
    Allowed,
}

/// Reads a block: a network, and those within it that are to be left out.
pub(super) fn parse_block(
    cidr: &Field<'_>,
    except: Option<&Field<'_>>,
    empty: EmptyBlock,
) -> Option<(IpNet, Vec<IpNet>)> {
    let network = parse_network(cidr)?;
    let Some(except) = except else { return Some((network, Vec::new())) };
    let except = except.list(|field| {
        let except = parse_network(field)?;
        if !network.contains(&except) {
            field.reject(format!("{except} lies outside of {network}"));
        } else if empty == EmptyBlock::Rejected && except == network {
            field.reject(format!("{except} leaves nothing of the block"));
        }
        Some(except)
    })?;
    Some((network, sorted(except)))
}

/// Reads a list of networks; sorted.
pub(super) fn parse_networks(field: &Field<'_>) -> Option<Vec<IpNet>> {
    field.list(parse_network).map(sorted)
}

fn sorted(mut networks: Vec<IpNet>) -> Vec<IpNet> {
    networks.sort_unstable();
    networks.dedup();
    networks
}
