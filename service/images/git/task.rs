//! What a worker does with a repository.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::serve::{Connection, serve};
use super::{Access, Error, Fetch, Limits, Report};
use crate::domain::{CommitId, GitRef, GitTransport, GitUrl};
use crate::images::worker::{Failure, Gone, Voice};

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

/// How much a repository may take.
const LIMITS: Limits = Limits { disk: 2 << 30, tree: 2 << 30, entries: 250_000 };

/// For all of one step. Who takes the tree takes all of it first.
const PATIENCE: Duration = Duration::from_secs(25 * 60);

/// Does it.
pub fn run(request: &Request, input: File, output: File, voice: &mut Voice) -> Result<(), Failure> {
    match request {
        Request::Serve { repository } => serve(repository, input),
        Request::Resolve(remote) => {
            let commit = with_fetch(remote, input, voice, |fetch| fetch.resolve())?;
            Ok(voice.answer(commit.as_str())?)
        }
        Request::Fetch { remote, commit } => with_fetch(remote, input, voice, |fetch| {
            fetch.fetch(commit)?;
            fetch.archive(commit, &mut &output).map(drop)
        }),
    }
}

fn with_fetch<T>(
    remote: &Remote,
    input: File,
    voice: &mut Voice,
    work: impl FnOnce(&mut Fetch<'_>) -> Result<T, Error>,
) -> Result<T, Failure> {
    // For each file; git inherits it. All of them together are measured now and then.
    let limit = Rlimit { current: Some(LIMITS.disk), maximum: Some(LIMITS.disk) };
    setrlimit(Resource::Fsize, limit).map_err(|error| Error::Io { what: "limit files".into(), error: error.into() })?;
    let is_here = remote.url.transport() == GitTransport::File;
    let connection = is_here.then(|| Connection::new(input)).transpose()?;
    let stop = AtomicBool::new(false);
    let mut report = |report: Report<'_>| {
        if tell(voice, report).is_err() {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let mut fetch = Fetch {
        url: &remote.url,
        reference: remote.reference.as_ref(),
        directory: &remote.directory,
        access: &remote.access,
        connection,
        limits: LIMITS,
        deadline: Instant::now() + PATIENCE,
        stop: &stop,
        report: &mut report,
    };
    Ok(work(&mut fetch)?)
}

fn tell(voice: &mut Voice, report: Report<'_>) -> Result<(), Gone> {
    match report {
        Report::Step(step) => voice.step(step),
        Report::Line(line) => voice.line(line),
        Report::Received { percent } => voice.progress(percent.into(), Some(100)),
    }
}
