use super::*;
use std::sync::Arc;

use crate::domain::{
    Change, ImageDigest, Lease, Network, Phase, PortMapping, PortProtocol, Publication, Service, Timestamp,
};
use crate::planning::stacks::samples;

fn bridge(name: &str, address: &str) -> Bridge {
    Bridge {
        name: name.parse().unwrap(),
        index: 3,
        addresses: address.parse().into_iter().collect(),
        mac: None,
        up: true,
        carrier: false,
        forwarding: true,
        routes_loopback: false,
    }
}

fn link(name: &str, address: &str, forwarding: bool) -> AddressedLink {
    AddressedLink { name: name.into(), addresses: vec![address.parse().unwrap()], forwarding }
}

/// Network br0, whose gateway is this.
fn facts(configured: bool, gateway: &str, host: Host) -> Facts {
    let network = Network {
        name: "br0".parse().unwrap(),
        prefix: "10.0.0.0/24".parse().unwrap(),
        gateway: gateway.parse().ok(),
        exclude: Vec::new(),
    };
    Facts { networks: vec![network], networks_are_configured: configured, host: Some(host), ..Facts::default() }
}

fn world(leased: bool) -> World {
    let lease = Lease {
        tag: "a".parse().unwrap(),
        address: "10.0.0.2".parse().unwrap(),
        prefix: "10.0.0.0/24".parse().unwrap(),
        since: Timestamp(1),
    };
    World::new(leased.then_some(lease).into_iter().collect(), Vec::new())
}

/// With a publication on these addresses.
fn publishing(addresses: &[&str]) -> World {
    let publication = Publication {
        unikernel: "website.0000000001".parse().unwrap(),
        target: "10.0.0.2".parse().unwrap(),
        ports: vec![PortMapping { protocol: PortProtocol::Tcp, host: 8080, unikernel: 80 }],
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        sources: Vec::new(),
        drain: 1000,
        tolerates_until: None,
    };
    let service = Service { publication: Some(Arc::new(publication)), ..Service::new("website".parse().unwrap()) };
    let mut world = world(true);
    world.apply(vec![Change::PutService(Box::new(service))]);
    world
}

fn with(bridges: Vec<Bridge>) -> Host {
    Host { bridges, forwards: true, ..Host::default() }
}

#[test]
fn bridges_that_are_gone_down_or_without_an_address() {
    let down = Bridge { up: false, ..bridge("br0", "10.0.0.1/24") };
    let down_and_bare = Bridge { up: false, ..bridge("br0", "") };
    let gone = "network br0: its bridge is gone. Make it (ip link add br0 type bridge)";
    let is_down = "network br0: its bridge is down. Set it up: ip link set br0 up";
    let bare = "Give it one: ip address add 10.0.0.1/24 dev br0";
    for (bridges, gateway, expected) in [
        // Its ports do not matter.
        (vec![bridge("br0", "10.0.0.1/24")], "10.0.0.1", &[][..]),
        // The gateway is somebody else's.
        (vec![bridge("br0", "10.0.0.1/24")], "10.0.0.254", &[]),
        (vec![], "10.0.0.1", &[gone]),
        (vec![bridge("docker0", "10.0.0.1/24")], "10.0.0.1", &[gone]),
        (vec![down], "10.0.0.1", &[is_down]),
        (vec![bridge("br0", "192.0.2.1/24")], "10.0.0.1", &[bare]),
        (vec![bridge("br0", "")], "", &["no address in 10.0.0.0/24", "ADDRESS/24"]),
        (vec![down_and_bare], "10.0.0.1", &[is_down, bare]),
    ] {
        let note = super::bridges(&world(false), &facts(true, gateway, with(bridges)));
        assert_eq!(note.is_none(), expected.is_empty(), "{note:?}");
        let note = note.unwrap_or_default();
        assert!(expected.iter().all(|part| note.contains(part)), "{note}");
        assert!(!note.contains('\n'), "{note}");
    }
}

