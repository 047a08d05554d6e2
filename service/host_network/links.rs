//! The host's bridges and addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InetDevConf, InfoKind, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::Handle;

use super::connection::Connection;
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
                let name = link.name.parse().ok()?;
                Some(Bridge { name, index: link.index, addresses, carrier: link.carrier })
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

    /// Lets connections from 127.0.0.0/8 leave by this bridge (`route_localnet`). What the table's guard chain drops
    /// would come in by this otherwise, so the table has to be in place first.
    ///
    /// Asked of rtnetlink, since /proc/sys is read-only to a confined service.
    pub async fn allow_loopback_routing(&self, bridge: &NetworkName) -> Result<(), Error> {
        let mut settings = InetDevConf::default();
        settings.route_localnet = 1;
        let mut message = LinkMessage::default();
        message.header.index = self.index_of(bridge).await?;
        let inet = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(settings)]);
        message.attributes = vec![LinkAttribute::AfSpecUnspec(vec![inet])];
        let object = format!("route_localnet of {bridge}");
        self.connection.ask(&object, |handle| handle.link().set(message).execute()).await
    }

    /// The number of a bridge, which every request about it wants.
    pub(super) async fn index_of(&self, bridge: &NetworkName) -> Result<u32, Error> {
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

/// A link as RTM_NEWLINK and RTM_DELLINK tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    pub carrier: bool,
    /// The bridge that it is a port of.
    pub master: Option<u32>,
    pub is_bridge: bool,
}

impl Link {
    /// `None` of what has no name.
    pub fn of(message: LinkMessage) -> Option<Self> {
        let index = message.header.index;
        let mut link = Self { index, name: String::new(), carrier: false, master: None, is_bridge: false };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Carrier(carrier) => link.carrier = carrier == 1,
                LinkAttribute::Controller(master) => link.master = Some(master),
                LinkAttribute::LinkInfo(infos) => link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge)),
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
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
