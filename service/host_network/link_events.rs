//! What happens to the host's links: the tap of a unikernel loses its carrier and vanishes when the unikernel exits.

use std::collections::VecDeque;

use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use rtnetlink::MulticastGroup;

use super::Error;
use super::links::Link;
use super::netlink::{Frame, Heard, Subscription, frames};

const GROUPS: [u32; 4] = [
    MulticastGroup::Link as u32,
    MulticastGroup::Ipv4Ifaddr as u32,
    MulticastGroup::Ipv6Ifaddr as u32,
    MulticastGroup::Ipv4Netconf as u32,
];

/// RTM_NEWNETCONF and RTM_DELNETCONF (linux/rtnetlink.h), which netlink-packet-route does not read. The latter comes with
/// every link that goes.
const NEW_SETTINGS: u16 = 80;
const DEL_SETTINGS: u16 = 81;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// It has appeared, or something about it is another than before.
    Changed {
        name: String,
        index: u32,
        carrier: bool,
        /// The bridge that it is a port of.
        master: Option<u32>,
    },
    Vanished {
        name: String,
        index: u32,
    },
    /// Of some link.
    AddressesChanged,
    /// Some link forwards IPv4 packets now, or no longer; or all do.
    SettingsChanged,
    /// More happened than could be kept, or something that cannot be read: look at everything afresh.
    Lost,
}

/// The events, from the moment of [`Self::open`] on.
#[derive(Debug)]
pub struct LinkEvents {
    subscription: Subscription,
    /// Of a datagram that told of several.
    pending: VecDeque<LinkEvent>,
}

impl LinkEvents {
    pub fn open() -> Result<Self, Error> {
        Ok(Self { subscription: Subscription::open(NETLINK_ROUTE, &GROUPS)?, pending: VecDeque::new() })
    }

    /// Waits for the next. May be dropped while it waits: nothing gets lost.
    pub async fn next(&mut self) -> Result<LinkEvent, Error> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(event);
            }
            match self.subscription.next("notifications of links").await? {
                Heard::Lost => return Ok(LinkEvent::Lost),
                Heard::Datagram(datagram) => self.pending.extend(frames(datagram).filter_map(|frame| event(&frame))),
            }
        }
    }
}

fn event(frame: &Frame<'_>) -> Option<LinkEvent> {
    match frame.kind {
        NEW_SETTINGS => return Some(LinkEvent::SettingsChanged),
        DEL_SETTINGS => return None,
        _ => {}
    }
    match frame.route() {
        Ok(RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_)) => {
            Some(LinkEvent::AddressesChanged)
        }
        Ok(RouteNetlinkMessage::NewLink(message)) => {
            let Link { name, index, carrier, master, .. } = link(message)?;
            Some(LinkEvent::Changed { name, index, carrier, master })
        }
        Ok(RouteNetlinkMessage::DelLink(message)) => {
            let Link { name, index, .. } = link(message)?;
            Some(LinkEvent::Vanished { name, index })
        }
        Ok(_) => None,
        Err(_) => Some(LinkEvent::Lost),
    }
}

fn link(message: LinkMessage) -> Option<Link> {
    // Of family AF_BRIDGE they say that a port came to a bridge or left it, not that a link did.
    (message.header.interface_family == AddressFamily::Unspec).then(|| Link::of(message))?
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkAttribute;

    use super::super::netlink::encode;
    use super::*;

    fn tap(family: AddressFamily) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.index = 7;
        let name = LinkAttribute::IfName("tap1".into());
        message.attributes = vec![name, LinkAttribute::Carrier(1), LinkAttribute::Controller(3)];
        message
    }

    fn events(datagram: &[u8]) -> Vec<LinkEvent> {
        frames(datagram).filter_map(|frame| event(&frame)).collect()
    }

    #[test]
    fn a_link_and_its_end_are_told() {
        let mut datagram = encode(RouteNetlinkMessage::NewLink(tap(AddressFamily::Unspec)), 0, 0);
        datagram.extend(encode(RouteNetlinkMessage::DelLink(tap(AddressFamily::Bridge)), 0, 0));
        datagram.extend(encode(RouteNetlinkMessage::DelLink(tap(AddressFamily::Unspec)), 0, 0));
        let name = || "tap1".to_owned();
        let changed = LinkEvent::Changed { name: name(), index: 7, carrier: true, master: Some(3) };
        assert_eq!(events(&datagram), [changed, LinkEvent::Vanished { name: name(), index: 7 }]);
    }

    #[test]
    fn what_cannot_be_read_is_not_passed_over() {
        let mut datagram = encode(RouteNetlinkMessage::DelLink(tap(AddressFamily::Unspec)), 0, 0);
        let carrier = datagram.windows(4).position(|bytes| bytes == [5, 0, 33, 0]).unwrap();
        datagram[carrier] = 4; // an attribute that has no content
        assert_eq!(events(&datagram), [LinkEvent::Lost]);
    }
}
