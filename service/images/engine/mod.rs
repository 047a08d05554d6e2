//! The local engine, Docker or Podman, by its API socket: a file out of one of its images, or a build.
//!
//! Who may use the socket is as good as root, so the worker that has it reads nothing but the engine's own answers: what
//! comes out of an image goes on, as it is, to a worker that may nothing.
//!
//! ```text
//!  take ─► client ─► bollard ─┐
//!  tidy ─► client ─► bollard ─┼─► connection: one for each request, with bounds ─► the socket
//!  build: context ────────────┤
//!         answers, trace ◄────┤
//!         session ────────────┘
//! ```

mod answers;
mod build;
mod client;
mod connection;
mod context;
mod error;
mod session;
mod take;
mod tidy;
mod trace;

use std::fs::File;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use self::client::Client;
use self::error::Error;
use self::take::Sought;
use super::worker::{Failure, Gone, Voice};
use crate::domain::{EngineImage, ImagePath};

pub use connection::Patience;

/// The key of the label of everything that is made in the engine.
pub const LABEL: &str = "org.albatross.deployer";

/// What the engine is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The engine's API.
    pub socket: PathBuf,
    pub work: Work,
    /// Marks what is made in the engine for this call, so that it can be found and removed. Letters, digits, '-' and '.':
    /// it is part of names. Nobody can guess it.
    pub label: String,
    pub patience: Patience,
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
    /// Removes everything of labels that do not begin so: what calls have left that nobody works for any more.
    TidyOthers,
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(Error::Start)?;
    let after = request.patience.whole;
    let late = || Error::Late { doing: "do what it was asked for", after };
    let worked = runtime.block_on(async { timeout(after, work(request, context, output, voice)).await });
    Ok(worked.map_err(|_| late())??)
}

async fn work(request: &Request, context: File, output: File, voice: &mut Voice) -> Result<(), Error> {
    let Request { socket, work, label, patience } = request;
    let client = Client::connect(socket.clone(), *patience).await?;
    match work {
        Work::Take { image, paths, signature } => {
            let id = take::look_up(&client, image).await?;
            voice.origin(&id)?;
            take::take(&client, &id, label, &Sought { paths, signature: *signature }, output, voice).await
        }
        Work::Build { dockerfile, paths, signature } => {
            let sought = Sought { paths, signature: *signature };
            let built = built(&client, label, dockerfile, &sought, context, output, voice).await;
            if let Err(error) = tidy::once(&client, tidy::Of::Call(label)).await {
                // What was made is made.
                left_behind(voice, "something that the build has left in the engine", &error)?;
            }
            built
        }
        Work::Tidy => tidy::until_clean(&client, tidy::Of::Call(label)).await,
        Work::TidyOthers => tidy::until_clean(&client, tidy::Of::Others(label)).await,
    }
}

/// Answers that there is something to tidy up, and goes on.
fn left_behind(voice: &mut Voice, what: &str, error: &Error) -> Result<(), Gone> {
    voice.line(&format!("{what} could not be removed yet: {error}"))?;
    voice.answer(what)
}

async fn built(
    client: &Client,
    label: &str,
    dockerfile: &Dockerfile,
    sought: &Sought<'_>,
    context: File,
    output: File,
    voice: &mut Voice,
) -> Result<(), Error> {
    let id = build::build(client, label, dockerfile, context, voice).await?;
    take::take(client, &id, label, sought, output, voice).await
}
