//! The table `inet albatross_deployer` as a function of what is published.
//!
//! It has two parts. The static one, chains with their rules and the declarations of sets and maps, follows from the
//! networks and the settings. The dynamic one, the elements of those sets and maps, follows from the publications;
//! switching a port is a change of elements and of nothing else, so it costs the same whatever else is published.
//!
//! ```text
//!  prerouting, output --(addressed to this host)--> published: source allowed? look up the port -> dnat
//!  forward, local --(redirected)--> redirected: refuse what nobody answers and what may not go on, clamp the MSS
//!  postrouting: masquerade the few connections whose answers would not come back otherwise
//!  guard:       nothing from outside may be addressed to, or come from, 127.0.0.0/8
//! ```

mod change;
mod elements;
mod rules;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::domain::{Network, NetworkName, Publication, Transport};

pub use change::{ElementsChange, RulesetChange, difference, repair};
pub use elements::{Element, Elements, Family, Field, PortKey, SetKind, SetName, elements};

/// The table's name; its family is `inet`.
pub const TABLE: &str = "albatross_deployer";

/// Counts up when the way rules are put into the kernel's terms changes while the rules here stay the same; what the
/// rules say is part of their [`Chain::comment`] anyway.
const SCHEMA: u32 = 1;

/// What the configuration decides about the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Published ports answer on 127.0.0.0/8 of the host too.
    pub loopback: bool,
}

/// All of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    pub sets: Vec<SetName>,
    pub chains: Vec<Chain>,
    pub elements: Elements,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: ChainName,
    /// `None`: reached by a jump only.
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainName {
    Published,
    Prerouting,
    Output,
    Postrouting,
    Guard,
    Refused,
    Redirected,
    Strict,
    Forward,
    Local,
}

impl ChainName {
    /// None of them is a word of nft's grammar, so that a person can name it to `nft`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Prerouting => "prerouting",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Guard => "guard",
            Self::Refused => "refused",
            Self::Redirected => "redirected",
            Self::Strict => "strict",
            Self::Forward => "forward",
            Self::Local => "local",
        }
    }
}

/// Where the kernel calls a chain. The policy is always accept: a drop here could not be outranked by another table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    pub kind: ChainKind,
    pub hook: Hook,
    /// Lower runs earlier.
    pub priority: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    Nat,
    Filter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

/// If all of `when` hold, `then`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// For the person who reads `nft list table inet albatross_deployer`.
    pub purpose: String,
    pub when: Vec<Condition>,
    pub then: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The destination is an address of this host.
    AddressedToHost,
    /// The connection's destination was translated.
    Translated,
    /// The connection's source was translated. Of the packet that begins it this is not so yet where a rule can ask.
    SourceTranslated,
    /// A packet of this family.
    Family(Family),
    /// A packet of this transport.
    Protocol(Transport),
    /// A TCP packet with the flag SYN: it carries the maximum segment size.
    TcpSyn,
    /// A TCP packet with the flag RST.
    TcpReset,
    /// The connection's answers come from an address of this prefix.
    AnsweredFrom {
        prefix: IpNet,
    },
    Address {
        side: Side,
        within: bool,
        prefix: IpNet,
    },
    Interface {
        direction: Direction,
        is: bool,
        name: InterfaceName,
    },
    /// The packet's fields, as [`SetName::key`] lists them, are an element of the set.
    InSet {
        set: SetName,
        is: bool,
    },
    /// The same with the fields that the connection's first packet came with, before any translation. To be checked after
    /// [`Self::Family`] and [`Self::Protocol`]: without them nft cannot tell what these fields are.
    OriginallyInSet {
        set: SetName,
        is: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// A device by name: it may come and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceName {
    Loopback,
    Bridge(NetworkName),
}

impl InterfaceName {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Loopback => "lo",
            Self::Bridge(name) => name.as_str(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Jump(ChainName),
    Return,
    Drop,
    Masquerade,
    /// Answers with a TCP reset.
    ResetTcp,
    /// Answers that the port cannot be reached (ICMP).
    Unreachable,
    /// Lowers the maximum segment size to what the route's MTU leaves, in either direction; the rules after it follow.
    ClampSegments,
    /// To the address and port that the map holds; a packet without an entry goes on to the next rule.
    Redirect(SetName),
}

/// The table for these publications, networks and settings.
pub fn ruleset<'a>(
    publications: impl Iterator<Item = &'a Publication>,
    networks: &[Network],
    settings: Settings,
) -> Ruleset {
    let families = Family::of_networks(networks);
    let mut all = Elements::default();
    for publication in publications.filter(|publication| families.contains(&Family::of(publication.target))) {
        all.merge(elements(publication));
    }
    Ruleset {
        sets: families.iter().flat_map(|&family| SetName::of_family(family)).collect(),
        chains: rules::chains(&families, networks, settings),
        elements: all,
    }
}

/// The static part as it can be compared with what the kernel has: names, order and comments.
///
/// Rules read back from the kernel are not the bytes that were sent (it fills in what was left out), so each object
/// carries a comment with a digest of what it was made from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Skeleton {
    pub table: String,
    pub sets: BTreeMap<String, String>,
    /// A chain's own comment, then those of its rules in order.
    pub chains: BTreeMap<String, Vec<String>>,
}

impl Ruleset {
    pub fn skeleton(&self) -> Skeleton {
        let chain = |chain: &Chain| {
            let own = std::iter::once(chain.comment());
            (chain.name.as_str().to_owned(), own.chain(chain.rules.iter().map(Rule::comment)).collect())
        };
        Skeleton {
            table: table_comment(),
            sets: self.sets.iter().map(|set| (set.to_string(), set.comment())).collect(),
            chains: self.chains.iter().map(chain).collect(),
        }
    }
}

/// The table's own comment.
pub fn table_comment() -> String {
    format!("owned by albatross-deployer, which puts back what is changed here (schema {SCHEMA})")
}

impl Chain {
    /// The rules are left out: each has its own.
    pub fn comment(&self) -> String {
        identity("albatross-deployer", &self.base)
    }
}

impl Rule {
    pub fn comment(&self) -> String {
        identity(&self.purpose, &(&self.when, self.then))
    }
}

impl SetName {
    pub fn comment(self) -> String {
        identity(self.kind.purpose(), &(self.key(), self.value(), self.is_interval()))
    }
}

/// `purpose (schema:digest)`. The digest is of the debug form: a change of it from one build to the next makes the
/// table anew once, which no packet notices.
fn identity(purpose: &str, content: &impl fmt::Debug) -> String {
    let digest = Sha256::digest(format!("{content:?}"));
    let digits: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{purpose} ({SCHEMA}:{digits})")
}

/// Whether traffic from there needs masquerading to be answered from elsewhere.
fn is_private(prefix: &IpNet) -> bool {
    match prefix.network() {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            // 100.64.0.0/10 is the carriers' shared space (RFC 6598), as unroutable as RFC 1918.
            address.is_private() || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(address) => address.is_unique_local(),
    }
}
