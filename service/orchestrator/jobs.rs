//! Calls that are working, for those who watch or cancel them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::select_all;
use tokio::sync::{mpsc, watch};

use super::error::{Error, ErrorKind};
use crate::domain::{Event, JobKind, JobNumber, JobResult, JobView};

/// All jobs: those that work, and the last that have ended.
#[derive(Debug)]
pub struct Jobs {
    events: mpsc::Sender<Event>,
    history: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    last: u64,
    /// The service is stopping: a call that comes now is cancelled at once.
    closing: bool,
    running: BTreeMap<JobNumber, Running>,
    ended: VecDeque<(JobView, JobResult)>,
}

#[derive(Debug)]
struct Running {
    view: JobView,
    cancel: watch::Sender<bool>,
}

/// One call's job.
#[derive(Debug)]
pub struct Job {
    entry: Arc<Entry>,
    /// Each cancels it.
    cancels: Vec<watch::Receiver<bool>>,
    /// What of the job this is: stands in front of its steps.
    part: Option<String>,
}

/// A job's place among all. Gone without [`Job::end`] it has failed: its task was lost.
#[derive(Debug)]
struct Entry {
    jobs: Arc<Jobs>,
    number: JobNumber,
}

impl Jobs {
    /// `history`: how many that have ended are still listed.
    pub fn new(events: mpsc::Sender<Event>, history: usize) -> Arc<Self> {
        Arc::new(Self { events, history, inner: Mutex::default() })
    }

    pub async fn begin(self: &Arc<Self>, kind: JobKind, subject: String) -> Job {
        let (view, receiver) = {
            let mut inner = self.lock();
            let (cancel, receiver) = watch::channel(inner.closing);
            inner.last += 1;
            let number = JobNumber(inner.last);
            let view = JobView { number, kind, subject, step: "waiting".into(), progress: None };
            inner.running.insert(number, Running { view: view.clone(), cancel });
            (view, receiver)
        };
        let number = view.number;
        self.tell(Event::Job(view)).await;
        let entry = Arc::new(Entry { jobs: Arc::clone(self), number });
        Job { entry, cancels: vec![receiver], part: None }
    }

    /// Running ones first, then the last that have ended.
    pub fn list(&self) -> Vec<(JobView, Option<JobResult>)> {
        let inner = self.lock();
        let running = inner.running.values().map(|running| (running.view.clone(), None));
        running.chain(inner.ended.iter().map(|(view, result)| (view.clone(), Some(*result)))).collect()
    }

    pub fn cancel(&self, number: JobNumber) -> Result<(), Error> {
        let inner = self.lock();
        let running = inner.running.get(&number).ok_or(Error::NoSuchJob(number))?;
        running.cancel.send_replace(true);
        Ok(())
    }

    pub fn cancel_all(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        for running in inner.running.values() {
            running.cancel.send_replace(true);
        }
    }

    pub fn is_idle(&self) -> bool {
        self.lock().running.is_empty()
    }

    fn change(&self, number: JobNumber, change: impl FnOnce(&mut JobView)) -> Option<JobView> {
        let mut inner = self.lock();
        let view = &mut inner.running.get_mut(&number)?.view;
        change(view);
        Some(view.clone())
    }

    fn remove(&self, number: JobNumber, result: JobResult) -> Option<Event> {
        let mut inner = self.lock();
        let running = inner.running.remove(&number)?;
        inner.ended.push_front((running.view, result));
        inner.ended.truncate(self.history);
        Some(Event::JobRemoved { number, result })
    }

