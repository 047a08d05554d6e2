//! What the ledger is told. The same list is applied to the view in memory, so that the two cannot drift apart.

use super::{
    Build, BuildKey, ConsoleLine, ImageDigest, ImageRecord, Lease, LeaseTag, LoopbackRoute, NetworkName, Ordinal,
    Service, ServiceName, Stack, StackName, StaleFlows, Unikernel, UnikernelId,
};

/// One fact to write down. A transaction is a list of them: all or none.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    PutUnikernel(Box<Unikernel>),
    RemoveUnikernel(UnikernelId),
    PutService(Box<Service>),
    RemoveService(ServiceName),
    PutLease(Lease),
    /// The address becomes free, and remembers its place in the order of those that did.
    ReleaseLease {
        tag: LeaseTag,
        at: Ordinal,
    },
    PutImage(ImageRecord),
    RemoveImage(ImageDigest),
    PutStaleFlows(StaleFlows),
    RemoveStaleFlows(StaleFlows),
    /// What a unikernel said before it ended last.
    PutLastWords {
        id: UnikernelId,
        lines: Vec<ConsoleLine>,
    },
    RemoveLastWords(UnikernelId),
    PutBuild(Box<Build>),
    RemoveBuild(BuildKey),
    PutStack(Box<Stack>),
    RemoveStack(StackName),
    /// A number that is given to what is under way: it is not given again, whatever becomes of that.
    Count(Ordinal),
    /// `route_localnet` of a bridge is about to be switched on.
    PutLoopbackRoute(LoopbackRoute),
    RemoveLoopbackRoute(NetworkName),
}

impl Change {
    /// The services that `changes` put down, as they are from then on.
    pub fn services_put(changes: &[Self]) -> impl Iterator<Item = &Service> {
        changes.iter().filter_map(|change| match change {
            Self::PutService(service) => Some(service.as_ref()),
            _ => None,
        })
    }

    /// The greatest number that it writes down.
    pub fn ordinal(&self) -> Option<Ordinal> {
        match self {
            Self::PutUnikernel(unikernel) => unikernel.last_live.max(Some(unikernel.deployed)),
            Self::ReleaseLease { at, .. } => Some(*at),
            Self::PutBuild(build) => Some(build.at),
            Self::Count(ordinal) => Some(*ordinal),
            _ => None,
        }
    }
}
