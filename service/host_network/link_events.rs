//! What happens to the host's links: the tap of a unikernel loses its carrier and vanishes when the unikernel exits.

use std::collections::VecDeque;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::Error;
use super::links::Link;
use super::netlink::{Frame, Heard, Subscription, frames};

/// RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR
const GROUPS: [u32; 3] = [1, 5, 9];
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const AF_UNSPEC: u8 = 0;

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
    /// More happened than could be kept: look at everything afresh.
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
        NEW_ADDRESS | DELETE_ADDRESS => Some(LinkEvent::AddressesChanged),
        NEW_LINK | DELETE_LINK => {
            // Of family AF_BRIDGE they say that a port came to a bridge or left it, not that a link did.
            let link = Link::parse(frame.payload).filter(|link| link.family == AF_UNSPEC)?;
            let Link { name, index, carrier, master, .. } = link;
            Some(if frame.kind == DELETE_LINK {
                LinkEvent::Vanished { name, index }
            } else {
                LinkEvent::Changed { name, index, carrier, master }
            })
        }
        _ => None,
    }
}
