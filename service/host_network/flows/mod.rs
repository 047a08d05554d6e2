//! Connections that go to a unikernel, as conntrack has them.

mod census;
mod events;
mod filter;
mod flow;
mod lists;
mod select;

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::sync::Mutex;
use tracing::debug;

pub use census::{Census, Listed};
pub use events::{EventsWaiter, FlowChange, FlowEvents, FlowNews, events_enabled};
use flow::Flow;
pub use flow::{FlowId, FlowKey};
pub use lists::FlowLists;

use self::select::Criteria;
use super::netlink::{Channel, Mute, Sending};
use super::{Error, kernel};
use crate::domain::FlowSelector;

/// NFNLGRP_CONNTRACK_EXP_DESTROY: the end of an expected connection (those of FTP and its like), which comes next to
/// never. Any group of ctnetlink would do.
const QUIET_GROUP: u32 = 6;

const OBJECT: &str = "the host's connections";

/// How many deletions by the kernel's own selection cost less than one list of all flows, by which softirqs wait.
const FEW_SELECTORS: usize = 128;

const GET: u8 = 1; // IPCTNL_MSG_CT_GET
const DELETE: u8 = 2; // IPCTNL_MSG_CT_DELETE

/// How flows are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// By the kernel, which selects them by a filter.
    ByFilter,
    /// One after the other, as a list of all flows shows them.
    OneByOne,
}

impl Deletion {
    /// What this kernel can do. With the feature `fault-injection`, `ALBATROSS_DEPLOYER_CONNTRACK=list` says otherwise.
    pub fn here() -> Self {
        let refused = cfg!(feature = "fault-injection")
            && std::env::var_os("ALBATROSS_DEPLOYER_CONNTRACK").is_some_and(|how| how == "list");
        if !refused && kernel::is_at_least(6, 12) { Self::ByFilter } else { Self::OneByOne }
    }
}

#[derive(Debug)]
pub struct Flows {
    channel: Mutex<Channel>,
    deletion: Deletion,
    /// Of a flow that began while nobody listened to any group of ctnetlink, the kernel never tells
    /// (`nf_conntrack_events` is 2, automatic, by default). This one makes it tell whoever listens later.
    _listener: Mute,
}

impl Flows {
    /// The end of every flow that begins from now on is told by [`FlowEvents`], for as long as this lives.
    pub fn open() -> Result<Self, Error> {
        Self::open_with(Deletion::here())
    }

    /// The same, without asking what the kernel can do.
    pub fn open_with(deletion: Deletion) -> Result<Self, Error> {
        let _listener = Mute::open(NETLINK_NETFILTER, QUIET_GROUP)?;
        Ok(Self { channel: Mutex::new(Channel::open(NETLINK_NETFILTER)?), deletion, _listener })
    }

    /// Deletes what `selector` selects: the next packet of such a flow is judged by the rules anew. All other flows stay.
    pub async fn delete(&self, selector: &FlowSelector) -> Result<(), Error> {
        let criteria = Criteria::of(selector);
        let mut channel = self.channel.lock().await;
        if self.deletion == Deletion::OneByOne {
            return delete_one_by_one(&mut channel, &[criteria]).await;
        }
        let message = ConntrackMessage::Other { message_type: DELETE, attributes: criteria.attributes() };
        let request = self::message(criteria.family(), message);
        channel.execute(Sending::Apart, OBJECT, request, 0).await
    }

    /// Deletes these, each of which the kernel looks up in its hash table: 2 µs each. What has ended already is no error.
    pub async fn delete_listed(&self, flows: &[Listed]) -> Result<(), Error> {
        lists::delete_each(&mut *self.channel.lock().await, flows).await
    }

    /// [`Flows::delete`] of each, also where one is refused; the first error. The kernel goes through its table once for each of a few, and of many the flows are listed
    /// once and deleted one by one.
    pub async fn delete_all(&self, selectors: &[FlowSelector]) -> Result<(), Error> {
        if selectors.is_empty() {
            return Ok(());
        }
        if self.deletion == Deletion::OneByOne || selectors.len() > FEW_SELECTORS {
            let criteria = selectors.iter().map(Criteria::of).collect::<Vec<_>>();
            return delete_one_by_one(&mut *self.channel.lock().await, &criteria).await;
        }
        let mut outcome = Ok(());
        for selector in selectors {
            // What one is refused for need not be so for the others.
            outcome = outcome.and(self.delete(selector).await);
        }
        outcome
    }
}

/// Lists the flows that any of `criteria` selects, and deletes them.
async fn delete_one_by_one(channel: &mut Channel, criteria: &[Criteria]) -> Result<(), Error> {
    let families = criteria.iter().filter_map(Criteria::family).map(|address| (address.is_ipv4(), address));
    for (_, address) in families.collect::<BTreeMap<_, _>>() {
        // The kernel filters since 5.8; what an older one lists besides is left out here.
        let attributes = if let [only] = criteria { only.attributes() } else { Vec::new() };
        let wanted = |flow: &Flow| criteria.iter().any(|criteria| criteria.matches(flow));
        for flow in dump(channel, address, attributes, wanted).await? {
            let object = format!("a flow to {}", flow.target);
            let request = message(Some(address), ConntrackMessage::Delete(flow.identity));
            match channel.execute(Sending::Here, &object, request, 0).await {
                Ok(()) => {}
                // It has ended by itself in the meantime.
                Err(Error::Refused { errno, .. }) if errno.is_of_nothing() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// The flows of `of`'s family that the kernel lists and that are wanted.
async fn dump(
    channel: &mut Channel,
    of: IpAddr,
    attributes: Vec<DefaultNla>,
    wanted: impl Fn(&Flow) -> bool,
) -> Result<Vec<Flow>, Error> {
    debug!("walking conntrack");
    let request = message(Some(of), ConntrackMessage::Other { message_type: GET, attributes });
    channel.dump(Sending::Apart, OBJECT, request, |frame| Ok(Flow::parse(frame).filter(&wanted))).await
}

fn message(of: Option<IpAddr>, message: ConntrackMessage) -> NetfilterMessage {
    let family = match of {
        Some(IpAddr::V4(_)) => NetfilterProtoFamily::IPv4,
        Some(IpAddr::V6(_)) => NetfilterProtoFamily::IPv6,
        None => NetfilterProtoFamily::Unspec,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}
