//! A batch: the messages of one transaction, which the kernel takes whole or not at all.

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook as HookAttribute, HookNumber, InetHookNumber, NfTablesMessage, RuleAttribute,
    RuleMessage, SetMessage, TableAttribute, TableFlags, TableMessage,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, NetfilterSubsystem};

use super::super::Error;
use super::super::netlink::{Channel, Verdict, encode};
use super::Ownership;
use super::elements::{self, CHUNK, Verb};
use super::{expressions, sets, userdata};
use crate::planning::ruleset::{
    Base, Chain, ChainKind, ChainName, Element, ElementsChange, Hook, Rule, Ruleset, SetName, TABLE, table_comment,
};

/// Messages in order, and what each is about.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: Vec<Message>,
}

/// One message, made into bytes only when the batch is sent.
#[derive(Debug)]
enum Message {
    /// With flags, which a table that is there must have already, but for the owner's.
    AddTable {
        flags: Option<u32>,
    },
    DeleteTable,
    DeleteRules {
        chain: String,
    },
    DeleteChain {
        name: String,
    },
    AddChain {
        name: ChainName,
        base: Option<Base>,
        comment: String,
    },
    AddRule {
        chain: ChainName,
        rule: Rule,
    },
    AddSet {
        set: SetName,
        id: u32,
    },
    Elements {
        verb: Verb,
        elements: Vec<Element>,
    },
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Makes the table anew, whether or not there is one: the first of the three messages is for the second.
    pub fn rebuild(ruleset: &Ruleset, ownership: Ownership) -> Self {
        let mut batch = Self::remove_table();
        batch.messages.push(Message::AddTable { flags: ownership.flags() });
        batch.messages.extend(ruleset.sets.iter().zip(1..).map(|(&set, id)| Message::AddSet { set, id }));
        batch.push_chains(&ruleset.chains);
        batch.push_elements(Verb::Add, ruleset.elements.iter());
        batch
    }

    /// Other chains, with the sets that are there.
    pub fn replace_chains(there: Vec<String>, wanted: &Ruleset, change: &ElementsChange) -> Self {
        let mut batch = Self::default();
        // All rules before all chains: a chain that a rule jumps to cannot go.
        batch.messages.extend(there.iter().map(|chain| Message::DeleteRules { chain: chain.clone() }));
        batch.messages.extend(there.into_iter().map(|name| Message::DeleteChain { name }));
        batch.push_chains(&wanted.chains);
        batch.push_change(change);
        batch
    }

    pub fn remove_table() -> Self {
        Self { messages: vec![Message::AddTable { flags: None }, Message::DeleteTable] }
    }

    /// Takes an orphan over, as it is.
    pub fn adopt(ownership: Ownership) -> Self {
        Self { messages: vec![Message::AddTable { flags: ownership.flags() }] }
    }

    pub fn change(change: &ElementsChange) -> Self {
        let mut batch = Self::default();
        batch.push_change(change);
        batch
    }

    fn push_chains(&mut self, chains: &[Chain]) {
        // All chains before all rules: rules jump to chains.
        self.messages.extend(chains.iter().map(|chain| Message::AddChain {
            name: chain.name,
            base: chain.base,
            comment: chain.comment(),
        }));
        self.messages.extend(chains.iter().flat_map(|chain| {
            chain.rules.iter().map(|rule| Message::AddRule { chain: chain.name, rule: rule.clone() })
        }));
    }

    fn push_change(&mut self, change: &ElementsChange) {
        self.push_elements(Verb::Delete, change.deletes.iter().copied());
        self.push_elements(Verb::Add, change.adds.iter().copied());
    }

    fn push_elements(&mut self, verb: Verb, elements: impl Iterator<Item = Element>) {
        let mut chunk: Vec<Element> = Vec::new();
        for element in elements {
            let full = chunk.len() == CHUNK || chunk.last().is_some_and(|last| last.set() != element.set());
            if full {
                self.messages.push(Message::Elements { verb, elements: std::mem::take(&mut chunk) });
            }
            chunk.push(element);
        }
        if !chunk.is_empty() {
            self.messages.push(Message::Elements { verb, elements: chunk });
        }
    }

    /// One exchange. An error names the first object that the kernel refuses.
    pub async fn send(self, channel: &mut Channel) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        // The first number is the batch's beginning.
        let sequences = channel.sequences(count.saturating_add(1));
        let bytes = self.encode(*sequences.start());
        let first = *sequences.start();
        let (bytes, verdicts) = channel.exchange("a change of the table", bytes, sequences).await?;
        match verdicts.iter().find(|verdict| verdict.errno.is_some()) {
            Some(verdict) => Err(self.refusal(verdict, first, &bytes)),
            None => Ok(()),
        }
    }

    fn encode(&self, first: u32) -> Vec<u8> {
        let mut bytes = encode(control(ControlMessage::BatchBegin), NLM_F_REQUEST, first);
        let mut sequence = first;
        for (index, message) in self.messages.iter().enumerate() {
            sequence = sequence.wrapping_add(1);
            // Only new kernels acknowledge the batch's end, so the last message asks.
            let ack = if index + 1 == self.messages.len() { NLM_F_ACK } else { 0 };
            let (message, flags) = (message.to_netlink(), NLM_F_REQUEST | ack | message.flags());
            let mut encoded = encode(message, flags, sequence);
            encoded.resize(encoded.len().next_multiple_of(4), 0);
            bytes.append(&mut encoded);
        }
        bytes.extend(encode(control(ControlMessage::BatchEnd), NLM_F_REQUEST, sequence.wrapping_add(1)));
        bytes
    }

    fn refusal(&self, verdict: &Verdict, first: u32, bytes: &[u8]) -> Error {
        let errno = verdict.errno.unwrap_or(super::super::Errno(0));
        let index = verdict.sequence.wrapping_sub(first) as usize;
        let object = match index.checked_sub(1).and_then(|index| self.messages.get(index)) {
            Some(message) => {
                let frame = super::super::netlink::frames(bytes).nth(index);
                message.name(frame.and_then(|frame| elements::index_at(frame.payload, verdict.offset?)))
            }
            None => format!("table inet {TABLE}"),
        };
        Error::refused(object, errno)
    }
}

