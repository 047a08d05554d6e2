//! Which ports of the host a publication may take: who may publish them, which addresses are the host's, and which ports
//! are those of a process that listens there already.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::error::{Error, port_text};
use super::facts::Facts;
use super::listing::listed;
use super::world::World;
use crate::domain::{
    Caller, Chain, Change, HostPort, Listener, Manifest, Member, PortMapping, PortRanges, Publication, ServiceName,
    host_ports,
};

/// What the configuration says about ports of the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortPolicy {
    /// What callers other than root may publish.
    pub allowed: PortRanges,
    /// What may be published though a process of the host listens there.
    pub take_over: PortRanges,
    /// What is published on all addresses answers on 127.0.0.0/8 too.
    pub loopback: bool,
}

/// A listener on a published port, with the name of whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedListener {
    pub listener: Listener,
    pub process: String,
}

/// Addresses of the host that one message names.
const NAMED_ADDRESSES: usize = 16;

impl PortPolicy {
    /// Refuses ports that `caller` may not publish, and addresses on which nothing can be published.
    pub fn admit(
        &self,
        facts: &Facts,
        caller: &Caller,
        ports: &[PortMapping],
        addresses: &BTreeSet<IpAddr>,
    ) -> Result<(), Error> {
        self.permit(caller, ports, addresses)?;
        addresses.iter().try_for_each(|&address| self.admit_address(facts, address))
    }

    /// [`PortPolicy::admit`] for every member of a manifest.
    pub fn admit_manifest(&self, facts: &Facts, caller: &Caller, manifest: &Manifest) -> Result<(), Error> {
        for (name, plan) in &manifest.members {
            let ports = [plan.ports.as_slice(), &plan.staged].concat();
            self.admit(facts, caller, &ports, &plan.addresses).map_err(|error| of_member(name, error))?;
        }
        Ok(())
    }

    /// Refuses a chain to `caller` that would publish ports which they may not.
    pub fn permit_chain(&self, caller: &Caller, chain: &Chain) -> Result<(), Error> {
        chain.members.iter().try_for_each(|(name, Member { plan, .. })| {
            self.permit(caller, &plan.ports, &plan.addresses).map_err(|error| of_member(name, error))
        })
    }

    fn permit(&self, caller: &Caller, ports: &[PortMapping], addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
        if caller.uid == 0 {
            return Ok(());
        }
        match host_ports(ports, addresses).find(|(port, _)| !self.allowed.contains(port)) {
            None => Ok(()),
            Some((port, _)) => Err(Error::NotAuthorized(format!(
                "user {} may not publish {}: the key ports in [publish] of the configuration lets callers other than root \
                 publish {}",
                caller.uid,
                port_text(&port),
                self.allowed
            ))),
        }
    }

    fn admit_address(&self, facts: &Facts, address: IpAddr) -> Result<(), Error> {
        if address.is_loopback() && !self.loopback {
            return Err(Error::InvalidArgument(format!(
                "addresses: {address} is the host's localhost, and loopback in [publish] of the configuration is false: \
                 nothing would be reachable there"
            )));
        }
        if is_own(facts, address) {
            return Ok(());
        }
        let own = facts.host_addresses.iter().filter(|own| own.is_ipv4());
        Err(Error::InvalidArgument(format!(
            "addresses: {address} is not an address of this host, which has {}; leave addresses out to publish on all",
            listed(own, NAMED_ADDRESSES).unwrap_or_else(|| "none".into())
        )))
    }

    /// Refuses `ports` where a process of the host listens on one, unless the configuration lets that be taken over.
    pub fn check_listeners(&self, ports: &BTreeSet<HostPort>, listeners: &[Listener]) -> Result<(), Error> {
        let ports = ports.iter().filter(|port| !self.take_over.contains(port));
        for port in ports {
            if let Some(listener) = listeners.iter().find(|listener| listener.serves(port, self.loopback)) {
                return Err(Error::PortListened { port: *port, listener: listener.clone(), process: None });
            }
        }
        Ok(())
    }

