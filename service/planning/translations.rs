//! Rules of other tables that translate the destination of a published port: without our earlier priority their targets
//! would get its clients, and with it theirs get none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::facts::Facts;
use super::host_ports::is_own;
use super::listing::listed;
use super::world::World;
use crate::domain::{HostPort, Transport};

/// A chain by its table, as `nft` names both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainId {
    /// Family and name, such as `ip nat`.
    pub table: String,
    pub chain: String,
}

/// A rule of a chain on the way of packets to this host, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatRule {
    pub chain: ChainId,
    pub matched: Matched,
    pub action: NatAction,
}

/// What a rule asks of a packet. What of it could not be read counts as fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matched {
    pub transport: Option<Transport>,
    /// First and last destination ports; `None`: any.
    pub ports: Option<Vec<(u16, u16)>>,
    pub destination: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NatAction {
    /// The destination is translated.
    Translate,
    /// To this chain of the same table, by jump or goto.
    Jump(String),
}

/// The rules of other tables that were read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OtherNat {
    /// Where the kernel begins.
    pub base_chains: BTreeSet<ChainId>,
    pub rules: Vec<NatRule>,
}

/// Jumps that are followed one after the other: the kernel follows no more (NFT_JUMP_STACK_SIZE).
const MAX_DEPTH: usize = 16;
/// Rules that are looked at for one note, with all of their repetitions.
const MAX_VISITS: usize = 100_000;
/// Translations that one note names.
const NAMED: usize = 8;

/// What Degraded says of translations of published ports by others.
pub fn note(world: &World, facts: &Facts, others: &OtherNat) -> Option<String> {
    let found = of_published_ports(world, facts, others);
    let texts = found.iter().map(|(id, port)| {
        let ChainId { table, chain } = id;
        format!("{} port {} by table {table}, chain {chain}", port.transport, port.port)
    });
    let names = listed(texts.collect::<BTreeSet<_>>().into_iter(), NAMED)?;
    Some(format!(
        "another program redirects published ports as well, and its targets get none of the clients: {names}. Unpublish the \
         port here, or have that program use another (docker run -p)"
    ))
}

/// Every published port that a rule of `others` translates, with the rule's chain.
pub fn of_published_ports(world: &World, facts: &Facts, others: &OtherNat) -> BTreeSet<(ChainId, HostPort)> {
    let mut rules = BTreeMap::<&ChainId, Vec<&NatRule>>::new();
    for rule in &others.rules {
        rules.entry(&rule.chain).or_default().push(rule);
    }
    let mut walk = Walk { world, facts, rules, visits: 0, found: BTreeSet::new() };
    for chain in &others.base_chains {
        walk.chain(chain, &Matched::default(), MAX_DEPTH);
    }
    walk.found
}

/// The way of a packet through the chains of others.
struct Walk<'a> {
    world: &'a World,
    facts: &'a Facts,
    rules: BTreeMap<&'a ChainId, Vec<&'a NatRule>>,
    visits: usize,
    found: BTreeSet<(ChainId, HostPort)>,
}

impl Walk<'_> {
    /// `so_far`: what the rules before have asked of a packet that comes here.
    fn chain(&mut self, id: &ChainId, so_far: &Matched, depth: usize) {
        for rule in self.rules.get(id).cloned().unwrap_or_default() {
            self.visits += 1;
            if self.visits > MAX_VISITS {
                return;
            }
            let Some(matched) = so_far.and(&rule.matched) else { continue };
            match &rule.action {
                NatAction::Translate => self.translated(id, &matched),
                NatAction::Jump(chain) if depth > 0 => {
                    let next = ChainId { table: id.table.clone(), chain: chain.clone() };
                    self.chain(&next, &matched, depth - 1);
                }
                NatAction::Jump(_) => {}
            }
        }
    }

    fn translated(&mut self, id: &ChainId, matched: &Matched) {
        if matched.destination.is_some_and(|address| !is_own(self.facts, address)) {
            return;
        }
        let transports = [Transport::Tcp, Transport::Udp].into_iter();
        let transports = transports.filter(|own| matched.transport.is_none_or(|transport| transport == *own));
        let ranges = matched.ports.as_deref().unwrap_or(&[(1, u16::MAX)]);
        for transport in transports {
            for &(first, last) in ranges {
                let ports = self.world.published_between(transport, first, last);
                let ports = ports.filter(|port| meet(matched.destination, port.address));
                self.found.extend(ports.map(|port| (id.clone(), port)));
            }
        }
    }
}

fn meet(one: Option<IpAddr>, other: Option<IpAddr>) -> bool {
    one.is_none() || other.is_none() || one == other
}

impl Matched {
    /// What both ask for; `None` where no packet fulfils both.
    fn and(&self, other: &Self) -> Option<Self> {
        let transport = both(self.transport, other.transport)?;
        let destination = both(self.destination, other.destination)?;
        let ports = match (&self.ports, &other.ports) {
            (Some(one), Some(other)) => {
                let pairs =
                    one.iter().flat_map(|one| other.iter().map(move |other| (one.0.max(other.0), one.1.min(other.1))));
                let common = pairs.filter(|(first, last)| first <= last).collect::<Vec<_>>();
                if common.is_empty() {
                    return None;
                }
                Some(common)
            }
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        Some(Self { transport, ports, destination })
    }
}

fn both<T: PartialEq + Copy>(one: Option<T>, other: Option<T>) -> Option<Option<T>> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => None,
        (one, other) => Some(one.or(other)),
    }
}

#[cfg(test)]
mod tests;
