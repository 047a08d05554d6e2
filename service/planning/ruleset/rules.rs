//! The static part of the table: its chains and their rules.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::{
    Action, Base, Chain, ChainKind, ChainName, Condition, Direction, Family, Hook, InterfaceName, Rule, SetKind,
    SetName, Settings, Side, is_private,
};
use crate::domain::{Network, Transport};

/// Where nftables names the priorities: raw, dstnat (also in output, for translation of what the host sends), srcnat.
const RAW: i32 = -300;
/// Just before dstnat, where Docker and iptables translate: of chains with the same priority the one that was registered
/// last would come first.
const DSTNAT: i32 = -101;
const SRCNAT: i32 = 100;
/// Just before `filter`: a connection that nobody answers is refused before another table drops it in silence.
const BEFORE_FILTER: i32 = -1;

const LOOPBACK: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));

pub(super) fn chains(families: &BTreeSet<Family>, networks: &[Network], settings: Settings) -> Vec<Chain> {
    let nat = |hook, priority| Some(Base { kind: ChainKind::Nat, hook, priority });
    let guard = Base { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: RAW };
    let filter = |hook| Some(Base { kind: ChainKind::Filter, hook, priority: BEFORE_FILTER });
    vec![
        Chain {
            name: ChainName::Published,
            base: None,
            rules: families.iter().flat_map(|&family| published(family)).collect(),
        },
        Chain { name: ChainName::Prerouting, base: nat(Hook::Prerouting, DSTNAT), rules: vec![to_published()] },
        Chain { name: ChainName::Output, base: nat(Hook::Output, DSTNAT), rules: output(settings) },
        Chain {
            name: ChainName::Postrouting,
            base: nat(Hook::Postrouting, SRCNAT),
            rules: networks.iter().flat_map(|network| postrouting(network, networks, settings)).collect(),
        },
        Chain { name: ChainName::Guard, base: Some(guard), rules: guarded() },
        Chain { name: ChainName::Refused, base: None, rules: refused() },
        Chain {
            name: ChainName::Redirected,
            base: None,
            rules: [resets_pass()]
                .into_iter()
                .chain(networks.iter().map(to_strict))
                .chain(families.iter().map(|&family| gone(family)))
                .chain([clamped(Vec::new())])
                .collect(),
        },
        Chain {
            name: ChainName::Strict,
            base: None,
            rules: families.iter().flat_map(|&family| strict(family)).collect(),
        },
        Chain {
            name: ChainName::Forward,
            base: filter(Hook::Forward),
            rules: [to_redirected(), clamped(vec![Condition::SourceTranslated])]
                .into_iter()
                .chain(networks.iter().map(outgoing))
                .collect(),
        },
        Chain { name: ChainName::Local, base: filter(Hook::Output), rules: vec![to_redirected()] },
    ]
}

fn to_redirected() -> Rule {
    Rule {
        purpose: "what was redirected".into(),
        when: vec![Condition::Translated],
        then: Action::Jump(ChainName::Redirected),
    }
}

/// The rule that lets resets pass: the kernel sends its resets as part of the connection, and so by these chains: none is answered by another.
fn resets_pass() -> Rule {
    Rule { purpose: "resets".into(), when: vec![Condition::TcpReset], then: Action::Return }
}

/// The rule that leads to `strict`. Only connections to unikernels: others may translate the same port to somewhere else.
/// UDP flows of sources that may not connect any more are deleted, and then judged by `published`.
fn to_strict(network: &Network) -> Rule {
    let family = Family::of(network.prefix.network());
    Rule {
        purpose: format!("to a unikernel of {}", network.name),
        when: vec![
            Condition::Family(family),
            Condition::Protocol(Transport::Tcp),
            Condition::AnsweredFrom { prefix: network.prefix.trunc() },
        ],
        then: Action::Jump(ChainName::Strict),
    }
}

/// What must not go on, although conntrack remembers where it was redirected to.
fn strict(family: Family) -> Vec<Rule> {
    let forbidden = [true, false].map(|on_address| {
        let set = |kind| SetName { kind, family, on_address };
        Rule {
            purpose: "from a source that may not go on".into(),
            when: vec![
                Condition::Family(family),
                Condition::Protocol(Transport::Tcp),
                Condition::OriginallyInSet { set: set(SetKind::Enforced), is: true },
                Condition::OriginallyInSet { set: set(SetKind::Sources), is: false },
            ],
            then: Action::Jump(ChainName::Refused),
        }
    });
    forbidden.into()
}

fn gone(family: Family) -> Rule {
    Rule {
        purpose: "to a unikernel that has ended".into(),
        when: vec![Condition::InSet { set: SetName { kind: SetKind::Gone, family, on_address: false }, is: true }],
        then: Action::Jump(ChainName::Refused),
    }
}

