//! What a worker does with a repository.

use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Access;
use crate::domain::{CommitId, GitRef, GitUrl};
use crate::images::worker::{Failure, Kind, Voice};

/// One step of the way from a reference to a commit's files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Which commit is meant now: the answer is its name.
    Resolve(Remote),
    /// A commit → the tar of its tree.
    Fetch { remote: Remote, commit: CommitId },
    /// A repository of this host, as its reader: git's protocol is spoken on descriptor 0.
    Serve { repository: PathBuf },
}

/// A repository, and where there is room to work on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Remote {
    /// Of one on this host, descriptor 0 leads to the worker that serves it.
    pub url: GitUrl,
    /// The remote's HEAD where it is not said.
    pub reference: Option<GitRef>,
    /// Private and empty; who made it removes it.
    pub directory: PathBuf,
    pub access: Access,
}

/// Does it.
pub fn run(request: &Request, input: File, output: File, voice: &mut Voice) -> Result<(), Failure> {
    let _ = (request, input, output, voice);
    Err(Failure::new(Kind::Unavailable, "git+ images cannot be built yet"))
}
