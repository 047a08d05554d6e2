//! The words of the field as types. Nothing here does I/O or knows a bus, socket, database or netlink type.
//!
//! A name or an address is parsed once, at the door where it comes in; from then on its type says that it is valid.

mod build;
mod change;
mod console;
mod container;
mod event;
mod flow;
mod host;
mod image;
mod inventory;
mod job;
mod lease;
mod listener;
mod names;
mod network;
mod ordinal;
mod port_range;
mod publication;
mod readiness;
mod repository;
mod stack;
mod time;
mod unikernel;

pub use build::{
    Build, BuildKey, BuildOptions, BuildRequest, Instruction, InvalidBuild, InvalidText, MirageArgument, MirageRecipe,
    MirageVersion, Recipe, Target,
};
pub use change::Change;
pub use console::{ConsoleLine, ConsolePattern, InvalidPattern};
pub use container::{
    ContentDigest, EngineImage, ImageName, ImagePath, ImageRepository, LayoutName, Registry, SavedImage, Tag,
};
pub use event::{ChainView, Event, ManagerView, ServiceView, StackView, UnikernelView};
pub use flow::FlowSelector;
pub use host::{AddressedLink, Bridge, ConntrackFill, LoopbackRoute};
pub use image::{
    Caller, ImageDigest, ImageOptions, ImageRecord, ImageReference, InvalidImageReference, NetworkDevice, Origin,
};
pub use inventory::{Inventory, Policy, Running};
pub use job::{JobKind, JobNumber, JobResult, JobView};
pub use lease::Lease;
pub use listener::Listener;
pub use names::{InvalidName, LeaseTag, NetworkName, ServiceName, StackName, UnikernelId};
pub use network::{AddressRange, Exclusion, InvalidExclusion, Network};
pub use ordinal::Ordinal;
pub use port_range::{InvalidPortRange, PortRange, PortRanges};
pub use publication::{HostPort, PortMapping, PortProtocol, Publication, Service, StaleFlows, Transport, host_ports};
pub use readiness::{Check, HostName, HttpRule, InvalidReadiness, Readiness, Statuses};
pub use repository::{CommitId, GitRef, GitSource, GitTransport, GitUrl, InvalidRepository, RepositoryPath};
pub use stack::{Applied, Attempt, Chain, Manifest, Member, MemberPlan, Stack, StackState};
pub use time::{Deadline, Timestamp};
pub use unikernel::{
    AddressChoice, Arguments, BlockDevice, Configuration, MacAddress, Phase, Provisional, RestartPolicy, Unikernel,
    UnikernelSpec, UnikernelState,
};
