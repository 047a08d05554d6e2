//! Sockets of the host's own processes that wait for clients, as sock_diag lists them.

mod process;

use std::collections::BTreeSet;

use netlink_packet_core::Parseable;
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use tokio::sync::Mutex;

pub use process::process_of;

use super::Error;
use super::attributes::Attributes;
use super::netlink::{Channel, Frame, Sending};
use crate::domain::{HostPort, Listener, Transport};

/// The fixed part of an answer (`struct inet_diag_msg`).
const ANSWER: usize = 72;
// INET_DIAG_*: attributes of an answer.
const V6_ONLY: u16 = 11;
const CGROUP: u16 = 21;

/// Where it cannot be listed the kernel lacks the module for it.
const OBJECT: &str = "the list of sockets that listen (modules tcp_diag and udp_diag)";

#[derive(Debug)]
pub struct Listeners {
    channel: Mutex<Channel>,
}

impl Listeners {
    pub fn open() -> Result<Self, Error> {
        Ok(Self { channel: Mutex::new(Channel::open(NETLINK_SOCK_DIAG)?) })
    }

    /// What listens on the numbers of `ports`, on whatever address: TCP sockets that listen, and UDP sockets that are bound
    /// and not connected. A UDP socket that is connected takes datagrams of its peer alone.
    ///
    /// A list of the few sockets that listen takes the kernel 15 µs; those of a single number it chooses itself.
    pub async fn on(&self, ports: &BTreeSet<HostPort>) -> Result<Vec<Listener>, Error> {
        let mut all = Vec::new();
        for transport in [Transport::Tcp, Transport::Udp] {
            let of_transport = ports.iter().filter(|port| port.transport == transport);
            let numbers = of_transport.map(|port| port.port).collect::<BTreeSet<_>>();
            let Some(&first) = numbers.first() else { continue };
            let only = (numbers.len() == 1).then_some(first);
            let listeners = self.list(transport, only).await?;
            all.extend(listeners.into_iter().filter(|listener| numbers.contains(&listener.port)));
        }
        Ok(all)
    }

    /// All that listens, on whatever port.
    pub async fn all(&self) -> Result<Vec<Listener>, Error> {
        let mut all = self.list(Transport::Tcp, None).await?;
        all.extend(self.list(Transport::Udp, None).await?);
        Ok(all)
    }

    async fn list(&self, transport: Transport, port: Option<u16>) -> Result<Vec<Listener>, Error> {
        let mut channel = self.channel.lock().await;
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let request = request(family, transport, port.unwrap_or(0));
            let read = |frame: &Frame<'_>| Ok(listener(frame, transport));
            match channel.dump(Sending::Here, OBJECT, request, read).await {
                Ok(listeners) => all.extend(listeners),
                // A host without IPv6 has no listener of it.
                Err(Error::Refused { errno, .. }) if family == AF_INET6 && errno.name() == Some("ENOENT") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// `port`: 0 for all.
fn request(family: u8, transport: Transport, port: u16) -> SockDiagMessage {
    let (protocol, states) = match transport {
        Transport::Tcp => (IPPROTO_TCP, StateFlags::LISTEN),
        // What a UDP socket is called that is not connected.
        Transport::Udp => (IPPROTO_UDP, StateFlags::CLOSE),
    };
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: SocketId { source_port: port, ..any },
    })
}

/// `None` of what cannot be read, and of a socket without a port.
fn listener(frame: &Frame<'_>, transport: Transport) -> Option<Listener> {
    let header = InetResponseHeader::parse(frame.payload.get(..ANSWER)?).ok()?;
    let attributes = Attributes::after(ANSWER, frame.payload);
    let listener = Listener {
        transport,
        address: header.socket_id.source_address,
        port: header.socket_id.source_port,
        v6_only: attributes.bytes(V6_ONLY).is_some_and(|only| only != [0]),
        uid: header.uid,
        inode: header.inode,
        cgroup: attributes.bytes(CGROUP).and_then(|id| id.try_into().ok()).map(u64::from_ne_bytes),
    };
    (listener.port != 0).then_some(listener)
}
