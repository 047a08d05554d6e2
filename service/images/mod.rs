//! Images: where they come from, what their notes say ([`solo5`]), who signed them ([`signature`]), where they are kept
//! ([`Store`]). What reads foreign bytes does so in a [`worker`].
//!
//! ```text
//! path ── open_as ────────────────────────────┐
//! descriptor ─────────────────────────────────┤
//! saved image ── open_as ── worker: archive ──┤
//! registry ──────────────── worker: registry ─┼─ Store::import: copy + hash ─ worker: solo5 ─ fsync ─ rename to sha256-HEX
//! engine ── worker: engine ── worker: taken ──┤
//! repository ── worker: git ── worker: engine ┘
//! ```

pub mod archive;
pub mod engine;
pub mod git;
mod identity;
mod import;
mod inspection;
mod open_as;
pub mod recipe;
pub mod registry;
pub mod signature;
pub mod solo5;
mod source;
mod store;
pub mod worker;

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::domain::ImageDigest;

pub use open_as::{open_as, open_folder_as, read_as};
pub use store::Store;

/// Why there is no image. The text is for the person who named it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a Solo5 image, a truncated one, or one with other devices than can be served.
    #[error("{0}")]
    Invalid(String),
    #[error(
        "the image is larger than {limit} bytes, the limit: raise limits.image-size, or strip the image of its debug sections"
    )]
    TooLarge {
        /// Bytes.
        limit: u64,
    },
    /// A repository.
    #[error("{0}")]
    SourceTooLarge(String),
    #[error(
        "the images have more than {limit} bytes together, the limit: remove those that nothing uses with Collect, or raise \
         limits.store-size"
    )]
    StoreFull {
        /// Bytes.
        limit: u64,
    },
    /// The source cannot be opened or read, or sends nothing.
    #[error("{0}")]
    Unavailable(String),
    /// With the last lines of the build.
    #[error("{0}")]
    Build(String),
    #[error("the import of the image was cancelled")]
    Cancelled,
    #[error("no space is left in {directory} for the image: make room, or remove images that nothing uses with Collect", directory = .directory.display())]
    NoSpace { directory: PathBuf },
    #[error("there is no image {0} in the store: deploy it from where it is first")]
    NotStored(ImageDigest),
    /// The store's own folder does not work.
    #[error("cannot {what}: {error}")]
    Io {
        what: String,
        #[source]
        error: io::Error,
    },
}

impl Error {
    /// A failed operation on the store's `path`, `doing` e.g. "create".
    fn storing(doing: &str, path: &Path, error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT) => {
                Self::NoSpace { directory: path.parent().unwrap_or(path).to_path_buf() }
            }
            _ => Self::Io { what: format!("{doing} {}", path.display()), error },
        }
    }
}
