//! The dynamic part of the table: elements of its sets and maps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::domain::{HostPort, Network, Publication, Transport};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// IPv4 always, IPv6 when a network has it.
    pub(super) fn of_networks(networks: &[Network]) -> BTreeSet<Self> {
        networks.iter().map(|network| Self::of(network.prefix.network())).chain([Self::V4]).collect()
    }

    /// As in the names of sets.
    fn digit(self) -> char {
        match self {
            Self::V4 => '4',
            Self::V6 => '6',
        }
    }
}

/// What an element is about: one port of the host, for one family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    pub family: Family,
    pub port: HostPort,
}

/// One element. The order keeps the elements of one set together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// Of `ports4` and its like: the port goes to this address and port.
    Redirect(PortKey, SocketAddr),
    /// Of `guarded4`: only sources that are listed may connect.
    Guarded(PortKey),
    /// Of `sources4`: this prefix may connect.
    Source(PortKey, IpNet),
    /// Of `enforced4`: also established connections of sources that are not listed are reset.
    Enforced(PortKey),
    /// Of `gone4`: nobody answers there; who has been redirected there is refused.
    Gone(IpAddr),
}

impl Element {
    /// The port that it is about; [`Self::Gone`] is about none.
    pub fn port(&self) -> Option<PortKey> {
        match *self {
            Self::Redirect(key, _) | Self::Guarded(key) | Self::Source(key, _) | Self::Enforced(key) => Some(key),
            Self::Gone(_) => None,
        }
    }

    pub fn set(&self) -> SetName {
        let of_port = |kind, key: &PortKey| {
            let (family, on_address) = (key.family, key.port.address.is_some());
            SetName { kind, family, on_address }
        };
        match self {
            Self::Redirect(key, _) => of_port(SetKind::Ports, key),
            Self::Guarded(key) => of_port(SetKind::Guarded, key),
            Self::Source(key, _) => of_port(SetKind::Sources, key),
            Self::Enforced(key) => of_port(SetKind::Enforced, key),
            Self::Gone(address) => SetName { kind: SetKind::Gone, family: Family::of(*address), on_address: false },
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(PortKey { port: HostPort { address, transport, port }, .. }) = self.port() {
            if let Some(address) = address {
                write!(f, "{address} ")?;
            }
            write!(f, "{transport} {port}")?;
        }
        match self {
            Self::Redirect(_, target) => write!(f, " to {target}"),
            Self::Guarded(_) | Self::Enforced(_) => Ok(()),
            Self::Source(_, prefix) => write!(f, " from {prefix}"),
            Self::Gone(address) => write!(f, "{address}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    Ports,
    Guarded,
    Sources,
    Enforced,
    Gone,
}

impl SetKind {
    pub(super) fn purpose(self) -> &'static str {
        match self {
            Self::Ports => "published ports",
            Self::Guarded => "ports for some sources only",
            Self::Sources => "who may connect to them",
            Self::Enforced => "ports that reset connections of other sources",
            Self::Gone => "unikernels that have ended",
        }
    }
}

/// A set or map of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetName {
    pub kind: SetKind,
    pub family: Family,
    /// The key begins with the host's address.
    pub on_address: bool,
}

/// A part of a key or value, in the order in which it is concatenated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The host's address that the packet is for; in a value, the unikernel's.
    Destination(Family),
    Transport,
    Port,
    Source(Family),
}

impl SetName {
    /// All of a family.
    pub fn of_family(family: Family) -> impl Iterator<Item = Self> {
        [SetKind::Ports, SetKind::Guarded, SetKind::Sources, SetKind::Enforced]
            .into_iter()
            .flat_map(move |kind| [false, true].map(|on_address| Self { kind, family, on_address }))
            .chain([Self { kind: SetKind::Gone, family, on_address: false }])
    }

    pub fn key(self) -> Vec<Field> {
        if self.kind == SetKind::Gone {
            return vec![Field::Destination(self.family)];
        }
        let address = self.on_address.then_some(Field::Destination(self.family));
        let source = (self.kind == SetKind::Sources).then_some(Field::Source(self.family));
        address.into_iter().chain([Field::Transport, Field::Port]).chain(source).collect()
    }

    /// What a map gives for a key; a set gives nothing.
    pub fn value(self) -> Option<[Field; 2]> {
        (self.kind == SetKind::Ports).then_some([Field::Destination(self.family), Field::Port])
    }

    /// Its elements are ranges.
    pub fn is_interval(self) -> bool {
        self.kind == SetKind::Sources
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            SetKind::Ports => "ports",
            SetKind::Guarded => "guarded",
            SetKind::Sources => "sources",
            SetKind::Enforced => "enforced",
            SetKind::Gone => "gone",
        };
        write!(f, "{kind}{}{}", self.family.digit(), if self.on_address { "_on" } else { "" })
    }
}

