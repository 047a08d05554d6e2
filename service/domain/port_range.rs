//! Host ports as the configuration names them.

use std::fmt;
use std::str::FromStr;

use super::{HostPort, Transport};

/// `PORT` or `FROM-TO`, both included, of one transport or of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
    /// `None`: TCP and UDP.
    transport: Option<Transport>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no ports: write PORT or FROM-TO, from 1 to 65535, with /tcp or /udp behind where it is one of them only"
)]
pub struct InvalidPortRange(String);

impl PortRange {
    /// Every port of both transports.
    pub const ALL: Self = Self { first: 1, last: u16::MAX, transport: None };

    fn contains(&self, transport: Transport, port: u16) -> bool {
        (self.first..=self.last).contains(&port) && self.transport.is_none_or(|own| own == transport)
    }
}

impl FromStr for PortRange {
    type Err = InvalidPortRange;

    fn from_str(text: &str) -> Result<Self, InvalidPortRange> {
        let invalid = || InvalidPortRange(text.chars().take(80).collect());
        let (ports, transport) = match text.split_once('/') {
            None => (text, None),
            Some((ports, "tcp")) => (ports, Some(Transport::Tcp)),
            Some((ports, "udp")) => (ports, Some(Transport::Udp)),
            Some(_) => return Err(invalid()),
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last) = (port(first).ok_or_else(invalid)?, port(last).ok_or_else(invalid)?);
        if first > last { Err(invalid()) } else { Ok(Self { first, last, transport }) }
    }
}

/// The number of a port, in digits alone: `u16` would also take a sign.
pub(super) fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port != 0)
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.first != self.last {
            write!(f, "-{}", self.last)?;
        }
        self.transport.map_or(Ok(()), |transport| write!(f, "/{transport}"))
    }
}

/// A list of ranges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortRanges(pub Vec<PortRange>);

impl PortRanges {
    pub fn contains(&self, port: &HostPort) -> bool {
        self.0.iter().any(|range| range.contains(port.transport, port.port))
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// A list in a message is to be read by a person.
        const SHOWN: usize = 16;
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (at, range) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{range}", if at == 0 { "" } else { ", " })?;
        }
        if self.0.len() > SHOWN { write!(f, " and {} more", self.0.len() - SHOWN) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_ends_and_its_transport() {
        let holds = |range: &str, transport, port| {
            let ranges = PortRanges(vec![range.parse().unwrap()]);
            ranges.contains(&HostPort { address: None, transport, port })
        };
        use Transport::{Tcp, Udp};
        for (range, transport, port, expected) in [
            ("443", Tcp, 443, true),
            ("443", Udp, 443, true),
            ("443", Tcp, 444, false),
            ("80/tcp", Tcp, 80, true),
            ("80/tcp", Udp, 80, false),
            ("1024-65535", Tcp, 1023, false),
            ("1024-65535", Tcp, 1024, true),
            ("1024-65535", Udp, 65535, true),
            ("53-53/udp", Udp, 53, true),
        ] {
            assert_eq!(holds(range, transport, port), expected, "{range} {transport} {port}");
        }
        assert!(!PortRanges::default().contains(&HostPort { address: None, transport: Tcp, port: 1 }));
    }

    #[test]
    fn what_is_no_range_is_refused_and_what_is_one_reads_back() {
        for bad in ["", "0", "65536", "x", "80/any", "80/", "/tcp", "9-8", "1-", "-1", "+80", "80 ", "1-2-3", "80/TCP"]
        {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
        for text in ["80/tcp", "443", "1024-65535", "5000-5010/udp"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        assert_eq!(PortRanges(vec![PortRange::ALL]).to_string(), "1-65535");
        assert_eq!(PortRanges::default().to_string(), "none");
    }
}
