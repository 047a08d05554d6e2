//! A unikernel: what was asked for, what became of it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Check, Exclusion, ImageDigest, NetworkName, Ordinal, Readiness, ServiceName, StackName, Timestamp, UnikernelId,
};

/// Argument templates of a unikernel. They can hold secrets: `Debug` shows how many there are and nothing else.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Arguments(pub Vec<String>);

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} arguments", self.0.len())
    }
}

/// A block device of Albatross given to a unikernel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockDevice {
    /// Its name in the unikernel's manifest.
    pub name: String,
    /// Albatross's name of the device.
    pub device: String,
    /// Bytes; `None`: 512.
    pub sector_size: Option<u32>,
}

/// What Albatross does when the unikernel exits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    Never,
    /// With these exit codes; empty: with all that Albatross restarts (not 1, 60 to 64, nor a signal).
    OnFailure(Vec<i32>),
}

/// Where the lease comes from, as the caller asked.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AddressChoice {
    /// `None`: the network's own.
    pub prefix: Option<IpNet>,
    /// Exactly this one.
    pub address: Option<IpAddr>,
}

/// What a caller or a manifest asks of a unikernel, besides its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// `None`: the default network.
    pub network: Option<NetworkName>,
    /// MiB.
    pub memory: u64,
    /// `None`: the least used core that the policy allows.
    pub cpu: Option<u32>,
    pub arguments: Arguments,
    pub address: AddressChoice,
    pub exclude: Vec<Exclusion>,
    pub block_devices: Vec<BlockDevice>,
    pub restart: RestartPolicy,
    pub readiness: Readiness,
    pub timeout: Duration,
    /// `None`: once it is ready, nobody asks again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
}

/// All that decides what runs, and so the id: the same specification is the same unikernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnikernelSpec {
    pub image: ImageDigest,
    pub arguments: Arguments,
    /// MiB.
    pub memory: u64,
    pub network: NetworkName,
    /// `None`: the least used core that the policy allows.
    pub cpu: Option<u32>,
    pub block_devices: Vec<BlockDevice>,
    pub restart: RestartPolicy,
    pub address: AddressChoice,
}

impl UnikernelSpec {
    pub fn id(&self, service: &ServiceName) -> UnikernelId {
        // serde_json writes a struct's fields in their order here, so the bytes, and with them the ids that a ledger
        // holds, stay the same as long as the fields do. Nothing in the type can fail to be written.
        let canonical = serde_json::to_vec(self).unwrap_or_default();
        UnikernelId::new(service, &Sha256::digest(canonical).into())
    }
}

/// How far a unikernel has come, as the ledger keeps it. Until it was ready once it is an intent: found at a start of the
/// service, it is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Written before Albatross is asked to create it.
    Creating,
    /// Albatross has accepted it.
    Starting,
    /// Albatross has confirmed that it runs.
    Running,
    /// Its readiness rule held.
    Ready,
    /// It was ready, ended, and runs again; its rule has not held since. A start does not undo it.
    Returned,
    /// It ended, or Albatross does not have it any more.
    Exited,
    /// It did not come up, or cannot stay up.
    Failed,
}

/// The states of the contract. What [`Phase`] does not say follows from the service: see `planning::states`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnikernelState {
    Creating,
    Starting,
    Running,
    Ready,
    Live,
    Draining,
    Retired,
    Exited,
    Failed,
}

impl fmt::Display for UnikernelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Ready => "ready",
            Self::Live => "live",
            Self::Draining => "draining",
            Self::Retired => "retired",
            Self::Exited => "exited",
            Self::Failed => "failed",
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MacAddress(pub [u8; 6]);

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One that an Apply has started and that is not part of its stack yet: should the Apply fail, it goes back to what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisional {
    pub stack: StackName,
    /// Why it had ended before, for one that was there; `None`: it was not.
    pub ended: Option<String>,
}

/// A unikernel as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unikernel {
    pub id: UnikernelId,
    pub spec: UnikernelSpec,
    pub readiness: Readiness,
    /// How long it may take to become ready.
    pub timeout: Duration,
    /// How it is asked again while it is live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    pub phase: Phase,
    /// Its deployment brought the image: a deployment that is undone takes it out of the store again.
    pub brought_image: bool,
    /// An intent, written before Albatross is asked to destroy it: found at the start, it is finished.
    pub removing: bool,
    pub address: IpAddr,
    /// Known once Albatross has it.
    pub mac: Option<MacAddress>,
    /// The core that it is pinned to.
    pub cpu: u32,
    /// For people; what came first is said by [`Unikernel::deployed`].
    pub created_at: Timestamp,
    /// Its last deployment, also where that found it running: the highest of a service is its newest unikernel.
    ///
    /// Starting it again, for a Restart or a rollback, is no deployment. 0 in the records of schema 3 and earlier, where
    /// the ledger reads [`Unikernel::created_at`] instead.
    #[serde(default)]
    pub deployed: Ordinal,
    /// As Albatross reports it.
    pub started_at: Option<Timestamp>,
    /// How often Albatross has started it again.
    pub restarts: u32,
    /// Empty when it is ready; while it is started once more, why it ended before.
    pub exit_reason: String,
    /// The switch that took it off its ports last; what was live last is what a rollback goes to first.
    pub last_live: Option<Ordinal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisional: Option<Provisional>,
}

impl Unikernel {
    /// Whether nobody can use it any more: nothing of it runs, or not for long.
    pub fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Exited | Phase::Failed)
    }

    /// Whether it has not been live since it was deployed last.
    pub fn awaits_publication(&self) -> bool {
        self.last_live.is_none_or(|last_live| last_live < self.deployed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_do_not_show() {
        assert_eq!(format!("{:?}", Arguments(vec!["--password=secret".into()])), "1 arguments");
    }
}
