//! The host's bridges and addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InetDevConf, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::Handle;

use super::connection::Connection;
use super::{Errno, Error};
use crate::domain::{AddressedLink, Bridge, MacAddress, NetworkName};

/// A link that is attached to a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    /// The kernel's number of it, which it gives no other link.
    pub index: u32,
    pub carrier: bool,
}

/// The host's links, addresses and neighbours. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    pub(super) connection: Connection,
}

impl Host {
    /// To be called inside of a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { connection: Connection::open()? })
    }

    /// All bridges whose names a network can have, by name. When links come and go meanwhile it may be of no single
    /// moment; [`super::LinkEvents`] tells of that.
    pub async fn bridges(&self) -> Result<Vec<Bridge>, Error> {
        let links = self.bridge_links().await?;
        let addresses = self.addresses_of_links().await?;
        let mut bridges: Vec<Bridge> = links
            .into_iter()
            .filter_map(|link| {
                let on_it = addresses.iter().filter(|(index, _)| *index == link.index);
                let addresses = on_it.map(|(_, address)| *address).collect();
                link.into_bridge(addresses)
            })
            .collect();
        bridges.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(bridges)
    }

    /// The links that are ports of this bridge.
    pub async fn ports(&self, bridge: &NetworkName) -> Result<Vec<Port>, Error> {
        let index = self.index_of(bridge).await?;
        let object = format!("the ports of bridge {bridge}");
        let request = |handle: Handle| {
            let mut request = handle.link().get();
            // The kernel lists only these. An older one lists all.
            request.message_mut().attributes = vec![LinkAttribute::Controller(index)];
            request.execute().try_collect()
        };
        let links: Vec<LinkMessage> = self.connection.ask(&object, request).await?;
        let ports = links.into_iter().filter_map(Link::of).filter(|link| link.master == Some(index));
        Ok(ports.map(|link| Port { name: link.name, index: link.index, carrier: link.carrier }).collect())
    }

    /// All of the host's own addresses, on whatever link.
    pub async fn addresses(&self) -> Result<BTreeSet<IpAddr>, Error> {
        Ok(self.addresses_of_links().await?.into_iter().map(|(_, address)| address.addr()).collect())
    }

    /// The links other than the loopback device that have an IPv4 address. One that goes meanwhile is left out.
    pub async fn addressed_links(&self) -> Result<Vec<AddressedLink>, Error> {
        let mut addresses: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
        for (index, address) in self.addresses_of_links().await?.into_iter().filter(|(_, address)| is_routed(address)) {
            addresses.entry(index).or_default().push(address);
        }
        let mut links = Vec::new();
        // Not a list of all: a host can have a thousand taps, and few links with an address.
        for (index, addresses) in addresses {
            let request = |handle: Handle| handle.link().get().match_index(index).execute().try_collect();
            let found: Vec<LinkMessage> = match self.connection.ask("a link of the host", request).await {
                Err(error) if error.is_missing_device() => continue,
                found => found?,
            };
            let found = found.into_iter().filter_map(Link::of).filter(|link| !link.is_loopback);
            links.extend(found.map(|link| AddressedLink {
                name: link.name,
                addresses: addresses.clone(),
                forwarding: link.settings.is_none_or(|settings| settings.forwarding != 0),
            }));
        }
        Ok(links)
    }

    /// Makes the MAC address that a link has its own. A bridge whose address nobody has set takes the lowest one of its
    /// ports, and changes it whenever one comes or goes; the kernel leaves that (NET_ADDR_SET) once somebody sets it,
    /// be it to what it is.
    pub async fn set_mac(&self, link: u32, mac: MacAddress) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = link;
        message.attributes = vec![LinkAttribute::Address(mac.0.to_vec())];
        let object = format!("the MAC address {mac} of link {link}");
        self.connection.ask(&object, |handle| handle.link().set(message).execute()).await
    }

    /// Lets connections from 127.0.0.0/8 leave by this link (`route_localnet`), or no longer. What the table's guard
    /// chain drops would come in by this otherwise, so the table has to be in place first.
    ///
    /// Asked of rtnetlink, since /proc/sys is read-only to a confined service.
    pub async fn route_loopback(&self, link: u32, on: bool) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = link;
        let setting = DefaultNla::new(ROUTE_LOCALNET, u32::from(on).to_ne_bytes().to_vec());
        let mut settings = vec![0; setting.buffer_len()];
        setting.emit(&mut settings);
        // `AfSpecInet::DevConfRequest` leaves out what is to be 0.
        let inet = AfSpecInet::Other(DefaultNla::new(INET_CONF | NLA_F_NESTED, settings));
        message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![inet])])];
        let object = format!("route_localnet of link {link}");
        self.connection.ask(&object, |handle| handle.link().set(message).execute()).await
    }

    /// The number of a bridge, which every request about it wants.
    pub async fn index_of(&self, bridge: &NetworkName) -> Result<u32, Error> {
        let object = format!("bridge {bridge}");
        let request = |handle: Handle| handle.link().get().match_name(bridge.as_str()).execute().try_collect();
        let links: Vec<LinkMessage> = self.connection.ask(&object, request).await?;
        // The kernel finds a link by its alternative names too.
        let mut bridges = links.into_iter().filter_map(Link::of).filter(|link| link.is_bridge);
        let link = bridges.find(|link| link.name == bridge.as_str());
        let missing = || Error::refused(object, Errno(rustix::io::Errno::NODEV.raw_os_error()));
        link.map(|link| link.index).ok_or_else(missing)
    }

    async fn bridge_links(&self) -> Result<Vec<Link>, Error> {
        let request = |handle: Handle| {
            let mut request = handle.link().get();
            // The kernel lists only these: a host can have a thousand taps. An older one lists all.
            let kind = LinkInfo::Kind(InfoKind::Bridge);
            request.message_mut().attributes = vec![LinkAttribute::LinkInfo(vec![kind])];
            request.execute().try_collect()
        };
        let links: Vec<LinkMessage> = self.connection.ask("the host's bridges", request).await?;
        Ok(links.into_iter().filter_map(Link::of).filter(|link| link.is_bridge).collect())
    }

    /// Every address with its link.
    async fn addresses_of_links(&self) -> Result<Vec<(u32, IpNet)>, Error> {
        let request = |handle: Handle| handle.address().get().execute().try_collect();
        let addresses: Vec<AddressMessage> = self.connection.ask("the host's addresses", request).await?;
        Ok(addresses.iter().filter_map(address).collect())
    }
}

