//! What is observed of the host and of Albatross: never written down, always looked at again after a start.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::address_pool::{Exclusions, Reason};
use super::checks::Checks;
use super::error::Error;
use super::host_health;
use super::host_ports::NamedListener;
use super::starts::Starts;
use super::world::World;
use crate::domain::{
    Bridge, Exclusion, ImageDigest, Inventory, Network, NetworkName, Phase, Policy, Running, StackName, Timestamp,
    UnikernelId,
};

/// How long an address that answered is passed over.
const ANSWER_HOLDS: Duration = Duration::from_secs(10 * 60);

#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Configured, or else the host's bridges.
    pub networks: Vec<Network>,
    pub networks_are_configured: bool,
    pub default_network: Option<NetworkName>,
    /// The host's own, on all its devices.
    pub host_addresses: BTreeSet<IpAddr>,
    /// Addresses whose unikernels have ended: the kernel refuses who is redirected there. See [`super::gone`].
    pub gone: BTreeSet<IpAddr>,
    /// Processes of the host that listened on a published port when that was looked at last.
    pub overshadowed: Vec<NamedListener>,
    /// `None` before it was looked at.
    pub host: Option<host_health::Host>,
    /// Addresses that answered on a network although nobody leased them, and when they did last.
    pub answering: BTreeMap<IpAddr, Timestamp>,
    pub inventory: Inventory,
    pub policy: Option<Policy>,
    /// Starts again that were seen lately.
    pub starts: Starts,
    /// What checks of live unikernels have shown.
    pub checks: Checks,
    /// Unikernels that a call is working on: reconciliation leaves them alone.
    pub busy: BTreeSet<UnikernelId>,
    /// Unikernels that a call is about to make members of a stack.
    pub held: BTreeSet<UnikernelId>,
    /// Stacks that a call is working on.
    pub busy_stacks: BTreeSet<StackName>,
    /// Images that a call is about to use: not collected.
    pub pinned: BTreeMap<ImageDigest, usize>,
}

impl Facts {
    /// The host's bridges as they were seen last.
    pub fn bridges(&self) -> &[Bridge] {
        self.host.as_ref().map(|host| host.bridges.as_slice()).unwrap_or_default()
    }

    /// Takes the networks over that `configured` comes down to on this host.
    pub fn configure(&mut self, configured: &[Network]) {
        self.networks = effective_networks(configured, self.bridges());
        self.networks_are_configured = !configured.is_empty();
    }

    pub fn network(&self, name: &NetworkName) -> Result<&Network, Error> {
        self.networks.iter().find(|network| network.name == *name).ok_or_else(|| {
            Error::InvalidArgument(format!("network {name} is not known: there is {}", self.known_networks()))
        })
    }

    /// What Deploy takes without `network`: the configured default, or the only one.
    pub fn default_network(&self) -> Result<&Network, Error> {
        match (&self.default_network, self.networks.as_slice()) {
            (Some(name), _) => self.network(name),
            (None, [only]) => Ok(only),
            (None, []) => Err(Error::InvalidArgument(
                "there is no network: give the host a bridge with an address, or a [network.NAME] in the configuration"
                    .into(),
            )),
            (None, _) => Err(Error::InvalidArgument(format!(
                "there is more than one network ({}): say which with the option network, or set default-network in \
                 the configuration",
                self.known_networks()
            ))),
        }
    }

    /// The network that `prefix` belongs to, where it is of one.
    pub fn network_of(&self, prefix: IpNet) -> Option<&Network> {
        self.networks.iter().find(|network| network.prefix.contains(&prefix) || prefix.contains(&network.prefix))
    }

    pub fn known_networks(&self) -> String {
        let names = self.networks.iter().map(|network| format!("{} ({})", network.name, network.prefix));
        let names = names.collect::<Vec<_>>().join(", ");
        if names.is_empty() { "none".into() } else { names }
    }

    /// What is not leased in `prefix` to anybody; `asked`: what the caller excludes besides.
    pub fn exclusions(&self, prefix: IpNet, asked: &[Exclusion]) -> Exclusions {
        let mut exclusions = self.network_of(prefix).map(Exclusions::of).unwrap_or_default();
        exclusions.add_all(self.host_addresses.iter().copied(), Reason::Host);
        exclusions.add_all(asked.iter().copied(), Reason::Request);
        exclusions
    }

    /// The same, and what answered lately: where any address will do, those come last. Who wants one of them by name may
    /// have freed it since: it is probed then.
    pub fn exclusions_of_any(&self, prefix: IpNet, asked: &[Exclusion], now: Timestamp) -> Exclusions {
        let mut exclusions = self.exclusions(prefix, asked);
        // Where the clock was set back, one of a time to come is asked again instead of being passed over until then.
        let lately = |at: &Timestamp| *at <= now && at.after(ANSWER_HOLDS) > now;
        let answering = self.answering.iter().filter(|(_, at)| lately(at)).map(|(&address, _)| address);
        exclusions.add_all(answering, Reason::Answers);
        exclusions
    }

    /// What Albatross runs under names as ours are, and no record has.
    pub fn strangers<'a>(&'a self, world: &'a World) -> impl Iterator<Item = &'a Running> {
        self.inventory.unikernels.iter().filter(|running| world.unikernel(&running.id).is_none())
    }

    /// The core with the fewest unikernels on it, ours and others', of those that the policy allows.
    pub fn least_used_cpu(&self, world: &World) -> u32 {
        let mut used: BTreeMap<u32, usize> = match &self.policy {
            Some(policy) if !policy.cpus.is_empty() => policy.cpus.iter().map(|&cpu| (cpu, 0)).collect(),
            // Albatross has not answered yet; core 0 is on every host, and it will say when it is not allowed.
            _ => BTreeMap::from([(0, 0)]),
        };
        let ours =
            world.unikernels().filter(|unikernel| unikernel.phase != Phase::Exited).map(|unikernel| unikernel.cpu);
        let strangers = self.strangers(world).flat_map(|stranger| stranger.cpus.iter().copied());
        for cpu in ours.chain(strangers).chain(self.inventory.foreign_cpus.iter().copied()) {
            if let Some(count) = used.get_mut(&cpu) {
                *count += 1;
            }
        }
        used.into_iter().min_by_key(|&(cpu, count)| (count, cpu)).map_or(0, |(cpu, _)| cpu)
    }
}

/// The networks that hold: the configured ones, their gateway filled in from the host's own address on the bridge;
/// without any, each bridge of the host that has an address.
pub fn effective_networks(configured: &[Network], bridges: &[Bridge]) -> Vec<Network> {
    if configured.is_empty() {
        return bridges.iter().filter_map(discovered_network).collect();
    }
    configured
        .iter()
        .map(|network| {
            let own = || {
                let bridge = bridges.iter().find(|bridge| bridge.name == network.name)?;
                bridge.addresses.iter().map(IpNet::addr).find(|address| network.prefix.contains(address))
            };
            Network { gateway: network.gateway.or_else(own), ..network.clone() }
        })
        .collect()
}

fn discovered_network(bridge: &Bridge) -> Option<Network> {
    let address = bridge.addresses.iter().find(|address| address.addr().is_ipv4())?;
    Some(Network {
        name: bridge.name.clone(),
        prefix: address.trunc(),
        gateway: Some(address.addr()),
        exclude: Vec::new(),
    })
}
