//! One entry of conntrack.

use std::net::IpAddr;

use netlink_packet_core::{Nla, ParseableParametrized};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};

use super::super::netlink::Frame;

pub const ID: u16 = 12; // CTA_ID

/// Whether a TCP connection in this state is over, though conntrack remembers it for minutes.
pub fn has_closed(state: u8) -> bool {
    const TIME_WAIT: u8 = 7; // TCP_CONNTRACK_TIME_WAIT
    const CLOSE: u8 = 8; // TCP_CONNTRACK_CLOSE
    matches!(state, TIME_WAIT | CLOSE)
}

/// The kernel's number for an entry of conntrack: the same in lists and in notifications for as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId(pub u32);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Who began it.
    pub source: Option<IpAddr>,
    /// The address that the client sees.
    pub destination: Option<IpAddr>,
    /// Where its answers come from.
    pub target: IpAddr,
    pub protocol: Option<Protocol>,
    /// The destination port that the client sees.
    pub host_port: Option<u16>,
    pub status: Status,
    /// What the kernel finds it by: the tuple as the client sees it, zone and id.
    pub identity: Vec<ConntrackAttribute>,
}

impl Flow {
    pub fn parse(frame: &Frame<'_>) -> Option<Self> {
        const ZONE: u16 = 18; // CTA_ZONE
        let message = NetfilterMessage::parse_with_param(frame.payload, frame.kind).ok()?;
        let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes) | ConntrackMessage::Delete(attributes)) =
            message.inner
        else {
            return None;
        };
        let (mut source, mut destination, mut target) = (None, None, None);
        let (mut protocol, mut host_port, mut status) = (None, None, Status::empty());
        for attribute in &attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => {
                    (protocol, host_port) = protocol_and_port(tuple);
                    (source, destination) = addresses(tuple);
                }
                ConntrackAttribute::CtaTupleReply(tuple) => (target, _) = addresses(tuple),
                ConntrackAttribute::CtaStatus(flags) => status = *flags,
                _ => {}
            }
        }
        let identity = attributes.into_iter().filter(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(_) => true,
            ConntrackAttribute::Other(nla) => matches!(nla.kind(), ID | ZONE),
            _ => false,
        });
        Some(Self { source, destination, target: target?, protocol, host_port, status, identity: identity.collect() })
    }
}

/// Source and destination.
fn addresses(tuple: &[Tuple]) -> (Option<IpAddr>, Option<IpAddr>) {
    let parts = tuple.iter().filter_map(|part| if let Tuple::Ip(addresses) = part { Some(addresses) } else { None });
    let (mut source, mut destination) = (None, None);
    for address in parts.flatten() {
        match address {
            IPTuple::SourceAddress(address) => source = Some(*address),
            IPTuple::DestinationAddress(address) => destination = Some(*address),
            _ => {}
        }
    }
    (source, destination)
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
