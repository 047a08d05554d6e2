//! Which address a tag gets.
//!
//! An address that nobody had comes before one that somebody had, and of those the one that was released longest ago:
//! neighbour caches, flows and firewalls elsewhere may still know the former holder.
//!
//! A choice costs a few searches in ordered maps, however many leases there are: all addresses ever used are a set of
//! ranges (one, as a rule), exclusions are ranges as well, and each is skipped in one step.

mod exclusions;
mod ranges;
mod released;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

pub use self::exclusions::{Exclusions, Reason};
use self::ranges::Ranges;
use self::released::Released;
use crate::domain::{AddressRange, Exclusion, Lease, LeaseTag, Ordinal};

/// Why there is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "no free address is left in {prefix}: release leases, collect unikernels that are retired, or exclude less"
    )]
    Exhausted { prefix: IpNet },
    #[error("{address} cannot be leased: {why}")]
    InUse { address: IpAddr, why: Why },
    #[error("no address can be leased from {prefix}: give an IPv4 prefix from /8 to /31")]
    Prefix { prefix: IpNet },
}

/// Why one address cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    Leased(LeaseTag),
    /// The prefix's first address, which names the network itself.
    Network(IpNet),
    Broadcast(IpNet),
    Outside(IpNet),
    Excluded(Reason),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leased(tag) => write!(f, "{tag} holds it"),
            Self::Network(prefix) => write!(f, "it is the network address of {prefix}"),
            Self::Broadcast(prefix) => write!(f, "it is the broadcast address of {prefix}"),
            Self::Outside(prefix) => write!(f, "it is not in {prefix}"),
            Self::Excluded(reason) => reason.fmt(f),
        }
    }
}

/// First and last address of `prefix` that a host can have: all but network and broadcast address, and both of a /31
/// (RFC 3021). Refuses what no lease can come from: IPv6, a /32, and anything wider than a /8.
pub fn usable(prefix: IpNet) -> Result<AddressRange, Error> {
    let all = Exclusion::from(prefix).range();
    match prefix {
        IpNet::V4(v4) if v4.prefix_len() == 31 => Ok(all),
        IpNet::V4(v4) if (8..31).contains(&v4.prefix_len()) => {
            let inner = ranges::next(all.first).zip(ranges::previous(all.last));
            inner.map(|(first, last)| AddressRange { first, last }).ok_or(Error::Prefix { prefix })
        }
        _ => Err(Error::Prefix { prefix }),
    }
}

/// All leases, and all addresses that once were leased. One address has one holder, and one tag has one address.
#[derive(Debug, Clone, Default)]
pub struct AddressPool {
    by_address: BTreeMap<IpAddr, Lease>,
    by_tag: BTreeMap<LeaseTag, IpAddr>,
    released: Released,
    /// Leased and released ones.
    ever_used: Ranges<()>,
}

impl AddressPool {
    pub fn new(leases: Vec<Lease>, released: Vec<(IpAddr, Ordinal)>) -> Self {
        let mut pool = Self::default();
        for (address, at) in released {
            pool.put_back(address, at);
        }
        for lease in leases {
            pool.insert(lease);
        }
        pool
    }

    pub fn lease(&self, tag: &LeaseTag) -> Option<&Lease> {
        self.by_address.get(self.by_tag.get(tag)?)
    }

    pub fn holder(&self, address: IpAddr) -> Option<&LeaseTag> {
        self.by_address.get(&address).map(|lease| &lease.tag)
    }

    /// All leases, sorted by tag.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.by_tag.values().filter_map(|address| self.by_address.get(address))
    }

    /// Whether any address of `prefix` is leased.
    pub fn has_lease_in(&self, prefix: IpNet) -> bool {
        let AddressRange { first, last } = Exclusion::from(prefix).range();
        self.by_address.range(first..=last).next().is_some()
    }

    pub fn len(&self) -> usize {
        self.by_tag.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_tag.is_empty()
    }

    /// Writes a lease down. It replaces the tag's former one, which whoever has used it releases before: else its address
    /// counts as released before all others.
    ///
    /// Takes the caller's word that nobody else holds the address ([`check`](Self::check), [`choose`](Self::choose));
    /// if somebody did, the address is the new holder's alone.
    pub fn insert(&mut self, lease: Lease) {
        let address = lease.address;
        let former = self.by_tag.insert(lease.tag.clone(), address).filter(|&former| former != address);
        if let Some(former) = former {
            self.by_address.remove(&former);
            self.put_back(former, Ordinal::default());
        }
        self.released.remove(address);
        self.ever_used.insert(Exclusion::from(address).range(), ());
        let tag = lease.tag.clone();
        if let Some(displaced) = self.by_address.insert(address, lease).filter(|displaced| displaced.tag != tag) {
            self.by_tag.remove(&displaced.tag);
        }
    }

    /// Frees the tag's address; `None` where it has none.
    pub fn release(&mut self, tag: &LeaseTag, at: Ordinal) -> Option<Lease> {
        let address = self.by_tag.remove(tag)?;
        self.put_back(address, at);
        self.by_address.remove(&address)
    }

    /// The address that the next lease from `prefix` is to get.
    pub fn choose(&self, prefix: IpNet, excluded: &Exclusions) -> Result<IpAddr, Error> {
        let range = usable(prefix)?;
        self.lowest_never_used(range, excluded)
            .or_else(|| self.released.oldest_in(range, excluded))
            .ok_or(Error::Exhausted { prefix: prefix.trunc() })
    }

    /// Whether exactly this address can be leased from `prefix`.
    pub fn check(&self, address: IpAddr, prefix: IpNet, excluded: &Exclusions) -> Result<(), Error> {
        let range = usable(prefix)?;
        let prefix = prefix.trunc();
        let leased = || self.holder(address).map(|tag| Why::Leased(tag.clone()));
        let excluded = || excluded.reason(address).map(Why::Excluded);
        let why = if !prefix.contains(&address) {
            Some(Why::Outside(prefix))
        } else if address < range.first {
            Some(Why::Network(prefix))
        } else if address > range.last {
            Some(Why::Broadcast(prefix))
        } else {
            leased().or_else(excluded)
        };
        why.map_or(Ok(()), |why| Err(Error::InUse { address, why }))
    }

    fn lowest_never_used(&self, range: AddressRange, excluded: &Exclusions) -> Option<IpAddr> {
        excluded.free(range).find_map(|free| self.ever_used.gaps(free).next()).map(|gap| gap.first)
    }

    fn put_back(&mut self, address: IpAddr, at: Ordinal) {
        self.released.insert(address, at);
        self.ever_used.insert(Exclusion::from(address).range(), ());
    }
}

#[cfg(test)]
mod tests;
