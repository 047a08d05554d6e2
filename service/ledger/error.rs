//! Why the ledger cannot be read or written, for the person who has to see to it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Nothing of a list of changes is kept when its commit returns one of these.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error(
        "the ledger {} is in use by another process: stop the other albatross-deployer, or give this one a \
         --state-directory of its own",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error(
        "the ledger {} has schema {found}, this version knows schemas up to {known}: install the newer \
         albatross-deployer that wrote it, or move the file away to begin with an empty ledger",
        path.display()
    )]
    Newer { path: PathBuf, found: u64, known: u64 },
    #[error(
        "the ledger {} is damaged or not a ledger ({what}); it is left as it is: put back a copy of it, or \
         move it away to begin with an empty ledger",
        path.display()
    )]
    Damaged { path: PathBuf, what: String },
    #[error("the ledger {} cannot be used: {source}: {}", path.display(), advice(source))]
    Io { path: PathBuf, source: Arc<io::Error> },
    #[error(
        "the ledger {} is another file than the one that this process opened: restart albatross-deployer, so \
         that it reads what is there now",
        path.display()
    )]
    Replaced { path: PathBuf },
    #[error("the ledger's thread has stopped, the journal says why: restart albatross-deployer")]
    Stopped,
}

impl Error {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.into(), source: Arc::new(source) }
    }

    /// What redb says, in our words.
    pub(super) fn of(path: &Path, error: impl Into<redb::Error>) -> Self {
        let damaged = |what: String| Self::Damaged { path: path.into(), what };
        match error.into() {
            redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => Self::InUse { path: path.into() },
            redb::Error::Corrupted(what) => damaged(what),
            // A file that is not one of redb's, or ends before what its header promises.
            redb::Error::Io(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
            {
                damaged(error.to_string())
            }
            redb::Error::Io(error) => Self::io(path, error),
            error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::TransactionPoisoned) => {
                Self::io(path, io::Error::other(error.to_string()))
            }
            other => damaged(other.to_string()),
        }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on its file system, then try again",
        io::ErrorKind::ReadOnlyFilesystem => "mount its file system writable, then try again",
        io::ErrorKind::PermissionDenied => "give the service's user the right to read and write it and its folder",
        io::ErrorKind::NotFound => "create its folder, or give another --state-directory",
        _ => "look into the kernel's log for errors of the disk",
    }
}
