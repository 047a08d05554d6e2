//! What callers ask for, after the bus has parsed it.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::domain::{
    Applied, Caller, Configuration, ImageDigest, ImageOptions, ImageRecord, ImageReference, Manifest, Ordinal,
    PortMapping, ServiceName, StackName, Unikernel, UnikernelId,
};

/// Where Deploy gets its image.
#[derive(Debug)]
pub enum ImageSource {
    /// Already in the store.
    Stored(ImageDigest),
    /// A descriptor that the caller handed over, and what signs it.
    Descriptor { file: File, signature: Option<String> },
    /// What a reference names; what is of this host is reached with no more rights than the caller has.
    Named { image: ImageReference, options: Box<ImageOptions>, caller: Caller },
    /// In the store and pinned by who asks, but in no record yet.
    Imported(ImageRecord),
}

impl ImageSource {
    /// Whether others than this host's disk decide how long it takes.
    pub fn is_far(&self) -> bool {
        use ImageReference::{Engine, Git, Registry};
        matches!(self, Self::Named { image: Engine(_) | Git(_) | Registry(_), .. })
    }
}

#[derive(Debug)]
pub struct DeployRequest {
    pub service: ServiceName,
    pub image: ImageSource,
    pub configuration: Configuration,
    /// The stack for which an Apply makes it.
    pub stack: Option<StackName>,
    /// The place among the deployments of its service that it keeps, where it is only started again.
    pub keeps: Option<Ordinal>,
}

impl DeployRequest {
    /// The request that has `unikernel`'s id, and so gives it its old lease. It does not make it the newest of its service.
    pub fn again(unikernel: Unikernel) -> Self {
        let spec = unikernel.spec;
        Self {
            service: unikernel.id.service(),
            image: ImageSource::Stored(spec.image),
            configuration: Configuration {
                network: Some(spec.network),
                memory: spec.memory,
                cpu: spec.cpu,
                arguments: spec.arguments,
                address: spec.address,
                exclude: Vec::new(),
                block_devices: spec.block_devices,
                restart: spec.restart,
                readiness: unikernel.readiness,
                timeout: unikernel.timeout,
                check: unikernel.check,
            },
            stack: None,
            keeps: Some(unikernel.deployed),
        }
    }
}

#[derive(Debug)]
pub struct PublishRequest {
    /// Who asks: not everybody may publish every port.
    pub caller: Caller,
    pub service: ServiceName,
    pub ports: Vec<PortMapping>,
    /// `None`: of those of the service that are ready the one that was deployed last.
    pub unikernel: Option<UnikernelId>,
    /// Empty: all local ones.
    pub addresses: BTreeSet<IpAddr>,
    /// Empty: any.
    pub sources: Vec<IpNet>,
    /// `None`: the configuration's.
    pub drain: Option<Duration>,
}

#[derive(Debug, Default)]
pub struct CollectRequest {
    pub dry_run: bool,
    /// `None`: every publication stays.
    pub keep: Option<BTreeSet<ServiceName>>,
    pub force: bool,
    /// `None`: the configuration's.
    pub keep_previous: Option<u32>,
}

#[derive(Debug)]
pub struct ApplyRequest {
    pub manifest: Manifest,
    /// Who asks: paths are opened with no more rights.
    pub caller: Caller,
    /// Make it live as soon as all is ready.
    pub activate: bool,
    /// What is watched, where that is the cause: nothing is done where this is not what was applied last, or where its
    /// watched images are what they were.
    pub watched: Option<Arc<Applied>>,
}
