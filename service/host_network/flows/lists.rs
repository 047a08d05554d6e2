//! Connections that the kernel is asked for: all of them by a walk, or single ones by what they are found by.

use std::collections::BTreeSet;

use netlink_packet_core::{DefaultNla, NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;
use tracing::debug;

use super::super::Error;
use super::super::netlink::{Channel, Sending, encode};
use super::census::Listed;
use super::events;
use super::flow::FlowId;

const OBJECT: &str = "the host's connections";
const GET: u8 = 1; // IPCTNL_MSG_CT_GET

/// Connections that are asked for in one datagram: some 100 µs of work for the kernel.
const AT_ONCE: usize = 64;

#[derive(Debug)]
pub struct FlowLists {
    channel: Channel,
}

impl FlowLists {
    pub fn open() -> Result<Self, Error> {
        Ok(Self { channel: Channel::open(NETLINK_NETFILTER)? })
    }

    /// All redirected connections of the host that are alive.
    ///
    /// The kernel walks its whole table for that: 10 to 14 ms with 262,144 buckets, however few the connections, with
    /// softirqs off on that core.
    pub async fn walk(&mut self) -> Result<Vec<Listed>, Error> {
        const STATUS: u16 = 3; // CTA_STATUS
        const STATUS_MASK: u16 = 26; // CTA_STATUS_MASK
        const DST_NAT: u32 = 1 << 5; // IPS_DST_NAT
        debug!("walking conntrack");
        // What an older kernel lists besides is left out by `listed`.
        let flag = |kind| DefaultNla::new(kind, DST_NAT.to_be_bytes().to_vec());
        let request = message(NetfilterProtoFamily::Unspec, vec![flag(STATUS), flag(STATUS_MASK)]);
        self.channel.dump(Sending::Apart, OBJECT, request, |frame| Ok(events::listed(frame))).await
    }

    /// Those of `flows` that are still alive, each looked up in the kernel's hash table.
    pub async fn still_alive(&mut self, flows: &[Listed]) -> Result<BTreeSet<FlowId>, Error> {
        let mut alive = BTreeSet::new();
        for some in flows.chunks(AT_ONCE) {
            let sequences = self.channel.sequences(u32::try_from(some.len()).unwrap_or(u32::MAX));
            let last = *sequences.end();
            let messages = sequences.zip(some).flat_map(|(sequence, flow)| {
                let flags = if sequence == last { NLM_F_REQUEST | NLM_F_ACK } else { NLM_F_REQUEST };
                encode(question(flow), flags, sequence)
            });
            let messages = messages.collect::<Vec<_>>();
            let answered = self.channel.gather(OBJECT, &messages, last, events::listed).await?;
            alive.extend(answered.into_iter().map(|flow| flow.flow));
        }
        Ok(alive)
    }
}

fn question(flow: &Listed) -> NetfilterMessage {
    const TUPLE: u16 = 1; // CTA_TUPLE_ORIG
    const ZONE: u16 = 18; // CTA_ZONE
    let zone = flow.zone.map(|zone| DefaultNla::new(ZONE, zone.to_be_bytes().to_vec()));
    let tuple = DefaultNla::new(TUPLE | NLA_F_NESTED, flow.tuple.to_vec());
    let family = if flow.target.is_ipv4() { NetfilterProtoFamily::IPv4 } else { NetfilterProtoFamily::IPv6 };
    message(family, std::iter::once(tuple).chain(zone).collect())
}

fn message(family: NetfilterProtoFamily, attributes: Vec<DefaultNla>) -> NetfilterMessage {
    let message = ConntrackMessage::Other { message_type: GET, attributes };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}
