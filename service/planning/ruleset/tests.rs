use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::domain::{PortMapping, PortProtocol, ServiceName, UnikernelId};

fn publication(target: &str, ports: &[(PortProtocol, u16, u16)], addresses: &[&str], sources: &[&str]) -> Publication {
    let service: ServiceName = "website".parse().unwrap();
    Publication {
        unikernel: UnikernelId::new(&service, &[1; 32]),
        target: target.parse().unwrap(),
        ports: ports.iter().map(|&(protocol, host, unikernel)| PortMapping { protocol, host, unikernel }).collect(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        sources: sources.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        drain: 0,
        tolerates_until: None,
    }
}

fn network(name: &str, prefix: &str) -> Network {
    Network { name: name.parse().unwrap(), prefix: prefix.parse().unwrap(), gateway: None, exclude: Vec::new() }
}

fn shown(elements: &Elements) -> Vec<String> {
    elements.iter().map(|element| format!("{}: {element}", element.set())).collect()
}

#[test]
fn a_port_for_everybody_is_one_element_a_transport() {
    let published = publication("10.0.0.2", &[(PortProtocol::Any, 53, 5353)], &[], &[]);
    assert_eq!(shown(&elements(&published)), ["ports4: tcp 53 to 10.0.0.2:5353", "ports4: udp 53 to 10.0.0.2:5353"]);
}

#[test]
fn addresses_and_sources_have_their_own_sets_and_sources_do_not_overlap() {
    let sources = ["10.1.0.0/16", "10.1.2.0/24", "192.0.2.0/25", "192.0.2.128/25", "fd00::/8"];
    let published = publication("10.0.0.2", &[(PortProtocol::Tcp, 80, 8080)], &["192.0.2.1", "2001:db8::1"], &sources);
    assert_eq!(
        shown(&elements(&published)),
        [
            "ports4_on: 192.0.2.1 tcp 80 to 10.0.0.2:8080",
            "guarded4_on: 192.0.2.1 tcp 80",
            "sources4_on: 192.0.2.1 tcp 80 from 10.1.0.0/16",
            "sources4_on: 192.0.2.1 tcp 80 from 192.0.2.0/24",
            "enforced4_on: 192.0.2.1 tcp 80",
        ]
    );
    // With sources of the other family only, nobody may connect: the guard must be there.
    let published = publication("10.0.0.2", &[(PortProtocol::Tcp, 80, 8080)], &[], &["fd00::/8"]);
    assert_eq!(
        shown(&elements(&published)),
        ["ports4: tcp 80 to 10.0.0.2:8080", "guarded4: tcp 80", "enforced4: tcp 80"]
    );
}

#[test]
fn a_switch_is_a_delete_and_an_add_of_what_differs() {
    let before = elements(&publication("10.0.0.2", &[(PortProtocol::Tcp, 80, 8080)], &[], &["10.0.0.0/8"]));
    let after = elements(&publication("10.0.0.3", &[(PortProtocol::Tcp, 80, 8080)], &[], &["10.0.0.0/8"]));
    let change = difference(&before, &after);
    let text = |elements: &[Element]| elements.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&change.deletes), ["tcp 80 to 10.0.0.2:8080"]);
    assert_eq!(text(&change.adds), ["tcp 80 to 10.0.0.3:8080"]);
}

#[test]
fn repair_sends_the_least_that_does_it() {
    let networks = [network("br0", "10.0.0.0/24")];
    let settings = Settings { loopback: true };
    let published = publication("10.0.0.2", &[(PortProtocol::Tcp, 80, 8080)], &[], &[]);
    let wanted = ruleset([&published].into_iter(), &networks, settings);
    let skeleton = wanted.skeleton();
    assert_eq!(repair(None, &wanted), RulesetChange::Rebuild(&wanted));
    assert_eq!(repair(Some((&skeleton, &wanted.elements)), &wanted), RulesetChange::Nothing);
    let RulesetChange::Elements(change) = repair(Some((&skeleton, &Elements::default())), &wanted) else {
        panic!("the static part is the same")
    };
    assert_eq!((change.deletes.len(), change.adds.len()), (0, 1));
    // Other rules, the same sets.
    for other in [
        ruleset([].into_iter(), &networks, Settings { loopback: false }),
        ruleset([].into_iter(), &[network("br1", "10.0.0.0/24")], settings),
        ruleset([].into_iter(), &[network("br0", "10.0.0.0/25")], settings),
    ] {
        let change = repair(Some((&other.skeleton(), &other.elements)), &wanted);
        let RulesetChange::Chains { there, elements, .. } = change else { panic!("{change:?}") };
        assert_eq!((there.len(), elements.adds.len()), (10, 1));
    }
    let other = ruleset([].into_iter(), &[network("br0", "10.0.0.0/24"), network("br6", "fd00::/64")], settings);
    assert_eq!(repair(Some((&other.skeleton(), &other.elements)), &wanted), RulesetChange::Rebuild(&wanted));
}

