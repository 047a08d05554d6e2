//! What parses foreign bytes does so in a process of its own: the same executable, that may nothing but read what it was
//! handed, write its result to a pipe, and tell how far it is. What a task needs beyond that, and no more, it says itself
//! ([`Task::rights`]).
//!
//! ```text
//!   service                                        worker (`albatross-deployer --worker`)
//!   parent::start ── fork, exec ─────────────────► child::run
//!                    0: what it reads               confinement: no capability, none to be gained, few files or none,
//!                    1: a pipe ◄── what it makes    no network or only that, little memory, little processor
//!                    2: a socket ── the task ──►
//!                                ◄── steps, progress, lines, outcome   archive, registry, engine, git
//!   the next worker, or Store::import(pipe): copy, hash, inspect
//! ```
//!
//! A worker that crashes is an error of its call, never of the service.

mod child;
mod confinement;
mod parent;
#[cfg(feature = "fault-injection")]
mod probe;
mod rights;
mod taken;
mod voice;

use serde::{Deserialize, Serialize};

use super::archive::{self, Found};
use super::{engine, git, registry};
use crate::domain::{Caller, ImagePath};
use crate::images::Error;

pub use child::run;
pub use parent::{Next, Running, start};
pub use voice::{Gone, Voice};

/// The flag with which the executable is a worker.
pub const FLAG: &str = "--worker";

/// A task, and who it is done as.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    pub task: Task,
    /// Whose rights to files the worker has; the service's own where it is nobody.
    pub caller: Option<Caller>,
}

impl From<Task> for Assignment {
    fn from(task: Task) -> Self {
        Self { task, caller: None }
    }
}

/// What a worker is to do. What it reads comes in by descriptor 0, what it makes goes out by descriptor 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Task {
    /// A saved image → the unikernel.
    Saved(Saved),
    /// Out of a registry → the unikernel.
    Registry(registry::Request),
    /// By the local engine: out of one of its images, or a build → a tar with the unikernel alone.
    Engine(engine::Request),
    /// That tar → the unikernel.
    Taken(Wanted),
    /// An image → the answer: its devices.
    Inspect,
    /// A repository → what its references are, or the tar of a commit.
    Git(git::Request),
}

/// Which file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Wanted {
    /// Where the unikernel stands in the image: the first that there is.
    pub paths: Vec<ImagePath>,
    /// Whether the caller has named the path, and no other file was meant.
    pub named: bool,
    /// Bytes that it may have.
    pub limit: u64,
    /// Also what signs it: the file beside it with `.minisig` after its name.
    pub signature: bool,
}

impl Wanted {
    /// # Errors
    /// A path was named, and the image has none: it is an artifact, which is the file itself.
    pub fn check(&self, found: &Found) -> Result<(), Failure> {
        match self.paths.first().filter(|_| self.named && found.path.is_none()) {
            Some(path) => Err(Failure::new(
                Kind::Invalid,
                format!(
                    "the image is the unikernel itself, and nothing is at {path} in it: leave option image-path out"
                ),
            )),
            None => Ok(()),
        }
    }
}

/// An image in an archive or a folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    pub form: Form,
    /// Of an archive with several images.
    pub name: Option<String>,
    pub wanted: Wanted,
}

/// How the image was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    Docker,
    OciArchive,
    OciFolder,
}

/// What a worker says, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    Heard(Heard),
    Done,
    Failed(Failure),
}

/// What it says on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Heard {
    /// What it does now.
    Step(String),
    /// Bytes, and of how many where it is known.
    Progress { done: u64, total: Option<u64> },
    /// What a program or an engine says, for the job's log.
    Line(String),
    /// What the image is called where it comes from, that no other image is: a digest, or a commit.
    Origin(String),
    /// What signs the unikernel.
    Signature(String),
    /// What else the task was for.
    Answer(String),
}

