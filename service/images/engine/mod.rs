//! The local engine, Docker or Podman, by its API socket: a file out of one of its images, or a build.
//!
//! Who may use the socket is as good as root, so the worker that has it reads nothing but the engine's own answers: what
//! comes out of an image goes on, as it is, to a worker that may nothing.

use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::worker::{Failure, Kind, Voice};
use crate::domain::{EngineImage, ImagePath};

/// What the engine is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The engine's API.
    pub socket: PathBuf,
    pub work: Work,
    /// Marks what is made in the engine for this call, so that it can be found and removed.
    pub label: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Work {
    /// The first of `paths` that the image has, as the tar of one file that the engine makes of it; with `signature`
    /// another one follows, of the file beside it, where there is one.
    Take { image: EngineImage, paths: Vec<ImagePath>, signature: bool },
    /// Builds the context that comes in as a tar, and takes the unikernel out of the result as [`Self::Take`] does.
    Build { dockerfile: Dockerfile, paths: Vec<ImagePath>, signature: bool },
    /// Removes everything with the label.
    Tidy,
}

/// What the engine builds by.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Dockerfile {
    /// This file of the context.
    OfContext(String),
    /// These texts: the one with caches where the engine knows them, otherwise the other.
    Text { with_caches: String, plain: String },
}

/// Does it. `context`: descriptor 0; the tar goes to `output`.
pub(super) fn run(request: &Request, context: File, output: File, voice: &mut Voice) -> Result<(), Failure> {
    let _ = (request, context, output, voice);
    Err(Failure::new(Kind::Unavailable, "docker-daemon: images cannot be read yet"))
}
