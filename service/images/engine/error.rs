//! Why the engine gave no unikernel.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::connection::Broken;
use crate::domain::EngineImage;
use crate::images::worker::{Failure, Gone, Kind};

/// Bytes of each end of what the engine says, in a message.
const SAID: usize = 400;

/// The texts are for the person who named the image. `doing` completes "the engine could not".
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(
        "no engine listens at {socket} ({error}): start it, for example with systemctl start docker.socket or \
         podman.socket, or say in the configuration where it listens (images.docker-socket)",
        socket = .socket.display()
    )]
    NoEngine { socket: PathBuf, error: io::Error },
    #[error("the engine did not {doing} in time: it was waited for {} s", .after.as_secs_f32())]
    Late { doing: &'static str, after: Duration },
    /// An error of the engine's own.
    #[error("the engine could not {doing}: {message}")]
    Said { doing: &'static str, status: u16, message: String },
    #[error("the engine was to {doing}, and its answer cannot be read: {why}")]
    Nonsense { doing: &'static str, why: String },
    #[error(
        "the engine has no image {image}: build, load or pull it first; docker image ls, or podman image ls, lists what \
         it has"
    )]
    NoImage { image: EngineImage },
    #[error("the image that the engine has for {image} is another: {found}")]
    OtherImage { image: EngineImage, found: String },
    #[error("the image has no {paths}: say with image-path where the unikernel stands in it")]
    NoFile { paths: String },
    #[error("{path} in the image is {what}, and not a file")]
    NotAFile { path: String, what: &'static str },
    #[error("{path} in the image is behind links that lead in a circle, or below what is no directory")]
    Nowhere { path: String },
    #[error("{path} in the image leads through more than {limit} links")]
    Links { path: String, limit: usize },
    #[error(
        "the engine's API is of version {version}, too old to build with: it takes Docker 20.10 or later, or Podman"
    )]
    TooOld { version: String },
    /// With the last lines of the build.
    #[error("{0}")]
    Build(String),
    #[error("what is to be built cannot be read: {0}")]
    Context(io::Error),
    #[error("nobody takes the unikernel: {0}")]
    Output(io::Error),
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error("the worker cannot begin: {0}")]
    Start(io::Error),
}

impl Error {
    /// What became of a request.
    pub fn of(doing: &'static str, error: &bollard::errors::Error) -> Self {
        use bollard::errors::Error as Bollard;
        match error {
            Bollard::DockerResponseServerError { status_code, message } => {
                Self::Said { doing, status: *status_code, message: clean(message) }
            }
            Bollard::IOError { err } => Self::of_transport(doing, err),
            Bollard::HyperResponseError { err } => Self::of_transport(doing, err),
            other => Self::Nonsense { doing, why: clean(&other.to_string()) },
        }
    }

    /// What became of the connection.
    pub fn of_transport(doing: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        match Broken::find(error) {
            Some(Broken::Connect { socket, error }) => {
                Self::NoEngine { socket: socket.clone(), error: io::Error::new(error.kind(), error.to_string()) }
            }
            Some(Broken::Silent(after)) => Self::Late { doing, after: *after },
            Some(much @ Broken::TooMuch(_)) => Self::Nonsense { doing, why: much.to_string() },
            None => Self::Nonsense { doing, why: with_causes(error) },
        }
    }

    /// Whether the engine says that there is no such thing.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Said { status: 404, .. })
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    clean(&text)
}

/// On one line, without control characters, and of a long text its two ends: what was done, and why it failed.
pub(super) fn clean(text: &str) -> String {
    let text = text.trim().replace(char::is_control, " ");
    let cut = |at: usize| text.floor_char_boundary(at);
    match (text.get(..cut(SAID)), text.get(cut(text.len().saturating_sub(SAID))..)) {
        (Some(start), Some(end)) if text.len() > 2 * SAID => format!("{start} … {end}"),
        _ => text,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NoFile { .. } | Error::NotAFile { .. } | Error::Links { .. } | Error::Nowhere { .. } => {
                Kind::Invalid
            }
            Error::Build(_) => Kind::Build,
            Error::Output(_) | Error::Gone(_) => Kind::Unwanted,
            _ => Kind::Unavailable,
        };
        Self::new(kind, error.to_string())
    }
}
