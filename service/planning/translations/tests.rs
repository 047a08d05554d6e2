//! Chains of Docker, of nft and of Kubernetes, and what of them is about a published port.

use std::sync::Arc;

use super::*;
use crate::domain::{Change, PortMapping, PortProtocol, Publication, Service, ServiceName};

fn world(host: u16, on: &[&str]) -> World {
    let service = "website".parse::<ServiceName>().unwrap();
    let publication = Publication {
        unikernel: "website.0123456789".parse().unwrap(),
        target: [10, 0, 0, 2].into(),
        ports: vec![PortMapping { protocol: PortProtocol::Tcp, host, unikernel: 80 }],
        addresses: on.iter().map(|address| address.parse().unwrap()).collect(),
        sources: Vec::new(),
        drain: 0,
        tolerates_until: None,
    };
    let service = Service { publication: Some(Arc::new(publication)), ..Service::new(service) };
    let mut world = World::new(Vec::new(), Vec::new());
    world.apply(vec![Change::PutService(Box::new(service))]);
    world
}

fn facts() -> Facts {
    Facts { host_addresses: ["192.0.2.1".parse().unwrap()].into(), ..Facts::default() }
}

fn id(chain: &str) -> ChainId {
    ChainId { table: "ip nat".into(), chain: chain.into() }
}

fn tcp(first: u16, last: u16) -> Matched {
    Matched { transport: Some(Transport::Tcp), ports: Some(vec![(first, last)]), destination: None }
}

fn to(address: &str) -> Matched {
    Matched { destination: Some(address.parse().unwrap()), ..Matched::default() }
}

fn rule(chain: &str, matched: Matched, jump: Option<&str>) -> NatRule {
    let action = jump.map_or(NatAction::Translate, |chain| NatAction::Jump(chain.into()));
    NatRule { chain: id(chain), matched, action }
}

/// The chains in which the published TCP port 8080 is translated.
fn found(on: &[&str], rules: Vec<NatRule>) -> Vec<String> {
    let others = OtherNat { base_chains: [id("PREROUTING")].into(), rules };
    of_published_ports(&world(8080, on), &facts(), &others).into_iter().map(|(id, _)| id.chain).collect()
}

#[test]
fn a_translation_counts_where_a_packet_to_a_published_port_gets_to_it() {
    let docker = |matched| vec![rule("PREROUTING", Matched::default(), Some("DOCKER")), rule("DOCKER", matched, None)];
    let all = Matched::default();
    for (on, rules, expected) in [
        (&[][..], docker(tcp(8080, 8080)), &["DOCKER"][..]),
        (&[], docker(tcp(8081, 8081)), &[]),
        (&[], docker(tcp(8000, 9000)), &["DOCKER"]),
        (&[], docker(Matched { transport: Some(Transport::Udp), ..tcp(8080, 8080) }), &[]),
        // A host that gives all of its ports away.
        (&[], docker(all.clone()), &["DOCKER"]),
        (&[], docker(Matched { destination: to("192.0.2.1").destination, ..tcp(8080, 8080) }), &["DOCKER"]),
        (&["192.0.2.7"], docker(Matched { destination: to("192.0.2.1").destination, ..tcp(8080, 8080) }), &[]),
        // The address of a service in a cluster is not this host's.
        (&[], docker(Matched { destination: to("10.96.0.1").destination, ..tcp(8080, 8080) }), &[]),
        // Reached by nobody.
        (&[], vec![rule("DOCKER", tcp(8080, 8080), None)], &[]),
        // What comes to a chain has fulfilled what led there.
        (&[], vec![rule("PREROUTING", tcp(8080, 8080), Some("web")), rule("web", all.clone(), None)], &["web"]),
        (&[], vec![rule("PREROUTING", tcp(443, 443), Some("web")), rule("web", all.clone(), None)], &[]),
        (&[], vec![rule("PREROUTING", tcp(443, 443), Some("web")), rule("web", tcp(8080, 8080), None)], &[]),
        (&[], vec![rule("PREROUTING", to("10.96.0.1"), Some("web")), rule("web", all.clone(), None)], &[]),
    ] {
        assert_eq!(found(on, rules.clone()), expected, "{on:?} {rules:?}");
    }
}

#[test]
fn chains_in_a_circle_come_to_an_end() {
    let all = Matched::default;
    let mut rules = vec![rule("PREROUTING", all(), Some("a")), rule("a", tcp(8080, 8080), None)];
    rules.extend((0..10).map(|_| rule("a", all(), Some("a"))));
    assert_eq!(found(&[], rules), ["a"]);
}

#[test]
fn the_note_names_table_chain_and_port() {
    let rules = vec![rule("PREROUTING", tcp(8080, 8080), None)];
    let others = OtherNat { base_chains: [id("PREROUTING")].into(), rules };
    let note = note(&world(8080, &[]), &facts(), &others).unwrap();
    assert!(note.contains("tcp port 8080 by table ip nat, chain PREROUTING"), "{note}");
    assert_eq!(super::note(&world(80, &[]), &facts(), &others), None);
}
