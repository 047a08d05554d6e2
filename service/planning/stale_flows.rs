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
    let mut all = redirected_udp(flows);
    // Whoever has the address by now had it cleared before, and its flows are its own.
    if flows.gone && world.pool().holder(target).is_none() {
        all.extend(of_address(target));
    }
    all.extend(not_redirected(facts, &flows.opened));
    all
}

/// Selectors of [`selectors`] for UDP flows to a target which nothing is published at any more. A live one has flows of its
/// own by now, though some of before may be stale (`sources` that were narrowed).
pub fn left(world: &World, flows: &StaleFlows) -> Vec<FlowSelector> {
    let is_live = world.publications().any(|(_, publication)| publication.target == flows.target);
    if is_live { Vec::new() } else { redirected_udp(flows) }
}

fn redirected_udp(flows: &StaleFlows) -> Vec<FlowSelector> {
    let target = flows.target;
    if flows.ports.len() > FEW_PORTS {
        return vec![FlowSelector::RedirectedUdp { target, host_port: None }];
    }
    flows.ports.iter().map(|&port| FlowSelector::RedirectedUdp { target, host_port: Some(port) }).collect()
}

/// What is to be deleted of `flows` once the unikernel, if it runs, has had the time to answer what was on its way to it.
/// One that has become live again meanwhile answers by itself.
pub fn unanswered(world: &World, flows: &StaleFlows) -> Option<FlowSelector> {
    let published = world.service(&flows.service).and_then(|service| service.publication.as_ref());
    let is_live = published.is_some_and(|publication| publication.target == flows.target);
    let left = match flows.target {
        // Also what was answered: its client gets a reset from who is live. Once it is reset, the same client could come again
        // from the same port, and conntrack would send it here for ten seconds.
        address if is_dead(world, address) => FlowSelector::To { address },
        target => FlowSelector::Unanswered { target },
    };
    (flows.half_open && !is_live).then_some(left)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::stacks::samples;
    use super::*;
    use crate::domain::{Change, ImageDigest, Lease, Phase, Service, ServiceName, Timestamp, Transport, UnikernelId};

    fn website() -> ServiceName {
        "website".parse().unwrap()
    }

    fn target() -> IpAddr {
        [10, 0, 0, 7].into()
    }

    /// A unikernel at the flows' address, in this phase.
    fn world(phase: Phase) -> World {
        let prefix = "10.0.0.0/24".parse().unwrap();
        let lease = Lease { tag: "next".parse().unwrap(), address: target(), prefix, since: Timestamp(0) };
        let mut world = World::new(vec![lease], Vec::new());
        let id = UnikernelId::new(&website(), &[7; 32]);
        world.apply(vec![Change::PutUnikernel(Box::new(samples::unikernel(id, ImageDigest([7; 32]), phase)))]);
        world
    }

    fn facts() -> Facts {
        let host_addresses = ["192.0.2.1", "127.0.0.1", "fd00::1"].map(|address| address.parse().unwrap()).into();
        Facts { host_addresses, ..Facts::default() }
    }

    #[test]
    fn a_few_udp_ports_are_selected_one_by_one_and_many_at_once() {
        let of = |ports: &[u16]| {
            let flows = StaleFlows { ports: ports.iter().copied().collect(), ..StaleFlows::none(website(), target()) };
            selectors(&world(Phase::Ready), &facts(), &flows)
        };
        let redirected = |host_port| FlowSelector::RedirectedUdp { target: target(), host_port };
        assert_eq!(of(&[53, 54]), [redirected(Some(53)), redirected(Some(54))]);
        assert_eq!(of(&[1, 2, 3, 4, 5]), [redirected(None)]);
    }

    fn live_at_target() -> Service {
        let publication = Publication {
            unikernel: UnikernelId::new(&website(), &[7; 32]),
            target: target(),
            ports: Vec::new(),
            addresses: BTreeSet::new(),
            sources: Vec::new(),
            drain: 0,
            tolerates_until: None,
        };
        Service { publication: Some(Arc::new(publication)), ..Service::new(website()) }
    }

    #[test]
    fn one_that_is_live_has_udp_flows_of_its_own() {
        let flows = StaleFlows { ports: [53].into(), ..StaleFlows::none(website(), target()) };
        let redirected = FlowSelector::RedirectedUdp { target: target(), host_port: Some(53) };
        let mut world = world(Phase::Ready);
        assert_eq!(left(&world, &flows), [redirected]);
        world.apply(vec![Change::PutService(Box::new(live_at_target()))]);
        assert_eq!(left(&world, &flows), []);
        assert_eq!(selectors(&world, &facts(), &flows), [redirected], "its sources may have been narrowed");
    }

    #[test]
    fn one_that_runs_keeps_what_it_has_answered() {
        let flows = StaleFlows { half_open: true, ..StaleFlows::none(website(), target()) };
        let left = |phase| unanswered(&world(phase), &flows);
        assert_eq!(left(Phase::Ready), Some(FlowSelector::Unanswered { target: target() }));
        assert_eq!(left(Phase::Exited), Some(FlowSelector::To { address: target() }));
        assert_eq!(unanswered(&world(Phase::Exited), &StaleFlows::none(website(), target())), None);
    }

    #[test]
    fn flows_of_a_former_holder_are_not_those_of_the_next() {
        let flows = StaleFlows { gone: true, ..StaleFlows::none(website(), target()) };
        let nobody = World::new(Vec::new(), Vec::new());
        assert_eq!(selectors(&nobody, &facts(), &flows), of_address(target()));
        assert_eq!(selectors(&world(Phase::Ready), &facts(), &flows), []);
    }

    #[test]
    fn a_port_that_opens_is_one_of_the_hosts_own_addresses() {
        let on = |address: Option<&str>| {
            let address = address.map(|address| address.parse().unwrap());
            let port = HostPort { address, transport: Transport::Udp, port: 53 };
            let flows = StaleFlows { opened: [port].into(), ..StaleFlows::none(website(), target()) };
            let selected = selectors(&world(Phase::Ready), &facts(), &flows).into_iter();
            let address = |selector| match selector {
                FlowSelector::NotRedirected { address, transport: Transport::Udp, port: 53 } => address.to_string(),
                other => panic!("{other:?}"),
            };
            selected.map(address).collect::<Vec<_>>()
        };
        assert_eq!(on(None), ["127.0.0.1", "192.0.2.1"]);
        assert_eq!(on(Some("192.0.2.1")), ["192.0.2.1"]);
    }
}
