//! Connections that the kernel is asked for: all of them by a walk, or single ones by what they are found by. Single ones
//! are deleted so, too.

use std::collections::BTreeSet;

use netlink_packet_core::{DefaultNla, NLM_F_ACK, NLM_F_REQUEST};
use netlink_packet_netfilter::NetfilterMessage;
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_sys::protocols::NETLINK_NETFILTER;
use tracing::debug;

use super::super::Error;
use super::super::netlink::{Channel, Sending, encode};
use super::census::Listed;
use super::events;
use super::flow::{FlowId, ID};
use super::{DELETE, GET, OBJECT, message};

/// Connections that are asked for or deleted in one datagram: some 100 µs of work for the kernel.
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
        let attributes = vec![flag(STATUS), flag(STATUS_MASK)];
        let request = message(None, ConntrackMessage::Other { message_type: GET, attributes });
        self.channel.dump(Sending::Apart, OBJECT, request, |frame| Ok(events::listed(frame))).await
    }

    /// Those of `flows` that are still alive, each looked up in the kernel's hash table.
    pub async fn still_alive(&mut self, flows: &[Listed]) -> Result<BTreeSet<FlowId>, Error> {
        let alive = request_each(&mut self.channel, Sending::Here, GET, flows).await?;
        Ok(alive.into_iter().map(|flow| flow.flow).collect())
    }
}

/// Deletes each of `flows` that is still there.
pub(super) async fn delete_each(channel: &mut Channel, flows: &[Listed]) -> Result<(), Error> {
    // Behind a walk of the table, which others may have begun.
    request_each(channel, Sending::Apart, DELETE, flows).await.map(drop)
}

/// Sends one request for each of `flows`, which the kernel looks up in its hash table. Returns those that it answers.
async fn request_each(
    channel: &mut Channel,
    sending: Sending,
    message_type: u8,
    flows: &[Listed],
) -> Result<Vec<Listed>, Error> {
    let mut answered = Vec::new();
    for some in flows.chunks(AT_ONCE) {
        let sequences = channel.sequences(u32::try_from(some.len()).unwrap_or(u32::MAX));
        let messages = sequences.clone().zip(some).flat_map(|(sequence, flow)| {
            let flags = if sequence == *sequences.end() { NLM_F_REQUEST | NLM_F_ACK } else { NLM_F_REQUEST };
            encode(request(message_type, flow), flags, sequence)
        });
        let messages = messages.collect::<Vec<_>>();
        answered.extend(channel.gather(sending, OBJECT, messages, sequences, events::listed).await?);
    }
    Ok(answered)
}

fn request(message_type: u8, flow: &Listed) -> NetfilterMessage {
    // Without the id, a younger flow with the same tuple would be deleted in place of this one.
    let id = DefaultNla::new(ID, flow.flow.0.to_be_bytes().to_vec());
    let attributes = flow.key.attributes().chain([id]).collect();
    message(Some(flow.target), ConntrackMessage::Other { message_type, attributes })
}