/// Why a worker has not made what it was to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: Kind,
    /// For the person who named the image.
    pub message: String,
}

/// What kind of an error the message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Invalid,
    Unavailable,
    /// The unikernel: the message is of who knows its limit.
    TooLarge,
    /// What it comes from.
    SourceTooLarge,
    /// The message has the last lines of the build.
    Build,
    /// Nobody takes what it makes any more: why, the reader of the pipe knows.
    Unwanted,
}

/// What a worker says is shown to people and goes over the bus, and a worker that was taken over says what it likes.
fn cleaned(text: &str) -> String {
    text.replace(|character: char| character.is_control() && character != '\n', " ")
}

impl Heard {
    fn cleaned(self) -> Self {
        match self {
            Self::Step(text) => Self::Step(cleaned(&text)),
            Self::Line(text) => Self::Line(cleaned(&text)),
            Self::Origin(text) => Self::Origin(cleaned(&text)),
            // It is compared with what was signed, tabs and all, before anything of it is shown.
            signature @ Self::Signature(_) => signature,
            Self::Answer(text) => Self::Answer(cleaned(&text)),
            progress @ Self::Progress { .. } => progress,
        }
    }
}

impl From<archive::Error> for Failure {
    fn from(error: archive::Error) -> Self {
        let kind = match &error {
            archive::Error::OutputTooLarge { .. } => Kind::TooLarge,
            archive::Error::Write(_) => Kind::Unwanted,
            archive::Error::Choice(_)
            | archive::Error::Read(_)
            | archive::Error::Deadline
            | archive::Error::Cancelled => Kind::Unavailable,
            _ => Kind::Invalid,
        };
        Self { kind, message: error.to_string() }
    }
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// `None`: what the reader of the pipe says holds. `limit`: of the unikernel, bytes.
    fn error(self, limit: u64) -> Option<Error> {
        let message = cleaned(&self.message);
        match self.kind {
            Kind::Invalid => Some(Error::Invalid(message)),
            Kind::Unavailable => Some(Error::Unavailable(message)),
            Kind::TooLarge => Some(Error::TooLarge { limit }),
            Kind::SourceTooLarge => Some(Error::SourceTooLarge(message)),
            Kind::Build => Some(Error::Build(message)),
            Kind::Unwanted => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{BuildOptions, BuildRequest, GitUrl, Recipe};
    use crate::images::recipe::{BaseImages, Caches, dockerfile};

    #[test]
    fn the_longest_build_is_a_task() {
        let url: GitUrl = "https://git.example.org/website.git".parse().unwrap();
        let caches = Caches { repository: &url, secret: "secret" };
        let request = BuildRequest { mirage_args: Some(vec!["'".repeat(4096); 32]), ..BuildRequest::default() };
        let options = BuildOptions::new(request, None).unwrap();
        let Recipe::Mirage(recipe) = &options.recipe else { panic!() };
        let text = |caches| dockerfile(recipe, &options.image_paths()[0], &BaseImages::default(), caches);
        let dockerfile = engine::Dockerfile::Text { with_caches: text(Some(caches)), plain: text(None) };
        let task = Task::Engine(engine::Request {
            socket: "/run/docker.sock".into(),
            work: engine::Work::Build { dockerfile, paths: options.image_paths(), signature: true },
            label: "label".into(),
            patience: engine::Patience::default(),
        });
        let length = serde_json::to_string(&Assignment::from(task)).unwrap().len() as u64;
        assert!((2 << 20..child::TASK).contains(&length), "{length}");
    }

    #[test]
    fn what_a_worker_says_is_fit_to_be_shown() {
        let failure = Failure::new(Kind::Build, "one\ntwo\0\u{1b}[2J\r");
        assert_eq!(failure.error(0).unwrap().to_string(), "one\ntwo  [2J ");
        assert_eq!(Heard::Step("a\0b".into()).cleaned(), Heard::Step("a b".into()));
    }
}
