//! What is reachable from outside: host ports redirected to the live unikernel of a service.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Deadline, ServiceName, UnikernelId};

/// A transport protocol as packets carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// The number in the IP header (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A protocol as Publish takes it: `any` is both transports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    Tcp,
    Udp,
    Any,
}

impl PortProtocol {
    pub fn transports(self) -> &'static [Transport] {
        match self {
            Self::Tcp => &[Transport::Tcp],
            Self::Udp => &[Transport::Udp],
            Self::Any => &[Transport::Tcp, Transport::Udp],
        }
    }
}

impl fmt::Display for PortProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Any => "any",
        })
    }
}

impl FromStr for PortProtocol {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "any" => Ok(Self::Any),
            _ => Err(()),
        }
    }
}

/// `(protocol, host port, unikernel port)`; neither port is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: PortProtocol,
    pub host: u16,
    pub unikernel: u16,
}

/// What a packet is matched by: one port of one transport, on one of the host's addresses or on all (`None`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    pub address: Option<IpAddr>,
    pub transport: Transport,
    pub port: u16,
}

impl HostPort {
    /// Whether a packet could be matched by both: one on all addresses would silently take the clients of one on some.
    pub fn clashes(&self, other: &Self) -> bool {
        let same = self.transport == other.transport && self.port == other.port;
        same && (self.address.is_none() || other.address.is_none() || self.address == other.address)
    }
}

/// Host ports redirected to one unikernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    pub unikernel: UnikernelId,
    /// The unikernel's address, so that the ruleset is a function of the publications alone.
    pub target: IpAddr,
    pub ports: Vec<PortMapping>,
    /// Host addresses to publish on; empty: all that are local.
    pub addresses: BTreeSet<IpAddr>,
    /// Prefixes that may connect; empty: any.
    pub sources: Vec<IpNet>,
    /// Milliseconds that the one before may take to finish its connections.
    pub drain: u64,
}

impl Publication {
    /// Every host port that is redirected, with the unikernel's port behind it.
    pub fn host_ports(&self) -> impl Iterator<Item = (HostPort, u16)> + '_ {
        host_ports(&self.ports, &self.addresses)
    }
}

/// Every host port of `ports` on `addresses` (empty: on all), with the unikernel's port behind it.
pub fn host_ports<'a>(
    ports: &'a [PortMapping],
    addresses: &'a BTreeSet<IpAddr>,
) -> impl Iterator<Item = (HostPort, u16)> + 'a {
    let everywhere = addresses.is_empty().then_some(None);
    let addresses = everywhere.into_iter().chain(addresses.iter().copied().map(Some));
    addresses.flat_map(move |address| {
        ports.iter().flat_map(move |mapping| {
            let transports = mapping.protocol.transports().iter();
            transports.map(move |&transport| (HostPort { address, transport, port: mapping.host }, mapping.unikernel))
        })
    })
}

/// A service as the ledger keeps it, from its first publication on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: ServiceName,
    /// What is live, `None` after Unpublish.
    pub publication: Option<Arc<Publication>>,
    /// Where the staged chain of its stack can be tried, on ports of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Arc<Publication>>,
    /// The unikernel that was live before: where Rollback goes.
    pub previous: Option<UnikernelId>,
    /// Until when those that were live may finish their connections.
    pub draining: Vec<(UnikernelId, Deadline)>,
    /// What was live and ended, where the one before was put live again without being asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fell_back_from: Option<UnikernelId>,
}

impl Service {
    pub fn new(name: ServiceName) -> Self {
        Self { name, publication: None, staged: None, previous: None, draining: Vec::new(), fell_back_from: None }
    }

    /// All that it puts into the kernel.
    pub fn publications(&self) -> impl Iterator<Item = &Arc<Publication>> {
        self.publication.iter().chain(&self.staged)
    }
}

/// Flows that a switch or a death has left on a unikernel that does not get them any more: still to be deleted.
///
/// Part of the ledger, so that a crash between the switch and the deletion leaves no client on a dead address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StaleFlows {
    pub service: ServiceName,
    /// Where the flows still go.
    pub target: IpAddr,
    /// Host ports (UDP) of those flows, as their clients see them.
    pub ports: BTreeSet<u16>,
    /// TCP as well, where no answer has come yet: `target` is dead, and another is live.
    ///
    /// Left out where it is not so: these are the ledger's keys, and entries from before have to stay the same ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub half_open: bool,
}
