//! Networks of unikernels: a bridge, the prefix on it, and which addresses are never leased.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::NetworkName;

/// One bridge that unikernels are attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub name: NetworkName,
    pub prefix: IpNet,
    /// The unikernels' way out; never leased.
    pub gateway: Option<IpAddr>,
    pub exclude: Vec<Exclusion>,
}

/// First and last address, both included, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

/// Addresses that are never leased, as configuration and callers write them: an address, `A-B`, or a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Exclusion(AddressRange);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} excludes nothing: write an address, a range FIRST-LAST with FIRST not above LAST, or a prefix such as 10.0.0.128/25"
)]
pub struct InvalidExclusion(String);

impl Exclusion {
    pub fn range(&self) -> AddressRange {
        self.0
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        (self.0.first..=self.0.last).contains(&address)
    }
}

impl From<IpAddr> for Exclusion {
    fn from(address: IpAddr) -> Self {
        Self(AddressRange { first: address, last: address })
    }
}

impl From<IpNet> for Exclusion {
    fn from(prefix: IpNet) -> Self {
        // `IpNet::broadcast` is the last address of the prefix for either family.
        Self(AddressRange { first: prefix.network(), last: prefix.broadcast() })
    }
}

impl TryFrom<String> for Exclusion {
    type Error = InvalidExclusion;
    fn try_from(text: String) -> Result<Self, InvalidExclusion> {
        text.parse()
    }
}

impl From<Exclusion> for String {
    fn from(exclusion: Exclusion) -> String {
        format!("{}-{}", exclusion.0.first, exclusion.0.last)
    }
}

impl FromStr for Exclusion {
    type Err = InvalidExclusion;

    fn from_str(text: &str) -> Result<Self, InvalidExclusion> {
        let invalid = || InvalidExclusion(text.chars().take(80).collect());
        if let Some((first, last)) = text.split_once('-') {
            let first: IpAddr = first.trim().parse().map_err(|_| invalid())?;
            let last: IpAddr = last.trim().parse().map_err(|_| invalid())?;
            let fits = first.is_ipv4() == last.is_ipv4() && first <= last;
            return fits.then_some(Self(AddressRange { first, last })).ok_or_else(invalid);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        text.parse::<IpNet>().map(Self::from).map_err(|_| invalid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms() {
        let within = |text: &str, address: &str| text.parse::<Exclusion>().unwrap().contains(address.parse().unwrap());
        assert!(within("10.0.0.2", "10.0.0.2") && !within("10.0.0.2", "10.0.0.3"));
        assert!(within("10.0.0.10-10.0.0.19", "10.0.0.19") && !within("10.0.0.10-10.0.0.19", "10.0.0.20"));
        assert!(within("10.0.0.128/25", "10.0.0.255") && !within("10.0.0.128/25", "10.0.0.127"));
        for bad in ["", "x", "10.0.0.9-10.0.0.1", "10.0.0.1-fe80::1", "10.0.0.0/33", "10.0.0.1-"] {
            assert!(bad.parse::<Exclusion>().is_err(), "{bad}");
        }
    }
}
