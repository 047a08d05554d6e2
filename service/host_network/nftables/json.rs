//! The table as nftables' own JSON, typed by the nftables crate.
//!
//! One thing is written in another way than the kernel has it: nft reads a map whose values are concatenations out of
//! JSON only since 1.1 (versions before refuse what they print themselves, or crash), while all of them read such a map
//! as part of a rule. So the maps of ports stand in their rules here. What the rules do is the same.

use std::collections::HashSet;

use nftables::expr::{
    CT, CTDir, Expression, Fib, FibFlag, FibResult, Map, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix,
    RT, RTKey, SetItem, TcpOption,
};
use nftables::schema::{
    Chain as JsonChain, NfListObject, NfObject, Nftables, Rule as JsonRule, Set as JsonSet, SetFlag, SetType,
    SetTypeValue, Table as JsonTable,
};
use nftables::stmt::{JumpTarget, Mangle, Match, NAT, NATFamily, Operator, Reject, RejectType, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use ipnet::IpNet;

use crate::domain::HostPort;
use crate::planning::ruleset::{
    Action, Chain, ChainKind, Condition, Direction, Element, Elements, Family, Field, Hook, PortKey, Rule, Ruleset,
    SetKind, SetName, Side, TABLE,
};

/// For `ExportRuleset`: what `nft -j -f` loads.
pub fn export(ruleset: &Ruleset) -> String {
    // Nothing in these types can fail to be written.
    serde_json::to_string(&document(ruleset)).unwrap_or_default()
}

fn document(ruleset: &Ruleset) -> Nftables<'static> {
    let table = JsonTable { family: NfFamily::INet, name: TABLE.into(), handle: None };
    let sets = ruleset.sets.iter().filter(|set| set.kind != SetKind::Ports);
    let rules = ruleset.chains.iter().flat_map(|chain| {
        let rules = chain.rules.iter().filter_map(|rule| rule_of(chain, rule, &ruleset.elements));
        rules.collect::<Vec<_>>()
    });
    let objects = [NfListObject::Table(table)]
        .into_iter()
        .chain(sets.map(|&set| NfListObject::Set(Box::new(set_of(set, &ruleset.elements)))))
        .chain(ruleset.chains.iter().map(|chain| NfListObject::Chain(chain_of(chain))))
        .chain(rules.map(NfListObject::Rule));
    Nftables { objects: objects.map(NfObject::ListObject).collect() }
}

fn chain_of(chain: &Chain) -> JsonChain<'static> {
    let base = chain.base;
    JsonChain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: chain.name.as_str().into(),
        newname: None,
        handle: None,
        _type: base.map(|base| match base.kind {
            ChainKind::Nat => NfChainType::NAT,
            ChainKind::Filter => NfChainType::Filter,
        }),
        hook: base.map(|base| match base.hook {
            Hook::Prerouting => NfHook::Prerouting,
            Hook::Forward => NfHook::Forward,
            Hook::Output => NfHook::Output,
            Hook::Postrouting => NfHook::Postrouting,
        }),
        prio: base.map(|base| base.priority),
        dev: None,
        policy: base.map(|_| NfChainPolicy::Accept),
    }
}

fn set_of(set: SetName, elements: &Elements) -> JsonSet<'static> {
    let members: Vec<_> = elements.iter().filter(|element| element.set() == set).map(|one| key_of(&one)).collect();
    JsonSet {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: set.to_string().into(),
        set_type: match set.key()[..] {
            [field] => SetTypeValue::Single(set_type(field)),
            ref fields => SetTypeValue::Concatenated(fields.iter().copied().map(set_type).collect()),
        },
        flags: set.is_interval().then(|| HashSet::from([SetFlag::Interval])),
        elem: (!members.is_empty()).then(|| members.into()),
        comment: Some(set.comment().into()),
        handle: None,
        policy: None,
        timeout: None,
        gc_interval: None,
        size: None,
    }
}

