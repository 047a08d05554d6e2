//! What is wrong with the host that keeps unikernels from being reached, and what to do about it: the notes of `Degraded`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::facts::Facts;
use super::listing::listed;
use super::networks;
use super::world::World;
use crate::domain::{AddressedLink, Bridge, ConntrackFill, NetworkName};

/// The host's links and settings as they were observed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    pub bridges: Vec<Bridge>,
    pub links: Vec<AddressedLink>,
    /// `net.ipv4.ip_forward`.
    pub forwards: bool,
    /// The policy of iptables-legacy's chain FORWARD is DROP.
    pub legacy_drops: bool,
    pub conntrack: Option<ConntrackFill>,
}

/// At most so many are named in one note.
const NAMED: usize = 8;

/// From this part on the table of connections is nearly full: nine tenths.
const NEARLY_FULL: (u64, u64) = (9, 10);

/// Bridges of networks in use that are gone, down, or without the host's address.
pub fn bridges(world: &World, facts: &Facts) -> Option<String> {
    let host = facts.host.as_ref()?;
    let all = networks::in_use(world, facts);
    joined(
        all.iter().flat_map(|name| bridge(name, host.bridges.iter().find(|bridge| bridge.name == *name), world, facts)),
    )
}

fn bridge(name: &NetworkName, found: Option<&Bridge>, world: &World, facts: &Facts) -> Vec<String> {
    let Some(bridge) = found else {
        return vec![format!(
            "network {name}: its bridge is gone. Make it (ip link add {name} type bridge), give it its address, set it up, \
             and Restart the unikernels that were on it"
        )];
    };
    let down = (!bridge.up).then(|| format!("network {name}: its bridge is down. Set it up: ip link set {name} up"));
    let missing = missing_address(bridge, world, facts).map(|(what, example)| {
        format!(
            "network {name}: the host has no address {what} on the bridge, and cannot reach its unikernels. Give it one: \
             ip address add {example} dev {name}"
        )
    });
    down.into_iter().chain(missing).collect()
}

/// Where the host needs an address on the bridge and has none, and one that it could have. Any address in the prefix will
/// do: the gateway may be somebody else's.
fn missing_address(bridge: &Bridge, world: &World, facts: &Facts) -> Option<(String, String)> {
    let configured = facts.networks.iter().find(|network| network.name == bridge.name && facts.networks_are_configured);
    if let Some(network) = configured {
        let has = bridge.addresses.iter().any(|own| network.prefix.contains(&own.addr()));
        let example = network.gateway.map_or("ADDRESS".into(), |gateway| gateway.to_string());
        let length = network.prefix.prefix_len();
        return (!has).then(|| (format!("in {}", network.prefix), format!("{example}/{length}")));
    }
    let reaches = |address: IpAddr| bridge.addresses.iter().any(|own: &IpNet| own.contains(&address));
    let mut on_it = world.unikernels().filter(|unikernel| unikernel.spec.network == bridge.name);
    let lost = on_it.find(|unikernel| !reaches(unikernel.address))?.address;
    Some((format!("in the prefix of {lost}"), "ADDRESS/LENGTH".into()))
}

/// Links by which packets come in that have to be forwarded, and are not.
pub fn forwarding(world: &World, facts: &Facts) -> Option<String> {
    let host = facts.host.as_ref()?;
    if !host.forwards {
        return Some(
            "the host does not forward IPv4: publications are reached from the host alone. Set net.ipv4.ip_forward=1 in \
             /etc/sysctl.d"
                .into(),
        );
    }
    let stuck = links_not_forwarding(host, world, facts);
    let settings = stuck.iter().map(|name| format!("{}=1", setting(name))).collect::<Vec<_>>().join(", ");
    let names = listed(stuck.into_iter(), NAMED)?;
    Some(format!(
        "the host does not forward the IPv4 packets that come in by {names}, though net.ipv4.ip_forward is 1: whoever is \
         there reaches no unikernel behind another link, or has no answer. Set {settings} in /etc/sysctl.d"
    ))
}

/// Bridges in use, where answers come in, and links where clients of what is published do.
fn links_not_forwarding<'a>(host: &'a Host, world: &World, facts: &Facts) -> Vec<&'a str> {
    let bridges = host.bridges.iter().filter(|bridge| !bridge.forwarding);
    let mut used = None;
    let in_use = |bridge: &&Bridge| used.get_or_insert_with(|| networks::in_use(world, facts)).contains(&bridge.name);
    let bridges = bridges.filter(in_use).map(|bridge| bridge.name.as_str()).collect::<Vec<_>>();
    let links = host.links.iter().filter(|link| !link.forwarding && is_published_on(link, world));
    let all = bridges.into_iter().chain(links.map(|link| link.name.as_str()));
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

fn is_published_on(link: &AddressedLink, world: &World) -> bool {
    let own = |address: &IpAddr| link.addresses.iter().any(|own| own.addr() == *address);
    world.publications().any(|(_, one)| one.addresses.is_empty() || one.addresses.iter().any(own))
}

/// The setting as sysctl.d(5) has it: with slashes a dot is a part of the name.
fn setting(link: &str) -> String {
    if link.contains('.') {
        format!("net/ipv4/conf/{link}/forwarding")
    } else {
        format!("net.ipv4.conf.{link}.forwarding")
    }
}

/// A filter that nftables does not show drops what is forwarded.
pub fn legacy_tables(world: &World, facts: &Facts) -> Option<String> {
    let drops = facts.host.as_ref()?.legacy_drops && !networks::in_use(world, facts).is_empty();
    drops.then(|| {
        "iptables-legacy drops what is forwarded by default (policy DROP of chain FORWARD), so published ports may not be \
         reached. Set the policy to ACCEPT (iptables-legacy -P FORWARD ACCEPT), or allow there what is published \
         (iptables-legacy -I FORWARD -m conntrack --ctstate DNAT,RELATED,ESTABLISHED -j ACCEPT)"
            .into()
    })
}

/// The table of connections has room for few more.
pub fn conntrack(_: &World, facts: &Facts) -> Option<String> {
    let ConntrackFill { entries, limit } = facts.host.as_ref()?.conntrack?;
    let (part, of) = NEARLY_FULL;
    // Without the number of entries, which is another each time.
    (limit > 0 && entries.saturating_mul(of) >= limit.saturating_mul(part)).then(|| {
        format!(
            "the table of connections is nearly full (90 % of net.netfilter.nf_conntrack_max, {limit}): once it is, new \
             connections are dropped. Allow more in /etc/sysctl.d, or see who opens so many (conntrack -L)"
        )
    })
}

fn joined(notes: impl Iterator<Item = String>) -> Option<String> {
    let notes = notes.collect::<Vec<_>>();
    let more = notes.len().saturating_sub(NAMED);
    let mut text = notes.into_iter().take(NAMED).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text += &format!("; and {more} more");
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;
