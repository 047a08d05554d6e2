//! One entry of conntrack.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, Nla, ParseableParametrized};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Status, Tuple,
};
use netlink_packet_netfilter::{NetfilterMessage, NetfilterMessageInner};

use super::super::attributes::Attributes;
use super::super::netlink::Frame;

pub const ID: u16 = 12; // CTA_ID
const ORIGINAL: u16 = 1; // CTA_TUPLE_ORIG
const ZONE: u16 = 18; // CTA_ZONE

/// Whether a TCP connection in this state is over, though conntrack remembers it for minutes.
pub fn has_closed(state: u8) -> bool {
    const TIME_WAIT: u8 = 7; // TCP_CONNTRACK_TIME_WAIT
    const CLOSE: u8 = 8; // TCP_CONNTRACK_CLOSE
    matches!(state, TIME_WAIT | CLOSE)
}

/// The kernel's number for an entry of conntrack: the same in lists and in notifications for as long as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId(pub u32);

/// The key of a flow: by it the kernel finds the flow in its hash table, without a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowKey {
    /// The tuple as the client sees it, as the kernel wrote it.
    tuple: Box<[u8]>,
    zone: Option<u16>,
}

impl FlowKey {
    pub(super) fn parse(attributes: Attributes<'_>) -> Option<Self> {
        let tuple = attributes.bytes(ORIGINAL)?.into();
        let zone = attributes.bytes(ZONE).and_then(|zone| zone.try_into().ok()).map(u16::from_be_bytes);
        Some(Self { tuple, zone })
    }

    pub(super) fn attributes(&self) -> impl Iterator<Item = DefaultNla> + use<> {
        let zone = self.zone.map(|zone| DefaultNla::new(ZONE, zone.to_be_bytes().to_vec()));
        std::iter::once(DefaultNla::new(ORIGINAL | NLA_F_NESTED, self.tuple.to_vec())).chain(zone)
    }

    /// A key with this protocol and destination port.
    #[cfg(test)]
    pub(super) fn of(protocol: u8, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        let transport = [5, 0, 1, 0, protocol, 0, 0, 0, 6, 0, 3, 0, high, low, 0, 0];
        // In the byte order of the machine, as netlink has lengths and kinds.
        let number = |bytes: [u8; 2]| u16::from_le_bytes(bytes).to_ne_bytes();
        let mut tuple = [number([20, 0]), number([2, 128])].concat();
        for attribute in transport.chunks(8) {
            tuple.extend([number([attribute[0], attribute[1]]), number([attribute[2], attribute[3]])].concat());
            tuple.extend(&attribute[4..]);
        }
        Self { tuple: tuple.into(), zone: None }
    }

    pub fn is_udp(&self) -> bool {
        const NUMBER: u16 = 1; // CTA_PROTO_NUM
        self.transport().and_then(|transport| transport.bytes(NUMBER)) == Some(&[17]) // IPPROTO_UDP
    }

    /// The destination port that the client sees.
    pub fn host_port(&self) -> Option<u16> {
        const DESTINATION_PORT: u16 = 3; // CTA_PROTO_DST_PORT
        self.transport()?.bytes(DESTINATION_PORT)?.try_into().map(u16::from_be_bytes).ok()
    }

    fn transport(&self) -> Option<Attributes<'_>> {
        const TRANSPORT: u16 = 2; // CTA_TUPLE_PROTO
        Attributes::after(0, &self.tuple).nested(TRANSPORT)
    }
}

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
