//! Workers in a row: what one makes the next one reads, and what the last one makes is the store's.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::{Imported, Told, receive_once};
use crate::images;
use crate::images::worker::{self, Assignment, Heard, Next, Running};

/// One worker of a row.
#[derive(Debug)]
pub(super) struct Link {
    assignment: Assignment,
    /// What it reads instead of what the one before it makes.
    input: Option<OwnedFd>,
    /// How long it may be at work.
    deadline: Duration,
    /// Whether it is the one whose progress the job shows: the slowest of the row.
    shown: bool,
}

/// For what is on this host, or comes from near it.
const DEADLINE: Duration = Duration::from_secs(30 * 60);

impl<A: Into<Assignment>> From<A> for Link {
    fn from(assignment: A) -> Self {
        Self { assignment: assignment.into(), input: None, deadline: DEADLINE, shown: true }
    }
}

impl Link {
    /// One of which the job shows nothing.
    pub(super) fn unseen(assignment: impl Into<Assignment>) -> Self {
        Self { shown: false, ..Self::from(assignment) }
    }

    pub(super) fn reading(self, input: OwnedFd) -> Self {
        Self { input: Some(input), ..self }
    }

    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }
}

/// After the store has failed: a worker that knows better why says it by then.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Runs them at the same time, as one of `slots`, the first with `input`. Of several that fail, the first in the row is
/// the cause: those after it got too little to read. What a worker says of an image goes before what the store says of the
/// bytes that came.
pub(super) async fn through(
    context: &Context,
    slots: &Semaphore,
    input: Option<OwnedFd>,
    links: Vec<Link>,
    job: &Job,
) -> Result<Imported, Error> {
    let _slot = slot(slots, job).await?;
    let longest = links.iter().map(|link| link.deadline).max().unwrap_or_default();
    // A worker may have nothing to show for a long time; that it does not take too long is seen to by its deadline.
    let store = context.store.clone().with_patience(longest, longest);
    let told = Mutex::default();
    let (unikernel, workers) = start(input, links, context.store.limit(), &told, job).await?;
    // What there is to count, the workers do.
    let import = receive_once(context, &store, unikernel, |_, _| {}, job);
    let (mut workers, mut import) = (pin!(to_the_end(workers)), pin!(import));
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
    let imported = judge(context, imported, outcomes).await?;
    let told = std::mem::take(&mut *told.lock().await);
    Ok(Imported { told, ..imported })
}

/// A place among the rows of workers.
async fn slot<'s>(slots: &'s Semaphore, job: &Job) -> Result<SemaphorePermit<'s>, Error> {
    if let Ok(slot) = slots.try_acquire() {
        return Ok(slot);
    }
    job.detail("waiting for other imports").await;
    tokio::select! {
        biased;
        () = job.cancelled() => Err(Error::Cancelled),
        slot = slots.acquire() => slot.map_err(|_| Error::Stopping),
    }
}

/// Runs workers whose last one makes nothing but an answer.
pub(super) async fn ask(context: &Context, links: Vec<Link>, job: &Job) -> Result<String, Error> {
    let _slot = slot(&context.sources.far, job).await?;
    let told = Mutex::default();
    let (_nothing, workers) = start(None, links, context.store.limit(), &told, job).await?;
    let outcomes = tokio::select! {
        biased;
        () = job.cancelled() => return Err(Error::Cancelled),
        outcomes = to_the_end(workers) => outcomes,
    };
    match first_failed(outcomes) {
        Some(failed) => Err(failed.err().unwrap_or(Error::Defect)),
        None => told.into_inner().answer.ok_or(Error::Defect),
    }
}

/// Waits for all; once one has failed, for the others no longer than for a last word.
async fn to_the_end(workers: Vec<impl Future<Output = Outcome>>) -> Vec<Outcome> {
    let numbered = workers.into_iter().enumerate().map(async |(at, worker)| (at, worker.await));
    let mut working = numbered.collect::<FuturesUnordered<_>>();
    let mut outcomes = BTreeMap::new();
    while let Some((at, outcome)) = working.next().await {
        let failed = outcome.is_err();
        outcomes.insert(at, outcome);
        if failed {
            let rest = async {
                while let Some((at, outcome)) = working.next().await {
                    outcomes.insert(at, outcome);
                }
            };
            // Dropped, they are ended.
            let _ = timeout(LAST_WORD, rest).await;
            break;
        }
    }
    outcomes.into_values().collect()
}

/// Whether it made what it was to make; `false`, too, where nobody wanted that any more.
type Outcome = Result<bool, Error>;

/// The cause, where there is one. Who has lost its reader or its writer knows less than that one.
fn first_failed(outcomes: Vec<Outcome>) -> Option<Outcome> {
    let (failed, others): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_err);
    failed.into_iter().chain(others).find(|outcome| !matches!(outcome, Ok(true)))
}

async fn start<'w>(
    input: Option<OwnedFd>,
    links: Vec<Link>,
    limit: u64,
    told: &'w Mutex<Told>,
    job: &'w Job,
) -> Result<(File, Vec<impl Future<Output = Outcome> + 'w>), Error> {
    let mut input = input;
    let mut workers = Vec::new();
    for mut link in links {
        let reads = link.input.take().or(input.take());
        let (output, worker) = worker::start(&link.assignment, reads).await?;
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
        // Of a row, the first knows where it all comes from.
        Heard::Origin(origin) => drop(told.lock().await.meant.get_or_insert(origin)),
        Heard::Signature(signature) => told.lock().await.signature = Some(signature),
        Heard::Answer(answer) => told.lock().await.answer = Some(answer),
        Heard::Step(_) | Heard::Progress { .. } => {}
    }
}

async fn judge(
    context: &Context,
    imported: Result<Imported, Error>,
    outcomes: Vec<Outcome>,
) -> Result<Imported, Error> {
    match (imported, first_failed(outcomes)) {
        (imported, None) => imported,
        (Err(_), Some(Err(error))) => Err(error),
        (Err(error), Some(Ok(_))) => Err(error),
        (Ok(imported), Some(not_made)) => {
            imported.drop_unused(context).await?;
            Err(not_made.err().unwrap_or(Error::Defect))
        }
    }
}
