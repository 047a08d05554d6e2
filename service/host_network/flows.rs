//! Connections that go to a unikernel, as conntrack has them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, Nla, ParseableParametrized};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::Error;
use super::netlink::{Channel, Frame, Heard, Subscription, frames};

/// NFNLGRP_CONNTRACK_UPDATE (a TCP connection that closes changes its state long before it is forgotten) and
/// NFNLGRP_CONNTRACK_DESTROY.
const GROUPS: [u32; 2] = [2, 3];

/// Unless somebody listened when it began, the kernel does not tell of a flow (`nf_conntrack_events` is 2, automatic,
/// by default). While something drains, those flows are looked for this often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Flows end in bunches; after news of one, the rest of the bunch is waited for before all are counted.
const SETTLE: Duration = Duration::from_millis(20);

const OBJECT: &str = "the host's connections";

#[derive(Debug)]
pub struct Flows {
    channel: Mutex<Channel>,
}

impl Flows {
    pub fn open() -> Result<Self, Error> {
        Ok(Self { channel: Mutex::new(Channel::open(NETLINK_NETFILTER)?) })
    }

    /// Deletes the UDP flows to `target` that came to one of `host_ports`, so that their next packet is redirected
    /// anew. All others stay: those of another port or target, and those that were not redirected. Returns how many.
    pub async fn delete_udp(&self, target: IpAddr, host_ports: &BTreeSet<u16>) -> Result<usize, Error> {
        let mut channel = self.channel.lock().await;
        let stale = |flow: &Flow| flow.host_port.is_some_and(|port| host_ports.contains(&port));
        let mut deleted = 0;
        for flow in redirected(&mut channel, target, Some(Protocol::Udp)).await?.into_iter().filter(stale) {
            let object = format!("udp flow to {target}");
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

    /// How many redirected connections to `target` are alive: TCP until it has closed, UDP until it times out.
    pub async fn count(&self, target: IpAddr) -> Result<u32, Error> {
        let flows = redirected(&mut *self.channel.lock().await, target, None).await?;
        Ok(u32::try_from(flows.iter().filter(|flow| flow.alive).count()).unwrap_or(u32::MAX))
    }

    /// Waits until no redirected connection to `target` is alive, but no longer than `until`. Whether none is.
    pub async fn drained(&self, target: IpAddr, until: Instant) -> Result<bool, Error> {
        // Listens before it counts.
        let mut subscription = Subscription::open(NETLINK_NETFILTER, &GROUPS)?;
        loop {
            if self.count(target).await? == 0 {
                return Ok(true);
            }
            let look_again = (Instant::now() + LOOK_AGAIN).min(until);
            match timeout_at(look_again, news_of(&mut subscription, target)).await {
                Ok(heard) => heard?,
                Err(_) if look_again == until => return Ok(self.count(target).await? == 0),
                Err(_) => continue,
            }
            // Errors and more news are the next round's.
            let settled = (Instant::now() + SETTLE).min(until);
            let _ = timeout_at(settled, async { while news_of(&mut subscription, target).await.is_ok() {} }).await;
        }
    }
}

/// Waits for a flow to `target` to change or end.
async fn news_of(subscription: &mut Subscription, target: IpAddr) -> Result<(), Error> {
    loop {
        match subscription.next("notifications of connections").await? {
            Heard::Lost => return Ok(()),
            Heard::Datagram(datagram) => {
                let ours = |frame: Frame<'_>| Flow::parse(&frame).is_some_and(|flow| flow.target == target);
                if frames(datagram).any(ours) {
                    return Ok(());
                }
            }
        }
    }
}

/// The flows to `target` whose destination was translated.
async fn redirected(channel: &mut Channel, target: IpAddr, protocol: Option<Protocol>) -> Result<Vec<Flow>, Error> {
    const GET: u8 = 1; // IPCTNL_MSG_CT_GET
    let attributes = filter(target, protocol);
    let request = message(target, ConntrackMessage::Other { message_type: GET, attributes });
    // The kernel filters since 5.8; what an older one lists besides is left out here.
    let wanted = |flow: &Flow| {
        flow.target == target && flow.redirected && protocol.is_none_or(|protocol| flow.protocol == Some(protocol))
    };
    channel.dump(OBJECT, request, |frame| Ok(Flow::parse(frame).filter(wanted))).await
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

/// One entry of conntrack.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flow {
    /// Where its answers come from.
    target: IpAddr,
    protocol: Option<Protocol>,
    /// The destination port that the client sees.
    host_port: Option<u16>,
    redirected: bool,
    alive: bool,
    /// What the kernel finds it by: the tuple as the client sees it, zone and id.
    identity: Vec<ConntrackAttribute>,
}

impl Flow {
    fn parse(frame: &Frame<'_>) -> Option<Self> {
        const ID: u16 = 12; // CTA_ID
        const ZONE: u16 = 18; // CTA_ZONE
        let message = NetfilterMessage::parse_with_param(frame.payload, frame.kind).ok()?;
        let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes) | ConntrackMessage::Delete(attributes)) =
            message.inner
        else {
            return None;
        };
        let mut target = None;
        let (mut protocol, mut host_port, mut redirected, mut alive) = (None, None, false, true);
        for attribute in &attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => (protocol, host_port) = protocol_and_port(tuple),
                ConntrackAttribute::CtaTupleReply(tuple) => target = source(tuple),
                ConntrackAttribute::CtaStatus(status) => redirected = status.contains(Status::DstNat),
                ConntrackAttribute::CtaProtoInfo(info) => alive = !has_closed(info),
                _ => {}
            }
        }
        let identity = attributes.into_iter().filter(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(_) => true,
            ConntrackAttribute::Other(nla) => matches!(nla.kind(), ID | ZONE),
            _ => false,
        });
        Some(Self { target: target?, protocol, host_port, redirected, alive, identity: identity.collect() })
    }
}

fn source(tuple: &[Tuple]) -> Option<IpAddr> {
    tuple.iter().find_map(|part| match part {
        Tuple::Ip(addresses) => addresses.iter().find_map(|address| match address {
            IPTuple::SourceAddress(address) => Some(*address),
            _ => None,
        }),
        _ => None,
    })
}

fn protocol_and_port(tuple: &[Tuple]) -> (Option<Protocol>, Option<u16>) {
    let parts = tuple.iter().filter_map(|part| if let Tuple::Proto(parts) = part { Some(parts) } else { None });
    let (mut protocol, mut port) = (None, None);
    for part in parts.flatten() {
        match part {
            ProtoTuple::Protocol(number) => protocol = Some(*number),
            ProtoTuple::DestinationPort(number) => port = Some(*number),
            _ => {}
        }
    }
    (protocol, port)
}

fn has_closed(info: &[ProtoInfo]) -> bool {
    const TIME_WAIT: u8 = 7; // TCP_CONNTRACK_TIME_WAIT
    const CLOSE: u8 = 8; // TCP_CONNTRACK_CLOSE
    let tcp = info.iter().filter_map(|info| if let ProtoInfo::TCP(parts) = info { Some(parts) } else { None });
    tcp.flatten().any(|part| matches!(part, ProtoInfoTCP::State(TIME_WAIT | CLOSE)))
}
