//! Images of the local engine, and builds by it.

use std::path::PathBuf;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::chain::{Link, through};
use super::tidying::Tidier;
use super::{Imported, secret, wanted};
use crate::domain::{EngineImage, ImageOptions};
use crate::images;
use crate::images::engine::{Dockerfile, Patience, Request, Work};
use crate::images::worker::{Task, Wanted};

/// After the deadline of a build, for the worker to say that it is over.
const LAST_WORD: Duration = Duration::from_secs(60);

pub(super) async fn import(
    context: &Context,
    image: EngineImage,
    options: &ImageOptions,
    job: &Job,
) -> Result<Imported, Error> {
    let wanted = wanted(context, options);
    let work = Work::Take { image, paths: wanted.paths.clone(), signature: wanted.signature };
    let use_ = Use::begin(context)?;
    let links = vec![Link::from(use_.task(work, Patience::default())), Link::unseen(Task::Taken(wanted))];
    use_.finish(through(context, &context.sources.far, None, links, job).await)
}

/// What comes out of the last of `context_links`, a tar, built, and the unikernel taken out of the result.
pub(super) async fn build(
    context: &Context,
    context_links: Vec<Link>,
    dockerfile: Dockerfile,
    wanted: Wanted,
    job: &Job,
) -> Result<Imported, Error> {
    let work = Work::Build { dockerfile, paths: wanted.paths.clone(), signature: wanted.signature };
    let use_ = Use::begin(context)?;
    let whole = context.config.get().build.deadline;
    let building = Link::from(use_.task(work, Patience { silence: whole, whole, ..Patience::default() }));
    let made = [building, Link::unseen(Task::Taken(wanted))].map(|link| link.with_deadline(whole + LAST_WORD));
    let links = context_links.into_iter().chain(made).collect();
    use_.finish(through(context, &context.sources.far, None, links, job).await)
}

/// One call's use of the engine. Where it does not come to a good end, what it has left there is removed.
struct Use {
    socket: PathBuf,
    label: String,
    tidier: Tidier,
    is_over: bool,
}

impl Use {
    fn begin(context: &Context) -> Result<Self, Error> {
        let unknown = |error| images::Error::Io { what: "read a random number".into(), error };
        let random = secret::random().map_err(unknown)?;
        let label = format!("{}.{random}", context.sources.instance);
        let (socket, tidier) = (context.config.get().images.docker_socket.clone(), context.sources.tidier.clone());
        tidier.engine_is_used(&socket);
        Ok(Self { socket, label, tidier, is_over: false })
    }

    fn task(&self, work: Work, patience: Patience) -> Task {
        let (socket, label) = (self.socket.clone(), self.label.clone());
        Task::Engine(Request { socket, work, label, patience })
    }

    fn finish(mut self, outcome: Result<Imported, Error>) -> Result<Imported, Error> {
        // It answers where it has left something.
        self.is_over = outcome.as_ref().is_ok_and(|imported| imported.told.answer.is_none());
        outcome
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if !self.is_over {
            self.tidier.after_call(std::mem::take(&mut self.socket), std::mem::take(&mut self.label));
        }
    }
}

/// What the labels of this run of the service begin with: what is the same for all its runs, a '.', and what is only this
/// run's. The first nobody else can know: an image that strangers have labelled so would be removed with its containers.
pub(super) fn instance(secret: &str) -> String {
    let whose = Sha256::digest(format!("labels {secret}"));
    let whose = whose.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
    let run = secret::random().unwrap_or_else(|_| format!("process-{}", std::process::id()));
    format!("{whose}.{run}")
}
