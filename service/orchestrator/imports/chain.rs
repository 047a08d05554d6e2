//! Workers in a row: what one makes the next one reads, and what the last one makes is the store's.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::{Imported, receive_once};
use crate::images;
use crate::images::worker::{self, Assignment, Heard, Next, Running, Task};

/// One worker of a row.
#[derive(Debug)]
pub(super) struct Link {
    assignment: Assignment,
    /// How long it may be at work.
    deadline: Duration,
    /// Whether it is the one whose progress the job shows: the slowest of the row.
    shown: bool,
}

/// For what is on this host, or comes from near it.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

impl<A: Into<Assignment>> From<A> for Link {
    fn from(assignment: A) -> Self {
        Self { assignment: assignment.into(), deadline: DEADLINE, shown: true }
    }
}

impl Link {
    /// One of which the job shows nothing.
    pub(super) fn unseen(task: Task) -> Self {
        Self { shown: false, ..Self::from(task) }
    }

    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }
}

/// After the store has failed: a worker that knows better why says it by then.
const LAST_WORD: Duration = Duration::from_secs(2);

/// What the workers of a row have told of the image.
#[derive(Debug, Default)]
struct Told {
    origin: Option<String>,
    signature: Option<String>,
}

/// Runs them at the same time, the first with `input`. Of several that fail, the first in the row is the cause: those after
/// it got too little to read. What a worker says of an image goes before what the store says of the bytes that came.
pub(super) async fn through(
    context: &Context,
    input: Option<OwnedFd>,
    links: Vec<Link>,
    job: &Job,
) -> Result<Imported, Error> {
    let longest = links.iter().map(|link| link.deadline).max().unwrap_or_default();
    // A worker may have nothing to show for a long time; that it does not take too long is seen to by its deadline.
    let store = context.store.clone().with_patience(longest, longest);
    let told = Mutex::default();
    let (unikernel, workers) = start(input, links, context.store.limit(), &told, job).await?;
    // What there is to count, the workers do.
    let import = receive_once(context, &store, unikernel, |_, _| {}, job);
    let (mut workers, mut import) = (pin!(join_all(workers)), pin!(import));
    let (imported, outcomes) = tokio::select! {
        biased;
        imported = &mut import => match imported {
            // Whatever they do, nobody wants it.
            Err(Error::Image(images::Error::Cancelled)) => return Err(Error::Cancelled),
            Err(error) => (Err(error), timeout(LAST_WORD, workers).await.unwrap_or_default()),
            Ok(imported) => (Ok(imported), workers.await),
        },
        outcomes = &mut workers => (import.await, outcomes),
    };
    let mut imported = judge(context, imported, outcomes).await?;
    imported.told = told.lock().await.signature.take();
    Ok(imported)
}

type Outcome = Result<bool, Error>;

async fn start<'w>(
    input: Option<OwnedFd>,
    links: Vec<Link>,
    limit: u64,
    told: &'w Mutex<Told>,
    job: &'w Job,
) -> Result<(File, Vec<impl Future<Output = Outcome> + 'w>), Error> {
    let mut input = input;
    let mut workers = Vec::new();
    for link in links {
        let (output, worker) = worker::start(&link.assignment, input.take()).await?;
        workers.push(follow(worker, link, limit, told, job));
        input = Some(output.into());
    }
    Ok((input.ok_or(Error::Defect)?.into(), workers))
}

/// Listens to a worker until it has ended.
async fn follow(mut worker: Running, link: Link, limit: u64, told: &Mutex<Told>, job: &Job) -> Outcome {
    let listening = async {
        loop {
            match worker.next(limit).await? {
                Next::Heard(heard) => hear(heard, link.shown, told, job).await,
                Next::Ended { is_made } => return Ok(is_made),
            }
        }
    };
    let seconds = link.deadline.as_secs();
    let late = || Error::Image(images::Error::Unavailable(format!("the image was not there after {seconds} s")));
    timeout(link.deadline, listening).await.unwrap_or_else(|_| Err(late()))
}

async fn hear(heard: Heard, shown: bool, told: &Mutex<Told>, job: &Job) {
    match heard {
        Heard::Step(step) if shown => job.detail(&step).await,
        Heard::Progress { done, total } if shown => job.bytes(done, total),
        Heard::Line(line) => job.log(&line),
        Heard::Origin(origin) => told.lock().await.origin = Some(origin),
        Heard::Signature(signature) => told.lock().await.signature = Some(signature),
        Heard::Step(_) | Heard::Progress { .. } | Heard::Answer(_) => {}
    }
}

async fn judge(
    context: &Context,
    imported: Result<Imported, Error>,
    outcomes: Vec<Outcome>,
) -> Result<Imported, Error> {
    let failed = outcomes.into_iter().find(|outcome| !matches!(outcome, Ok(true)));
    match (imported, failed) {
        (imported, None) => imported,
        (Err(_), Some(Err(error))) => Err(error),
        (Err(error), Some(Ok(_))) => Err(error),
        (Ok(imported), Some(not_made)) => {
            imported.drop_unused(context).await?;
            Err(not_made.err().unwrap_or(Error::Defect))
        }
    }
}