fn set_type(field: Field) -> SetType {
    match field {
        Field::Destination(Family::V4) | Field::Source(Family::V4) => SetType::Ipv4Addr,
        Field::Destination(Family::V6) | Field::Source(Family::V6) => SetType::Ipv6Addr,
        Field::Transport => SetType::InetProto,
        Field::Port => SetType::InetService,
    }
}

/// `None`: a map without entries, which nft cannot write into a rule; the rule would do nothing.
fn rule_of(chain: &Chain, rule: &Rule, elements: &Elements) -> Option<JsonRule<'static>> {
    let mut statements: Vec<_> = rule.when.iter().map(|condition| Statement::Match(match_of(condition))).collect();
    statements.push(match rule.then {
        Action::Jump(chain) => Statement::Jump(JumpTarget { target: chain.as_str().into() }),
        Action::Return => Statement::Return(None),
        Action::Drop => Statement::Drop(None),
        Action::Masquerade => Statement::Masquerade(None),
        Action::ResetTcp => Statement::Reject(Some(Reject { _type: Some(RejectType::TCPReset), expr: None })),
        // The crate keeps the type of the code to itself.
        Action::Unreachable => Statement::Reject(Some(Reject {
            _type: Some(RejectType::ICMPX),
            expr: serde_json::from_str("\"port-unreachable\"").ok(),
        })),
        Action::ClampSegments => clamp_segments(),
        Action::Redirect(map) => redirect(map, elements)?,
    });
    Some(JsonRule {
        family: NfFamily::INet,
        table: TABLE.into(),
        chain: chain.name.as_str().into(),
        expr: statements.into(),
        handle: None,
        index: None,
        comment: Some(rule.comment().into()),
    })
}

fn redirect(map: SetName, elements: &Elements) -> Option<Statement<'static>> {
    let entry = |element: Element| match element {
        Element::Redirect(_, target) if element.set() == map => {
            let value = concat([text(target.ip()), Expression::Number(target.port().into())]);
            Some(SetItem::Mapping(key_of(&element), value))
        }
        _ => None,
    };
    let entries: Vec<_> = elements.iter().filter_map(entry).collect();
    if entries.is_empty() {
        return None;
    }
    let data = Expression::Named(NamedExpression::Set(entries));
    let address = Expression::Named(NamedExpression::Map(Box::new(Map { key: fields(map), data })));
    let family = match map.family {
        Family::V4 => NATFamily::IP,
        Family::V6 => NATFamily::IP6,
    };
    Some(Statement::DNAT(Some(NAT { addr: Some(address), family: Some(family), port: None, flags: None })))
}

fn match_of(condition: &Condition) -> Match<'static> {
    let equal = |is| if is { Operator::EQ } else { Operator::NEQ };
    match condition {
        Condition::AddressedToHost => Match {
            left: named(NamedExpression::Fib(Fib { result: FibResult::Type, flags: [FibFlag::Daddr].into() })),
            right: Expression::String("local".into()),
            op: Operator::EQ,
        },
        Condition::Translated => status("dnat"),
        Condition::SourceTranslated => status("snat"),
        Condition::Family(family) => Match {
            left: meta(MetaKey::Nfproto),
            right: Expression::String(if *family == Family::V4 { "ipv4" } else { "ipv6" }.into()),
            op: Operator::EQ,
        },
        Condition::Protocol(transport) => {
            Match { left: meta(MetaKey::L4proto), right: text(transport), op: Operator::EQ }
        }
        Condition::TcpSyn => tcp_flag("syn"),
        Condition::TcpReset => tcp_flag("rst"),
        Condition::AnsweredFrom { prefix } => {
            let key = if prefix.addr().is_ipv4() { "ip saddr" } else { "ip6 saddr" };
            Match { left: ct(key, Some(CTDir::Reply)), right: prefix_of(prefix), op: Operator::EQ }
        }
        Condition::Address { side, within, prefix } => {
            Match { left: address(Family::of(prefix.network()), *side), right: prefix_of(prefix), op: equal(*within) }
        }
        Condition::Interface { direction, is, name } => Match {
            left: meta(match direction {
                Direction::In => MetaKey::Iifname,
                Direction::Out => MetaKey::Oifname,
            }),
            right: Expression::String(name.as_str().to_owned().into()),
            op: equal(*is),
        },
        Condition::OriginallyInSet { set, is } => {
            Match { left: original_fields(*set), right: Expression::String(format!("@{set}").into()), op: equal(*is) }
        }
        Condition::InSet { set, is } => {
            Match { left: fields(*set), right: Expression::String(format!("@{set}").into()), op: equal(*is) }
        }
    }
}

