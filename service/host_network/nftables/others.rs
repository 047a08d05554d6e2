//! Rules of other tables that translate destinations of packets to this host.
//!
//! Read are the forms in which `nft`, iptables-nft, Docker, Podman and Kubernetes write them. What a rule asks besides
//! transport, destination port and destination address is left out, and a rule whose port cannot be read is passed over.

mod expressions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use netlink_packet_netfilter::nftables::{
    ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetElementList, SetElementMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use self::expressions::{Parsed, Then};
use super::super::Error;
use super::super::attributes::Attributes;
use super::super::netlink::{Channel, Frame, Sending};
use super::observed::{CHAIN_HOOK, CHAIN_NAME, GENERIC_HEADER, HOOK_NUMBER, OF_TABLE, RULE_CHAIN};
use crate::planning::ruleset::TABLE;
use crate::planning::translations::{ChainId, Matched, NatAction, NatRule, OtherNat};

// NFTA_*
const CHAIN_TYPE: u16 = 7;
const RULE_EXPRESSIONS: u16 = 4;
const ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_FLAGS: u16 = 3;
const INTERVAL_END: u32 = 1;
// Hooks where packets to this host begin: those that come in, and its own.
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;

/// Rules that are kept, with those of lists that had to be begun anew.
const MAX_RULES: usize = 50_000;
/// Sets and maps whose elements are read, and elements of each.
const MAX_SETS: usize = 64;
const MAX_ELEMENTS: usize = 10_000;

const OBJECT: &str = "the rules of other tables";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum TableFamily {
    Inet,
    Ip,
}

impl TableFamily {
    /// By the first byte of a message. Publications are IPv4: what others do to IPv6 is no matter.
    fn of(frame: &Frame<'_>) -> Option<Self> {
        match frame.payload.first().copied().map(NetfilterProtoFamily::from) {
            Some(NetfilterProtoFamily::Inet) => Some(Self::Inet),
            Some(NetfilterProtoFamily::IPv4) => Some(Self::Ip),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct OtherTable {
    family: TableFamily,
    name: String,
}

impl OtherTable {
    fn request(&self, message: NfTablesMessage) -> NetfilterMessage {
        let family = match self.family {
            TableFamily::Inet => NetfilterProtoFamily::Inet,
            TableFamily::Ip => NetfilterProtoFamily::IPv4,
        };
        NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
    }

    fn chain(&self, chain: &str) -> ChainId {
        ChainId { table: self.to_string(), chain: chain.into() }
    }
}

impl fmt::Display for OtherTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            TableFamily::Inet => "inet",
            TableFamily::Ip => "ip",
        };
        write!(f, "{family} {}", self.name)
    }
}

/// An element of a set or map whose keys are ports.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PortElement {
    first: u16,
    last: u16,
    /// The chain that a verdict map jumps to.
    jump: Option<String>,
}

/// The rules of all tables but ours that have a nat chain on the way to this host.
pub(super) async fn nat_rules(channel: &mut Channel) -> Result<OtherNat, Error> {
    let bases = base_chains(channel).await?;
    let tables = bases.iter().map(|(table, _)| table.clone()).collect::<BTreeSet<_>>();
    let base_chains = bases.into_iter().map(|(table, chain)| table.chain(&chain)).collect();
    let mut all = Vec::new();
    let mut sets = BTreeMap::<(OtherTable, String), Vec<PortElement>>::new();
    for table in tables {
        for (chain, parsed) in rules(channel, &table).await? {
            let elements = match &parsed.lookup {
                None => None,
                Some(set) => {
                    let key = (table.clone(), set.clone());
                    if !sets.contains_key(&key) {
                        let few = sets.len() < MAX_SETS;
                        let elements = if few { elements(channel, &table, set).await? } else { Vec::new() };
                        sets.insert(key.clone(), elements);
                    }
                    sets.get(&key).map(Vec::as_slice)
                }
            };
            all.extend(rules_of(&table.chain(&chain), parsed, elements));
        }
    }
    Ok(OtherNat { base_chains, rules: all })
}

async fn base_chains(channel: &mut Channel) -> Result<BTreeSet<(OtherTable, String)>, Error> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let message = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    let read = |frame: &Frame<'_>| {
        let attributes = Attributes::after(GENERIC_HEADER, frame.payload);
        let hook = attributes.nested(CHAIN_HOOK).and_then(|hook| hook.number_be(HOOK_NUMBER));
        let (table, chain) = (attributes.text(OF_TABLE), attributes.text(CHAIN_NAME));
        let (Some(family), Some(name), Some(chain)) = (TableFamily::of(frame), table, chain) else { return Ok(None) };
        let translates = attributes.text(CHAIN_TYPE) == Some("nat") && matches!(hook, Some(PREROUTING | OUTPUT));
        let is_ours = family == TableFamily::Inet && name == TABLE;
        Ok((translates && !is_ours).then(|| (OtherTable { family, name: name.into() }, chain.to_owned())))
    };
    let chains = channel.dump(Sending::Here, OBJECT, NetfilterMessage::new(header, message), read).await?;
    Ok(chains.into_iter().collect())
}

