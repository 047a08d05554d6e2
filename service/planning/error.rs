//! Why something was not admitted. Each text is for the person who asked, and says what to do.

use std::net::IpAddr;

use super::address_pool;
use crate::domain::{HostPort, LeaseTag, Listener, NetworkName, ServiceName, StackName, UnikernelId};

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    InvalidArgument(String),
    #[error("no service {0}: `Deploy` makes one, `busctl tree org.albatross.Deployer1` lists them")]
    NoSuchService(ServiceName),
    #[error("no unikernel {0}: `busctl tree org.albatross.Deployer1` lists them")]
    NoSuchUnikernel(UnikernelId),
    #[error("no lease for the tag \"{0}\": ListLeases shows those that there are")]
    NoSuchLease(LeaseTag),
    #[error("no stack {0}: `Apply` makes one, `busctl tree org.albatross.Deployer1` lists them")]
    NoSuchStack(StackName),
    #[error("service {0} has no earlier unikernel to go back to: deploy and publish the one that is wanted")]
    NothingBefore(ServiceName),
    #[error("stack {0} has no earlier chain to go back to: Apply stages another one, and Activate makes it live")]
    NoChainBefore(StackName),
    #[error("{} {} choose another host port", port_text(.port), taken_text(.other, .stack.as_ref()))]
    PortConflict { port: HostPort, other: ServiceName, stack: Option<StackName> },
    #[error(
        "{} is that of {}, which listens there: choose another host port, stop it, or name the port in the configuration: \
         [publish] take-over = [\"{}/{}\"]",
        port_text(.port), process_text(.process.as_deref(), .listener), .port.port, .port.transport
    )]
    PortListened {
        port: HostPort,
        listener: Listener,
        /// Whose it is, where that is known by more than its user's number.
        process: Option<String>,
    },
    #[error("{0}")]
    NotAuthorized(String),
    #[error("{0}")]
    ImageInvalid(String),
    #[error(transparent)]
    Address(#[from] address_pool::Error),
    #[error(
        "{address} answers on network {network} although nobody leased it: exclude it in the configuration, or free it"
    )]
    AddressAnswers { address: IpAddr, network: NetworkName },
    #[error("{0}")]
    NotReady(String),
    #[error("{0}")]
    InUse(String),
}

/// A host port as a person reads it.
fn taken_text(other: &ServiceName, stack: Option<&StackName>) -> String {
    match stack {
        None => format!("is published by service {other} already: unpublish that one, or"),
        Some(stack) => {
            format!("is one of service {other} in stack {stack} already: change the manifest of that stack, or")
        }
    }
}

fn process_text(process: Option<&str>, listener: &Listener) -> String {
    process.map_or_else(|| format!("a process of user {}", listener.uid), ToOwned::to_owned)
}

pub(super) fn port_text(port: &HostPort) -> String {
    match port.address {
        Some(address) => format!("{} port {} on {address}", port.transport, port.port),
        None => format!("{} port {}", port.transport, port.port),
    }
}