impl Message {
    /// For a person. `element`: which of the message's elements is meant, where that is known.
    fn name(&self, element: Option<usize>) -> String {
        match self {
            Self::AddTable { .. } | Self::DeleteTable => format!("table inet {TABLE}"),
            Self::AddChain { name, .. } => format!("chain {}", name.as_str()),
            Self::DeleteRules { chain } => format!("the rules of chain {chain}"),
            Self::DeleteChain { name } => format!("chain {name}"),
            Self::AddRule { chain, rule } => format!("rule {:?} of chain {}", rule.purpose, chain.as_str()),
            Self::AddSet { set, .. } => format!("set {set}"),
            Self::Elements { elements, .. } => match element.and_then(|index| elements.get(index)) {
                Some(element) => format!("element {element} of {}", element.set()),
                None => match elements.as_slice() {
                    [element] => format!("element {element} of {}", element.set()),
                    [first, ..] => format!("one of {} elements of {}, from {first} on", elements.len(), first.set()),
                    [] => "no element".into(),
                },
            },
        }
    }

    fn flags(&self) -> u16 {
        match self {
            Self::DeleteTable
            | Self::DeleteRules { .. }
            | Self::DeleteChain { .. }
            | Self::Elements { verb: Verb::Delete, .. } => 0,
            Self::AddRule { .. } => NLM_F_CREATE | NLM_F_APPEND,
            // Without NLM_F_EXCL the same element twice is no error; a key with another value still is.
            Self::AddTable { .. } | Self::AddChain { .. } | Self::AddSet { .. } | Self::Elements { .. } => NLM_F_CREATE,
        }
    }

    fn to_netlink(&self) -> NetfilterMessage {
        inet(match self {
            Self::AddTable { flags } => {
                let mut attributes = vec![
                    TableAttribute::Name(TABLE.into()),
                    TableAttribute::UserData(userdata::table_comment(&table_comment())),
                ];
                attributes.extend(flags.map(|flags| TableAttribute::Flags(TableFlags::from_bits_retain(flags))));
                NfTablesMessage::NewTable(TableMessage { attributes })
            }
            Self::DeleteTable => {
                NfTablesMessage::DeleteTable(TableMessage { attributes: vec![TableAttribute::Name(TABLE.into())] })
            }
            // Without a handle: all of the chain.
            Self::DeleteRules { chain } => NfTablesMessage::DeleteRule(RuleMessage {
                attributes: vec![RuleAttribute::Table(TABLE.into()), RuleAttribute::Chain(chain.clone())],
            }),
            Self::DeleteChain { name } => NfTablesMessage::DeleteChain(ChainMessage {
                attributes: vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(name.clone())],
            }),
            Self::AddChain { name, base, comment } => {
                NfTablesMessage::NewChain(ChainMessage { attributes: chain(*name, *base, comment) })
            }
            Self::AddRule { chain, rule } => NfTablesMessage::NewRule(RuleMessage {
                attributes: vec![
                    RuleAttribute::Table(TABLE.into()),
                    RuleAttribute::Chain(chain.as_str().into()),
                    RuleAttribute::Expressions(expressions::of_rule(rule)),
                    RuleAttribute::UserData(userdata::rule_comment(&rule.comment())),
                ],
            }),
            Self::AddSet { set, id } => {
                NfTablesMessage::NewSet(SetMessage { attributes: sets::declaration(*set, *id) })
            }
            Self::Elements { verb, elements } => elements::message(*verb, elements),
        })
    }
}

fn chain(name: ChainName, base: Option<Base>, comment: &str) -> Vec<ChainAttribute> {
    let mut attributes = vec![ChainAttribute::Table(TABLE.into()), ChainAttribute::Name(name.as_str().into())];
    if let Some(Base { kind, hook, priority }) = base {
        let hook = match hook {
            Hook::Prerouting => InetHookNumber::PreRouting,
            Hook::Forward => InetHookNumber::Forward,
            Hook::Output => InetHookNumber::LocalOut,
            Hook::Postrouting => InetHookNumber::PostRouting,
        };
        let number = HookAttribute::Number(HookNumber::Inet(hook));
        // Priorities are signed; the attribute carries their two's complement.
        attributes.push(ChainAttribute::Hook(vec![number, HookAttribute::Priority(priority.cast_unsigned())]));
        attributes.push(ChainAttribute::Policy(super::ACCEPT));
        let kind = match kind {
            ChainKind::Nat => "nat",
            ChainKind::Filter => "filter",
        };
        attributes.push(ChainAttribute::Type(kind.into()));
    }
    attributes.push(ChainAttribute::UserData(userdata::chain_comment(comment)));
    attributes
}

pub(super) fn inet(message: NfTablesMessage) -> NetfilterMessage {
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0), message)
}

fn control(message: ControlMessage) -> NetfilterMessage {
    let subsystem = u16::from(u8::from(NetfilterSubsystem::NfTables));
    NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, subsystem), message)
}
