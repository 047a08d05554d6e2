//! Who answers for an address on a bridge.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::{Handle, MulticastGroup};
use tokio::time::timeout;

use super::Error;
use super::links::Host;
use super::netlink::{Heard, Subscription, frames};
use crate::domain::{MacAddress, NetworkName};

impl Host {
    /// Forgets which MAC address an address had: the next unikernel that has it has another.
    pub async fn flush_neighbour(&self, bridge: &NetworkName, address: IpAddr) -> Result<(), Error> {
        self.forget(self.index_of(bridge).await?, address).await
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
        let index = self.index_of(bridge).await?;
        // Listens before it asks.
        let mut subscription = subscribe()?;
        if !self.inquire(index, address, false).await? {
            // What the kernel knows from before is no answer. That it is forgotten is told just like a failure, and so
            // must not be heard.
            self.forget(index, address).await?;
            subscription = subscribe()?;
            self.inquire(index, address, true).await?;
        }
        let answer = timeout(wait, first_answer(&mut subscription, index, address)).await;
        self.forget(index, address).await?;
        answer.unwrap_or(Ok(None))
    }

    /// The MAC addresses that a bridge has learned lately, each with the port that it is behind. It forgets one that has
    /// sent nothing for five minutes.
    pub async fn stations(&self, bridge: &NetworkName) -> Result<Vec<(MacAddress, u32)>, Error> {
        let index = self.index_of(bridge).await?;
        let object = format!("what is behind the ports of bridge {bridge}");
        let request = |handle: Handle| {
            handle.neighbours().get().set_address_family(AddressFamily::Bridge).execute().try_collect()
        };
        let entries: Vec<NeighbourMessage> = self.connection.ask(&object, request).await?;
        Ok(entries.into_iter().filter_map(|entry| station(entry, index)).collect())
    }

    /// Makes the kernel ask who has an address, if it knows nothing of the address yet or `in_any_case`. Whether it
    /// does ask.
    async fn inquire(&self, index: u32, address: IpAddr, in_any_case: bool) -> Result<bool, Error> {
        let object = format!("neighbour {address}");
        let request = |handle: Handle| {
            let entry = handle.neighbours().add(index, address);
            let entry = entry.state(NeighbourState::None).flags(NeighbourFlags::Use);
            if in_any_case { entry.replace() } else { entry }.execute()
        };
        match self.connection.ask(&object, request).await {
            Err(Error::Refused { errno, .. }) if errno.name() == Some("EEXIST") => Ok(false),
            other => other.map(|()| true),
        }
    }

    async fn forget(&self, index: u32, address: IpAddr) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        message.header.ifindex = index;
        message.attributes = vec![NeighbourAttribute::Destination(address.into())];
        let object = format!("neighbour {address}");
        match self.connection.ask(&object, |handle| handle.neighbours().del(message).execute()).await {
            Err(Error::Refused { errno, .. }) if errno.is_of_nothing() => Ok(()),
            other => other,
        }
    }
}

/// One that was learned on a port of `bridge`; the ports' own addresses are not.
fn station(entry: NeighbourMessage, bridge: u32) -> Option<(MacAddress, u32)> {
    let (mut mac, mut of_bridge) = (None, false);
    for attribute in entry.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(address) => mac = address.try_into().ok().map(MacAddress),
            NeighbourAttribute::Controller(controller) => of_bridge = controller == bridge,
            _ => {}
        }
    }
    let learned = of_bridge && entry.header.state != NeighbourState::Permanent;
    Some((mac?, entry.header.ifindex)).filter(|_| learned)
}

fn subscribe() -> Result<Subscription, Error> {
    Subscription::open(NETLINK_ROUTE, &[MulticastGroup::Neigh as u32])
}

async fn first_answer(
    subscription: &mut Subscription,
    index: u32,
    address: IpAddr,
) -> Result<Option<MacAddress>, Error> {
    loop {
        // What was lost cannot have been more than the answer: then the time is up without one.
        let Heard::Datagram(datagram) = subscription.next("notifications of neighbours").await? else { continue };
        for frame in frames(datagram) {
            let Ok(RouteNetlinkMessage::NewNeighbour(message)) = frame.route() else { continue };
            match news(&message, index, address) {
                Some((NeighbourState::Reachable, Some(mac))) => return Ok(Some(mac)),
                Some((NeighbourState::Failed, _)) => return Ok(None),
                _ => {}
            }
        }
    }
}

/// State and MAC address, if the message is about this neighbour.
fn news(message: &NeighbourMessage, index: u32, address: IpAddr) -> Option<(NeighbourState, Option<MacAddress>)> {
    let destination = NeighbourAttribute::Destination(address.into());
    if message.header.ifindex != index || !message.attributes.contains(&destination) {
        return None;
    }
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().map(MacAddress).ok(),
        _ => None,
    });
    Some((message.header.state, mac))
}
