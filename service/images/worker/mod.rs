//! What parses foreign bytes does so in a process of its own: the same executable, that may nothing but read what it was
//! handed, write the unikernel to a pipe, and tell how far it is.
//!
//! ```text
//!   service                                        worker (`albatross-deployer --worker`)
//!   parent::start ── fork, exec ─────────────────► child::run
//!                    0: the image, opened as its caller   confinement: no capability, none to be gained,
//!                    1: a pipe ◄── the unikernel          no file, no network, little memory, a minute of processor
//!                    2: a socket ── the task ──►
//!                                ◄── progress, outcome   archive::docker and its like
//!   Store::import(pipe): copy, hash, inspect
//! ```
//!
//! A worker that crashes is an error of its call, never of the service.

mod child;
mod confinement;
mod parent;

use serde::{Deserialize, Serialize};

use super::archive;
use crate::images::Error;

pub use child::run;
pub use parent::{Running, start};

/// The flag with which the executable is a worker.
pub const FLAG: &str = "--worker";

/// What a worker is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    pub form: Form,
    /// Of an archive with several images.
    pub tag: Option<String>,
    /// Where the unikernel stands in the image: the first that there is.
    pub paths: Vec<String>,
    /// Bytes that it may have.
    pub limit: u64,
}

/// How the image was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    Docker,
    Oci,
}

/// What a worker says, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// Bytes of the image that were read.
    Read(u64),
    Done,
    Failed {
        kind: Kind,
        message: String,
    },
}

/// What kind of an error the message is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Kind {
    Invalid,
    Unavailable,
    TooLarge,
    /// Nobody takes the unikernel any more: why, the reader of the pipe knows.
    Unwanted,
}

impl Kind {
    fn of(error: &archive::Error) -> Self {
        match error {
            archive::Error::OutputTooLarge { .. } => Self::TooLarge,
            archive::Error::Write(_) => Self::Unwanted,
            archive::Error::Read(_) | archive::Error::Deadline | archive::Error::Cancelled => Self::Unavailable,
            _ => Self::Invalid,
        }
    }

    /// `None`: what the reader of the pipe says holds.
    fn error(self, message: String, limit: u64) -> Option<Error> {
        match self {
            Self::Invalid => Some(Error::Invalid(message)),
            Self::Unavailable => Some(Error::Unavailable(message)),
            Self::TooLarge => Some(Error::TooLarge { limit }),
            Self::Unwanted => None,
        }
    }
}