/// The elements of the whole table, or those of some publications. As in the kernel, a port has one target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Elements {
    redirects: BTreeMap<PortKey, SocketAddr>,
    guarded: BTreeSet<PortKey>,
    sources: BTreeSet<(PortKey, IpNet)>,
    enforced: BTreeSet<PortKey>,
    gone: BTreeSet<IpAddr>,
}

impl Elements {
    /// Those of unikernels that have ended.
    pub fn of_gone(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { gone: addresses.into_iter().collect(), ..Self::default() }
    }

    pub fn insert(&mut self, element: Element) {
        match element {
            // Admission lets nobody publish a port twice. Should a ledger say so all the same, what came first stays.
            Element::Redirect(key, target) => drop(self.redirects.entry(key).or_insert(target)),
            Element::Guarded(key) => drop(self.guarded.insert(key)),
            Element::Source(key, prefix) => drop(self.sources.insert((key, prefix))),
            Element::Enforced(key) => drop(self.enforced.insert(key)),
            Element::Gone(address) => drop(self.gone.insert(address)),
        }
    }

    pub fn remove(&mut self, element: &Element) -> bool {
        match element {
            Element::Redirect(key, target) if self.redirects.get(key) == Some(target) => {
                self.redirects.remove(key).is_some()
            }
            Element::Redirect(..) => false,
            Element::Guarded(key) => self.guarded.remove(key),
            Element::Source(key, prefix) => self.sources.remove(&(*key, *prefix)),
            Element::Enforced(key) => self.enforced.remove(key),
            Element::Gone(address) => self.gone.remove(address),
        }
    }

    pub fn contains(&self, element: &Element) -> bool {
        match element {
            Element::Redirect(key, target) => self.redirects.get(key) == Some(target),
            Element::Guarded(key) => self.guarded.contains(key),
            Element::Source(key, prefix) => self.sources.contains(&(*key, *prefix)),
            Element::Enforced(key) => self.enforced.contains(key),
            Element::Gone(address) => self.gone.contains(address),
        }
    }

    pub fn merge(&mut self, other: Self) {
        for (key, target) in other.redirects {
            self.redirects.entry(key).or_insert(target);
        }
        self.guarded.extend(other.guarded);
        self.sources.extend(other.sources);
        self.enforced.extend(other.enforced);
        self.gone.extend(other.gone);
    }

    /// In the order of [`Element`].
    pub fn iter(&self) -> impl Iterator<Item = Element> + '_ {
        let redirects = self.redirects.iter().map(|(&key, &target)| Element::Redirect(key, target));
        let guarded = self.guarded.iter().map(|&key| Element::Guarded(key));
        let sources = self.sources.iter().map(|&(key, prefix)| Element::Source(key, prefix));
        let enforced = self.enforced.iter().map(|&key| Element::Enforced(key));
        redirects.chain(guarded).chain(sources).chain(enforced).chain(self.gone.iter().copied().map(Element::Gone))
    }

    pub fn len(&self) -> usize {
        self.redirects.len() + self.guarded.len() + self.sources.len() + self.enforced.len() + self.gone.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<Element> for Elements {
    fn from_iter<I: IntoIterator<Item = Element>>(elements: I) -> Self {
        let mut all = Self::default();
        elements.into_iter().for_each(|element| all.insert(element));
        all
    }
}

/// What one publication adds to the sets and maps.
///
/// Host addresses and sources of another family than the unikernel's cannot reach it and add nothing.
pub fn elements(publication: &Publication) -> Elements {
    let family = Family::of(publication.target);
    let sources = disjoint(&publication.sources, family);
    let mut all = Elements::default();
    for (port, target) in publication.host_ports() {
        if port.address.is_some_and(|address| Family::of(address) != family) {
            continue;
        }
        let key = PortKey { family, port };
        all.insert(Element::Redirect(key, SocketAddr::new(publication.target, target)));
        if !publication.sources.is_empty() {
            all.insert(Element::Guarded(key));
            sources.iter().for_each(|&prefix| all.insert(Element::Source(key, prefix)));
            if port.transport == Transport::Tcp && publication.tolerates_until.is_none() {
                all.insert(Element::Enforced(key));
            }
        }
    }
    all
}

/// The prefixes of a family without overlaps: the kernel refuses intervals that overlap.
fn disjoint(prefixes: &[IpNet], family: Family) -> Vec<IpNet> {
    match family {
        Family::V4 => {
            let prefixes = prefixes.iter().filter_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None });
            Ipv4Net::aggregate(&prefixes.collect()).into_iter().map(IpNet::V4).collect()
        }
        Family::V6 => {
            let prefixes = prefixes.iter().filter_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None });
            Ipv6Net::aggregate(&prefixes.collect()).into_iter().map(IpNet::V6).collect()
        }
    }
}

impl PortKey {
    /// `None` when the address is of another family.
    pub fn new(family: Family, address: Option<IpAddr>, transport: Transport, port: u16) -> Option<Self> {
        let fits = address.is_none_or(|address| Family::of(address) == family);
        fits.then_some(Self { family, port: HostPort { address, transport, port } })
    }
}
