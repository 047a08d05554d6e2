//! Everything that a call can end with. The bus gives each its name by [`Error::kind`].

use super::jobs::LogError;
use crate::domain::{ImageDigest, JobNumber, ServiceName, StackName, UnikernelId};
use crate::planning::address_pool::{self, Why};
use crate::{albatross, consoles, host_network, images, ledger, planning};

/// The contract's errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    #[error(transparent)]
    Refused(#[from] planning::Error),
    #[error(transparent)]
    Image(#[from] images::Error),
    #[error(transparent)]
    Albatross(#[from] albatross::Error),
    #[error(transparent)]
    Kernel(#[from] host_network::Error),
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    #[error(transparent)]
    Console(#[from] consoles::Error),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("{id} is not ready: {reason}{}", console_text(.console))]
    NotReady { id: UnikernelId, reason: String, console: Vec<String> },
    #[error("member {member} of stack {stack}: {source}")]
    Member { member: ServiceName, stack: StackName, source: Box<Error> },
    #[error("stack {stack} is off its ports, and goes as soon as this has passed: {source}")]
    Leaving { stack: StackName, source: Box<Error> },
    #[error("image {digest} is damaged in the store{}: deploy it from its source again", why_not_again(.origin))]
    ImageDamaged {
        digest: ImageDigest,
        /// What it came from, and why that did not bring it again: it failed, or has another image now.
        origin: Option<(String, Option<Box<Error>>)>,
    },
    #[error("image {0} was collected meanwhile: give it again")]
    ImageGone(ImageDigest),
    #[error("no job {0}: it has ended")]
    NoSuchJob(JobNumber),
    #[error("cancelled")]
    Cancelled,
    #[error("the service is stopping: call again in a moment")]
    Stopping,
    #[error("a defect of the service ended this call: please report what the journal says of it")]
    Defect,
}

fn why_not_again(origin: &Option<(String, Option<Box<Error>>)>) -> String {
    match origin {
        None => String::new(),
        Some((origin, None)) => format!(", and {origin} is another image now"),
        Some((origin, Some(error))) => format!(", and {origin} does not bring it again ({error})"),
    }
}

fn console_text(lines: &[String]) -> String {
    if lines.is_empty() { String::new() } else { format!("; its console said last: {}", lines.join(" | ")) }
}

impl Error {
    /// It kept a member of a stack from being made.
    pub fn of_member(self, member: &ServiceName, stack: &StackName) -> Self {
        // That somebody cancels is no member's doing.
        if self.kind() == ErrorKind::Cancelled {
            return self;
        }
        Self::Member { member: member.clone(), stack: stack.clone(), source: Box::new(self) }
    }

    /// The words for everybody: without what guests have printed.
    pub fn public(&self) -> String {
        self.without_guests("; the journal has what it said")
    }

    /// One line for the log, without what guests have printed: that is in the field of the error.
    pub fn line(&self) -> String {
        self.without_guests("").replace(char::is_control, " ")
    }

    /// `instead`: stands in place of a guest's console lines.
    fn without_guests(&self, instead: &str) -> String {
        match self {
            Self::NotReady { id, reason, .. } => format!("{id} is not ready: {reason}{instead}"),
            Self::Member { member, stack, source } => {
                format!("member {member} of stack {stack}: {}", source.without_guests(instead))
            }
            Self::Leaving { stack, source } => {
                let source = source.without_guests(instead);
                format!("stack {stack} is off its ports, and goes as soon as this has passed: {source}")
            }
            Self::Image(images::Error::Build(words)) => {
                let first = words.lines().next().unwrap_or_default();
                format!("{first} (its last lines are for who has called)")
            }
            Self::ImageDamaged { digest, .. } => {
                format!("image {digest} is damaged in the store: deploy it from its source again")
            }
            other => other.to_string(),
        }
    }

    /// Whether the service itself is at fault, and not its host or what it was given.
    pub fn is_defect(&self) -> bool {
        match self {
            Self::Member { source, .. } | Self::Leaving { source, .. } => source.is_defect(),
            Self::Ledger(_) | Self::Stopping => false,
            other => other.kind() == ErrorKind::Internal,
        }
    }

    /// Whether the same call may well succeed later, with nothing changed by its caller.
    pub fn is_passing(&self) -> bool {
        use ErrorKind as Kind;
        let passing = [Kind::AlbatrossUnavailable, Kind::AddressPoolExhausted, Kind::KernelRefused, Kind::Internal];
        passing.contains(&self.kind()) || matches!(self.kind(), Kind::PortConflict | Kind::InUse | Kind::Cancelled)
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(error) => refused_kind(error),
            Self::Image(error) => image_kind(error),
            Self::Albatross(error) => albatross_kind(error),
            Self::Kernel(_) => ErrorKind::KernelRefused,
            Self::Console(consoles::Error::TooManyReaders) | Self::Log(LogError::TooManyReaders) => ErrorKind::InUse,
            Self::NotReady { .. } => ErrorKind::NotReady,
            Self::Member { source, .. } | Self::Leaving { source, .. } => source.kind(),
            // It may come another time.
            Self::ImageDamaged { origin: Some((_, Some(source))), .. } => source.kind(),
            Self::ImageDamaged { .. } => ErrorKind::ImageInvalid,
            Self::ImageGone(_) => ErrorKind::ImageUnavailable,
            Self::NoSuchJob(_) => ErrorKind::NoSuchJob,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::Console(consoles::Error::Pipe(_)) | Self::Log(LogError::Pipe(_)) => ErrorKind::Internal,
            Self::Ledger(_) | Self::Stopping | Self::Defect => ErrorKind::Internal,
        }
    }
}

fn refused_kind(error: &planning::Error) -> ErrorKind {
    use planning::Error as Refused;
    match error {
        Refused::InvalidArgument(_) => ErrorKind::InvalidArgument,
        Refused::NoSuchService(_) => ErrorKind::NoSuchService,
        Refused::NoSuchUnikernel(_) | Refused::NothingBefore(_) | Refused::NoChainBefore(_) => {
            ErrorKind::NoSuchUnikernel
        }
        Refused::NoSuchStack(_) => ErrorKind::NoSuchStack,
        Refused::NoSuchLease(_) => ErrorKind::NoSuchLease,
        Refused::PortConflict { .. } | Refused::PortListened { .. } => ErrorKind::PortConflict,
        Refused::NotAuthorized(_) => ErrorKind::NotAuthorized,
        Refused::ImageInvalid(_) => ErrorKind::ImageInvalid,
        Refused::AddressAnswers { .. } => ErrorKind::AddressInUse,
        Refused::NotReady(_) => ErrorKind::NotReady,
        Refused::InUse(_) => ErrorKind::InUse,
        Refused::Address(error) => match error {
            address_pool::Error::Exhausted { .. } => ErrorKind::AddressPoolExhausted,
            // Nobody can have these, and nobody can free them.
            address_pool::Error::InUse { why: Why::Network(_) | Why::Broadcast(_) | Why::Outside(_), .. } => {
                ErrorKind::InvalidArgument
            }
            address_pool::Error::InUse { .. } => ErrorKind::AddressInUse,
            _ => ErrorKind::InvalidArgument,
        },
    }
}

fn image_kind(error: &images::Error) -> ErrorKind {
    match error {
        images::Error::Invalid(_) => ErrorKind::ImageInvalid,
        images::Error::TooLarge { .. } | images::Error::SourceTooLarge(_) | images::Error::StoreFull { .. } => {
            ErrorKind::ImageTooLarge
        }
        images::Error::Build(_) => ErrorKind::BuildFailed,
        images::Error::Cancelled => ErrorKind::Cancelled,
        _ => ErrorKind::ImageUnavailable,
    }
}

fn albatross_kind(error: &albatross::Error) -> ErrorKind {
    match error {
        albatross::Error::Refused(_) => ErrorKind::AlbatrossRefused,
        _ => ErrorKind::AlbatrossUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_is_one_and_has_no_words_of_guests() {
        let not_ready = || Error::NotReady {
            id: "website.0123456789".parse().unwrap(),
            reason: "it exited at once".into(),
            console: vec!["guest: secret".into()],
        };
        let member = not_ready().of_member(&"website".parse().unwrap(), &"shop".parse().unwrap());
        let build = Error::Image(images::Error::Build("the build failed\nstep 3: out of space".into()));
        for (error, line) in [
            (not_ready(), "website.0123456789 is not ready: it exited at once"),
            (member, "member website of stack shop: website.0123456789 is not ready: it exited at once"),
            (build, "the build failed (its last lines are for who has called)"),
            (albatross::Error::Refused("no\nsuch \u{1b}[31mbridge".into()).into(), "no such  [31mbridge"),
        ] {
            assert_eq!(error.line(), line);
        }
    }

    #[test]
    fn a_full_disk_is_no_defect() {
        assert!(Error::Defect.is_defect());
        assert!(!Error::Ledger(ledger::Error::Stopped).is_defect() && !Error::Cancelled.is_defect());
    }
}