fn tcp_flag(flag: &'static str) -> Match<'static> {
    Match { left: payload("tcp", "flags"), right: Expression::String(flag.into()), op: Operator::IN }
}

fn status(bit: &'static str) -> Match<'static> {
    Match { left: ct("status", None), right: Expression::String(bit.into()), op: Operator::IN }
}

fn ct(key: &'static str, dir: Option<CTDir>) -> Expression<'static> {
    named(NamedExpression::CT(CT { key: key.into(), family: None, dir }))
}

fn clamp_segments() -> Statement<'static> {
    let size = TcpOption { name: "maxseg".into(), field: Some("size".into()) };
    Statement::Mangle(Mangle {
        key: named(NamedExpression::TcpOption(size)),
        value: named(NamedExpression::RT(RT { key: RTKey::MTU, family: None })),
    })
}

/// The fields of a connection's first packet that are looked up.
fn original_fields(set: SetName) -> Expression<'static> {
    concat(set.key().into_iter().map(|field| match field {
        Field::Destination(Family::V4) => ct("ip daddr", Some(CTDir::Original)),
        Field::Destination(Family::V6) => ct("ip6 daddr", Some(CTDir::Original)),
        Field::Source(Family::V4) => ct("ip saddr", Some(CTDir::Original)),
        Field::Source(Family::V6) => ct("ip6 saddr", Some(CTDir::Original)),
        Field::Transport => meta(MetaKey::L4proto),
        Field::Port => ct("proto-dst", Some(CTDir::Original)),
    }))
}

/// The fields of a packet that are looked up.
fn fields(set: SetName) -> Expression<'static> {
    if let [Field::Destination(family)] = set.key()[..] {
        return address(family, Side::Destination);
    }
    concat(set.key().into_iter().map(|field| match field {
        Field::Destination(family) => address(family, Side::Destination),
        Field::Source(family) => address(family, Side::Source),
        Field::Transport => meta(MetaKey::L4proto),
        Field::Port => payload("th", "dport"),
    }))
}

/// An element's key.
fn key_of(element: &Element) -> Expression<'static> {
    let Some(PortKey { port: HostPort { address, transport, port }, .. }) = element.port() else {
        return match element {
            Element::Gone(address) => text(address),
            _ => concat([]),
        };
    };
    let source = match element {
        Element::Source(_, prefix) => Some(prefix_of(prefix)),
        _ => None,
    };
    concat(address.map(text).into_iter().chain([text(transport), Expression::Number(port.into())]).chain(source))
}

fn prefix_of(prefix: &IpNet) -> Expression<'static> {
    let address = text(prefix.network());
    if prefix.prefix_len() == prefix.max_prefix_len() {
        return address; // as nft writes it
    }
    named(NamedExpression::Prefix(Prefix { addr: Box::new(address), len: prefix.prefix_len().into() }))
}

fn address(family: Family, side: Side) -> Expression<'static> {
    let protocol = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    payload(protocol, if side == Side::Source { "saddr" } else { "daddr" })
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField { protocol: protocol.into(), field: field.into() };
    named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn meta(key: MetaKey) -> Expression<'static> {
    named(NamedExpression::Meta(Meta { key }))
}

fn concat(parts: impl IntoIterator<Item = Expression<'static>>) -> Expression<'static> {
    named(NamedExpression::Concat(parts.into_iter().collect()))
}

fn text(value: impl ToString) -> Expression<'static> {
    Expression::String(value.to_string().into())
}

fn named(expression: NamedExpression<'static>) -> Expression<'static> {
    Expression::Named(expression)
}