fn refused() -> Vec<Rule> {
    vec![
        Rule {
            purpose: "reset at once".into(),
            when: vec![Condition::Protocol(Transport::Tcp)],
            then: Action::ResetTcp,
        },
        Rule { purpose: "unreachable at once".into(), when: Vec::new(), then: Action::Unreachable },
    ]
}

/// Guests set DF and may pass over the ICMP that tells them of a smaller MTU on the way (PPPoE, WireGuard).
fn clamped(mut when: Vec<Condition>) -> Rule {
    when.push(Condition::TcpSyn);
    Rule { purpose: "segments that fit the way".into(), when, then: Action::ClampSegments }
}

/// The SYN of a unikernel's own connection: whether its source will be translated shows only after this.
fn outgoing(network: &Network) -> Rule {
    let bridge = InterfaceName::Bridge(network.name.clone());
    let from_bridge = Condition::Interface { direction: Direction::In, is: true, name: bridge };
    let rule = clamped(vec![from_bridge, address(Side::Source, true, network.prefix)]);
    Rule { purpose: format!("{} from {}", rule.purpose, network.name), ..rule }
}

/// The more particular first: what is published on one address goes before what is published on all of them.
fn published(family: Family) -> Vec<Rule> {
    [true, false]
        .into_iter()
        .flat_map(|on_address| {
            let set = |kind| SetName { kind, family, on_address };
            [
                Rule {
                    purpose: "from a source that may not connect".into(),
                    when: vec![
                        Condition::InSet { set: set(SetKind::Guarded), is: true },
                        Condition::InSet { set: set(SetKind::Sources), is: false },
                    ],
                    then: Action::Return,
                },
                Rule {
                    purpose: "to the live unikernel".into(),
                    when: Vec::new(),
                    then: Action::Redirect(set(SetKind::Ports)),
                },
            ]
        })
        .collect()
}

fn to_published() -> Rule {
    Rule {
        purpose: "what is for this host".into(),
        when: vec![Condition::AddressedToHost],
        then: Action::Jump(ChainName::Published),
    }
}

fn output(settings: Settings) -> Vec<Rule> {
    let loopback_stays = Rule {
        purpose: "not by way of localhost".into(),
        when: vec![address(Side::Destination, true, LOOPBACK)],
        then: Action::Return,
    };
    (!settings.loopback).then_some(loopback_stays).into_iter().chain([to_published()]).collect()
}

/// The client's address stays what it is, but for connections whose answers would not come back through here.
fn postrouting(network: &Network, networks: &[Network], settings: Settings) -> Vec<Rule> {
    let bridge = || InterfaceName::Bridge(network.name.clone());
    let leaves_by_bridge = |is| Condition::Interface { direction: Direction::Out, is, name: bridge() };
    let from_network = || address(Side::Source, true, network.prefix);

    let hairpin = Rule {
        purpose: format!("hairpin on {}", network.name),
        when: vec![Condition::Translated, leaves_by_bridge(true), from_network()],
        then: Action::Masquerade,
    };
    // Nobody can answer 127.0.0.1 over a wire.
    let localhost = Rule {
        purpose: format!("localhost to {}", network.name),
        when: vec![leaves_by_bridge(true), address(Side::Source, true, LOOPBACK)],
        then: Action::Masquerade,
    };
    let between_networks = networks.iter().filter(|other| same_family(&other.prefix, &network.prefix));
    let elsewhere = between_networks.map(|other| address(Side::Destination, false, other.prefix));
    let way_out = Rule {
        purpose: format!("{} to elsewhere", network.name),
        when: [from_network()].into_iter().chain(elsewhere).chain([leaves_by_bridge(false)]).collect(),
        then: Action::Masquerade,
    };
    let with_localhost = settings.loopback && network.prefix.network().is_ipv4();
    [(true, hairpin), (with_localhost, localhost), (is_private(&network.prefix), way_out)]
        .into_iter()
        .filter_map(|(wanted, rule)| wanted.then_some(rule))
        .collect()
}

/// `route_localnet` on a bridge lets in what the kernel drops as martian otherwise (CVE-2020-8558). The guard stands
/// whatever the settings: an earlier run may have left it on.
fn guarded() -> Vec<Rule> {
    [Side::Destination, Side::Source]
        .map(|side| Rule {
            purpose: "localhost is not for others".into(),
            when: vec![
                Condition::Interface { direction: Direction::In, is: false, name: InterfaceName::Loopback },
                address(side, true, LOOPBACK),
            ],
            then: Action::Drop,
        })
        .into()
}

fn address(side: Side, within: bool, prefix: IpNet) -> Condition {
    Condition::Address { side, within, prefix: prefix.trunc() }
}

fn same_family(one: &IpNet, other: &IpNet) -> bool {
    Family::of(one.network()) == Family::of(other.network())
}