/// The rules of a table that translate or jump, with their chains.
async fn rules(channel: &mut Channel, table: &OtherTable) -> Result<Vec<(String, Parsed)>, Error> {
    let attributes = vec![RuleAttribute::Table(table.name.clone())];
    let request = table.request(NfTablesMessage::GetRule(RuleMessage { attributes }));
    let mut kept = 0;
    let read = |frame: &Frame<'_>| {
        let attributes = Attributes::after(GENERIC_HEADER, frame.payload);
        // The kernel lists the tables of that name of all families.
        if TableFamily::of(frame) != Some(table.family) || kept == MAX_RULES {
            return Ok(None);
        }
        let chain = attributes.text(RULE_CHAIN).unwrap_or_default();
        let parsed = attributes.nested(RULE_EXPRESSIONS).and_then(expressions::parse);
        kept += usize::from(parsed.is_some());
        Ok(parsed.map(|parsed| (chain.to_owned(), parsed)))
    };
    channel.dump(Sending::Here, OBJECT, request, read).await
}

/// The elements of a set or map by destination port; none where its keys are something else.
async fn elements(channel: &mut Channel, table: &OtherTable, set: &str) -> Result<Vec<PortElement>, Error> {
    let attributes = vec![SetElementList::Table(table.name.clone()), SetElementList::Set(set.into())];
    let request = table.request(NfTablesMessage::GetSetElement(SetElementMessage { attributes }));
    let read = |frame: &Frame<'_>| {
        let list = Attributes::after(GENERIC_HEADER, frame.payload).nested(ELEMENTS);
        let elements = list.into_iter().flat_map(|list| list.all(LIST_ELEMENT)).filter_map(boundary);
        Ok(Some(elements.take(MAX_ELEMENTS).collect::<Vec<_>>()))
    };
    match channel.dump(Sending::Here, OBJECT, request, read).await {
        Ok(lists) => Ok(joined(lists.into_iter().flatten().take(MAX_ELEMENTS).collect())),
        // Gone since its rule was read.
        Err(Error::Refused { errno, .. }) if errno.is_of_nothing() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A port, whether an interval ends before it, and the chain that is jumped to.
type Boundary = (u16, bool, Option<String>);

fn boundary(element: Attributes<'_>) -> Option<Boundary> {
    let key = element.nested(ELEMENT_KEY)?;
    let port = u16::from_be_bytes(expressions::value(key)?.try_into().ok()?);
    let ends = element.number_be(ELEMENT_FLAGS).unwrap_or(0) & INTERVAL_END != 0;
    let jump = element.nested(ELEMENT_DATA).and_then(expressions::jump);
    Some((port, ends, jump))
}

/// Puts the ends of intervals to their beginnings. A set without intervals has no ends.
fn joined(mut boundaries: Vec<Boundary>) -> Vec<PortElement> {
    let intervals = boundaries.iter().any(|(_, ends, _)| *ends);
    // Where one interval ends another may begin.
    boundaries.sort_by_key(|(port, ends, _)| (*port, !ends));
    let mut all = Vec::<PortElement>::new();
    for (port, ends, jump) in boundaries {
        match all.last_mut() {
            Some(open) if ends => open.last = port.saturating_sub(1).max(open.first),
            _ if ends => {}
            _ => all.push(PortElement { first: port, last: if intervals { u16::MAX } else { port }, jump }),
        }
    }
    all
}

/// What a rule comes to, with the elements of the set or map that it looks a port up in.
fn rules_of(chain: &ChainId, parsed: Parsed, elements: Option<&[PortElement]>) -> Vec<NatRule> {
    let ranges = |elements: &[PortElement]| elements.iter().map(|one| (one.first, one.last)).collect::<Vec<_>>();
    let rule = |matched, action| NatRule { chain: chain.clone(), matched, action };
    let matched = match elements {
        Some(elements) => Matched { ports: Some(ranges(elements)), ..parsed.matched },
        None => parsed.matched,
    };
    match parsed.then {
        Then::Translate => vec![rule(matched, NatAction::Translate)],
        Then::Jump(to) => vec![rule(matched, NatAction::Jump(to))],
        Then::VerdictMap => {
            let jumps = elements.unwrap_or_default().iter().filter_map(|one| Some((one, one.jump.clone()?)));
            let of_one = |(one, jump): (&PortElement, String)| {
                let matched = Matched { ports: Some(vec![(one.first, one.last)]), ..matched.clone() };
                rule(matched, NatAction::Jump(jump))
            };
            jumps.map(of_one).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_put_together_from_their_ends() {
        let joined = |boundaries: &[(u16, bool)]| {
            let elements = joined(boundaries.iter().map(|&(port, ends)| (port, ends, None)).collect());
            elements.into_iter().map(|element| (element.first, element.last)).collect::<Vec<_>>()
        };
        assert_eq!(joined(&[(443, false), (80, false)]), [(80, 80), (443, 443)]);
        // As the kernel lists `{ 80, 8000-9000, 9001-9009 }`, with an end before all.
        let listed = [(9010, true), (9001, false), (9001, true), (8000, false), (81, true), (80, false), (0, true)];
        assert_eq!(joined(&listed), [(80, 80), (8000, 9000), (9001, 9009)]);
        assert_eq!(joined(&[(60000, false), (100, true), (1, false)]), [(1, 99), (60000, 65535)]);
        assert_eq!(joined(&[]), []);
    }
}
