//! The kernel's table as it is: for a start and for a repair. A switch never asks.

use std::time::Duration;

use netlink_packet_netfilter::nftables::{
    ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetElementList, SetElementMessage,
    SetMessage, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use super::super::Error;
use super::super::attributes::Attributes;
use super::super::netlink::{Channel, Frame, Sending};
use super::batch::inet;
use super::{ACCEPT, elements, userdata};
use crate::planning::ruleset::{Elements, Family, SetName, Skeleton, TABLE};

/// Of every message of nfnetlink; its first byte is the family.
pub(super) const GENERIC_HEADER: usize = 4;
// NFTA_*
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USERDATA: u16 = 6;
const TABLE_OWNER: u16 = 7;
/// Of chains, rules, sets and lists of elements alike.
pub(super) const OF_TABLE: u16 = 1;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USERDATA: u16 = 12;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const RULE_CHAIN: u16 = 2;
const RULE_USERDATA: u16 = 7;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_USERDATA: u16 = 13;
const SET_COUNT: u16 = 20;
const SET_ANONYMOUS: u32 = 1;
const DORMANT: u32 = 1;

/// The table itself, without what is in it.
#[derive(Debug)]
pub(super) struct Head {
    comment: String,
    pub flags: u32,
    /// The netlink port that it belongs to.
    pub owner: Option<u32>,
}

/// The static part and the elements of the table with this head; `None` when it cannot be made the wanted one by changes
/// of what is in it.
pub(super) async fn contents(channel: &mut Channel, head: Head) -> Result<Option<(Skeleton, Elements)>, Error> {
    // A table that somebody has made dormant does nothing; making it anew wakes it.
    if head.flags & DORMANT != 0 {
        return Ok(None);
    }
    let mut skeleton = Skeleton { table: head.comment, ..Skeleton::default() };
    let Some(chains) = chains(channel).await? else { return Ok(None) };
    skeleton.chains = chains.into_iter().map(|(name, comment)| (name, vec![comment])).collect();
    for (chain, comment) in rules(channel).await? {
        skeleton.chains.entry(chain).or_default().push(comment);
    }
    let sets = sets(channel).await?;
    let Some(elements) = all_elements(channel, &sets).await? else { return Ok(None) };
    skeleton.sets = sets.into_iter().map(|set| (set.name, set.comment)).collect();
    Ok(Some((skeleton, elements)))
}

pub(super) const OBJECT: &str = "table inet albatross_deployer";

/// `None`: there is no table.
pub(super) async fn head(channel: &mut Channel) -> Result<Option<Head>, Error> {
    let request = inet(NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() }));
    let read = |frame: &Frame<'_>| {
        let attributes = Attributes::after(GENERIC_HEADER, frame.payload);
        let ours = attributes.text(TABLE_NAME) == Some(TABLE);
        Ok(ours.then(|| Head {
            comment: attributes.bytes(TABLE_USERDATA).and_then(userdata::comment).unwrap_or_default(),
            flags: attributes.number_be(TABLE_FLAGS).unwrap_or(0),
            owner: attributes.number_be(TABLE_OWNER),
        }))
    };
    Ok(channel.dump(Sending::Here, OBJECT, request, read).await?.pop())
}

/// `None`: a policy is not accept.
async fn chains(channel: &mut Channel) -> Result<Option<Vec<(String, String)>>, Error> {
    let request = inet(NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }));
    let read = |frame: &Frame<'_>| {
        let attributes = Attributes::after(GENERIC_HEADER, frame.payload);
        if attributes.text(OF_TABLE) != Some(TABLE) {
            return Ok(None);
        }
        let name = attributes.text(CHAIN_NAME).unwrap_or_default().to_owned();
        let comment = attributes.bytes(CHAIN_USERDATA).and_then(userdata::comment).unwrap_or_default();
        let accepts = attributes.number_be(CHAIN_POLICY).is_none_or(|policy| policy == ACCEPT);
        Ok(Some(accepts.then_some((name, comment))))
    };
    Ok(channel.dump(Sending::Here, OBJECT, request, read).await?.into_iter().collect())
}

/// Chain and comment of every rule, in order.
async fn rules(channel: &mut Channel) -> Result<Vec<(String, String)>, Error> {
    let attributes = vec![RuleAttribute::Table(TABLE.into())];
    let request = inet(NfTablesMessage::GetRule(RuleMessage { attributes }));
    let read = |frame: &Frame<'_>| {
        let attributes = Attributes::after(GENERIC_HEADER, frame.payload);
        let chain = attributes.text(RULE_CHAIN).unwrap_or_default().to_owned();
        Ok(Some((chain, attributes.bytes(RULE_USERDATA).and_then(userdata::comment).unwrap_or_default())))
    };
    channel.dump(Sending::Here, OBJECT, request, read).await
}

