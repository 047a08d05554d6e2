//! Host ports, and who has them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::domain::{HostPort, Transport};

/// By what can clash, so that the addresses of one port stand together.
#[derive(Debug)]
pub struct Ports<T>(BTreeMap<(Transport, u16), BTreeMap<Option<IpAddr>, T>>);

impl<T> Default for Ports<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Ports<T> {
    pub fn insert(&mut self, port: HostPort, owner: T) {
        self.0.entry((port.transport, port.port)).or_default().insert(port.address, owner);
    }

    pub fn get(&self, port: &HostPort) -> Option<&T> {
        self.0.get(&(port.transport, port.port))?.get(&port.address)
    }

    pub fn remove(&mut self, port: &HostPort) {
        let number = (port.transport, port.port);
        if let Some(addresses) = self.0.get_mut(&number) {
            addresses.remove(&port.address);
            if addresses.is_empty() {
                self.0.remove(&number);
            }
        }
    }

    /// All that there are of the numbers from `first` to `last`.
    pub fn between(&self, transport: Transport, first: u16, last: u16) -> impl Iterator<Item = HostPort> {
        // A range that ends before it begins would panic.
        let ranges =
            (first <= last).then(|| self.0.range((transport, first)..=(transport, last))).into_iter().flatten();
        ranges.flat_map(|(&(transport, port), addresses)| {
            addresses.keys().map(move |&address| HostPort { address, transport, port })
        })
    }

    /// Who has a port that clashes with `port`. One on all addresses and one on some do: the narrow one would silently
    /// take the wide one's clients.
    pub fn takers(&self, port: &HostPort) -> impl Iterator<Item = &T> {
        let address = port.address;
        let same_number = self.0.get(&(port.transport, port.port)).into_iter().flatten();
        let clash = move |other: &Option<IpAddr>| other.is_none() || address.is_none() || *other == address;
        same_number.filter(move |(other, _)| clash(other)).map(|(_, owner)| owner)
    }
}