#[test]
fn a_foreign_rule_makes_the_static_part_another() {
    let wanted = ruleset([].into_iter(), &[network("br0", "10.0.0.0/24")], Settings { loopback: true });
    let mut skeleton = wanted.skeleton();
    skeleton.chains.get_mut("postrouting").unwrap().push(String::new());
    let change = repair(Some((&skeleton, &wanted.elements)), &wanted);
    assert!(matches!(change, RulesetChange::Chains { elements, .. } if elements.is_empty()));
}

#[test]
fn only_private_networks_are_masqueraded_on_their_way_out() {
    let rules = |prefix: &str| {
        let all = ruleset([].into_iter(), &[network("br0", prefix)], Settings { loopback: true });
        let chain = all.chains.into_iter().find(|chain| chain.name == ChainName::Postrouting).unwrap();
        chain.rules.into_iter().map(|rule| rule.purpose).collect::<Vec<_>>()
    };
    assert_eq!(rules("10.0.0.0/24"), ["hairpin on br0", "localhost to br0", "br0 to elsewhere"]);
    assert_eq!(rules("100.64.0.0/16"), ["hairpin on br0", "localhost to br0", "br0 to elsewhere"]);
    assert_eq!(rules("100.128.0.0/16"), ["hairpin on br0", "localhost to br0"]);
    assert_eq!(rules("192.0.2.0/24"), ["hairpin on br0", "localhost to br0"]);
    assert_eq!(rules("2001:db8::/64"), ["hairpin on br0"]);
}

#[test]
fn a_port_that_is_published_twice_stays_with_the_first() {
    let first = publication("10.0.0.2", &[(PortProtocol::Tcp, 80, 1), (PortProtocol::Any, 80, 2)], &[], &[]);
    let second = publication("10.0.0.3", &[(PortProtocol::Tcp, 80, 3)], &[], &[]);
    let all = ruleset([&first, &second].into_iter(), &[], Settings { loopback: true });
    assert_eq!(shown(&all.elements), ["ports4: tcp 80 to 10.0.0.2:1", "ports4: udp 80 to 10.0.0.2:2"]);
}

#[test]
fn comments_fit_what_nft_reads_and_tell_rules_apart() {
    let networks = [network("br0123456789abc", "10.0.0.0/24"), network("br1", "10.1.0.0/24")];
    let skeleton = ruleset([].into_iter(), &networks, Settings { loopback: false }).skeleton();
    for (chain, comments) in skeleton.chains {
        assert!(comments.iter().all(|comment| comment.len() < 128));
        assert_eq!(comments.iter().collect::<BTreeSet<_>>().len(), comments.len(), "{chain}");
    }
    assert!(skeleton.table.len() < 128);
}

fn any_publication() -> impl Strategy<Value = Publication> {
    let protocol = prop_oneof![Just(PortProtocol::Tcp), Just(PortProtocol::Udp), Just(PortProtocol::Any)];
    let port = (protocol, 1u16..6, 1u16..4);
    let sources = proptest::sample::subsequence(vec!["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1/32", "fd00::/8"], 0..=4);
    let addresses = proptest::sample::subsequence(vec!["192.0.2.1", "192.0.2.2", "2001:db8::1"], 0..=3);
    (1u8..4, proptest::collection::vec(port, 0..5), addresses, sources).prop_map(
        |(target, ports, addresses, sources)| publication(&format!("10.0.0.{target}"), &ports, &addresses, &sources),
    )
}

#[test]
fn connections_of_other_sources_go_on_for_as_long_as_they_are_tolerated() {
    let strict = publication("10.0.0.2", &[(PortProtocol::Tcp, 80, 8080)], &[], &["10.0.0.0/8"]);
    let tolerant = Publication {
        tolerates_until: Some(crate::domain::Deadline::new(
            crate::domain::Timestamp(7),
            std::time::Duration::from_secs(1),
        )),
        ..strict.clone()
    };
    let change = difference(&elements(&tolerant), &elements(&strict));
    let adds = change.adds.iter().map(|element| format!("{}: {element}", element.set())).collect::<Vec<_>>();
    assert_eq!((change.deletes.len(), adds), (0, vec!["enforced4: tcp 80".to_string()]));
}

proptest! {
    #[test]
    fn the_difference_applied_gives_what_was_wanted(
        before in proptest::collection::vec(any_publication(), 0..4),
        after in proptest::collection::vec(any_publication(), 0..4),
    ) {
        let all = |publications: &[Publication]| {
            ruleset(publications.iter(), &[], Settings { loopback: true }).elements
        };
        let (mut state, wanted) = (all(&before), all(&after));
        let change = difference(&state, &wanted);
        for element in &change.deletes {
            prop_assert!(state.remove(element), "{element} is deleted and was not there");
        }
        for element in &change.adds {
            prop_assert!(!state.contains(element));
            state.insert(*element);
            prop_assert!(state.contains(element), "{element} has no place");
        }
        prop_assert_eq!(state, wanted);
    }
}
