//! What the ports and the options of Publish mean, wherever they are written: in a call, or in a stack's manifest.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use super::refusal::{Refusal, about, each};
use super::{InvalidArgument, MAX_ITEMS, address, at_most, milliseconds, not_empty, prefix, shortened};
use crate::domain::{PortMapping, PortProtocol};

const MAX_PORTS: usize = 4096;
const MAX_ADDRESSES: usize = 256;
const MAX_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// The options as they are written, `None` where they are not.
#[derive(Debug, Default, Deserialize)]
pub(super) struct PublishOptions {
    pub(super) addresses: Option<Vec<String>>,
    pub(super) sources: Option<Vec<String>>,
    pub(super) drain: Option<u64>,
}

/// How ports are published.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) sources: Vec<IpNet>,
    pub(super) drain: Option<Duration>,
}

impl PublishOptions {
    pub(super) fn terms(self) -> Result<Terms, Refusal> {
        let drain = self.drain.map(|value| milliseconds("drain", value, 0, MAX_DRAIN)).transpose();
        Ok(Terms {
            drain: about("drain", drain)?,
            addresses: self.addresses.map_or(Ok(BTreeSet::new()), host_addresses)?,
            sources: self.sources.map_or(Ok(Vec::new()), sources)?,
        })
    }
}

/// The `(protocol, host port, unikernel port)` of `option`, each host port once.
pub(super) fn mappings(option: &'static str, ports: Vec<(String, u16, u16)>) -> Result<Vec<PortMapping>, Refusal> {
    about(option, at_most(option, ports.len(), MAX_PORTS))?;
    let mut taken = BTreeSet::new();
    each(option, ports, |(protocol, host, unikernel)| {
        let protocol: PortProtocol = protocol.parse().map_err(|()| {
            InvalidArgument(format!("{option}: protocol {:?} is none of tcp, udp and any", shortened(&protocol)))
        })?;
        if host == 0 || unikernel == 0 {
            return Err(InvalidArgument(format!("{option}: ({protocol}, {host}, {unikernel}) has port 0")));
        }
        for transport in protocol.transports() {
            if !taken.insert((*transport, host)) {
                return Err(InvalidArgument(format!("{option}: host port {host}/{transport} is there twice")));
            }
        }
        Ok(PortMapping { protocol, host, unikernel })
    })
}

fn host_addresses(texts: Vec<String>) -> Result<BTreeSet<IpAddr>, Refusal> {
    let instead = "leave it out to publish on all of the host's addresses";
    about("addresses", not_empty("addresses", &texts, instead))?;
    about("addresses", at_most("addresses", texts.len(), MAX_ADDRESSES))?;
    each("addresses", texts, |text| {
        let address = address("addresses:", &text)?;
        if address.is_unspecified() || address.is_multicast() {
            return Err(InvalidArgument(format!(
                "addresses: {address} is not an address of a host; leave addresses out to publish on all"
            )));
        }
        if address.is_ipv6() {
            return Err(InvalidArgument(format!(
                "addresses: {address} is an IPv6 address, and ports are published on IPv4 alone"
            )));
        }
        Ok(address)
    })
}

fn sources(texts: Vec<String>) -> Result<Vec<IpNet>, Refusal> {
    about("sources", not_empty("sources", &texts, "leave it out to let anybody connect"))?;
    about("sources", at_most("sources", texts.len(), MAX_ITEMS))?;
    each("sources", texts, |text| {
        let prefix = prefix("sources:", &text)?;
        if prefix.addr().is_ipv6() {
            return Err(InvalidArgument(format!(
                "sources: {prefix} is an IPv6 prefix, and ports are published on IPv4 alone"
            )));
        }
        Ok(prefix)
    })
}
