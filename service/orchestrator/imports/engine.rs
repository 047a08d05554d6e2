//! Images of the local engine, and builds by it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::chain::{Link, through};
use super::secret;
use super::{Imported, wanted};
use crate::domain::{EngineImage, ImageOptions};
use crate::images;
use crate::images::engine::{Dockerfile, Patience, Request, Work};
use crate::images::worker::{self, Next, Task, Wanted};

/// After the deadline of a build, for the worker to say that it is over.
const LAST_WORD: Duration = Duration::from_secs(60);

/// What tidying may take. What it has not removed by then is removed at the next start.
const TIDYING: Duration = Duration::from_secs(30);

/// After which it is looked again, and again: for the same thing, once nobody waits for it.
const LATER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];

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
    use_.finish(through(context, None, links, job).await)
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
    let whole = context.sources.build_deadline;
    let building = Link::from(use_.task(work, Patience { silence: whole, whole, ..Patience::default() }));
    let made = [building, Link::unseen(Task::Taken(wanted))].map(|link| link.with_deadline(whole + LAST_WORD));
    let links = context_links.into_iter().chain(made).collect();
    use_.finish(through(context, None, links, job).await)
}

/// One call's use of the engine. Where it does not come to a good end, what it has left there is removed.
struct Use {
    socket: PathBuf,
    label: String,
    tidiers: Tidiers,
    is_over: bool,
}

impl Use {
    fn begin(context: &Context) -> Result<Self, Error> {
        let unknown = |error| images::Error::Io { what: "read a random number".into(), error };
        let random = secret::random().map_err(unknown)?;
        let label = format!("{}.{random}", context.sources.instance);
        let (socket, tidiers) = (context.sources.engine.clone(), context.sources.tidiers.clone());
        Ok(Self { socket, label, tidiers, is_over: false })
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
    /// Who cancels a call is not kept waiting for this.
    fn drop(&mut self) {
        if !self.is_over {
            let (tidiers, socket, label) = (self.tidiers.clone(), self.socket.clone(), self.label.clone());
            // The engine may come to the end of what it was in the middle of long after it was left.
            let at_once = tidiers.count(tidy(socket.clone(), Work::Tidy, label.clone()));
            tokio::spawn(async move {
                at_once.await;
                for pause in LATER {
                    sleep(pause).await;
                    tidy(socket.clone(), Work::Tidy, label.clone()).await;
                }
            });
        }
    }
}

/// Those that tidy up at this moment, and that the end of the service waits for.
#[derive(Debug, Clone, Default)]
pub struct Tidiers(Arc<AtomicUsize>);

impl Tidiers {
    /// From this moment on.
    fn count<F: Future<Output = ()>>(&self, work: F) -> impl Future<Output = ()> + use<F> {
        let Self(count) = self.clone();
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            work.await;
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub fn are_done(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
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

/// Removes what runs of the service before this one have left in the engine, where there is one.
pub(super) async fn tidy_others(context: &Context) {
    let sources = &context.sources;
    if tokio::fs::metadata(&sources.engine).await.is_ok() {
        tidy(sources.engine.clone(), Work::TidyOthers, sources.instance.clone()).await;
    }
}

/// Nobody can do anything about what goes wrong here.
async fn tidy(socket: PathBuf, work: Work, label: String) {
    let patience = Patience { whole: TIDYING, ..Patience::default() };
    let task = Task::Engine(Request { socket, work, label, patience });
    let working = async {
        let (_, mut worker) = worker::start(&task.into(), None).await?;
        while let Next::Heard(_) = worker.next(0).await? {}
        Ok::<(), images::Error>(())
    };
    match timeout(TIDYING, working).await {
        Ok(Ok(())) => {}
        Ok(Err(images::Error::Unavailable(why))) => info!(why, "the engine was not asked to tidy up"),
        Ok(Err(error)) => warn!(%error, "the engine could not be tidied up"),
        Err(_) => warn!("the engine was not tidied up in time"),
    }
}
