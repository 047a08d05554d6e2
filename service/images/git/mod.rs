//! One commit of a repository as a tar stream, by the `git` program.
//!
//! ```text
//! reference ── git ls-remote ──► commit ── git fetch --depth 1 ──► a bare repository ── git archive ──► tar
//!               (refs)                     (program: deadline, disk)       (tree: what is in it)
//! ```
//!
//! There is never a work tree, so that nothing of the repository is ever run or followed: no hook, no filter, no LFS, no
//! symbolic link. What git may do is said in a configuration of this module's own ([`environment`]), and in no other.
//! A repository of this host is read by another process, with the caller's rights ([`serve`]).
//! Blocking: this is for the worker process.

mod environment;
mod program;
mod refs;
mod serve;
mod task;
mod tree;

use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::worker::{Failure, Kind};
use crate::domain::{CommitId, GitRef, GitUrl};

pub use environment::Access;
use environment::Environment;
use program::{Patience, Program};
use serve::Connection;
pub(super) use task::run;
pub use task::{Remote, Request};

/// In which a repository tells its references.
const LOOKING_UP: Duration = Duration::from_secs(90);

/// How much one repository may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in the private folder.
    pub disk: u64,
    /// Bytes of the tar stream: a small pack can hold a large tree.
    pub tree: u64,
    /// Files and folders of the commit.
    pub entries: u64,
}

/// What is heard meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report<'a> {
    /// What is done next.
    Step(&'static str),
    /// A line of git's, without control characters.
    Line(&'a str),
    /// How much of the commit has come, of 100.
    Received { percent: u8 },
}

/// Why there is no tree. The text is for the person who named the repository.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the git program cannot be run, install it: {0}")]
    NoProgram(#[source] io::Error),
    #[error("the repository has no branch and no tag {0}, and a commit is told by all its 40 digits")]
    NoReference(GitRef),
    #[error("the repository is empty: it has no HEAD")]
    Empty,
    #[error("the repository has a branch and a tag {0}: write refs/heads/{0} or refs/tags/{0}")]
    Ambiguous(GitRef),
    #[error(
        "{0:?} of the repository is a submodule, and these are not fetched: build from a repository that has the files itself"
    )]
    Submodule(String),
    #[error("the repository takes more than {limit} bytes, the limit for {what}")]
    TooLarge { what: &'static str, limit: u64 },
    #[error("the repository has more than {limit} files and folders, the limit")]
    TooMany { limit: u64 },
    /// With git's last lines.
    #[error("git {what} failed{hint}{}", indented(.lines))]
    Failed { what: &'static str, hint: &'static str, lines: Vec<String> },
    #[error("git {what} answered with what cannot be read")]
    Answer { what: &'static str },
    #[error("git {what} was not done in time")]
    TimedOut { what: &'static str },
    #[error("the fetch of the repository was cancelled")]
    Cancelled,
    #[error("the reader of the repository's tree has gone: {0}")]
    Reader(#[source] io::Error),
    /// The private folder does not work.
    #[error("cannot {what}: {error}")]
    Io {
        what: String,
        #[source]
        error: io::Error,
    },
}

fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error {
            Error::Cancelled | Error::Reader(_) => Kind::Unwanted,
            Error::TooLarge { .. } | Error::TooMany { .. } => Kind::SourceTooLarge,
            _ => Kind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}

/// One repository, and what it may take.
struct Fetch<'a> {
    pub url: &'a GitUrl,
    /// The remote's HEAD where it is not said.
    pub reference: Option<&'a GitRef>,
    /// Empty, and nobody else's; who made it removes it.
    pub directory: &'a Path,
    pub access: &'a Access,
    /// To a repository of this host: for the next question, and no other one.
    pub connection: Option<Connection>,
    pub limits: Limits,
    pub deadline: Instant,
    /// Ends it when set.
    pub stop: &'a AtomicBool,
    pub report: &'a mut dyn FnMut(Report<'_>),
}

impl std::fmt::Debug for Fetch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetch").field("url", &self.url).field("reference", &self.reference).finish_non_exhaustive()
    }
}

