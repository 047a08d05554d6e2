//! Deleting flows by what they are: the kernel selects and deletes within one request.
//!
//! Linux takes a filter with a deletion from 6.12 on (a dump takes it since 5.8). It passes over empty buckets, holds the
//! lock of one bucket at a time and leaves softirqs on. A dump instead walks every bucket with softirqs off: 10 to 14 ms on
//! a host with 262,144 buckets, however few flows there are. A kernel before 6.12 refuses the filter's incomplete tuple
//! with EINVAL, so nothing else is ever deleted by mistake; it is told by its release and never tried.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, Nla};
use netlink_packet_netfilter::conntrack::{IPTuple, ProtoTuple, Protocol, Status, Tuple};

use super::flow::Flow;
use crate::domain::{FlowSelector, Transport};

/// What a flow has to have to be selected; `None`: anything.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Criteria {
    original: Side,
    reply: Side,
    transport: Option<Transport>,
    status: Option<StatusBits>,
}

/// One direction of a flow.
#[derive(Debug, Clone, Copy, Default)]
struct Side {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    destination_port: Option<u16>,
}

/// The bits of `mask` in a flow's status are those of `value`.
#[derive(Debug, Clone, Copy)]
struct StatusBits {
    mask: Status,
    value: Status,
}

impl Criteria {
    pub fn of(selector: &FlowSelector) -> Self {
        let redirected = StatusBits { mask: Status::DstNat, value: Status::DstNat };
        match *selector {
            FlowSelector::RedirectedUdp { target, host_port } => Self {
                original: Side { destination_port: host_port, ..Side::default() },
                reply: Side { source: Some(target), ..Side::default() },
                transport: Some(Transport::Udp),
                status: Some(redirected),
            },
            FlowSelector::Unanswered { target } => Self {
                reply: Side { source: Some(target), ..Side::default() },
                transport: Some(Transport::Tcp),
                status: Some(StatusBits { mask: Status::DstNat | Status::SeenReply, value: Status::DstNat }),
                ..Self::default()
            },
            FlowSelector::To { address } => {
                Self { reply: Side { source: Some(address), ..Side::default() }, ..Self::default() }
            }
            FlowSelector::From { address } => {
                Self { original: Side { source: Some(address), ..Side::default() }, ..Self::default() }
            }
            FlowSelector::NotRedirected { address, transport, port } => Self {
                original: Side { source: None, destination: Some(address), destination_port: Some(port) },
                reply: Side::default(),
                transport: Some(transport),
                status: Some(match transport {
                    Transport::Udp => StatusBits { mask: Status::DstNat, value: Status::empty() },
                    Transport::Tcp => StatusBits { mask: Status::DstNat | Status::SeenReply, value: Status::empty() },
                }),
            },
        }
    }

    /// The family of its addresses: every selector names one.
    pub fn family(&self) -> Option<IpAddr> {
        self.original.source.or(self.original.destination).or(self.reply.source)
    }

    /// Whether a listed flow is selected.
    pub fn matches(&self, flow: &Flow) -> bool {
        let protocol = self.transport.is_none_or(|transport| flow.protocol == Some(protocol(transport)));
        let status = self.status.is_none_or(|StatusBits { mask, value }| flow.status & mask == value);
        protocol
            && status
            && self.original.source.is_none_or(|source| flow.source == Some(source))
            && self.original.destination.is_none_or(|destination| flow.destination == Some(destination))
            && self.original.destination_port.is_none_or(|port| flow.host_port == Some(port))
            && self.reply.source.is_none_or(|source| flow.target == source)
    }

    /// The attributes of a request that selects in the kernel.
    ///
    /// Untyped, for the typed attributes lose the mark of an attribute that holds others, and the kernel insists on it here.
    pub fn attributes(&self) -> Vec<DefaultNla> {
        const ORIGINAL: u16 = 1; // CTA_TUPLE_ORIG
        const REPLY: u16 = 2;
        const STATUS: u16 = 3;
        const FILTER: u16 = 25;
        const STATUS_MASK: u16 = 26;
        const ORIGINAL_FLAGS: u16 = 1; // CTA_FILTER_ORIG_FLAGS
        const REPLY_FLAGS: u16 = 2;
        let (mut attributes, mut flags) = (Vec::new(), Vec::new());
        for (kind, flags_kind, side) in [(ORIGINAL, ORIGINAL_FLAGS, &self.original), (REPLY, REPLY_FLAGS, &self.reply)]
        {
            let (tuple, by) = self.tuple(side);
            if by != 0 {
                attributes.push(nested(kind, &tuple));
                flags.push(DefaultNla::new(flags_kind, by.to_ne_bytes().to_vec()));
            }
        }
        if let Some(StatusBits { mask, value }) = self.status {
            attributes.push(DefaultNla::new(STATUS, value.bits().to_be_bytes().to_vec()));
            attributes.push(DefaultNla::new(STATUS_MASK, mask.bits().to_be_bytes().to_vec()));
        }
        attributes.push(nested(FILTER, &flags));
        attributes
    }

    /// The tuple of one direction, and the flags that say what of it counts; 0 where nothing does.
    fn tuple(&self, side: &Side) -> (Vec<Tuple>, u32) {
        const BY_SOURCE: u32 = 1 << 0; // CTA_FILTER_F_CTA_IP_SRC
        const BY_DESTINATION: u32 = 1 << 1;
        const BY_PROTOCOL: u32 = 1 << 3;
        const BY_DESTINATION_PORT: u32 = 1 << 5;
        let (mut addresses, mut parts, mut by) = (Vec::new(), Vec::new(), 0);
        if let Some(source) = side.source {
            addresses.push(IPTuple::SourceAddress(source));
            by |= BY_SOURCE;
        }
        if let Some(destination) = side.destination {
            addresses.push(IPTuple::DestinationAddress(destination));
            by |= BY_DESTINATION;
        }
        // A port can only be compared together with its protocol.
        if let Some(transport) = self.transport.filter(|_| by != 0 || side.destination_port.is_some()) {
            parts.push(ProtoTuple::Protocol(protocol(transport)));
            by |= BY_PROTOCOL;
        }
        if let Some(port) = side.destination_port {
            parts.push(ProtoTuple::DestinationPort(port));
            by |= BY_DESTINATION_PORT;
        }
        let mut tuple = Vec::new();
        if !addresses.is_empty() {
            tuple.push(Tuple::Ip(addresses));
        }
        if !parts.is_empty() {
            tuple.push(Tuple::Proto(parts));
        }
        (tuple, by)
    }
}

fn protocol(transport: Transport) -> Protocol {
    match transport {
        Transport::Tcp => Protocol::Tcp,
        Transport::Udp => Protocol::Udp,
    }
}

fn nested<T: Nla>(kind: u16, attributes: &[T]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}
