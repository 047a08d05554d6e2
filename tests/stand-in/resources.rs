//! What the daemon keeps account of: policies, block devices and the unikernels that run.

use crate::config::{Arguments, Config};
use crate::info::{self, Info, Policy};
use crate::name::Name;
use crate::policy;
use crate::unikernel::Unikernel;
use crate::{config, der};
use std::collections::{BTreeMap, HashMap};

/// `policies` are by their path, the root's is the empty one; a block device has a size in MB and may be in use.
#[derive(Debug, Default)]
pub struct Resources {
    pub policies: BTreeMap<Vec<String>, Policy>,
    pub blocks: HashMap<Name, (i64, bool)>,
    pub unikernels: HashMap<Name, Unikernel>,
}

impl Resources {
    pub fn arguments_below<'a>(&'a self, path: &'a [String]) -> impl Iterator<Item = &'a Arguments> {
        let below = self.unikernels.iter().filter(|(name, _)| name.is_below(path));
        below.map(|(_, unikernel)| &unikernel.config.arguments)
    }

    /// How many unikernels run below a path, and with how much memory.
    pub fn usage(&self, path: &[String]) -> (i64, i64) {
        self.arguments_below(path).fold((0, 0), |(count, memory), unikernel| (count + 1, memory + unikernel.memory))
    }

    pub fn block_usage(&self, path: &[String]) -> i64 {
        self.blocks.iter().filter(|(name, _)| name.is_below(path)).map(|(_, (size, _))| size).sum()
    }

    /// Whether a unikernel may be started now. `replacing` says that the one of this name ends before.
    pub fn check(&self, name: &Name, wanted: &Arguments, replacing: bool) -> Result<(), String> {
        let replaced = self.unikernels.get(name).filter(|_| replacing);
        if let Some(policy) = self.policies.get(&name.path) {
            let (mut running, mut used) = self.usage(&name.path);
            if let Some(unikernel) = replaced {
                running -= 1;
                used -= unikernel.config.arguments.memory;
            }
            policy::allows(policy, running, used, wanted)?;
        }
        for block in &wanted.blocks {
            let device = name.sibling(block.host_device());
            let own = replaced.is_some_and(|old| {
                old.config.arguments.blocks.iter().any(|block| name.sibling(block.host_device()) == device)
            });
            match self.blocks.get(&device) {
                None => return Err(format!("block device {device} not found")),
                Some((_, true)) if !own => return Err(format!("block device {device} already in use")),
                Some(_) => {}
            }
        }
        match self.unikernels.get(name) {
            Some(_) if !replacing => Err("unikernel with same name already exists".into()),
            _ => Ok(()),
        }
    }

    pub fn insert(&mut self, name: Name, unikernel: Unikernel) {
        self.use_blocks(&name, &unikernel.config.arguments, true);
        self.unikernels.insert(name, unikernel);
    }

    pub fn remove(&mut self, name: &Name) -> Option<Unikernel> {
        let unikernel = self.unikernels.remove(name)?;
        self.use_blocks(name, &unikernel.config.arguments, false);
        Some(unikernel)
    }

    fn use_blocks(&mut self, name: &Name, arguments: &Arguments, active: bool) {
        for block in &arguments.blocks {
            if let Some(entry) = self.blocks.get_mut(&name.sibling(block.host_device())) {
                entry.1 = active;
            }
        }
    }

    /// The entries that an info on `name` lists, in Albatross's order, under the names it gives them.
    pub fn listed<'a, T>(entries: impl Iterator<Item = (&'a Name, T)>, name: &Name) -> Vec<(Name, T)> {
        let mut listed: Vec<(Name, T)> = match &name.label {
            Some(_) => {
                entries.filter(|(found, _)| *found == name).map(|(found, entry)| (found.clone(), entry)).collect()
            }
            None => entries
                .filter(|(found, _)| found.is_below(&name.path))
                .map(|(found, entry)| (found.relative_to(&name.path), entry))
                .collect(),
        };
        listed.sort_by(|(left, _), (right, _)| left.listing_order(right));
        listed
    }

    pub fn info(&self, name: &Name, unikernel: &Unikernel) -> Info {
        let Config { typ, ref arguments, .. } = unikernel.config;
        let size = |device: &str| self.blocks.get(&name.sibling(device)).map_or(0, |(size, _)| *size);
        let blocks = arguments.blocks.iter().map(|block| info::BlockInfo {
            unikernel_device: block.name.clone(),
            host_device: block.host_device().to_owned(),
            sector_size: block.sector_size.unwrap_or(512),
            size: size(block.host_device()),
        });
        let bridges = arguments.bridges.iter().zip(&unikernel.taps).map(|(bridge, tap)| info::NetInfo {
            unikernel_device: bridge.netif.clone(),
            host_device: bridge.host_device().to_owned(),
            mac: tap.mac,
        });
        Info {
            typ,
            startup: arguments.startup,
            fail_behaviour: arguments.fail_behaviour.clone(),
            cpuids: arguments.cpuids.clone(),
            memory: arguments.memory,
            digest: unikernel.digest.clone(),
            blocks: blocks.collect(),
            bridges: bridges.collect(),
            arguments: arguments.arguments.clone(),
            started: Some(unikernel.started),
            cpus: Some(arguments.cpus.unwrap_or(1)),
            boot_partition: arguments.boot_partition.clone(),
        }
    }
}

/// The list as it is kept on disk, in the same grammar as the real daemon's: `[6] { unikernels, policies }`.
pub fn encode_state(resources: &Resources) -> Vec<u8> {
    let mut names: Vec<_> = resources.unikernels.keys().collect();
    names.sort_by(|left, right| right.listing_order(left));
    let entry = |name: String, content: Vec<u8>| der::sequence(&[der::text(&name), content]);
    let unikernels: Vec<_> = names
        .into_iter()
        .map(|name| entry(name.to_string(), resources.unikernels[name].config.encode(config::Dialect::V2_7)))
        .collect();
    let policies =
        resources.policies.iter().map(|(path, policy)| entry(Name::of_path(path).to_string(), policy.encode()));
    let policies: Vec<_> = policies.collect();
    der::value(der::choice(6), &der::sequence(&[der::sequence(&unikernels), der::sequence(&policies)]))
}

pub type State = (Vec<(Name, Config)>, Vec<(Name, Policy)>);

pub fn decode_state(bytes: &[u8]) -> der::Result<State> {
    let mut fields = der::Reader::new(bytes).value(der::choice(6))?.value(der::SEQUENCE)?;
    let unikernels = fields.value(der::SEQUENCE)?.all(|entry| {
        let mut entry = entry.value(der::SEQUENCE)?;
        Ok((Name::parse(&entry.text()?)?, Config::decode(&mut entry, config::Dialect::V2_7)?))
    })?;
    let policies = fields.value(der::SEQUENCE)?.all(|entry| {
        let mut entry = entry.value(der::SEQUENCE)?;
        Ok((Name::parse(&entry.text()?)?, Policy::decode(&mut entry)?))
    })?;
    Ok((unikernels, policies))
}
