//! Who answers for an address on a bridge.

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::time::timeout;

use super::Error;
use super::attributes::Attributes;
use super::links::{Host, index_of};
use super::netlink::{Channel, Frame, Heard, Subscription, frames};
use crate::domain::{MacAddress, NetworkName};

/// RTNLGRP_NEIGH
const GROUP: u32 = 3;
const NEW_NEIGHBOUR: u16 = 28;
const REACHABLE: u16 = 0x02; // NUD_REACHABLE
const FAILED: u16 = 0x20;

impl Host {
    /// Forgets which MAC address an address had: the next unikernel that has it has another.
    pub async fn flush_neighbour(&self, bridge: &NetworkName, address: IpAddr) -> Result<(), Error> {
        let mut channel = self.channel.lock().await;
        let index = index_of(&mut channel, bridge).await?;
        forget(&mut channel, index, address).await
    }

    /// Whether something on the bridge has this address: its MAC address as soon as it answers, `None` when nothing has
    /// after `wait`, or when the kernel has given up asking.
    ///
    /// The kernel asks (ARP, or neighbour solicitation for IPv6), so no raw socket is needed; it asks again after a
    /// second, which a `wait` below that leaves no time for.
    pub async fn answers(
        &self,
        bridge: &NetworkName,
        address: IpAddr,
        wait: Duration,
    ) -> Result<Option<MacAddress>, Error> {
        // Listens before it asks.
        let mut subscription = Subscription::open(NETLINK_ROUTE, &[GROUP])?;
        let index = {
            let mut channel = self.channel.lock().await;
            let index = index_of(&mut channel, bridge).await?;
            // What the kernel knows from before is no answer.
            forget(&mut channel, index, address).await?;
            let mut message = neighbour(index, address);
            message.header.flags = NeighbourFlags::Use;
            let object = format!("neighbour {address} on {bridge}");
            let ask = RouteNetlinkMessage::NewNeighbour(message);
            channel.execute(&object, ask, NLM_F_CREATE | NLM_F_REPLACE).await?;
            index
        };
        let answer = timeout(wait, first_answer(&mut subscription, index, address)).await;
        forget(&mut *self.channel.lock().await, index, address).await?;
        answer.unwrap_or(Ok(None))
    }
}

async fn first_answer(
    subscription: &mut Subscription,
    index: u32,
    address: IpAddr,
) -> Result<Option<MacAddress>, Error> {
    loop {
        // What was lost cannot have been more than the answer: then the time is up without one.
        let Heard::Datagram(datagram) = subscription.next("notifications of neighbours").await? else { continue };
        let news = frames(datagram).filter_map(|frame| news(&frame, index, address));
        for (state, mac) in news {
            if state & REACHABLE != 0 && mac.is_some() {
                return Ok(mac);
            }
            if state & FAILED != 0 {
                return Ok(None);
            }
        }
    }
}

/// State and MAC address, if the message is about this neighbour.
fn news(frame: &Frame<'_>, index: u32, address: IpAddr) -> Option<(u16, Option<MacAddress>)> {
    const HEADER: usize = 12; // struct ndmsg
    const DESTINATION: u16 = 1; // NDA_DST
    const LINK_ADDRESS: u16 = 2; // NDA_LLADDR
    let attributes = Attributes::after(HEADER, frame.payload);
    let about = frame.payload.get(4..8)?.try_into().map(u32::from_ne_bytes).ok()?;
    let destination = attributes.bytes(DESTINATION)?;
    let same = match address {
        IpAddr::V4(address) => destination == address.octets(),
        IpAddr::V6(address) => destination == address.octets(),
    };
    if frame.kind != NEW_NEIGHBOUR || about != index || !same {
        return None;
    }
    let state = frame.payload.get(8..10)?.try_into().map(u16::from_ne_bytes).ok()?;
    let mac = attributes.bytes(LINK_ADDRESS).and_then(|bytes| bytes.try_into().ok()).map(MacAddress);
    Some((state, mac))
}

async fn forget(channel: &mut Channel, index: u32, address: IpAddr) -> Result<(), Error> {
    let request = RouteNetlinkMessage::DelNeighbour(neighbour(index, address));
    match channel.execute(&format!("neighbour {address}"), request, 0).await {
        Err(Error::Refused { errno, .. }) if errno.name() == Some("ENOENT") => Ok(()),
        other => other,
    }
}

fn neighbour(index: u32, address: IpAddr) -> NeighbourMessage {
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    message
}
