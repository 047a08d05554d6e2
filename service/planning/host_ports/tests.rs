//! Tables of who may publish what, and of what listens where.

use std::sync::Arc;

use super::*;
use crate::domain::{PortProtocol, Service, Transport};

const ALICE: u32 = 1000;

fn caller(uid: u32) -> Caller {
    Caller { uid, gid: uid, groups: Vec::new() }
}

fn policy(allowed: &[&str], take_over: &[&str], loopback: bool) -> PortPolicy {
    let ranges = |texts: &[&str]| PortRanges(texts.iter().map(|text| text.parse().unwrap()).collect());
    PortPolicy { allowed: ranges(allowed), take_over: ranges(take_over), loopback }
}

fn facts() -> Facts {
    let host_addresses = ["127.0.0.1", "192.0.2.1", "10.0.0.1", "::1"].map(|address| address.parse().unwrap());
    Facts { host_addresses: host_addresses.into(), ..Facts::default() }
}

fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn tcp(host: u16) -> PortMapping {
    PortMapping { protocol: PortProtocol::Tcp, host, unikernel: 80 }
}

fn port(address: Option<&str>, transport: Transport, port: u16) -> HostPort {
    HostPort { address: address.map(|address| address.parse().unwrap()), transport, port }
}

fn listener(address: &str, transport: Transport, port: u16) -> Listener {
    Listener { transport, address: address.parse().unwrap(), port, v6_only: false, uid: 7, inode: 9, cgroup: None }
}

/// A service with `ports` on `on`.
fn publishes(name: &str, ports: Vec<PortMapping>, on: &[&str], sources: &[&str]) -> Change {
    let service = name.parse::<ServiceName>().unwrap();
    let publication = Publication {
        unikernel: format!("{service}.0123456789").parse().unwrap(),
        target: [10, 0, 0, 2].into(),
        ports,
        addresses: addresses(on),
        sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
        drain: 0,
        tolerates_until: None,
    };
    Change::PutService(Box::new(Service { publication: Some(Arc::new(publication)), ..Service::new(service) }))
}

fn world(changes: Vec<Change>) -> World {
    let mut world = World::new(Vec::new(), Vec::new());
    world.apply(changes);
    world
}

#[test]
fn who_is_not_root_publishes_what_the_configuration_allows() {
    let all = BTreeSet::new();
    for (uid, allowed, mapping, admitted) in [
        (0, &[][..], tcp(22), true),
        (ALICE, &[], tcp(8080), false),
        (ALICE, &["1-65535"], tcp(22), true),
        (ALICE, &["80/tcp", "1024-65535"], tcp(80), true),
        (ALICE, &["80/tcp", "1024-65535"], tcp(443), false),
        (ALICE, &["80/tcp"], PortMapping { protocol: PortProtocol::Any, ..tcp(80) }, false),
        (ALICE, &["80"], PortMapping { protocol: PortProtocol::Any, ..tcp(80) }, true),
    ] {
        let decided = policy(allowed, &[], true).admit(&facts(), &caller(uid), &[mapping], &all);
        assert_eq!(decided.is_ok(), admitted, "{uid} {allowed:?} {mapping:?}");
    }
    let refused = policy(&["80/tcp", "1024-65535"], &[], true).admit(&facts(), &caller(ALICE), &[tcp(22)], &all);
    assert_eq!(
        refused.unwrap_err().to_string(),
        "user 1000 may not publish tcp port 22: the key ports in [publish] of the configuration lets callers other than \
         root publish 80/tcp, 1024-65535"
    );
}

#[test]
fn ports_are_published_on_the_hosts_own_addresses() {
    let policy = |loopback| policy(&["1-65535"], &[], loopback);
    for (address, loopback, words) in [
        ("192.0.2.1", true, None),
        ("127.0.0.1", true, None),
        // The kernel takes all of 127.0.0.0/8 as its own.
        ("127.0.0.53", true, None),
        (
            "192.0.2.9",
            true,
            Some("192.0.2.9 is not an address of this host, which has 10.0.0.1, 127.0.0.1, 192.0.2.1;"),
        ),
        ("127.0.0.53", false, Some("loopback in [publish]")),
        ("::1", true, Some("::1 is not an address of this host")),
    ] {
        let decided = policy(loopback).admit(&facts(), &caller(0), &[tcp(80)], &addresses(&[address]));
        let message = decided.err().map(|error| error.to_string());
        assert_eq!(message.is_some(), words.is_some(), "{address}: {message:?}");
        assert!(message.unwrap_or_default().contains(words.unwrap_or_default()), "{address}");
    }
}

#[test]
fn a_host_with_many_addresses_is_not_listed_whole() {
    let own = (0..=255).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    let facts = Facts { host_addresses: own, ..Facts::default() };
    let policy = policy(&[], &[], true);
    let refused = policy.admit(&facts, &caller(0), &[tcp(80)], &addresses(&["203.0.113.1"])).unwrap_err().to_string();
    assert!(refused.contains("and 240 more") && refused.len() < 500, "{refused}");
}