/// Whether the host forwards IPv4 packets between its links, without which no redirected connection from outside gets
/// to a unikernel.
pub fn forwarding() -> bool {
    // Out of the kernel's memory: nothing to wait for.
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}

/// Names a boot of this kernel: numbers of links begin anew with it. Empty where it cannot be read.
pub fn boot_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// IFLA_INET_CONF, and IPV4_DEVCONF_ROUTE_LOCALNET in it (linux/if_link.h, linux/ip.h).
const INET_CONF: u16 = 1;
const ROUTE_LOCALNET: u16 = 26;

/// A link as RTM_NEWLINK and RTM_DELLINK tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub carrier: bool,
    pub mac: Option<MacAddress>,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    pub is_bridge: bool,
    pub is_loopback: bool,
    /// For IPv4, where the kernel tells.
    pub settings: Option<InetDevConf>,
}

impl Link {
    /// `None` of what has no name.
    pub fn of(message: LinkMessage) -> Option<Self> {
        let index = message.header.index;
        let flags = message.header.flags;
        let mut link = Self {
            index,
            name: String::new(),
            up: flags.contains(LinkFlags::Up),
            carrier: false,
            mac: None,
            master: None,
            is_bridge: false,
            is_loopback: flags.contains(LinkFlags::Loopback),
            settings: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Carrier(carrier) => link.carrier = carrier == 1,
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddress).filter(is_unicast),
                LinkAttribute::AfSpecUnspec(families) => link.settings = ipv4_settings(&families),
                LinkAttribute::LinkInfo(infos) => link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }

    /// `None` where no network can have its name.
    fn into_bridge(self, addresses: Vec<IpNet>) -> Option<Bridge> {
        Some(Bridge {
            name: self.name.parse().ok()?,
            index: self.index,
            addresses,
            mac: self.mac,
            up: self.up,
            carrier: self.carrier,
            forwarding: self.settings.is_none_or(|settings| settings.forwarding != 0),
            routes_loopback: self.settings.is_some_and(|settings| settings.route_localnet != 0),
        })
    }
}

fn ipv4_settings(families: &[AfSpecUnspec]) -> Option<InetDevConf> {
    let inet = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet(attributes) => Some(attributes),
        _ => None,
    });
    inet?.iter().find_map(|attribute| match attribute {
        AfSpecInet::DevConf(settings) => Some(*settings),
        _ => None,
    })
}

/// Whether a frame can come from it.
fn is_unicast(mac: &MacAddress) -> bool {
    mac.0[0] & 1 == 0 && mac.0 != [0; 6]
}

/// Whether others reach it: an IPv4 address that is not the loopback's.
fn is_routed(address: &IpNet) -> bool {
    address.addr().is_ipv4() && !address.addr().is_loopback()
}

fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    // On a link to a single peer the address is the peer's, and the local one ours; IPv6 has only the address.
    Some((message.header.index, IpNet::new(local.or(any)?, message.header.prefix_len).ok()?))
}
