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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostPort {
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    /// Until when established TCP connections of sources that are not admitted any more may go on. `None`: such
    /// connections are reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerates_until: Option<Deadline>,
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

/// Conntrack entries that do not lead where their packets should go by now: still to be deleted.
///
/// Part of the ledger, so that a crash between the change that made them stale and their deletion leaves no client on a
/// dead address. The fields that came later are left out where they say nothing: an entry is its own key in the ledger, and
/// entries that an older version wrote have to stay the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StaleFlows {
    pub service: ServiceName,
    /// The unikernel's address that the flows go to.
    pub target: IpAddr,
    /// Host ports of redirected UDP flows to `target`, as their clients see them.
    pub ports: BTreeSet<u16>,
    /// TCP flows to `target` that no answer has come to, and all flows where nothing runs there: another unikernel is live.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub half_open: bool,
    /// All flows to and from `target`: the unikernel that had the address is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// Flows to these ports of the host that were not redirected: they began before the port was published.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub opened: BTreeSet<HostPort>,
}

impl StaleFlows {
    /// No flows of `service` to `target` yet.
    pub fn none(service: ServiceName, target: IpAddr) -> Self {
        Self { service, target, ports: BTreeSet::new(), half_open: false, gone: false, opened: BTreeSet::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && !self.half_open && !self.gone && self.opened.is_empty()
    }
}
