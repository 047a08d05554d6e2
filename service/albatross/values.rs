//! What the service says to Albatross and hears from it, in the service's own words.

use std::collections::BTreeSet;

use crate::domain::{
    self, Arguments, BlockDevice, ImageDigest, MacAddress, NetworkDevice, NetworkName, RestartPolicy, Timestamp,
    UnikernelId,
};

use super::wire::{self, Argv, Block, Bridge, Config, FailBehaviour, Image, Info, Run, Text, Typ};

/// A unikernel that Albatross runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its label at the configured path.
    pub name: String,
    pub digest: ImageDigest,
    pub started: Option<Timestamp>,
    /// Of its network device; of the first in Albatross's order when there are several.
    pub mac: Option<MacAddress>,
    /// MiB.
    pub memory: u64,
    pub cpuids: Vec<u32>,
    /// The networks that it is attached to. A bridge whose name is none of a network's here is left out.
    pub bridges: Vec<NetworkName>,
    pub arguments: Arguments,
}

impl Running {
    /// `None`: it is not named as this service names what it creates.
    pub fn id(&self) -> Option<UnikernelId> {
        self.name.parse().ok()
    }

    /// As one of ours, if its name can be one.
    pub fn seen(&self) -> Option<domain::Running> {
        Some(domain::Running {
            id: self.id()?,
            digest: self.digest,
            started: self.started,
            mac: self.mac,
            cpus: self.cpuids.clone(),
        })
    }

    pub(super) fn new(name: String, info: Info) -> Self {
        let arguments = info.arguments.unwrap_or_default().0;
        Self {
            name,
            digest: ImageDigest(info.digest),
            started: info.started,
            mac: info.bridges.first().map(|bridge| MacAddress(bridge.mac)),
            memory: unsigned(info.memory),
            cpuids: cores(info.cpuids),
            bridges: networks(info.bridges.iter().map(|bridge| &bridge.host_device)),
            arguments: Arguments(arguments.iter().map(Text::lossy).collect()),
        }
    }
}

/// What Albatross allows at the configured path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The path that it was made for; empty: the root.
    pub path: String,
    pub cpuids: Vec<u32>,
    /// How many may run.
    pub unikernels: u64,
    /// MiB for all of them together.
    pub memory: u64,
    pub bridges: Vec<NetworkName>,
}

impl Policy {
    pub(super) fn new(path: &wire::Path, policy: &wire::Policy) -> Self {
        Self {
            path: path.to_string(),
            cpuids: cores(policy.cpuids.iter().copied()),
            unikernels: unsigned(policy.unikernels),
            memory: unsigned(policy.memory),
            bridges: networks(&policy.bridges),
        }
    }
}

/// What is to be created, beside its name and the bytes of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// Of the image: by it a create without an answer is known to have happened.
    pub digest: ImageDigest,
    /// Already expanded.
    pub arguments: Arguments,
    /// MiB.
    pub memory: u64,
    pub cpu: u32,
    pub network: NetworkName,
    pub device: NetworkDevice,
    pub block_devices: Vec<BlockDevice>,
    pub restart: RestartPolicy,
}

impl Creation {
    pub(super) fn config(&self, image_length: u64) -> Config {
        let bridge = Bridge {
            netif: self.device.0.as_str().into(),
            bridge: Some(self.network.as_str().into()),
            // Albatross's own depends on the full name alone, so a unikernel keeps it over restarts.
            mac: None,
        };
        let run = Run {
            startup: None,
            // An image that does not know `--name` and exits with another code than 64 would just die.
            add_name: false,
            fail_behaviour: fail_behaviour(&self.restart),
            cpuids: BTreeSet::from([self.cpu.into()]),
            memory: i64::try_from(self.memory).unwrap_or(i64::MAX),
            blocks: self.block_devices.iter().map(block).collect(),
            bridges: BTreeSet::from([bridge]),
            arguments: Some(Argv(self.arguments.0.iter().map(|argument| argument.as_str().into()).collect())),
            cpus: Some(1),
            linux_boot_partition: None,
        };
        Config { typ: Typ::Solo5, compressed: false, image: Image::Elsewhere(image_length), run }
    }
}

fn block(device: &BlockDevice) -> Block {
    Block {
        name: device.name.as_str().into(),
        device: Some(device.device.as_str().into()),
        sector_size: device.sector_size.map(i64::from),
    }
}

fn fail_behaviour(restart: &RestartPolicy) -> FailBehaviour {
    match restart {
        RestartPolicy::Never => FailBehaviour::Quit,
        RestartPolicy::OnFailure(codes) => FailBehaviour::Restart(codes.iter().copied().map(i64::from).collect()),
    }
}

/// Numbers of Albatross's are never negative where they make sense; what does not is nothing.
fn unsigned(number: i64) -> u64 {
    number.try_into().unwrap_or(0)
}

fn cores(cpuids: impl IntoIterator<Item = i64>) -> Vec<u32> {
    cpuids.into_iter().filter_map(|cpu| cpu.try_into().ok()).collect()
}

fn networks<'a>(bridges: impl IntoIterator<Item = &'a Text>) -> Vec<NetworkName> {
    bridges.into_iter().filter_map(|bridge| bridge.lossy().parse().ok()).collect()
}
