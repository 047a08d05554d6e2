//! The one place where errors get their D-Bus names.

use zbus::message::{Header, Message};
use zbus::names::ErrorName;

use super::arguments::InvalidArgument;
use crate::orchestrator::{self, ErrorKind};

/// An error as a caller sees it: a name of the contract, and words for the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    kind: ErrorKind,
    message: String,
}

impl Failure {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<InvalidArgument> for Failure {
    fn from(error: InvalidArgument) -> Self {
        Self::new(ErrorKind::InvalidArgument, error.to_string())
    }
}

impl From<orchestrator::Error> for Failure {
    /// The caller gets the error's own words. The orchestrator has logged which call it ended.
    fn from(error: orchestrator::Error) -> Self {
        Self::new(error.kind(), error.to_string())
    }
}

impl zbus::DBusError for Failure {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name()).build(&(self.message.as_str()))
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_static_str_unchecked(name(self.kind))
    }

    fn description(&self) -> Option<&str> {
        Some(&self.message)
    }
}

/// The names of the contract. A client decides by them, so they are never computed.
fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidArgument => "org.albatross.Deployer1.Error.InvalidArgument",
        ErrorKind::NoSuchService => "org.albatross.Deployer1.Error.NoSuchService",
        ErrorKind::NoSuchUnikernel => "org.albatross.Deployer1.Error.NoSuchUnikernel",
        ErrorKind::NoSuchLease => "org.albatross.Deployer1.Error.NoSuchLease",
        ErrorKind::NoSuchStack => "org.albatross.Deployer1.Error.NoSuchStack",
        ErrorKind::NoSuchJob => "org.albatross.Deployer1.Error.NoSuchJob",
        ErrorKind::NotAuthorized => "org.albatross.Deployer1.Error.NotAuthorized",
        ErrorKind::AddressPoolExhausted => "org.albatross.Deployer1.Error.AddressPoolExhausted",
        ErrorKind::AddressInUse => "org.albatross.Deployer1.Error.AddressInUse",
        ErrorKind::PortConflict => "org.albatross.Deployer1.Error.PortConflict",
        ErrorKind::ImageInvalid => "org.albatross.Deployer1.Error.ImageInvalid",
        ErrorKind::ImageUnavailable => "org.albatross.Deployer1.Error.ImageUnavailable",
        ErrorKind::ImageTooLarge => "org.albatross.Deployer1.Error.ImageTooLarge",
        ErrorKind::BuildFailed => "org.albatross.Deployer1.Error.BuildFailed",
        ErrorKind::AlbatrossUnavailable => "org.albatross.Deployer1.Error.AlbatrossUnavailable",
        ErrorKind::AlbatrossRefused => "org.albatross.Deployer1.Error.AlbatrossRefused",
        ErrorKind::NotReady => "org.albatross.Deployer1.Error.NotReady",
        ErrorKind::KernelRefused => "org.albatross.Deployer1.Error.KernelRefused",
        ErrorKind::InUse => "org.albatross.Deployer1.Error.InUse",
        ErrorKind::Cancelled => "org.albatross.Deployer1.Error.Cancelled",
        ErrorKind::Internal => "org.albatross.Deployer1.Error.Internal",
    }
}
