//! What happened, as clients of the bus are told it: how a thing looked before, and how it looks now.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{
    ImageDigest, JobNumber, JobResult, JobView, MacAddress, NetworkName, Ordinal, Publication, ServiceName, StackName,
    StackState, Timestamp, UnikernelId, UnikernelState,
};

/// What a Unikernel object shows. `ActiveConnections` is not here: it is read from what the kernel has notified of when
/// somebody asks, and [`Event::Connections`] tells it while it drains.
#[derive(Debug, Clone, PartialEq)]
pub struct UnikernelView {
    pub id: UnikernelId,
    pub state: UnikernelState,
    pub address: IpAddr,
    pub network: NetworkName,
    pub mac: Option<MacAddress>,
    /// MiB.
    pub memory: u64,
    pub cpu: u32,
    pub image: ImageDigest,
    /// Where the image came from first, and what that meant; empty where it was handed over.
    pub image_origin: String,
    pub created_at: Timestamp,
    /// See [`crate::domain::Unikernel::deployed`].
    pub revision: Ordinal,
    pub started_at: Option<Timestamp>,
    pub restarts: u32,
    pub exit_reason: String,
}

/// What a Service object shows.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceView {
    pub name: ServiceName,
    pub publication: Option<Arc<Publication>>,
    pub previous: Option<UnikernelId>,
}

impl ServiceView {
    pub fn live(&self) -> Option<&UnikernelId> {
        self.publication.as_ref().map(|publication| &publication.unikernel)
    }
}

/// The members of a chain with their unikernels; `None` for one that is gone.
pub type ChainView = BTreeMap<ServiceName, Option<UnikernelId>>;

/// What a Stack object shows.
#[derive(Debug, Clone, PartialEq)]
pub struct StackView {
    pub name: StackName,
    pub state: StackState,
    pub live: ChainView,
    pub staged: ChainView,
    pub previous: ChainView,
    /// When the images that are watched were looked at last.
    pub last_check: Option<Timestamp>,
    /// What came of the last Apply, in words.
    pub last_result: String,
}

/// What the Manager's properties show.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ManagerView {
    pub albatross_version: String,
    /// What does not work now and what to do about it.
    pub degraded: Vec<String>,
    pub services: u32,
    pub unikernels: u32,
    pub leases: u32,
}

/// `before` is `None` for what appears, `after` for what vanishes.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Unikernel {
        before: Option<Arc<UnikernelView>>,
        after: Option<Arc<UnikernelView>>,
    },
    Service {
        before: Option<Arc<ServiceView>>,
        after: Option<Arc<ServiceView>>,
    },
    Stack {
        before: Option<Arc<StackView>>,
        after: Option<Arc<StackView>>,
    },
    /// The live unikernel of a service is another one, or none.
    Switched {
        service: ServiceName,
        from: Option<UnikernelId>,
        to: Option<UnikernelId>,
    },
    /// How many connections one that drains still has.
    Connections {
        id: UnikernelId,
        count: u32,
    },
    Job(JobView),
    JobRemoved {
        number: JobNumber,
        result: JobResult,
    },
    Manager(Arc<ManagerView>),
}
