//! Images of the local engine, and builds by it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tracing::{info, warn};

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::chain::{Link, through};
use super::secret::RANDOM;
use super::{Imported, wanted};
use crate::domain::{EngineImage, ImageOptions};
use crate::images;
use crate::images::engine::{Dockerfile, Patience, Request, Work};
use crate::images::worker::{self, Next, Task, Wanted};

/// After the deadline of a build, for the worker to say that it is over.
const LAST_WORD: Duration = Duration::from_secs(60);

/// What tidying may take. What it has not removed by then is removed at the next start.
const TIDYING: Duration = Duration::from_secs(30);

pub(super) async fn import(
    context: &Context,
    image: EngineImage,
    options: &ImageOptions,
    job: &Job,
) -> Result<Imported, Error> {
    let wanted = wanted(context, options);
    let work = Work::Take { image, paths: wanted.paths.clone(), signature: wanted.signature };
    let use_ = Use::begin(context).await?;
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
    let use_ = Use::begin(context).await?;
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
    async fn begin(context: &Context) -> Result<Self, Error> {
        let unknown = |error| images::Error::Io { what: "read a random number".into(), error };
        let random = tokio::fs::read_to_string(RANDOM).await.map_err(unknown)?;
        let label = format!("{}.{}", context.sources.instance, random.trim());
        let (socket, tidiers) = (context.sources.engine.clone(), context.sources.tidiers.clone());
        Ok(Self { socket, label, tidiers, is_over: false })
    }

    fn task(&self, work: Work, patience: Patience) -> Task {
        let (socket, label) = (self.socket.clone(), self.label.clone());
        Task::Engine(Request { socket, work, label, patience })
    }

    fn finish(mut self, outcome: Result<Imported, Error>) -> Result<Imported, Error> {
        self.is_over = outcome.is_ok();
        outcome
    }
}

impl Drop for Use {
    /// Who cancels a call is not kept waiting for this.
    fn drop(&mut self) {
        if !self.is_over {
            self.tidiers.spawn(tidy(self.socket.clone(), Work::Tidy, self.label.clone()));
        }
    }
}

/// Those that tidy up at this moment.
#[derive(Debug, Clone, Default)]
pub struct Tidiers(Arc<AtomicUsize>);

impl Tidiers {
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let Self(count) = self.clone();
        count.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            work.await;
            count.fetch_sub(1, Ordering::Relaxed);
        });
    }

    pub fn are_done(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// What the labels of this run of the service begin with: what is the same for all its runs, since another service may use
/// the same engine, a '.', and what is only this run's. Blocks: for its start.
pub(super) fn instance(state_directory: &Path) -> String {
    let whose = Sha256::digest(state_directory.as_os_str().as_bytes());
    let whose = whose.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
    let run = std::fs::read_to_string(RANDOM);
    let run = run.map_or_else(|_| format!("process-{}", std::process::id()), |text| text.trim().to_owned());
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
