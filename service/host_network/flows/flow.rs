//! One entry of conntrack.

use std::net::IpAddr;

use netlink_packet_core::{Nla, ParseableParametrized};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};

use super::super::netlink::Frame;

/// TCP_CONNTRACK_SYN_SENT, TCP_CONNTRACK_TIME_WAIT and TCP_CONNTRACK_CLOSE.
const SYN_SENT: u8 = 1;
const TIME_WAIT: u8 = 7;
const CLOSE: u8 = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
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
        const ID: u16 = 12; // CTA_ID
        const ZONE: u16 = 18; // CTA_ZONE
        let message = NetfilterMessage::parse_with_param(frame.payload, frame.kind).ok()?;
        let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes) | ConntrackMessage::Delete(attributes)) =
            message.inner
        else {
            return None;
        };
        let mut target = None;
        let (mut protocol, mut host_port, mut status, mut state) = (None, None, Status::empty(), None);
        for attribute in &attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => (protocol, host_port) = protocol_and_port(tuple),
                ConntrackAttribute::CtaTupleReply(tuple) => target = source(tuple),
                ConntrackAttribute::CtaStatus(flags) => status = *flags,
                ConntrackAttribute::CtaProtoInfo(info) => state = tcp_state(info),
                _ => {}
            }
        }
        let identity = attributes.into_iter().filter(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(_) => true,
            ConntrackAttribute::Other(nla) => matches!(nla.kind(), ID | ZONE),
            _ => false,
        });
        Some(Self {
            target: target?,
            protocol,
            host_port,
            redirected: status.contains(Status::DstNat),
            alive: !matches!(state, Some(TIME_WAIT | CLOSE)),
            half_open: state == Some(SYN_SENT) && !status.contains(Status::SeenReply),
            identity: identity.collect(),
        })
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

fn tcp_state(info: &[ProtoInfo]) -> Option<u8> {
    let tcp = info.iter().filter_map(|info| if let ProtoInfo::TCP(parts) = info { Some(parts) } else { None });
    tcp.flatten().find_map(|part| if let ProtoInfoTCP::State(state) = part { Some(*state) } else { None })
}
