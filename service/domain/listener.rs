//! Sockets of the host's own processes that wait for clients.

use std::net::IpAddr;

use super::{HostPort, Transport};

/// A TCP socket that listens, or a UDP socket that takes datagrams of anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub transport: Transport,
    /// Unspecified: all of its family, and for IPv6 without `v6_only` those of IPv4 too.
    pub address: IpAddr,
    pub port: u16,
    pub v6_only: bool,
    /// The user that made the socket.
    pub uid: u32,
    /// The socket's number in `/proc/PID/fd`; 0: the kernel's own.
    pub inode: u32,
    /// The number of the control group that made it, where the kernel tells (Linux 5.9).
    pub cgroup: Option<u64>,
}

impl Listener {
    /// Whether packets to `port` would be this socket's, were the port not published. `loopback`: whether a port that is
    /// published on all addresses is taken on 127.0.0.0/8 too.
    pub fn serves(&self, port: &HostPort, loopback: bool) -> bool {
        if self.transport != port.transport || self.port != port.port {
            return false;
        }
        // Publications are IPv4, so of IPv6 sockets those count that take IPv4 as well.
        let own = match self.address {
            IpAddr::V6(address) if address.is_unspecified() && !self.v6_only => return true,
            IpAddr::V6(address) => address.to_ipv4_mapped(),
            IpAddr::V4(address) => Some(address),
        };
        match (own, port.address) {
            (None, _) => false,
            (Some(own), _) if own.is_unspecified() => true,
            (Some(own), None) => loopback || !own.is_loopback(),
            (Some(own), Some(address)) => address == IpAddr::V4(own),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_serves_what_is_addressed_to_it() {
        let serves = |address: &str, v6_only, published: Option<&str>, loopback| {
            let (transport, port) = (Transport::Tcp, 22);
            let listener = Listener {
                transport,
                address: address.parse().unwrap(),
                port,
                v6_only,
                uid: 0,
                inode: 1,
                cgroup: None,
            };
            let address = published.map(|address| address.parse().unwrap());
            let serves = listener.serves(&HostPort { address, transport, port }, loopback);
            assert!(!listener.serves(&HostPort { address, transport: Transport::Udp, port }, loopback));
            assert!(!listener.serves(&HostPort { address, transport, port: 23 }, loopback));
            serves
        };
        for (address, v6_only, published, loopback, expected) in [
            ("0.0.0.0", false, None, true, true),
            ("0.0.0.0", false, Some("192.0.2.1"), false, true),
            ("192.0.2.1", false, None, true, true),
            ("192.0.2.1", false, Some("192.0.2.1"), true, true),
            ("192.0.2.1", false, Some("192.0.2.7"), true, false),
            ("127.0.0.53", false, None, true, true),
            // What is addressed to 127.0.0.0/8 is not redirected then.
            ("127.0.0.53", false, None, false, false),
            ("127.0.0.53", false, Some("127.0.0.53"), true, true),
            ("127.0.0.53", false, Some("127.0.0.1"), true, false),
            ("::", false, None, true, true),
            ("::", false, Some("192.0.2.1"), true, true),
            ("::", true, None, true, false),
            ("::ffff:192.0.2.1", false, Some("192.0.2.1"), true, true),
            ("::ffff:192.0.2.1", false, Some("192.0.2.7"), true, false),
            ("::ffff:0.0.0.0", false, Some("192.0.2.7"), true, true),
            ("2001:db8::1", false, None, true, false),
            ("::1", false, None, true, false),
        ] {
            assert_eq!(serves(address, v6_only, published, loopback), expected, "{address} {v6_only} {published:?}");
        }
    }
}
