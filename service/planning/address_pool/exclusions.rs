//! Addresses that are not to be leased, each range with the reason.

use std::fmt;
use std::net::IpAddr;

use super::ranges::Ranges;
use crate::domain::{AddressRange, Exclusion, Network};

/// Why an address is not leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The network's gateway.
    Gateway,
    /// `exclude` of the network in the configuration.
    Configuration,
    /// `exclude` of the call.
    Request,
    /// An address of the host.
    Host,
    /// Something on the network has it already.
    Answers,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gateway => "it is the network's gateway",
            Self::Configuration => "the configuration excludes it",
            Self::Request => "the call excludes it",
            Self::Host => "it is the host's own",
            Self::Answers => "something on the network answers there already",
        })
    }
}

/// Ranges of addresses that are not to be leased. Where several overlap, the reason that was added first is told.
#[derive(Debug, Clone, Default)]
pub struct Exclusions(Ranges<Reason>);

impl Exclusions {
    /// The network's gateway and what its configuration excludes.
    pub fn of(network: &Network) -> Self {
        let mut exclusions = Self::default();
        if let Some(gateway) = network.gateway {
            exclusions.add(gateway, Reason::Gateway);
        }
        exclusions.add_all(network.exclude.iter().copied(), Reason::Configuration);
        exclusions
    }

    /// An address, a prefix or any other [`Exclusion`].
    pub fn add(&mut self, exclusion: impl Into<Exclusion>, reason: Reason) {
        self.0.insert(exclusion.into().range(), reason);
    }

    pub fn add_all<E: Into<Exclusion>>(&mut self, exclusions: impl IntoIterator<Item = E>, reason: Reason) {
        for exclusion in exclusions {
            self.add(exclusion, reason);
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.reason(address).is_some()
    }

    pub fn reason(&self, address: IpAddr) -> Option<Reason> {
        self.0.find(address).map(|(_, reason)| reason)
    }

    /// The lowest address from `address` on that is not excluded; `None` where all that follow in its family are.
    pub fn next_free(&self, address: IpAddr) -> Option<IpAddr> {
        self.free(AddressRange { first: address, last: last_of_family(address) }).next().map(|free| free.first)
    }

    /// What of `within` is not excluded, lowest first.
    pub(super) fn free(&self, within: AddressRange) -> impl Iterator<Item = AddressRange> + '_ {
        self.0.gaps(within)
    }
}

fn last_of_family(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(u32::MAX.into()),
        IpAddr::V6(_) => IpAddr::V6(u128::MAX.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_excludes_its_gateway_and_what_it_says() {
        let mut exclusions = Exclusions::of(&Network {
            name: "br0".parse().unwrap(),
            prefix: "10.0.0.0/24".parse().unwrap(),
            gateway: Some(ip("10.0.0.1")),
            exclude: vec!["10.0.0.0-10.0.0.9".parse().unwrap()],
        });
        exclusions.add(ip("10.0.0.10"), Reason::Answers);
        exclusions.add_all([ip("10.0.0.5"), ip("10.0.0.12")], Reason::Host);
        assert_eq!(exclusions.reason(ip("10.0.0.1")), Some(Reason::Gateway));
        assert_eq!(exclusions.reason(ip("10.0.0.5")), Some(Reason::Configuration));
        assert_eq!(exclusions.reason(ip("10.0.0.10")), Some(Reason::Answers));
        assert_eq!(exclusions.reason(ip("10.0.0.11")), None);
        assert_eq!(exclusions.next_free(ip("10.0.0.0")), Some(ip("10.0.0.11")));
        assert_eq!(exclusions.next_free(ip("10.0.0.12")), Some(ip("10.0.0.13")));
    }

    #[test]
    fn nothing_free_is_left_after_all() {
        let mut exclusions = Exclusions::default();
        exclusions.add("128.0.0.0/1".parse::<ipnet::IpNet>().unwrap(), Reason::Request);
        assert_eq!(exclusions.next_free(ip("200.0.0.0")), None);
        assert_eq!(exclusions.next_free(ip("::")), Some(ip("::")));
    }
}
