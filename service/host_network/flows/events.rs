//! What conntrack tells of the host's connections.

use std::collections::VecDeque;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use super::super::Error;
use super::super::attributes::Attributes;
use super::super::netlink::{Frame, Heard, Mailbox, Waiter, frames};
use super::census::Listed;
use super::filter;
use super::flow::{FlowId, FlowKey, ID, has_closed};

/// NFNLGRP_CONNTRACK_NEW, NFNLGRP_CONNTRACK_UPDATE (a TCP connection that closes changes its state long before it is
/// forgotten) and NFNLGRP_CONNTRACK_DESTROY.
const GROUPS: [u32; 3] = [1, 2, 3];

/// Bytes of notifications that may wait to be read. The kernel charges 1,280 bytes for one, and a translated connection
/// has three: this holds what 30,000 connections a second cause in the quarter of a second between two reads. The
/// memory is used while something is queued only.
const ROOM: usize = 32 << 20;

const OBJECT: &str = "notifications of connections";

/// Whether the kernel notifies of connections at all: `nf_conntrack_events` of this network namespace. Where it cannot
/// be read, as in a user namespace, it has its default and is on.
pub fn events_enabled() -> bool {
    let events = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_events");
    events.map_or(true, |events| events.trim() != "0")
}

/// A notification of conntrack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowNews {
    /// Of a connection that was redirected.
    Of(FlowChange),
    /// More happened than could be kept: the kernel drops what comes until everything queued has been read. Count afresh
    /// then.
    Lost,
}

/// A redirected connection has begun or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowChange {
    /// Where its answers come from.
    pub target: IpAddr,
    pub flow: FlowId,
    /// It is not alive any more.
    pub ended: bool,
    /// The key of a UDP flow that has begun.
    pub udp: Option<FlowKey>,
}

/// Begin and end of redirected connections, from the moment of [`Self::open`] on. Of a flow that began while nobody
/// listened to conntrack the end is never notified.
///
/// The kernel builds seven messages for a TCP connection, whoever it is to, and [`filter`](super::filter) lets three of a
/// redirected one through. Measured on Linux 6.18 with 2 cores, per connection: 8 µs of kernel time to build and
/// filter them (a connection through the NAT takes 55 µs of both ends and the host together), 3 µs more to queue
/// those of redirected ones, so 16 to 22 % of one core at 20,000 connections a second. NEW and DESTROY alone cost 6 µs:
/// too little less to do without UPDATE and keep closed connections in the count for two minutes.
///
/// They come by the thousand on a busy host: wait for the first, leave the others time to come, and read them together.
#[derive(Debug)]
pub struct FlowEvents {
    mailbox: Mailbox,
    /// Further changes of the datagram that was read last.
    pending: VecDeque<FlowChange>,
}

/// Waits for [`FlowEvents`] while somebody else may read them.
#[derive(Debug)]
pub struct EventsWaiter(Waiter);

impl EventsWaiter {
    /// Waits until there is something to read.
    pub async fn wait(&self) -> Result<(), Error> {
        self.0.wait(OBJECT).await
    }
}

impl FlowEvents {
    /// To close it makes the kernel wait for what nftables has still to destroy: drop it where that may take its time.
    pub fn open() -> Result<Self, Error> {
        Self::with_room(ROOM)
    }

    /// With room for `bytes` of notifications that nobody has read yet.
    pub fn with_room(bytes: usize) -> Result<Self, Error> {
        let mailbox = Mailbox::open(NETLINK_NETFILTER, &GROUPS, bytes, &filter::redirected_begin_and_end())?;
        Ok(Self { mailbox, pending: VecDeque::new() })
    }

    /// Waits until there is something to read. What comes while nobody waits wakes nobody.
    pub async fn wait(&self) -> Result<(), Error> {
        if self.pending.is_empty() { self.mailbox.wait(OBJECT).await } else { Ok(()) }
    }

    pub fn waiter(&self) -> Result<EventsWaiter, Error> {
        self.mailbox.waiter().map(EventsWaiter)
    }

    /// The next, where there is one.
    pub fn read(&mut self) -> Result<Option<FlowNews>, Error> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Ok(Some(FlowNews::Of(change)));
            }
            match self.mailbox.take(OBJECT)? {
                None => return Ok(None),
                Some(Heard::Lost) => return Ok(Some(FlowNews::Lost)),
                Some(Heard::Datagram(datagram)) => {
                    self.pending.extend(frames(datagram).filter_map(|frame| change(&frame)));
                }
            }
        }
    }
}

