//! One entry of conntrack.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Nla, ParseableParametrized};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};

use super::super::netlink::Frame;

pub const ID: u16 = 12; // CTA_ID
const SYN_SENT: u8 = 1; // TCP_CONNTRACK_SYN_SENT

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
    pub id: Option<FlowId>,
    /// Where its answers come from.
    pub target: IpAddr,
    pub protocol: Option<Protocol>,
    /// The destination port that the client sees.
    pub host_port: Option<u16>,
    pub redirected: bool,
    /// TCP until it has closed, all else until it is forgotten.
    pub alive: bool,
    /// TCP that no answer has come to yet.
    pub half_open: bool,
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
        let (mut target, mut id) = (None, None);
        let (mut protocol, mut host_port, mut status, mut state) = (None, None, Status::empty(), None);
        for attribute in &attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => (protocol, host_port) = protocol_and_port(tuple),
                ConntrackAttribute::CtaTupleReply(tuple) => target = source(tuple),
                ConntrackAttribute::CtaStatus(flags) => status = *flags,
                ConntrackAttribute::CtaProtoInfo(info) => state = tcp_state(info),
                ConntrackAttribute::Other(nla) if nla.kind() == ID => id = number(nla).map(FlowId),
                _ => {}
            }
        }
        let identity = attributes.into_iter().filter(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(_) => true,
            ConntrackAttribute::Other(nla) => matches!(nla.kind(), ID | ZONE),
            _ => false,
        });
        Some(Self {
            id,
            target: target?,
            protocol,
            host_port,
            redirected: status.contains(Status::DstNat),
            alive: !state.is_some_and(has_closed),
            half_open: state == Some(SYN_SENT) && !status.contains(Status::SeenReply),
            identity: identity.collect(),
        })
    }
}

fn number(attribute: &DefaultNla) -> Option<u32> {
    let mut bytes = [0; 4];
    (attribute.value_len() == bytes.len()).then(|| attribute.emit_value(&mut bytes))?;
    Some(u32::from_be_bytes(bytes))
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

fn tcp_state(info: &[ProtoInfo]) -> Option<u8> {
    let tcp = info.iter().filter_map(|info| if let ProtoInfo::TCP(parts) = info { Some(parts) } else { None });
    tcp.flatten().find_map(|part| if let ProtoInfoTCP::State(state) = part { Some(*state) } else { None })
}
