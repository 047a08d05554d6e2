//! A workflow is a table of steps; each row says what is done and what undoes it.

use futures_util::future::BoxFuture;
use tracing::{debug, warn};

use super::error::Error;
use super::fault;
use super::jobs::Job;

/// Whether the next step follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Next,
    /// The goal is reached already: the steps after this one have nothing to do.
    Done,
}

pub type Perform<W> = for<'a> fn(&'a mut W, &'a Job) -> BoxFuture<'a, Result<Flow, Error>>;
pub type Undo<W> = for<'a> fn(&'a mut W) -> BoxFuture<'a, Result<(), Error>>;

/// One row. `undo` is right as well when the step was done by half or not at all: a step that fails or is cancelled is
/// undone itself, before those above it.
pub struct Step<W> {
    pub name: &'static str,
    pub perform: Perform<W>,
    pub undo: Undo<W>,
    /// Whether Cancel may drop it half-way. Otherwise it is waited for, and what follows is done as well until the next
    /// one that may be dropped: who cancels a switch that has been made is told that it has been made.
    pub cancellable: bool,
}

impl<W> std::fmt::Debug for Step<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The names of a table's steps.
#[cfg(feature = "fault-injection")]
pub fn names<W>(steps: &[Step<W>]) -> Vec<&'static str> {
    steps.iter().map(|step| step.name).collect()
}

/// For steps that leave nothing behind.
pub fn nothing<W>(_: &mut W) -> BoxFuture<'_, Result<(), Error>> {
    Box::pin(async { Ok(()) })
}

/// Performs `steps` in order. At the first that fails, or when the job is cancelled, undoes it and all above it.
pub async fn run<W>(steps: &'static [Step<W>], work: &mut W, job: &Job) -> Result<(), Error> {
    for (index, step) in steps.iter().enumerate() {
        job.step(step.name).await;
        let cancelled = job.is_cancelled() && (index == 0 || step.cancellable);
        let performed = if cancelled { Err(Error::Cancelled) } else { perform(step, work, job).await };
        match performed {
            Ok(Flow::Next) => {}
            Ok(Flow::Done) => break,
            Err(error) => {
                undo(&steps[..=index], work, job).await;
                return Err(error);
            }
        }
    }
    Ok(())
}

async fn perform<W>(step: &Step<W>, work: &mut W, job: &Job) -> Result<Flow, Error> {
    fault::before(step.name)?;
    let flow = if step.cancellable {
        tokio::select! {
            flow = (step.perform)(work, job) => flow?,
            () = job.cancelled() => return Err(Error::Cancelled),
        }
    } else {
        (step.perform)(work, job).await?
    };
    fault::after(step.name)?;
    Ok(flow)
}

async fn undo<W>(steps: &'static [Step<W>], work: &mut W, job: &Job) {
    for step in steps.iter().rev() {
        match (step.undo)(work).await {
            Ok(()) => debug!(step = step.name, "undone"),
            // The intent stays in the ledger: what could not be undone now is when Albatross answers again.
            Err(error) => {
                let (call, step, line) = (job.call(), job.step_name(step.name), error.line());
                warn!(%call, %step, %error, "{call}: step {step} is not undone yet: {error}", error = line);
            }
        }
    }
}
