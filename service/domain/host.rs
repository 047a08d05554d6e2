//! Links of the host as they were observed: bridges, and whatever else has an address.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{MacAddress, NetworkName};

/// A bridge of the host that can be a network of unikernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    pub name: NetworkName,
    /// The kernel's number of it, for as long as it exists.
    pub index: u32,
    /// The host's own addresses on it, with their prefixes.
    pub addresses: Vec<IpNet>,
    /// `None` where it has none that a frame could be sent from.
    pub mac: Option<MacAddress>,
    /// It is set up (`ip link set NAME up`), whether or not a port of it is.
    pub up: bool,
    /// A port of it is up.
    pub carrier: bool,
    /// The kernel forwards IPv4 packets that come in by it.
    pub forwarding: bool,
    /// Packets from and to 127.0.0.0/8 may use it (`route_localnet`).
    pub routes_loopback: bool,
}

/// A link with an IPv4 address of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressedLink {
    pub name: String,
    pub addresses: Vec<IpNet>,
    /// The kernel forwards IPv4 packets that come in by it.
    pub forwarding: bool,
}

/// The ledger's note that this service has switched `route_localnet` on, where it was off before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopbackRoute {
    pub network: NetworkName,
    /// The kernel's number of the bridge: one that is made anew under the same name is another.
    pub bridge: u32,
    /// The boot that the number is of.
    pub boot: String,
}

/// Entries of the kernel's connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConntrackFill {
    pub entries: u64,
    /// With so many, the kernel drops the first packet of every further connection.
    pub limit: u64,
}