    async fn tell(&self, event: Event) {
        // The publisher is gone only when the service ends.
        let _ = self.events.send(event).await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    /// The part of this job that works for `name`, beside others. `stop` cancels it as the job does.
    pub fn part(&self, name: &impl ToString, stop: watch::Receiver<bool>) -> Self {
        let cancels = self.cancels.iter().cloned().chain([stop]).collect();
        Self { entry: Arc::clone(&self.entry), cancels, part: Some(name.to_string()) }
    }

    /// This job for what has to be brought to its end: nothing cancels it.
    pub fn beyond_recall(&self) -> Self {
        Self { entry: Arc::clone(&self.entry), cancels: Vec::new(), part: self.part.clone() }
    }

    pub async fn step(&self, step: &'static str) {
        let step = match &self.part {
            Some(part) => format!("{part}: {step}").into(),
            None => step.into(),
        };
        // How far a job of parts is, is not a part's to say.
        let whole = self.part.is_none();
        let change = |view: &mut JobView| {
            view.step = step;
            view.progress = view.progress.filter(|_| !whole);
        };
        if let Some(view) = self.entry.jobs.change(self.entry.number, change) {
            self.entry.jobs.tell(Event::Job(view)).await;
        }
    }

    /// The job's, while the service runs.
    pub fn number(&self) -> JobNumber {
        self.entry.number
    }

    /// What the step is doing, e.g. `downloading`: stands after its name.
    pub async fn detail(&self, detail: &str) {
        let part = self.part.as_deref();
        let change = |view: &mut JobView| {
            view.step = detailed(&view.step, part, detail).into();
            view.progress = view.progress.filter(|_| part.is_some());
        };
        if let Some(view) = self.entry.jobs.change(self.entry.number, change) {
            self.entry.jobs.tell(Event::Job(view)).await;
        }
    }

    /// Bytes of what the step is doing.
    pub fn bytes(&self, done: u64, total: Option<u64>) {
        if let Some(total) = total.filter(|total| *total > 0) {
            self.progress()((done as f64 / total as f64).min(1.0));
        }
    }

    /// A line of what a build or an engine says.
    pub fn log(&self, line: &str) {
        tracing::debug!(job = %self.entry.number, line, "a source of an image says");
    }

    /// Says that `done` of `all` parts have come to their end.
    pub async fn parts_done(&self, done: usize, all: usize) {
        let change = |view: &mut JobView| view.progress = Some(done as f64 / all.max(1) as f64);
        if let Some(view) = self.entry.jobs.change(self.entry.number, change) {
            self.entry.jobs.tell(Event::Job(view)).await;
        }
    }

    /// A handle for a thread that does the work and counts it, 0 to 1.
    pub fn progress(&self) -> impl Fn(f64) + Send + 'static {
        let (jobs, number, whole) = (Arc::clone(&self.entry.jobs), self.entry.number, self.part.is_none());
        move |fraction| {
            if !whole {
                return;
            }
            let mut old = None;
            let view = jobs.change(number, |view| old = view.progress.replace(fraction));
            // Hundredths are enough to look at, and keep a large image from flooding the bus.
            let moved = old.is_none_or(|old| fraction - old >= 0.01);
            if let Some(view) = view.filter(|_| moved) {
                let _ = jobs.events.try_send(Event::Job(view));
            } else if let Some(old) = old {
                jobs.change(number, |view| view.progress = Some(old));
            }
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancels.iter().any(|cancel| *cancel.borrow())
    }

    /// Returns once the job is cancelled.
    pub async fn cancelled(&self) {
        let cancelled = self.cancels.iter().cloned().map(|mut cancel| {
            Box::pin(async move {
                if cancel.wait_for(|cancelled| *cancelled).await.is_err() {
                    // The job has ended: nobody can cancel it any more.
                    std::future::pending::<()>().await;
                }
            })
        });
        if self.cancels.is_empty() {
            std::future::pending::<()>().await;
        }
        select_all(cancelled).await;
    }

    /// `error`: what it ended with, when it did not do what it was to do.
    pub async fn end(&self, error: Option<&Error>) {
        let result = match error {
            None => JobResult::Done,
            Some(error) if error.kind() == ErrorKind::Cancelled => JobResult::Cancelled,
            Some(_) => JobResult::Failed,
        };
        if let Some(event) = self.entry.jobs.remove(self.entry.number, result) {
            self.entry.jobs.tell(event).await;
        }
    }
}

/// `step: detail`, or of a part `part: step: detail`, whatever detail stood there before.
fn detailed(step: &str, part: Option<&str>, detail: &str) -> String {
    let known = usize::from(part.is_some()) + 1;
    let head: Vec<&str> = step.split(": ").take(known).collect();
    format!("{}: {detail}", head.join(": "))
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(event) = self.jobs.remove(self.number, JobResult::Failed) {
            let _ = self.jobs.events.try_send(event);
        }
    }
}