impl Fetch<'_> {
    /// Which commit is meant now. A reference that is a commit is not looked up; a repository of this host is asked all the
    /// same, and so refuses whom it is not to be read by.
    pub fn resolve(&mut self) -> Result<CommitId, Error> {
        let commit = self.reference.and_then(GitRef::commit);
        if let Some(commit) = commit.as_ref().filter(|_| self.connection.is_none()) {
            return Ok(commit.clone());
        }
        (self.report)(Report::Step("looking up the reference"));
        let connection = self.connection.take();
        let environment = self.environment(connection.as_ref())?;
        let mut command = environment.git();
        command.args(["ls-remote", "--quiet", "--", environment.remote()]).args(refs::asked(self.reference));
        let mut answer = Vec::new();
        // It is a moment's work, but curl waits for a server that takes a connection and says nothing for five minutes.
        let deadline = self.deadline.min(Instant::now() + LOOKING_UP);
        self.run_until(deadline, "ls-remote", command, &mut |bytes| {
            answer.extend_from_slice(bytes);
            // A server of an old protocol sends every reference that ends so.
            if answer.len() > 1 << 20 { Err(Error::Answer { what: "ls-remote" }) } else { Ok(()) }
        })?;
        commit.map_or_else(|| refs::chosen(&answer, self.reference), Ok)
    }

    /// Brings `commit` into the private folder, and looks at what is in it.
    pub fn fetch(&mut self, commit: &CommitId) -> Result<(), Error> {
        (self.report)(Report::Step("fetching the commit"));
        let connection = self.connection.take();
        let environment = self.environment(connection.as_ref())?;
        environment.make_repository()?;
        let mut fetch = environment.in_repository();
        fetch.args([
            "fetch",
            "--depth=1",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-auto-maintenance",
            "--progress",
        ]);
        fetch.args(["--no-write-fetch-head", "--refmap=", "--", environment.remote(), commit.as_str()]);
        self.run("fetch", fetch, &mut |_| Ok(()))?;
        drop(connection);
        let mut list = environment.in_repository();
        // With the folders: a tree of nothing but folders can be without end as well.
        list.args(["ls-tree", "-r", "-t", "-z", "--full-tree", commit.as_str()]);
        let mut entries = tree::Entries::new(self.limits.entries);
        self.run("ls-tree", list, &mut |bytes| entries.read(bytes))
    }

    /// Writes the fetched commit's tree to `to`, and says how many bytes that were. A write to `to` is waited for
    /// without a deadline: that is its own to have.
    pub fn archive(&mut self, commit: &CommitId, to: &mut dyn Write) -> Result<u64, Error> {
        (self.report)(Report::Step("reading the tree"));
        let mut command = self.environment(None)?.in_repository();
        command.args(["archive", "--format=tar", commit.as_str()]);
        let limit = self.limits.tree;
        let mut written = 0;
        self.run("archive", command, &mut |bytes| {
            written += bytes.len() as u64;
            if written > limit {
                return Err(Error::TooLarge { what: "its files", limit });
            }
            to.write_all(bytes).map_err(Error::Reader)
        })?;
        to.flush().map_err(Error::Reader)?;
        Ok(written)
    }

    fn environment(&self, connection: Option<&Connection>) -> Result<Environment, Error> {
        Environment::write(self.directory, self.url, self.access, connection)
    }

    fn run(
        &mut self,
        what: &'static str,
        command: Command,
        output: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.run_until(self.deadline, what, command, output)
    }

    fn run_until(
        &mut self,
        deadline: Instant,
        what: &'static str,
        command: Command,
        output: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let disk = (self.directory, self.limits.disk);
        let patience = Patience { what, deadline, stop: self.stop, disk };
        Program::start(command, patience)?.finish(output, self.report)
    }
}

/// A failed operation on `path` of the private folder.
fn storing(doing: &str, path: &Path, error: io::Error) -> Error {
    Error::Io { what: format!("{doing} {}", path.display()), error }
}

#[cfg(test)]
mod tests;
