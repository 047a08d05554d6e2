//! What the ledger is told. The same list is applied to the view in memory, so that the two cannot drift apart.

use super::{
    Build, BuildKey, ConsoleLine, ImageDigest, ImageRecord, Lease, LeaseTag, LoopbackRoute, NetworkName, Service,
    ServiceName, Stack, StackName, StaleFlows, Timestamp, Unikernel, UnikernelId,
};

/// One fact to write down. A transaction is a list of them: all or none.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    PutUnikernel(Box<Unikernel>),
    RemoveUnikernel(UnikernelId),
    PutService(Box<Service>),
    RemoveService(ServiceName),
    PutLease(Lease),
    /// The address becomes free, and remembers since when.
    ReleaseLease {
        tag: LeaseTag,
        at: Timestamp,
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
    /// `route_localnet` of a bridge is about to be switched on.
    PutLoopbackRoute(LoopbackRoute),
    RemoveLoopbackRoute(NetworkName),
}