#[test]
fn a_port_with_a_listener_is_refused_unless_it_may_be_taken_over() {
    use Transport::{Tcp, Udp};
    for (take_over, wanted, listens, refused) in [
        (&[][..], port(None, Tcp, 22), listener("0.0.0.0", Tcp, 22), true),
        (&[], port(None, Tcp, 22), listener("::", Tcp, 22), true),
        (&["22/tcp"], port(None, Tcp, 22), listener("0.0.0.0", Tcp, 22), false),
        (&["22/udp"], port(None, Tcp, 22), listener("0.0.0.0", Tcp, 22), true),
        (&[], port(Some("127.0.0.53"), Udp, 53), listener("127.0.0.53", Udp, 53), true),
        (&[], port(Some("127.0.0.1"), Udp, 53), listener("127.0.0.53", Udp, 53), false),
        (&[], port(None, Tcp, 80), listener("0.0.0.0", Tcp, 22), false),
    ] {
        let decided = policy(&[], take_over, true).check_listeners(&[wanted].into(), std::slice::from_ref(&listens));
        assert_eq!(decided.is_err(), refused, "{take_over:?} {wanted:?} {listens:?}");
    }
    let listens = listener("0.0.0.0", Tcp, 22);
    let mut error = policy(&[], &[], true).check_listeners(&[port(None, Tcp, 22)].into(), &[listens]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tcp port 22 is that of a process of user 7, which listens there: choose another host port, stop it, or name the \
         port in the configuration: [publish] take-over = [\"22/tcp\"]"
    );
    if let Error::PortListened { process, .. } = &mut error {
        *process = Some("sshd of ssh.service".into());
    }
    assert!(error.to_string().contains("is that of sshd of ssh.service, which"), "{error}");
}

#[test]
fn only_ports_that_are_new_in_the_kernel_are_checked() {
    use Transport::Tcp;
    let world = world(vec![
        publishes("website", vec![tcp(80)], &[], &[]),
        publishes("mail", vec![tcp(25)], &["192.0.2.1"], &[]),
    ]);
    for (change, expected) in [
        (publishes("website", vec![tcp(80)], &[], &["10.0.0.0/8"]), vec![]),
        // From all addresses to one of them: the clients there are those of before.
        (publishes("website", vec![tcp(80)], &["192.0.2.1"], &[]), vec![]),
        (publishes("website", vec![tcp(80), tcp(443)], &[], &[]), vec![port(None, Tcp, 443)]),
        (publishes("mail", vec![tcp(25)], &[], &[]), vec![port(None, Tcp, 25)]),
        (publishes("mail", vec![tcp(25)], &["192.0.2.1", "10.0.0.1"], &[]), vec![port(Some("10.0.0.1"), Tcp, 25)]),
        (Change::RemoveService("website".parse().unwrap()), vec![]),
    ] {
        assert_eq!(added(&world, std::slice::from_ref(&change)), expected.into_iter().collect(), "{change:?}");
    }
    assert_eq!(added_by(&world, &[tcp(80), tcp(81)], &BTreeSet::new()), [port(None, Tcp, 81)].into());
}

#[test]
fn a_listener_that_comes_later_is_named_for_as_long_as_its_port_is_published() {
    use Transport::Tcp;
    let published = world(vec![publishes("website", vec![tcp(80)], &[], &[])]);
    let listens = [listener("0.0.0.0", Tcp, 80), listener("0.0.0.0", Tcp, 81)];
    let plain = policy(&[], &[], true);
    assert_eq!(plain.overshadowed(&published, &listens), [&listens[0]]);
    assert!(policy(&[], &["80"], true).overshadowed(&published, &listens).is_empty());
    let named = [NamedListener { listener: listens[0].clone(), process: "nginx (process 7)".into() }];
    let note = plain.overshadowed_note(&published, &named).unwrap();
    assert!(note.starts_with("tcp port 80 (nginx (process 7) on 0.0.0.0): "), "{note}");
    assert_eq!(plain.overshadowed_note(&world(Vec::new()), &named), None);
}

#[test]
fn what_an_older_ledger_holds_without_effect_is_named() {
    for (on, sources, words) in [
        (&[][..], &[][..], None),
        (&["192.0.2.1", "127.0.0.7"], &["10.0.0.0/8", "fd00::/8"], None),
        (&["192.0.2.9"], &[], Some("website on 192.0.2.9: ")),
        (&["192.0.2.1", "::1"], &[], Some("website on ::1: ")),
        (&["::ffff:192.0.2.1"], &[], Some("website on ::ffff:192.0.2.1: ")),
        (&[], &["fd00::/8"], Some("website for sources of IPv6 alone: ")),
    ] {
        let world = world(vec![publishes("website", vec![tcp(80)], on, sources)]);
        let note = policy(&[], &[], true).without_effect_note(&world, &facts());
        assert_eq!(note.is_some(), words.is_some(), "{on:?} {sources:?}: {note:?}");
        assert!(note.unwrap_or_default().starts_with(words.unwrap_or_default()));
    }
}
