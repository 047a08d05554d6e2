//! The networks that the service acts for: those that are configured, and of the bridges that it found on the host those
//! where somebody has an address. Any other bridge, such as a container engine's, is left as it is.

use std::collections::BTreeSet;

use super::facts::Facts;
use super::world::World;
use crate::domain::{Change, Network, NetworkName};

/// Networks where an address is leased, or that a unikernel is on: also one whose bridge is gone or has no address now.
pub fn populated(world: &World, facts: &Facts) -> BTreeSet<NetworkName> {
    let leased = facts.networks.iter().filter(|network| world.pool().has_lease_in(network.prefix));
    let of_unikernels = world.unikernels().map(|unikernel| &unikernel.spec.network);
    // Names once each before they are copied: there may be thousands of unikernels.
    leased.map(|network| &network.name).chain(of_unikernels).collect::<BTreeSet<_>>().into_iter().cloned().collect()
}

/// Networks that have rules, and whose bridges let loopback connections through.
pub fn in_use(world: &World, facts: &Facts) -> BTreeSet<NetworkName> {
    let configured = facts.networks.iter().filter(|_| facts.networks_are_configured);
    let mut all = populated(world, facts);
    all.extend(configured.map(|network| network.name.clone()));
    all
}

/// Networks that come into use by `changes`. Those need their rules before anybody runs there.
pub fn gained(facts: &Facts, in_use: &BTreeSet<NetworkName>, changes: &[Change]) -> BTreeSet<NetworkName> {
    let unused = facts.networks.iter().filter(|network| !in_use.contains(&network.name));
    let gains = |network: &&Network| {
        changes.iter().any(|change| match change {
            Change::PutLease(lease) => network.prefix.contains(&lease.address),
            Change::PutUnikernel(unikernel) => unikernel.spec.network == network.name,
            _ => false,
        })
    };
    unused.filter(gains).map(|network| network.name.clone()).collect()
}

/// Whether `changes` can make another answer of [`in_use`].
pub fn may_change(changes: &[Change]) -> bool {
    changes.iter().any(|change| {
        matches!(
            change,
            Change::PutLease(_) | Change::ReleaseLease { .. } | Change::PutUnikernel(_) | Change::RemoveUnikernel(_)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Lease, Timestamp};

    fn network(name: &str, prefix: &str) -> Network {
        let prefix = prefix.parse().unwrap();
        Network { name: name.parse().unwrap(), prefix, gateway: None, exclude: Vec::new() }
    }

    fn facts(networks_are_configured: bool) -> Facts {
        let networks = vec![network("br0", "10.0.0.0/24"), network("docker0", "172.17.0.0/16")];
        Facts { networks, networks_are_configured, ..Facts::default() }
    }

    fn lease(address: &str) -> Lease {
        let prefix = "10.0.0.0/8".parse().unwrap();
        Lease { tag: "a".parse().unwrap(), address: address.parse().unwrap(), prefix, since: Timestamp(1) }
    }

    fn names(set: &BTreeSet<NetworkName>) -> Vec<&str> {
        set.iter().map(NetworkName::as_str).collect()
    }

    #[test]
    fn what_was_found_is_used_once_an_address_is_leased_there() {
        for (leases, configured, expected) in [
            (vec![], false, &[][..]),
            (vec![lease("10.0.0.2")], false, &["br0"]),
            (vec![lease("10.9.0.2")], false, &[]),
            (vec![lease("172.17.0.9")], false, &["docker0"]),
            (vec![], true, &["br0", "docker0"]),
        ] {
            let world = World::new(leases.clone(), Vec::new());
            assert_eq!(names(&in_use(&world, &facts(configured))), expected, "{leases:?}, {configured}");
        }
    }

    #[test]
    fn what_is_only_configured_has_nobody_on_it() {
        let world = World::new(Vec::new(), Vec::new());
        assert!(populated(&world, &facts(true)).is_empty());
    }

    #[test]
    fn the_first_lease_gains_a_network_and_the_second_does_not() {
        let put = [Change::PutLease(lease("10.0.0.2"))];
        let mut used = BTreeSet::new();
        assert_eq!(names(&gained(&facts(false), &used, &put)), ["br0"]);
        used.insert("br0".parse().unwrap());
        assert!(gained(&facts(false), &used, &put).is_empty());
        let release = [Change::ReleaseLease { tag: "a".parse().unwrap(), at: crate::domain::Ordinal(2) }];
        assert!(gained(&facts(false), &BTreeSet::new(), &release).is_empty());
        assert!(may_change(&release) && may_change(&put) && !may_change(&[]));
    }
}
