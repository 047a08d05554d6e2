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

/// Listeners of one family that are kept: each is about 60 bytes.
const MAX_LISTENERS: usize = 100_000;

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
            all.extend(self.list(transport, only, |port| numbers.contains(&port)).await?);
        }
        Ok(all)
    }

    /// All that listens, on whatever port.
    pub async fn all(&self) -> Result<Vec<Listener>, Error> {
        let mut all = self.list(Transport::Tcp, None, |_| true).await?;
        all.extend(self.list(Transport::Udp, None, |_| true).await?);
        Ok(all)
    }

    /// `only`: the kernel lists sockets of this port alone.
    async fn list(
        &self,
        transport: Transport,
        only: Option<u16>,
        is_wanted: impl Fn(u16) -> bool,
    ) -> Result<Vec<Listener>, Error> {
        let mut channel = self.channel.lock().await;
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut kept = 0;
            let read = |frame: &Frame<'_>| {
                let listener = listener(frame.payload, transport).filter(|listener| is_wanted(listener.port));
                kept += usize::from(listener.is_some());
                Ok(listener.filter(|_| kept <= MAX_LISTENERS))
            };
            match channel.dump(Sending::Here, OBJECT, request(family, transport, only), read).await {
                Ok(listeners) => all.extend(listeners),
                // A host without IPv6 has no listener of it.
                Err(Error::Refused { errno, .. }) if family == AF_INET6 && errno.is_of_nothing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

fn request(family: u8, transport: Transport, only: Option<u16>) -> SockDiagMessage {
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
        // Port 0: of any.
        socket_id: SocketId { source_port: only.unwrap_or(0), ..any },
    })
}

/// `None` of what cannot be read, and of a socket without a port.
fn listener(answer: &[u8], transport: Transport) -> Option<Listener> {
    let header = InetResponseHeader::parse(answer.get(..ANSWER)?).ok()?;
    let attributes = Attributes::after(ANSWER, answer);
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// An answer as Linux 6.18 gives it for `[::]:22`, with both attributes.
    fn answer() -> Vec<u8> {
        let mut answer = vec![AF_INET6, 10, 0, 0, 0, 22];
        answer.resize(ANSWER - 8, 0);
        answer.extend(1000u32.to_ne_bytes());
        answer.extend(4711u32.to_ne_bytes());
        answer.extend([5, 0, 11, 0, 1, 0, 0, 0]);
        answer.extend([12, 0, 21, 0]);
        answer.extend(99u64.to_ne_bytes());
        answer
    }

    #[test]
    fn an_answer_is_a_listener() {
        let expected = Listener {
            transport: Transport::Tcp,
            address: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            port: 22,
            v6_only: true,
            uid: 1000,
            inode: 4711,
            cgroup: Some(99),
        };
        assert_eq!(listener(&answer(), Transport::Tcp), Some(expected));
    }

    #[test]
    fn an_answer_that_is_cut_off_is_none_or_lacks_what_is_behind() {
        let answer = answer();
        for length in 0..answer.len() {
            let read = listener(&answer[..length], Transport::Udp);
            assert_eq!(read.is_some(), length >= ANSWER);
            assert!(read.is_none_or(|listener| listener.cgroup.is_none() || length == answer.len()));
        }
    }
}
