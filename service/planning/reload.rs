//! Whether a configuration that was read again can be taken over while the service runs.
//!
//! Whatever is leased must stay where it is: its address is in the arguments of a unikernel that runs. And what only a start
//! can change is refused rather than ignored.

use super::address_pool::AddressPool;
use super::listing::listed;
use crate::domain::{Lease, Network};

/// Leases that a refusal names; of more it says how many.
const NAMED: usize = 8;

/// What of a configuration, and of the host under it, a reload is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// With the host's bridges filled in, as [`super::facts::effective_networks`] does.
    pub networks: &'a [Network],
    /// Under which unikernels are named.
    pub albatross_path: &'a str,
}

/// Why it stays as it is, and the key that is to blame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Refusal {
    pub key: String,
    pub message: String,
}

/// Whether what holds can become `after`.
///
/// # Errors
/// The first key that stands in the way.
pub fn check(before: Standing, after: Standing, pool: &AddressPool) -> Result<(), Refusal> {
    if before.albatross_path != after.albatross_path {
        return Err(Refusal {
            key: "albatross.path".into(),
            message: "all unikernels have their names from it: restart the service for this \
                      (systemctl restart albatross-deployer)"
                .into(),
        });
    }
    before.networks.iter().try_for_each(|network| check_network(network, after.networks, pool))
}

fn check_network(before: &Network, after: &[Network], pool: &AddressPool) -> Result<(), Refusal> {
    let leases = || pool.leases().filter(|lease| before.prefix.contains(&lease.address));
    let name = &before.name;
    let refused = |key: String, why: String, leases: &[&Lease]| {
        let message = format!("{why}: remove them first (Destroy, Collect, ReleaseAddress): {}", names(leases));
        Err(Refusal { key, message })
    };
    let Some(network) = after.iter().find(|network| network.name == *name) else {
        let held = leases().collect::<Vec<_>>();
        if held.is_empty() {
            return Ok(());
        }
        return refused(format!("network.{name}"), "the network is gone, and addresses of it are leased".into(), &held);
    };
    let outside = leases().filter(|lease| !network.prefix.contains(&lease.address)).collect::<Vec<_>>();
    if !outside.is_empty() {
        let why = format!("addresses are leased that are not in {}", network.prefix);
        return refused(format!("network.{name}.prefix"), why, &outside);
    }
    let is_new = network.gateway != before.gateway;
    let gateway = leases().filter(|lease| is_new && network.gateway == Some(lease.address)).collect::<Vec<_>>();
    if !gateway.is_empty() {
        return refused(format!("network.{name}.gateway"), "the address is leased".into(), &gateway);
    }
    Ok(())
}