/// A redirected connection of a list, where it is alive.
pub(super) fn listed(frame: &Frame<'_>) -> Option<Listed> {
    let FlowChange { target, flow, ended, .. } = change(frame)?;
    let key = FlowKey::parse(Attributes::after(HEADER, frame.payload))?;
    (!ended).then_some(Listed { target, flow, key })
}

/// struct nfgenmsg
const HEADER: usize = 4;

/// No more of it is read than that: they are many.
fn change(frame: &Frame<'_>) -> Option<FlowChange> {
    const DELETE: u16 = 2; // IPCTNL_MSG_CT_DELETE
    const STATUS: u16 = 3; // CTA_STATUS
    const DST_NAT: u32 = 1 << 5; // IPS_DST_NAT
    let attributes = Attributes::after(HEADER, frame.payload);
    let redirected = attributes.number_be(STATUS)? & DST_NAT != 0;
    let state = tcp_state(attributes);
    let ended = frame.kind & 0xff == DELETE || state.is_some_and(has_closed);
    let (target, flow) = (source(attributes)?, FlowId(attributes.number_be(ID)?));
    let key = if ended || state.is_some() { None } else { FlowKey::parse(attributes) };
    redirected.then(|| FlowChange { target, flow, ended, udp: key.filter(FlowKey::is_udp) })
}

/// Where its answers come from.
fn source(attributes: Attributes<'_>) -> Option<IpAddr> {
    const REPLY: u16 = 2; // CTA_TUPLE_REPLY
    const IP: u16 = 1; // CTA_TUPLE_IP
    const V4_SOURCE: u16 = 1; // CTA_IP_V4_SRC
    const V6_SOURCE: u16 = 3; // CTA_IP_V6_SRC
    let addresses = attributes.nested(REPLY)?.nested(IP)?;
    let v4 = || Some(IpAddr::from(<[u8; 4]>::try_from(addresses.bytes(V4_SOURCE)?).ok()?));
    let v6 = || Some(IpAddr::from(<[u8; 16]>::try_from(addresses.bytes(V6_SOURCE)?).ok()?));
    v4().or_else(v6)
}

fn tcp_state(attributes: Attributes<'_>) -> Option<u8> {
    const PROTOCOL_INFO: u16 = 4; // CTA_PROTOINFO
    const TCP: u16 = 1; // CTA_PROTOINFO_TCP
    const STATE: u16 = 1; // CTA_PROTOINFO_TCP_STATE
    attributes.nested(PROTOCOL_INFO)?.nested(TCP)?.bytes(STATE)?.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: u16 = 1 << 8;
    const DELETE: u16 = 1 << 8 | 2;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// A notification of a connection that `10.0.0.2` answers.
    fn payload(status: u32, state: Option<u8>) -> Vec<u8> {
        const NESTED: u16 = 1 << 15;
        let reply = attribute(NESTED | 1, &attribute(1, &[10, 0, 0, 2]));
        let info = |state| attribute(NESTED | 4, &attribute(NESTED | 1, &attribute(1, &[state])));
        let mut bytes = vec![2, 0, 0, 0];
        bytes.extend(attribute(NESTED | 2, &reply));
        bytes.extend(attribute(12, &7_u32.to_be_bytes()));
        bytes.extend(attribute(3, &status.to_be_bytes()));
        bytes.extend(state.map(info).unwrap_or_default());
        bytes
    }

    fn seen(kind: u16, payload: &[u8]) -> Option<bool> {
        let change = change(&Frame { kind, flags: 0, sequence: 0, port: 0, payload })?;
        assert_eq!((change.target, change.flow), (IpAddr::from([10, 0, 0, 2]), FlowId(7)));
        Some(change.ended)
    }

    #[test]
    fn an_end_is_a_state_or_the_entrys_own() {
        const REDIRECTED: u32 = 1 << 5;
        for (state, ended) in [(None, false), (Some(3), false), (Some(6), false), (Some(7), true), (Some(8), true)] {
            assert_eq!(seen(NEW, &payload(REDIRECTED, state)), Some(ended), "{state:?}");
            assert_eq!(seen(DELETE, &payload(REDIRECTED, state)), Some(true));
            assert_eq!(seen(NEW, &payload(0, state)), None, "not redirected");
        }
        let whole = payload(REDIRECTED, Some(7));
        for length in 0..whole.len() {
            let _ = seen(NEW, &whole[..length]);
        }
    }
}
