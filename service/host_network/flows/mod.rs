//! Connections that go to a unikernel, as conntrack has them.

mod census;
mod events;
mod filter;
mod flow;
mod lists;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, Nla};
use netlink_packet_netfilter::conntrack::{ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::sync::Mutex;

pub use census::{Census, Listed};
pub use events::{EventsWaiter, FlowChange, FlowEvents, FlowNews, events_enabled};
use flow::Flow;
pub use flow::FlowId;
pub use lists::FlowLists;

use super::Error;
use super::netlink::{Channel, Mute, Sending};

/// NFNLGRP_CONNTRACK_EXP_DESTROY: the end of an expected connection (those of FTP and its like), which comes next to
/// never. Any group of ctnetlink would do.
const QUIET_GROUP: u32 = 6;

const OBJECT: &str = "the host's connections";

/// How many targets are asked for one by one: each time the kernel goes through all of its table.
const FEW: usize = 2;

#[derive(Debug)]
pub struct Flows {
    /// To count takes the kernel long, and a switch does not wait for it.
    counting: Mutex<Channel>,
    deleting: Mutex<Channel>,
    /// Of a flow that began while nobody listened to any group of ctnetlink, the kernel never tells
    /// (`nf_conntrack_events` is 2, automatic, by default). This one makes it tell whoever listens later.
    _listener: Mute,
}

impl Flows {
    /// The end of every flow that begins from now on is told by [`FlowEvents`], for as long as this lives.
    pub fn open() -> Result<Self, Error> {
        let _listener = Mute::open(NETLINK_NETFILTER, QUIET_GROUP)?;
        let channel = || Channel::open(NETLINK_NETFILTER).map(Mutex::new);
        Ok(Self { counting: channel()?, deleting: channel()?, _listener })
    }

    /// Deletes the UDP flows to `target` that came to one of `host_ports`, so that their next packet is redirected
    /// anew. All others stay: those of another port or target, and those that were not redirected. Returns how many.
    pub async fn delete_udp(&self, target: IpAddr, host_ports: &BTreeSet<u16>) -> Result<usize, Error> {
        let stale = |flow: &Flow| flow.host_port.is_some_and(|port| host_ports.contains(&port));
        self.delete(target, Protocol::Udp, stale).await
    }

    /// Deletes the TCP flows to `target` that no answer has come to yet, so that the client's next attempt is redirected
    /// anew: it would go to `target` for as long as the client tries. Those that were answered stay. Returns how many.
    pub async fn delete_half_open(&self, target: IpAddr) -> Result<usize, Error> {
        self.delete(target, Protocol::Tcp, |flow| flow.half_open).await
    }

    async fn delete(&self, target: IpAddr, protocol: Protocol, which: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
        let mut channel = self.deleting.lock().await;
        let mut deleted = 0;
        for flow in redirected(&mut channel, target, Some(protocol)).await?.into_iter().filter(which) {
            let object = format!("{protocol:?} flow to {target}");
            let request = message(target, ConntrackMessage::Delete(flow.identity));
            match channel.execute(&object, request, 0).await {
                Ok(()) => deleted += 1,
                // It has ended by itself in the meantime.
                Err(Error::Refused { errno, .. }) if errno.name() == Some("ENOENT") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(deleted)
    }

    /// The redirected connections to `target` that are alive: TCP until it has closed, UDP until it times out. The
    /// kernel goes through all connections of the host for that.
    pub async fn alive(&self, target: IpAddr) -> Result<BTreeSet<FlowId>, Error> {
        let flows = redirected(&mut *self.counting.lock().await, target, None).await?;
        Ok(flows.into_iter().filter(|flow| flow.alive).filter_map(|flow| flow.id).collect())
    }

    /// [`Flows::alive`] of each. The kernel goes through all connections once for a few of them, and not for each: of
    /// more than that it lists all connections, and those of others are left out here.
    pub async fn alive_of(&self, targets: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, BTreeSet<FlowId>>, Error> {
        let mut alive = targets.iter().map(|target| (*target, BTreeSet::new())).collect::<BTreeMap<_, _>>();
        if targets.len() <= FEW {
            for (target, flows) in &mut alive {
                *flows = self.alive(*target).await?;
            }
            return Ok(alive);
        }
        let mut channel = self.counting.lock().await;
        for is_ipv4 in [true, false] {
            let Some(one) = targets.iter().find(|target| target.is_ipv4() == is_ipv4) else { continue };
            let wanted = |flow: &Flow| flow.redirected && flow.alive && targets.contains(&flow.target);
            for flow in dump(&mut channel, *one, Vec::new(), wanted).await? {
                let of_it = alive.entry(flow.target).or_default();
                of_it.extend(flow.id);
            }
        }
        Ok(alive)
    }

    /// How many they are.
    pub async fn count(&self, target: IpAddr) -> Result<u32, Error> {
        Ok(u32::try_from(self.alive(target).await?.len()).unwrap_or(u32::MAX))
    }
}

/// The flows to `target` whose destination was translated.
async fn redirected(channel: &mut Channel, target: IpAddr, protocol: Option<Protocol>) -> Result<Vec<Flow>, Error> {
    // The kernel filters since 5.8; what an older one lists besides is left out here.
    let wanted = |flow: &Flow| {
        flow.target == target && flow.redirected && protocol.is_none_or(|protocol| flow.protocol == Some(protocol))
    };
    dump(channel, target, filter(target, protocol), wanted).await
}

/// The flows of `of`'s family that the kernel lists and that are wanted.
async fn dump(
    channel: &mut Channel,
    of: IpAddr,
    attributes: Vec<DefaultNla>,
    wanted: impl Fn(&Flow) -> bool,
) -> Result<Vec<Flow>, Error> {
    const GET: u8 = 1; // IPCTNL_MSG_CT_GET
    let request = message(of, ConntrackMessage::Other { message_type: GET, attributes });
    channel.dump(Sending::Apart, OBJECT, request, |frame| Ok(Flow::parse(frame).filter(&wanted))).await
}

fn message(target: IpAddr, message: ConntrackMessage) -> NetfilterMessage {
    let family = if target.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}

/// A flow whose answers come from `target`.
///
/// Untyped, for the typed attributes lose the mark of an attribute that holds others, and the kernel insists on it here.
fn filter(target: IpAddr, protocol: Option<Protocol>) -> Vec<DefaultNla> {
    const REPLY: u16 = 2; // CTA_TUPLE_REPLY
    const FILTER: u16 = 25; // CTA_FILTER
    const REPLY_FLAGS: u16 = 2; // CTA_FILTER_REPLY_FLAGS
    const BY_SOURCE: u32 = 1 << 0; // CTA_FILTER_F_CTA_IP_SRC
    const BY_PROTOCOL: u32 = 1 << 3; // CTA_FILTER_F_CTA_PROTO_NUM
    let mut tuple = vec![Tuple::Ip(vec![IPTuple::SourceAddress(target)])];
    let mut by = BY_SOURCE;
    if let Some(protocol) = protocol {
        tuple.push(Tuple::Proto(vec![ProtoTuple::Protocol(protocol)]));
        by |= BY_PROTOCOL;
    }
    vec![nested(REPLY, &tuple), nested(FILTER, &[DefaultNla::new(REPLY_FLAGS, by.to_ne_bytes().to_vec())])]
}

fn nested<T: Nla>(kind: u16, attributes: &[T]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}
