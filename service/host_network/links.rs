//! The host's bridges and addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InetDevConf, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use tokio::sync::Mutex;

use super::attributes::Attributes;
use super::netlink::{Channel, Frame};
use super::{Errno, Error};
use crate::domain::NetworkName;

/// A bridge of the host that can be a network of unikernels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    pub name: NetworkName,
    /// The kernel's number of it, for as long as it exists.
    pub index: u32,
    /// The host's own addresses on it, with their prefixes.
    pub addresses: Vec<IpNet>,
    /// A port of it is up.
    pub carrier: bool,
}

/// The host's links, addresses and neighbours. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    pub(super) channel: Arc<Mutex<Channel>>,
}

impl Host {
    pub fn open() -> Result<Self, Error> {
        Ok(Self { channel: Arc::new(Mutex::new(Channel::open(NETLINK_ROUTE)?)) })
    }

    /// All bridges whose names a network can have, by name.
    pub async fn bridges(&self) -> Result<Vec<Bridge>, Error> {
        let mut channel = self.channel.lock().await;
        let links = bridge_links(&mut channel).await?;
        let addresses = addresses(&mut channel).await?;
        let mut bridges: Vec<Bridge> = links
            .into_iter()
            .filter_map(|link| {
                let on_it = addresses.iter().filter(|(index, _)| *index == link.index);
                let addresses = on_it.map(|(_, address)| *address).collect();
                let name = link.name.parse().ok()?;
                Some(Bridge { name, index: link.index, addresses, carrier: link.carrier })
            })
            .collect();
        bridges.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(bridges)
    }

    /// All of the host's own addresses, on whatever link.
    pub async fn addresses(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let all = addresses(&mut *self.channel.lock().await).await?;
        Ok(all.into_iter().map(|(_, address)| address.addr()).collect())
    }

    /// Lets connections from 127.0.0.0/8 leave by this bridge (`route_localnet`). What the table's guard chain drops
    /// would come in by this otherwise, so the table has to be in place first.
    ///
    /// Asked of rtnetlink, since /proc/sys is read-only to a confined service.
    pub async fn allow_loopback_routing(&self, bridge: &NetworkName) -> Result<(), Error> {
        let mut channel = self.channel.lock().await;
        let mut settings = InetDevConf::default();
        settings.route_localnet = 1;
        let mut message = LinkMessage::default();
        message.header.index = index_of(&mut channel, bridge).await?;
        let inet = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(settings)]);
        message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![inet])];
        let object = format!("route_localnet of {bridge}");
        channel.execute(&object, RouteNetlinkMessage::SetLink(message), 0).await
    }
}

/// Whether the host forwards IPv4 packets between its links, without which no redirected connection from outside gets
/// to a unikernel.
pub fn forwarding() -> bool {
    // Out of the kernel's memory: nothing to wait for.
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}

/// A link as RTM_NEWLINK and RTM_DELLINK tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub family: u8,
    pub index: u32,
    pub name: String,
    pub carrier: bool,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    pub kind: Option<String>,
}

impl Link {
    pub fn parse(payload: &[u8]) -> Option<Self> {
        const HEADER: usize = 16; // struct ifinfomsg
        const NAME: u16 = 3; // IFLA_IFNAME
        const MASTER: u16 = 10;
        const INFO: u16 = 18;
        const CARRIER: u16 = 33;
        const INFO_KIND: u16 = 1;
        let index = payload.get(4..8)?.try_into().map(u32::from_ne_bytes).ok()?;
        let attributes = Attributes::after(HEADER, payload);
        Some(Self {
            family: *payload.first()?,
            index,
            name: attributes.text(NAME)?.to_owned(),
            carrier: attributes.bytes(CARRIER) == Some(&[1]),
            master: attributes.number(MASTER),
            kind: attributes.nested(INFO).and_then(|info| info.text(INFO_KIND)).map(str::to_owned),
        })
    }
}

async fn bridge_links(channel: &mut Channel) -> Result<Vec<Link>, Error> {
    let mut request = LinkMessage::default();
    // The kernel lists only these: a host can have a thousand taps. An older one lists all.
    request.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)])];
    let read = |frame: &Frame<'_>| Ok(Link::parse(frame.payload).filter(|link| link.kind.as_deref() == Some("bridge")));
    channel.dump("the host's bridges", RouteNetlinkMessage::GetLink(request), read).await
}

/// The number of a bridge, which every request about it wants.
pub(super) async fn index_of(channel: &mut Channel, bridge: &NetworkName) -> Result<u32, Error> {
    let links = bridge_links(channel).await?;
    let link = links.into_iter().find(|link| link.name == bridge.as_str());
    let missing = || Error::refused(format!("bridge {bridge}"), Errno(rustix::io::Errno::NODEV.raw_os_error()));
    link.map(|link| link.index).ok_or_else(missing)
}

/// Every address with its link.
async fn addresses(channel: &mut Channel) -> Result<Vec<(u32, IpNet)>, Error> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    channel.dump("the host's addresses", request, |frame| Ok(address(frame.payload))).await
}

fn address(payload: &[u8]) -> Option<(u32, IpNet)> {
    const HEADER: usize = 8; // struct ifaddrmsg
    const ADDRESS: u16 = 1; // IFA_ADDRESS
    const LOCAL: u16 = 2; // IFA_LOCAL
    let length = *payload.get(1)?;
    let index = payload.get(4..8)?.try_into().map(u32::from_ne_bytes).ok()?;
    let attributes = Attributes::after(HEADER, payload);
    // On a link to a single peer the address is the peer's, and the local one ours; IPv6 has only the address.
    let bytes = attributes.bytes(LOCAL).or_else(|| attributes.bytes(ADDRESS))?;
    let address = <[u8; 4]>::try_from(bytes)
        .map(|octets| IpAddr::V4(Ipv4Addr::from(octets)))
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| IpAddr::V6(Ipv6Addr::from(octets))))
        .ok()?;
    Some((index, IpNet::new(address, length).ok()?))
}
