//! TEMPORARY stand-in until the real owner of state is merged: it knows nothing, and every call fails.

mod request;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::domain::{Exclusion, JobNumber, JobResult, JobView, Lease, LeaseTag, Publication, ServiceName, UnikernelId};

pub use request::{CollectRequest, DeployRequest, ImageSource, PublishRequest};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    InvalidArgument,
    NoSuchService,
    NoSuchUnikernel,
    NoSuchLease,
    NoSuchStack,
    NoSuchJob,
    NotAuthorized,
    AddressPoolExhausted,
    AddressInUse,
    PortConflict,
    ImageInvalid,
    ImageUnavailable,
    ImageTooLarge,
    BuildFailed,
    AlbatrossUnavailable,
    AlbatrossRefused,
    NotReady,
    KernelRefused,
    InUse,
    Cancelled,
    Internal,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no unikernel {0}")]
    NoSuchUnikernel(UnikernelId),
    #[error("the service is shutting down")]
    Internal,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchUnikernel(_) => ErrorKind::NoSuchUnikernel,
            Self::Internal => ErrorKind::Internal,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Deployed {
    pub id: UnikernelId,
    pub address: IpAddr,
}

#[derive(Debug, Clone, Copy)]
pub enum RemovedKind {
    Unikernel,
}

impl fmt::Display for RemovedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unikernel")
    }
}

#[derive(Debug, Clone)]
pub struct Removed {
    pub kind: RemovedKind,
    pub name: String,
}

#[derive(Debug, Clone)]
pub struct Orchestrator;

impl Orchestrator {
    /// A handle whose owner is gone: every call fails.
    pub fn unattended() -> Self {
        Self
    }
    pub async fn deploy(&self, _: DeployRequest) -> Result<Deployed, Error> {
        Err(Error::Internal)
    }
    pub async fn publish(&self, _: PublishRequest) -> Result<(), Error> {
        Err(Error::Internal)
    }
    pub async fn unpublish(&self, _: ServiceName) -> Result<(), Error> {
        Err(Error::Internal)
    }
    pub async fn rollback(&self, _: ServiceName) -> Result<UnikernelId, Error> {
        Err(Error::Internal)
    }
    pub async fn collect(&self, _: CollectRequest) -> Result<Vec<Removed>, Error> {
        Err(Error::Internal)
    }
    pub async fn restart(&self, id: UnikernelId) -> Result<(), Error> {
        Err(Error::NoSuchUnikernel(id))
    }
    pub async fn destroy(&self, id: UnikernelId, _force: bool) -> Result<(), Error> {
        Err(Error::NoSuchUnikernel(id))
    }
    pub async fn allocate_address(&self, _: LeaseTag, _: IpNet, _: Vec<Exclusion>) -> Result<IpAddr, Error> {
        Err(Error::Internal)
    }
    pub async fn release_address(&self, _: LeaseTag) -> Result<IpAddr, Error> {
        Err(Error::Internal)
    }
    pub async fn leases(&self) -> Result<Vec<Lease>, Error> {
        Err(Error::Internal)
    }
    pub async fn publications(&self) -> Result<Vec<(ServiceName, Arc<Publication>)>, Error> {
        Err(Error::Internal)
    }
    pub async fn export_ruleset(&self) -> Result<String, Error> {
        Err(Error::Internal)
    }
    pub async fn cancel(&self, _: JobNumber) -> Result<(), Error> {
        Err(Error::Internal)
    }
    pub async fn jobs(&self) -> Result<Vec<(JobView, Option<JobResult>)>, Error> {
        Err(Error::Internal)
    }
    pub async fn active_connections(&self, _: UnikernelId) -> Result<u32, Error> {
        Err(Error::Internal)
    }
}
