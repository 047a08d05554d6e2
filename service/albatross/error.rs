//! Why Albatross did not do what it was asked.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::wire::Unsayable;

/// How albatrossd ends what it says then.
const CONSOLE_LOST: &str = "console failed";

/// After all but those that are [final](Error::is_final) of a command that changes something, it may still be done later:
/// Albatross goes on with a create whose client has left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody there, no answer in time, or none at all.
    #[error(
        "Albatross gives no answer on {}: {reason}; see `systemctl status albatross_daemon albatross_console` and its \
         journal", socket.display()
    )]
    Unavailable { socket: PathBuf, reason: String },
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
    /// One of the others, before the command was sent.
    #[error("{0}")]
    NotSent(Box<Self>),
}

impl Error {
    pub(super) fn not_sent(self) -> Self {
        if self.is_final() { self } else { Self::NotSent(Box::new(self)) }
    }

    /// Whether it could not create a unikernel because albatrossd has lost the console daemon. It connects to that when it
    /// starts, and never again.
    pub fn is_console_lost(&self) -> bool {
        matches!(self, Self::Refused(text) if text.ends_with(CONSOLE_LOST))
    }

    /// Whether what was asked for is not done, and will not be.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Image(_) | Self::Unsayable(_) | Self::NotSent(_))
    }
}