/// A set or map that has a name of its own.
struct FoundSet {
    name: String,
    comment: String,
    /// How many elements it has, where the kernel tells.
    count: Option<usize>,
}

async fn sets(channel: &mut Channel) -> Result<Vec<FoundSet>, Error> {
    let attributes = vec![SetAttribute::Table(TABLE.into())];
    let request = inet(NfTablesMessage::GetSet(SetMessage { attributes }));
    let read = |frame: &Frame<'_>| {
        let attributes = Attributes::after(GENERIC_HEADER, frame.payload);
        if attributes.number_be(SET_FLAGS).unwrap_or(0) & SET_ANONYMOUS != 0 {
            return Ok(None);
        }
        Ok(Some(FoundSet {
            name: attributes.text(SET_NAME).unwrap_or_default().to_owned(),
            comment: attributes.bytes(SET_USERDATA).and_then(userdata::comment_of_set).unwrap_or_default(),
            count: attributes.number_be(SET_COUNT).and_then(|count| usize::try_from(count).ok()),
        }))
    };
    channel.dump(Sending::Here, OBJECT, request, read).await
}

/// `None`: one of them is none of ours.
async fn all_elements(channel: &mut Channel, found: &[FoundSet]) -> Result<Option<Elements>, Error> {
    let ours = [Family::V4, Family::V6].into_iter().flat_map(SetName::of_family);
    let mut all = Elements::default();
    for set in ours {
        let Some(found) = found.iter().find(|found| found.name == set.to_string() && found.comment == set.comment())
        else {
            continue;
        };
        let Some(elements) = elements_of(channel, set, found.count).await? else { return Ok(None) };
        all.merge(elements);
    }
    Ok(Some(all))
}

/// While a large set grows its hash table, which goes on after the batch that filled it, the kernel leaves out elements
/// of a list and repeats others. So they are counted, and asked for again.
async fn elements_of(channel: &mut Channel, set: SetName, count: Option<usize>) -> Result<Option<Elements>, Error> {
    let attributes = vec![SetElementList::Table(TABLE.into()), SetElementList::Set(set.to_string())];
    let mut attempts = LIST_ATTEMPTS;
    loop {
        let message = SetElementMessage { attributes: attributes.clone() };
        let request = inet(NfTablesMessage::GetSetElement(message));
        // A set without elements is answered by a message without a list.
        let read = |frame: &Frame<'_>| Ok(Some(elements::decode(set, frame.payload)));
        let lists: Option<Vec<_>> =
            channel.dump(Sending::Here, &format!("set {set}"), request, read).await?.into_iter().collect();
        let Some(lists) = lists else { return Ok(None) };
        let elements: Elements = lists.into_iter().flatten().collect();
        attempts -= 1;
        if attempts == 0 || count.is_none_or(|count| count == elements.len()) {
            return Ok(Some(elements));
        }
        tokio::time::sleep(LIST_PAUSE).await;
    }
}

/// How often a set is listed until all of its elements are there.
const LIST_ATTEMPTS: usize = 10;
const LIST_PAUSE: Duration = Duration::from_millis(20);

/// Base chains of other tables that may drop what ours lets through, as `inet filter, chain forward`.
pub(super) async fn interfering_tables(channel: &mut Channel) -> Result<Vec<String>, Error> {
    const LOCAL_IN: u32 = 1;
    const FORWARD: u32 = 2;
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let message = NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() });
    let read = |frame: &Frame<'_>| {
        let attributes = Attributes::after(GENERIC_HEADER, frame.payload);
        let family = match frame.payload.first().copied().map(NetfilterProtoFamily::from) {
            Some(NetfilterProtoFamily::Inet) => "inet",
            Some(NetfilterProtoFamily::IPv4) => "ip",
            Some(NetfilterProtoFamily::IPv6) => "ip6",
            // The hooks of others have other numbers.
            _ => return Ok(None),
        };
        let hook = attributes.nested(CHAIN_HOOK).and_then(|hook| hook.number_be(HOOK_NUMBER));
        let drops = attributes.number_be(CHAIN_POLICY).is_some_and(|policy| policy != ACCEPT);
        if !drops || !matches!(hook, Some(LOCAL_IN | FORWARD)) || attributes.text(OF_TABLE) == Some(TABLE) {
            return Ok(None);
        }
        let (table, chain) = (attributes.text(OF_TABLE), attributes.text(CHAIN_NAME));
        Ok(Some(format!("{family} {}, chain {}", table.unwrap_or("?"), chain.unwrap_or("?"))))
    };
    channel.dump(Sending::Here, "the chains of other tables", NetfilterMessage::new(header, message), read).await
}
