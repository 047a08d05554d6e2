//! What conntrack tells of the host's connections.

use std::collections::VecDeque;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::super::Error;
use super::super::attributes::Attributes;
use super::super::netlink::{Frame, Heard, Mailbox, frames};

/// NFNLGRP_CONNTRACK_UPDATE (a TCP connection that closes changes its state long before it is forgotten) and
/// NFNLGRP_CONNTRACK_DESTROY.
const GROUPS: [u32; 2] = [2, 3];

/// Some thousand notifications. They are of all connections of the host, and come faster than anybody should read them
/// on a busy one: beyond this they are lost, and a count is cheaper.
const ROOM: usize = 1 << 20;

const OBJECT: &str = "notifications of connections";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowNews {
    /// A flow that is answered from this address has changed or ended.
    Of(IpAddr),
    /// More happened than could be kept: count afresh.
    Lost,
}

/// The events, from the moment of [`Self::open`] on, of flows that began while somebody listened: see
/// [`super::Flows::open`]. They come by the thousand on a busy host: wait for the first, leave the others time to come,
/// and read them together.
#[derive(Debug)]
pub struct FlowEvents {
    mailbox: Mailbox,
    /// Of a datagram that told of several.
    pending: VecDeque<IpAddr>,
}

impl FlowEvents {
    /// To close it makes the kernel wait for what nftables has still to destroy: drop it where that may take its time.
    pub fn open() -> Result<Self, Error> {
        Self::with_room(ROOM)
    }

    /// With room for `bytes` of notifications that nobody has read yet.
    pub fn with_room(bytes: usize) -> Result<Self, Error> {
        Ok(Self { mailbox: Mailbox::open(NETLINK_NETFILTER, &GROUPS, bytes)?, pending: VecDeque::new() })
    }

    /// Until there is something to read. What is told while nobody waits wakes nobody.
    pub async fn wait(&self) -> Result<(), Error> {
        if self.pending.is_empty() { self.mailbox.wait(OBJECT).await } else { Ok(()) }
    }

    /// The next, where there is one.
    pub fn read(&mut self) -> Result<Option<FlowNews>, Error> {
        loop {
            if let Some(target) = self.pending.pop_front() {
                return Ok(Some(FlowNews::Of(target)));
            }
            match self.mailbox.take(OBJECT)? {
                None => return Ok(None),
                Some(Heard::Lost) => return Ok(Some(FlowNews::Lost)),
                Some(Heard::Datagram(datagram)) => {
                    self.pending.extend(frames(datagram).filter_map(|frame| target(&frame)));
                }
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
