//! `[network.NAME]` tables: gathered from all files first, then judged together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Error;
use super::reading::{Place, Setting};
use crate::domain::{Exclusion, Network, NetworkName};
use crate::planning::address_pool::usable;

/// What the files read so far say of each network.
#[derive(Debug, Default)]
pub(super) struct NetworkDrafts(BTreeMap<NetworkName, NetworkDraft>);

#[derive(Debug)]
struct NetworkDraft {
    /// Of the table that came first.
    place: Place,
    prefix: Option<(IpNet, Place)>,
    gateway: Option<(IpAddr, Place)>,
    exclude: Vec<Exclusion>,
    manage: bool,
}

impl NetworkDrafts {
    pub(super) fn read(&mut self, section: &Setting) -> Result<(), Error> {
        for table in section.table()? {
            let name: NetworkName = table.name.parse().map_err(|error| invalid_name(&table, error))?;
            let draft = self.0.entry(name).or_insert_with(|| NetworkDraft::new(table.place()));
            draft.read(&table)?;
        }
        Ok(())
    }

    /// The networks sorted by name, and which of them are managed.
    pub(super) fn finish(self) -> Result<(Vec<Network>, BTreeSet<NetworkName>), Error> {
        let mut managed = BTreeSet::new();
        let mut networks: Vec<(Network, Place)> = Vec::new();
        for (name, draft) in self.0 {
            if draft.manage {
                managed.insert(name.clone());
            }
            let (network, place) = draft.finish(name)?;
            if let Some((other, elsewhere)) = networks.iter().find(|(other, _)| overlap(&other.prefix, &network.prefix))
            {
                return Err(place.invalid(format!(
                    "{} overlaps {} of network {} ({}:{}): give each network addresses of its own",
                    network.prefix,
                    other.prefix,
                    other.name,
                    elsewhere.file.display(),
                    elsewhere.line
                )));
            }
            networks.push((network, place));
        }
        Ok((networks.into_iter().map(|(network, _)| network).collect(), managed))
    }
}

impl NetworkDraft {
    fn new(place: Place) -> Self {
        Self { place, prefix: None, gateway: None, exclude: Vec::new(), manage: false }
    }

    fn read(&mut self, table: &Setting) -> Result<(), Error> {
        for setting in table.table()? {
            match setting.name {
                "prefix" => self.prefix = Some((prefix(&setting)?, setting.place())),
                "gateway" => {
                    let address =
                        setting.checked("an address such as \"10.0.0.1\"", |text| text.parse::<IpAddr>().is_ok())?;
                    self.gateway = address.parse().ok().map(|address| (address, setting.place()));
                }
                "exclude" => {
                    let what = "an address, a range FIRST-LAST or a prefix";
                    self.exclude = setting.list("addresses, ranges and prefixes", |one| one.parsed(what))?;
                }
                "manage" => self.manage = setting.boolean()?,
                _ => return Err(setting.unknown(&["prefix", "gateway", "exclude", "manage"])),
            }
        }
        Ok(())
    }

    /// The network and where its prefix stands.
    fn finish(self, name: NetworkName) -> Result<(Network, Place), Error> {
        let Some((prefix, place)) = self.prefix else {
            return Err(self.place.invalid("prefix is missing: add a line such as prefix = \"10.0.0.0/24\""));
        };
        let gateway = self.gateway.map(|(gateway, place)| check_gateway(gateway, prefix, place)).transpose()?;
        Ok((Network { name, prefix, gateway, exclude: self.exclude }, place))
    }
}

fn invalid_name(table: &Setting, error: crate::domain::InvalidName) -> Error {
    table.place().invalid(error.to_string())
}

fn prefix(setting: &Setting) -> Result<IpNet, Error> {
    let what = "an IPv4 prefix from /8 to /31 such as \"10.0.0.0/24\"";
    let prefix = setting.text(what)?.parse::<IpNet>().ok().filter(|&prefix| usable(prefix).is_ok());
    let prefix = prefix.ok_or_else(|| setting.expected(what))?;
    if prefix != prefix.trunc() {
        return Err(setting.expected(&format!("\"{}\", the prefix without an address in it", prefix.trunc())));
    }
    Ok(prefix)
}

fn check_gateway(gateway: IpAddr, prefix: IpNet, place: Place) -> Result<IpAddr, Error> {
    let hosts = usable(prefix).ok().filter(|hosts| (hosts.first..=hosts.last).contains(&gateway));
    if hosts.is_none() {
        return Err(place.invalid(format!("{gateway} is not the address of a host in {prefix}, the network's prefix")));
    }
    Ok(gateway)
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// For a message: `br0, br1`.
pub(super) fn names(networks: &[Network]) -> String {
    networks.iter().map(|network| network.name.as_str()).collect::<Vec<_>>().join(", ")
}
