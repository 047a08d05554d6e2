//! Why Albatross did not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::wire::Unsayable;

/// After all but `NotBegun`, `Refused`, `Image` and `Unsayable` of a command that changes something, it may still be done later:
/// Albatross goes on with a create whose client has left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody there, no answer in time, or none at all.
    #[error(
        "Albatross gives no answer on {}: {reason}; see `systemctl status albatross_daemon albatross_console` and its \
         journal", socket.display()
    )]
    Unavailable { socket: PathBuf, reason: String },
    /// Albatross was not reached, so nothing of a create was done.
    #[error(transparent)]
    NotBegun(Box<Error>),
    /// Albatross's own words.
    #[error("{0}")]
    Refused(String),
    #[error(
        "unikernel {name} has been told to exit and still runs after {} s: Albatross sends SIGTERM and nothing harder, \
         so end its tender (solo5-hvt or solo5-spt) by hand with SIGKILL if it stays", waited.as_secs_f32()
    )]
    WillNotExit { name: String, waited: Duration },
    /// What came is not an answer to what was asked.
    #[error(
        "the answer of Albatross on {} cannot be read ({what}): see that its version is one of 2.4 to 2.7", socket.display()
    )]
    Garbled { socket: PathBuf, what: String },
    #[error("the image could not be sent to Albatross: {0}; import it again")]
    Image(#[source] io::Error),
    #[error(transparent)]
    Unsayable(#[from] Unsayable),
}

impl Error {
    /// Of a command before any of it was sent.
    pub(super) fn before_it_began(self) -> Self {
        match self {
            unavailable @ Self::Unavailable { .. } => Self::NotBegun(Box::new(unavailable)),
            other => other,
        }
    }
}