/// The leases as a message names them: `website.6773c00d6d (10.0.0.2), printer (10.0.0.3) and 2 more`.
fn names(leases: &[&Lease]) -> String {
    listed(leases.iter().map(|lease| format!("{} ({})", lease.tag, lease.address)), NAMED).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    fn network(name: &str, prefix: &str, gateway: &str) -> Network {
        let gateway = gateway.parse().ok();
        Network { name: name.parse().unwrap(), prefix: prefix.parse().unwrap(), gateway, exclude: Vec::new() }
    }

    fn pool(leases: &[(&str, &str)]) -> AddressPool {
        let mut pool = AddressPool::default();
        for (tag, address) in leases {
            let prefix = "10.0.0.0/8".parse().unwrap();
            let address = address.parse().unwrap();
            pool.insert(Lease { tag: tag.parse().unwrap(), address, prefix, since: Timestamp(0) });
        }
        pool
    }

    /// What is refused of `after`, where br0 and br1 were before: the key, and the end of the message.
    fn refused(after: &[(&str, &str, &str)], leases: &[(&str, &str)]) -> Option<(String, String)> {
        let networks = |all: &[(&str, &str, &str)]| all.iter().map(|&(n, p, g)| network(n, p, g)).collect::<Vec<_>>();
        let before = networks(&[("br0", "10.0.0.0/24", "10.0.0.1"), ("br1", "10.0.1.0/24", "")]);
        let after = networks(after);
        let standing = |networks| Standing { networks, albatross_path: "" };
        let refusal = check(standing(&before), standing(&after), &pool(leases)).err()?;
        let end = refusal.message.rsplit_once("): ").map(|(_, names)| names.to_owned()).unwrap_or(refusal.message);
        Some((refusal.key, end))
    }

    #[test]
    fn what_is_leased_stays_where_it_is() {
        let (br0, br1) = (("br0", "10.0.0.0/24", "10.0.0.1"), ("br1", "10.0.1.0/24", ""));
        let web = ("web.6773c00d6d", "10.0.0.2");
        type Row<'a> = (&'a str, &'a [(&'a str, &'a str, &'a str)], &'a [(&'a str, &'a str)], Option<&'a str>);
        let table: &[Row] = &[
            ("nothing is changed", &[br0, br1], &[web], None),
            ("a network is added", &[br0, br1, ("br2", "10.0.2.0/24", "")], &[web], None),
            ("one without leases goes", &[br0], &[web], None),
            ("one with leases goes", &[br1], &[web], Some("network.br0")),
            ("one with leases is renamed", &[("br9", "10.0.0.0/24", "10.0.0.1"), br1], &[web], Some("network.br0")),
            ("so is one without", &[br0, ("br9", "10.0.1.0/24", "")], &[web], None),
            ("all go", &[], &[], None),
            ("its prefix widens", &[("br0", "10.0.0.0/23", "10.0.0.1")], &[web], None),
            ("it narrows around what is leased", &[("br0", "10.0.0.0/29", "10.0.0.1")], &[web], None),
            ("it narrows away from it", &[("br0", "10.0.0.128/25", "")], &[web], Some("network.br0.prefix")),
            ("two change places", &[("br0", br1.1, ""), ("br1", br0.1, "")], &[web], Some("network.br0.prefix")),
            ("the gateway moves to a free address", &[("br0", br0.1, "10.0.0.3")], &[web], None),
            ("the gateway moves to a leased one", &[("br0", br0.1, web.1)], &[web], Some("network.br0.gateway")),
            ("a lease of no network", &[br0], &[("printer", "10.9.0.1")], None),
            ("a lease that nobody runs under", &[br0], &[("printer", "10.0.1.7")], Some("network.br1")),
        ];
        for (what, after, leases, key) in table {
            let refusal = refused(after, leases);
            assert_eq!(refusal.as_ref().map(|(key, _)| key.as_str()), *key, "{what}");
            if let Some((_, end)) = refusal {
                assert_eq!(end, format!("{} ({})", leases[0].0, leases[0].1), "{what}");
            }
        }
    }

    #[test]
    fn a_gateway_that_was_leased_before_is_nothing_new() {
        let networks = [network("br0", "10.0.0.0/24", "10.0.0.1")];
        let standing = Standing { networks: &networks, albatross_path: "" };
        assert_eq!(check(standing, standing, &pool(&[("printer", "10.0.0.1")])), Ok(()));
    }

    #[test]
    fn the_namespace_of_all_unikernels_is_changed_by_a_start() {
        let standing = |albatross_path| Standing { networks: &[], albatross_path };
        let refusal = check(standing("a"), standing("b"), &pool(&[])).unwrap_err();
        assert_eq!(refusal.key, "albatross.path");
        assert!(refusal.message.contains("restart the service for this"), "{refusal}");
    }

    #[test]
    fn names_are_bounded() {
        let leases = (2..22).map(|n| (format!("printer-{n}"), format!("10.0.0.{n}"))).collect::<Vec<_>>();
        let leases = leases.iter().map(|(tag, address)| (tag.as_str(), address.as_str())).collect::<Vec<_>>();
        let (_, end) = refused(&[], &leases).unwrap();
        assert_eq!(end.matches("printer").count(), NAMED);
        assert!(end.ends_with(" and 12 more"), "{end}");
    }
}
