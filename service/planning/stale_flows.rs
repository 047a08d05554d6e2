//! Which entries of conntrack are to be deleted for flows that the ledger says are stale.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::facts::Facts;
use super::world::World;
use crate::domain::{FlowSelector, HostPort, Publication, StaleFlows, Unikernel};

/// So many UDP ports are selected one by one. Of more, all redirected UDP flows to their unikernel are deleted: those of
/// ports that stay are made again by their next packet.
const FEW_PORTS: usize = 4;

/// What is to be deleted for `flows` at once.
pub fn selectors(world: &World, facts: &Facts, flows: &StaleFlows) -> Vec<FlowSelector> {
    let target = flows.target;
    let mut all = Vec::new();
    if flows.ports.len() > FEW_PORTS {
        all.push(FlowSelector::RedirectedUdp { target, host_port: None });
    } else {
        let ports = flows.ports.iter();
        all.extend(ports.map(|&port| FlowSelector::RedirectedUdp { target, host_port: Some(port) }));
    }
    // Whoever has the address by now had it cleared before, and its flows are its own.
    if flows.gone && is_dead(world, target) {
        all.extend(of_address(target));
    }
    all.extend(not_redirected(facts, &flows.opened));
    all
}

/// What is to be deleted of `flows` once the unikernel, if it runs, has had the time to answer what was on its way to it.
pub fn unanswered(flows: &StaleFlows) -> Option<FlowSelector> {
    flows.half_open.then_some(FlowSelector::Unanswered { target: flows.target })
}

/// All flows to and from an address.
pub fn of_address(address: IpAddr) -> [FlowSelector; 2] {
    [FlowSelector::To { address }, FlowSelector::From { address }]
}

/// Flows that came to the ports of `publications` while those were not in the kernel.
pub fn missed<'a>(facts: &Facts, publications: impl Iterator<Item = &'a Publication>) -> Vec<FlowSelector> {
    let ports = publications.flat_map(Publication::host_ports).map(|(port, _)| port);
    not_redirected(facts, &ports.collect())
}

/// Only flows to the host's own addresses: the same port of another host is no business of ours.
fn not_redirected(facts: &Facts, ports: &BTreeSet<HostPort>) -> Vec<FlowSelector> {
    let hosts = facts.host_addresses.iter().copied().filter(IpAddr::is_ipv4).collect::<Vec<_>>();
    let on = |port: &HostPort| port.address.map_or_else(|| hosts.clone(), |address| vec![address]);
    let selected = ports.iter().flat_map(|port| {
        let (transport, number) = (port.transport, port.port);
        on(port).into_iter().map(move |address| FlowSelector::NotRedirected { address, transport, port: number })
    });
    selected.collect()
}

/// Whether nothing runs that could still answer at this address.
pub fn is_dead(world: &World, address: IpAddr) -> bool {
    world.unikernels().filter(|unikernel| unikernel.address == address).all(Unikernel::has_ended)
}