    /// Listeners whose clients a publication takes, without the configuration saying that it may.
    pub fn overshadowed<'a>(&self, world: &World, listeners: &'a [Listener]) -> Vec<&'a Listener> {
        listeners.iter().filter(|listener| self.overshadows(world, listener)).collect()
    }

    fn overshadows(&self, world: &World, listener: &Listener) -> bool {
        let mut published = world.published_between(listener.transport, listener.port, listener.port);
        published.any(|port| !self.take_over.contains(&port) && listener.serves(&port, self.loopback))
    }

    /// What Degraded says of `listeners` that are still overshadowed.
    pub fn overshadowed_note(&self, world: &World, listeners: &[NamedListener]) -> Option<String> {
        /// Listeners that one note names.
        const NAMED: usize = 8;
        let taken = listeners.iter().filter(|named| self.overshadows(world, &named.listener));
        let texts = taken.map(|NamedListener { listener, process }| {
            format!("{} port {} ({process} on {})", listener.transport, listener.port, listener.address)
        });
        let names = listed(texts.collect::<BTreeSet<_>>().into_iter(), NAMED)?;
        Some(format!(
            "{names}: a process of the host listens on a published port and gets none of its clients. Stop it, unpublish \
             the port, or name the port in take-over of [publish] in the configuration"
        ))
    }

    /// What Degraded says of publications that nobody can reach as they are: on addresses that the host does not have (any
    /// more), or for IPv6 sources alone.
    pub fn without_effect_note(&self, world: &World, facts: &Facts) -> Option<String> {
        /// Publications that one note names.
        const NAMED: usize = 8;
        let publications = world.publications().flat_map(|(service, publication)| {
            let reasons = self.without_effect(facts, publication);
            reasons.into_iter().map(move |reason| format!("{service} {reason}"))
        });
        let names = listed(publications.collect::<BTreeSet<_>>().into_iter(), NAMED)?;
        Some(format!(
            "{names}: nobody reaches what is published so. Give the host the address, or publish with other addresses or \
             sources"
        ))
    }

    fn without_effect(&self, facts: &Facts, publication: &Publication) -> Vec<String> {
        let gone = |address: &&IpAddr| !is_own(facts, **address) || (address.is_loopback() && !self.loopback);
        let gone = publication.addresses.iter().filter(gone).map(|address| format!("on {address}"));
        let sources = &publication.sources;
        let no_source = !sources.is_empty() && sources.iter().all(|source| source.network().is_ipv6());
        gone.chain(no_source.then(|| "for sources of IPv6 alone".to_owned())).collect()
    }
}

fn of_member(member: &ServiceName, error: Error) -> Error {
    match error {
        Error::InvalidArgument(reason) => Error::InvalidArgument(format!("member {member}: {reason}")),
        Error::NotAuthorized(reason) => Error::NotAuthorized(format!("member {member}: {reason}")),
        other => other,
    }
}

/// Whether the host takes packets to `address` as its own. Of 127.0.0.0/8 it does for every address.
pub(super) fn is_own(facts: &Facts, address: IpAddr) -> bool {
    address.is_ipv4() && (address.is_loopback() || facts.host_addresses.contains(&address))
}

/// The ports that `changes` put into the kernel and that are not there yet. `world` is that before them.
pub fn added(world: &World, changes: &[Change]) -> BTreeSet<HostPort> {
    let publications = Change::services_put(changes).flat_map(|service| service.publications());
    missing(world, publications.flat_map(|publication| publication.host_ports()).map(|(port, _)| port))
}

/// The ports of `ports` on `addresses` that are not published yet.
pub fn added_by(world: &World, ports: &[PortMapping], addresses: &BTreeSet<IpAddr>) -> BTreeSet<HostPort> {
    missing(world, host_ports(ports, addresses).map(|(port, _)| port))
}

/// The ports of a manifest, staged and live, that are not published yet.
pub fn added_by_manifest(world: &World, manifest: &Manifest) -> BTreeSet<HostPort> {
    let plans = manifest.members.values();
    let ports = plans.flat_map(|plan| {
        let live = host_ports(&plan.ports, &plan.addresses);
        live.chain(host_ports(&plan.staged, &plan.addresses)).map(|(port, _)| port)
    });
    missing(world, ports)
}

fn missing(world: &World, ports: impl Iterator<Item = HostPort>) -> BTreeSet<HostPort> {
    // What is published on all addresses is on each of them.
    let everywhere = |port: &HostPort| HostPort { address: None, ..*port };
    ports.filter(|port| !world.is_published(port) && !world.is_published(&everywhere(port))).collect()
}

#[cfg(test)]
mod tests;
