//! A stack: services that are deployed as a chain and go live together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Caller, Configuration, ImageDigest, ImageOptions, ImageReference, PortMapping, ServiceName, StackName, Timestamp,
    UnikernelId,
};

/// A stack as it is asked for: a manifest, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub stack: StackName,
    pub members: BTreeMap<ServiceName, MemberPlan>,
}

/// What a manifest says of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberPlan {
    pub image: ImageReference,
    #[serde(default, skip_serializing_if = "ImageOptions::is_empty")]
    pub image_options: ImageOptions,
    /// Its arguments may hold `{NAME.address}` of other members.
    pub configuration: Configuration,
    /// While it is live.
    pub ports: Vec<PortMapping>,
    /// While it is staged.
    pub staged: Vec<PortMapping>,
    /// Host addresses to publish on; empty: all that are local.
    pub addresses: BTreeSet<IpAddr>,
    /// Prefixes that may connect; empty: any.
    pub sources: Vec<IpNet>,
    /// How long the one before may finish its connections; `None`: the configuration's.
    pub drain: Option<Duration>,
    /// How often its image is looked at again; `None`: never.
    pub watch: Option<Duration>,
}

/// A member of a chain: what it was made from, and what that has become.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub plan: MemberPlan,
    /// What the plan's image was at that time.
    pub image: ImageDigest,
    pub unikernel: UnikernelId,
}

/// Unikernels that know each other's addresses. All that is needed to make it once more, should some of them be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    pub members: BTreeMap<ServiceName, Member>,
}

impl Chain {
    pub fn has(&self, id: &UnikernelId) -> bool {
        self.members.get(&id.service()).is_some_and(|member| member.unikernel == *id)
    }
}

/// What was applied last, for images that are looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub manifest: Manifest,
    /// Who has asked: paths are opened with no more rights.
    pub caller: Caller,
    /// Whether it goes live as soon as it is ready.
    pub activate: bool,
    /// What the images were, where they could be had; whatever came of them is not tried again.
    pub images: BTreeMap<ServiceName, ImageDigest>,
}

/// What came of the last Apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Attempt {
    /// Written before anything is made: found at a start of the service, it has failed.
    Working,
    Done,
    Failed,
}

/// A stack as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    pub name: StackName,
    pub live: Option<Arc<Chain>>,
    /// Ready, and to become live.
    pub staged: Option<Arc<Chain>>,
    /// What was live before: where RollbackStack goes.
    pub previous: Option<Arc<Chain>>,
    /// Unikernels that were of one of its chains and are of none any more: Collect removes them.
    pub former: BTreeSet<UnikernelId>,
    pub applied: Option<Arc<Applied>>,
    pub attempt: Attempt,
    /// What was live and has ended, where the chain before was put live again without being asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fell_back_from: Option<UnikernelId>,
    /// When the images that are watched were looked at last.
    pub last_check: Option<Timestamp>,
    /// What came of the last Apply, in words.
    pub last_result: String,
    /// An intent, written before anything is taken away: found at the start, it is finished.
    pub removing: bool,
    /// While it is removed: what its unikernels were made of, which goes with them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub leaving: BTreeSet<ImageDigest>,
}

impl Stack {
    /// Before anything of it is there.
    pub fn new(name: StackName) -> Self {
        Self {
            name,
            live: None,
            staged: None,
            previous: None,
            former: BTreeSet::new(),
            applied: None,
            attempt: Attempt::Working,
            fell_back_from: None,
            last_check: None,
            last_result: String::new(),
            removing: false,
            leaving: BTreeSet::new(),
        }
    }

    pub fn chains(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.live.iter().chain(&self.staged).chain(&self.previous)
    }

    /// Whether a unikernel is of one of its chains.
    pub fn has(&self, id: &UnikernelId) -> bool {
        self.chains().any(|chain| chain.has(id))
    }
}

/// The states of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StackState {
    Staging,
    Staged,
    Live,
    Failed,
}

impl fmt::Display for StackState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Staging => "staging",
            Self::Staged => "staged",
            Self::Live => "live",
            Self::Failed => "failed",
        })
    }
}
