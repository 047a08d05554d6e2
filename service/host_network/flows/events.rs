//! What conntrack tells of the host's connections.

use std::collections::VecDeque;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::super::Error;
use super::super::attributes::Attributes;
use super::super::netlink::{Frame, Heard, Subscription, frames};

/// NFNLGRP_CONNTRACK_UPDATE (a TCP connection that closes changes its state long before it is forgotten) and
/// NFNLGRP_CONNTRACK_DESTROY.
const GROUPS: [u32; 2] = [2, 3];

/// Some thousand notifications. They are of all connections of the host, and come faster than anybody should read them
/// on a busy one: beyond this they are lost, and a count is cheaper.
const RECEIVE_BUFFER: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowNews {
    /// A flow that is answered from this address has changed or ended.
    Of(IpAddr),
    /// More happened than could be kept: count afresh.
    Lost,
}

/// The events, from the moment of [`Self::open`] on, of flows that began while somebody listened: see
/// [`super::Flows::open`].
#[derive(Debug)]
pub struct FlowEvents {
    subscription: Subscription,
    /// Of a datagram that told of several.
    pending: VecDeque<IpAddr>,
}

impl FlowEvents {
    /// To close it makes the kernel wait for what nftables has still to destroy: drop it where that may take its time.
    pub fn open() -> Result<Self, Error> {
        Self::with_buffer(RECEIVE_BUFFER)
    }

    /// With room for `bytes` of notifications that nobody has read yet.
    pub fn with_buffer(bytes: usize) -> Result<Self, Error> {
        let subscription = Subscription::with_buffer(NETLINK_NETFILTER, &GROUPS, bytes)?;
        Ok(Self { subscription, pending: VecDeque::new() })
    }

    /// Waits for the next. May be dropped while it waits: nothing gets lost.
    pub async fn next(&mut self) -> Result<FlowNews, Error> {
        loop {
            if let Some(target) = self.pending.pop_front() {
                return Ok(FlowNews::Of(target));
            }
            match self.subscription.next("notifications of connections").await? {
                Heard::Lost => return Ok(FlowNews::Lost),
                Heard::Datagram(datagram) => self.pending.extend(frames(datagram).filter_map(|frame| target(&frame))),
            }
        }
    }
}

/// Where the answers of the flow come from. No more of it is read: there are several events of every connection.
fn target(frame: &Frame<'_>) -> Option<IpAddr> {
    const HEADER: usize = 4; // struct nfgenmsg
    const REPLY: u16 = 2; // CTA_TUPLE_REPLY
    const IP: u16 = 1; // CTA_TUPLE_IP
    const V4_SOURCE: u16 = 1; // CTA_IP_V4_SRC
    const V6_SOURCE: u16 = 3; // CTA_IP_V6_SRC
    let addresses = Attributes::after(HEADER, frame.payload).nested(REPLY)?.nested(IP)?;
    let v4 = || Some(IpAddr::from(<[u8; 4]>::try_from(addresses.bytes(V4_SOURCE)?).ok()?));
    let v6 = || Some(IpAddr::from(<[u8; 16]>::try_from(addresses.bytes(V6_SOURCE)?).ok()?));
    v4().or_else(v6)
}