#[test]
fn bridges_that_nobody_uses_may_be_as_they_are() {
    let down = || with(vec![Bridge { up: false, ..bridge("br0", "10.0.0.1/24") }]);
    assert_eq!(super::bridges(&world(false), &facts(false, "", down())), None);
    assert!(super::bridges(&world(true), &facts(false, "", down())).unwrap().contains("is down"));
    // Before anybody has looked.
    assert_eq!(super::bridges(&world(true), &Facts { host: None, ..facts(true, "", down()) }), None);
}

#[test]
fn a_found_bridge_has_to_have_an_address_for_who_is_on_it() {
    let mut world = world(false);
    let unikernel = samples::unikernel("website.0000000001".parse().unwrap(), ImageDigest([5; 32]), Phase::Ready);
    world.apply(vec![Change::PutUnikernel(Box::new(unikernel))]);
    for (address, expected) in [("10.0.0.1/24", None), ("10.9.0.1/24", Some("10.0.0.5")), ("", Some("10.0.0.5"))] {
        // Without an address it is not a network any more.
        let facts = Facts { networks: Vec::new(), ..facts(false, "", with(vec![bridge("br0", address)])) };
        let note = super::bridges(&world, &facts);
        assert_eq!(note.is_some(), expected.is_some(), "{address}: {note:?}");
        assert!(note.unwrap_or_default().contains(expected.unwrap_or_default()), "{address}");
    }
}

#[test]
fn links_that_do_not_forward() {
    let stuck_bridge = || Bridge { forwarding: false, ..bridge("br0", "10.0.0.1/24") };
    let host = |bridges, links| Host { bridges, links, forwards: true, ..Host::default() };
    let outside = || link("eth0", "192.0.2.1/24", false);
    let tagged = || link("eth0.5", "192.0.2.1/24", false);
    for (world, host, expected) in [
        (world(true), host(vec![bridge("br0", "10.0.0.1/24")], vec![outside()]), None),
        (world(false), host(vec![stuck_bridge()], vec![]), None),
        (world(true), host(vec![stuck_bridge()], vec![]), Some("net.ipv4.conf.br0.forwarding=1")),
        (publishing(&[]), host(vec![], vec![outside()]), Some("net.ipv4.conf.eth0.forwarding=1")),
        (publishing(&["192.0.2.1"]), host(vec![], vec![outside()]), Some("come in by eth0,")),
        (publishing(&["198.51.100.1"]), host(vec![], vec![outside()]), None),
        (publishing(&[]), host(vec![], vec![link("eth0", "192.0.2.1/24", true)]), None),
        (publishing(&[]), host(vec![], vec![tagged()]), Some("net/ipv4/conf/eth0.5/forwarding=1")),
        (publishing(&[]), Host { forwards: false, ..host(vec![], vec![outside()]) }, Some("net.ipv4.ip_forward=1 in")),
    ] {
        let note = forwarding(&world, &facts(false, "", host.clone()));
        assert_eq!(note.is_some(), expected.is_some(), "{host:?}: {note:?}");
        assert!(note.unwrap_or_default().contains(expected.unwrap_or_default()), "{host:?}");
    }
}

#[test]
fn a_legacy_filter_matters_once_there_is_a_network() {
    let drops = || Host { legacy_drops: true, ..with(vec![]) };
    assert_eq!(legacy_tables(&world(false), &facts(false, "", drops())), None);
    assert!(legacy_tables(&world(true), &facts(false, "", drops())).unwrap().contains("-P FORWARD ACCEPT"));
    assert_eq!(legacy_tables(&world(true), &facts(false, "", with(vec![]))), None);
}

#[test]
fn connections_from_nine_tenths_on() {
    for (entries, limit, full) in
        [(0, 0, false), (89, 100, false), (90, 100, true), (150, 100, true), (u64::MAX, 1, true)]
    {
        let host = Host { conntrack: Some(ConntrackFill { entries, limit }), ..with(vec![]) };
        assert_eq!(conntrack(&world(true), &facts(true, "", host)).is_some(), full, "{entries} of {limit}");
    }
    assert_eq!(conntrack(&world(true), &facts(true, "", with(vec![]))), None);
}
