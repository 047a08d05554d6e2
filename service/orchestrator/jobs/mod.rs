//! Calls that are working, for those who watch or cancel them.

mod log;

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use self::log::{Log, READERS};
use super::call::Call;
use super::error::{Error, ErrorKind};
use crate::domain::{Event, JobKind, JobNumber, JobResult, JobView};

pub use log::Error as LogError;

/// Characters of what is said of a step.
const DETAIL: usize = 200;

/// Between two signals of how far a step is.
const PAUSE: Duration = Duration::from_millis(50);

/// All jobs: those that work, and the last that have ended.
#[derive(Debug)]
pub struct Jobs {
    events: mpsc::Sender<Event>,
    /// Places for readers of logs.
    places: Arc<Semaphore>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// How many that have ended are still listed.
    history: usize,
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
    log: Option<Log>,
    /// When it was last told how far the step is.
    told: Option<Instant>,
}

impl Running {
    fn log(&mut self) -> &Log {
        self.log.get_or_insert_with(|| Log::new(&self.view.step))
    }

    /// A step that is to be seen by who reads its log.
    fn log_step(&self, before: &str) {
        if let Some(log) = self.log.as_ref().filter(|_| self.view.step != before) {
            log.step(&self.view.step);
        }
    }

    /// Whether that is to be told: as often as somebody can look, and when all bytes are there.
    fn count(&mut self, done: u64, total: Option<u64>, now: Instant) -> bool {
        let progress = total.filter(|&total| total > 0).map(|total| (done as f64 / total as f64).min(1.0));
        let is_over = progress == Some(1.0) && self.view.progress != progress;
        (self.view.bytes, self.view.progress) = (done, progress);
        let due = is_over || self.told.is_none_or(|told| now - told >= PAUSE);
        if due {
            self.told = Some(now);
        }
        due
    }
}

/// One call's job.
#[derive(Debug, Clone)]
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
    call: Call,
}

impl Jobs {
    /// `history`: how many that have ended are still listed.
    pub fn new(events: mpsc::Sender<Event>, history: usize) -> Arc<Self> {
        let places = Arc::new(Semaphore::new(READERS));
        Arc::new(Self { events, places, inner: Mutex::new(Inner { history, ..Inner::default() }) })
    }

    /// Changes how many that have ended are still listed, from now on.
    pub fn set_history(&self, history: usize) {
        let mut inner = self.lock();
        inner.history = history;
        inner.ended.truncate(history);
    }

    pub async fn begin(self: &Arc<Self>, kind: JobKind, subject: String) -> Job {
        let (view, receiver) = {
            let mut inner = self.lock();
            let (cancel, receiver) = watch::channel(inner.closing);
            inner.last += 1;
            let number = JobNumber(inner.last);
            let view = JobView { number, kind, subject, step: "waiting".into(), progress: None, bytes: 0 };
            inner.running.insert(number, Running { view: view.clone(), cancel, log: None, told: None });
            (view, receiver)
        };
        let (number, call) = (view.number, Call::of_job(kind, &view.subject));
        self.tell(Event::Job(view)).await;
        let entry = Arc::new(Entry { jobs: Arc::clone(self), number, call });
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

    /// A pipe with the lines of the job's log so far and then as they come, to the end of the job.
    pub fn open_log(&self, number: JobNumber) -> Result<OwnedFd, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| LogError::TooManyReaders)?;
        let mut inner = self.lock();
        let running = inner.running.get_mut(&number).ok_or(Error::NoSuchJob(number))?;
        Ok(running.log().open(place).map_err(LogError::from)?)
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
        let running = inner.running.get_mut(&number)?;
        let before = running.view.step.clone();
        change(&mut running.view);
        running.log_step(&before);
        Some(running.view.clone())
    }

    /// Returns how it looks then, where that is to be told.
    fn count(&self, number: JobNumber, done: u64, total: Option<u64>) -> Option<JobView> {
        let mut inner = self.lock();
        let running = inner.running.get_mut(&number)?;
        running.count(done, total, Instant::now()).then(|| running.view.clone())
    }

    fn log(&self, number: JobNumber, line: &str) {
        if let Some(running) = self.lock().running.get_mut(&number) {
            running.log().line(line);
        }
    }

    /// `why`: what it ended with, for its log.
    fn remove(&self, number: JobNumber, result: JobResult, why: Option<&Error>) -> Option<Event> {
        let mut inner = self.lock();
        let running = inner.running.remove(&number)?;
        if let Some(log) = &running.log {
            let why = why.filter(|_| result == JobResult::Failed).map(|why| format!(": {why}"));
            log.step(&format!("{result}{}", why.unwrap_or_default()));
        }
        inner.ended.push_front((running.view, result));
        let history = inner.history;
        inner.ended.truncate(history);
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

    pub fn call(&self) -> &Call {
        &self.entry.call
    }

    /// A step's name, with that of the part in front.
    pub fn step_name(&self, step: &'static str) -> Cow<'static, str> {
        match &self.part {
            Some(part) => format!("{part}: {step}").into(),
            None => step.into(),
        }
    }

    pub async fn step(&self, step: &'static str) {
        let step = self.step_name(step);
        let whole = self.part.is_none();
        let change = |view: &mut JobView| {
            view.step = step;
            forget_count(view, whole);
        };
        if let Some(view) = self.entry.jobs.change(self.entry.number, change) {
            self.entry.jobs.tell(Event::Job(view)).await;
        }
    }

    #[cfg(test)]
    fn number(&self) -> JobNumber {
        self.entry.number
    }

    /// What the step is doing, e.g. `downloading`: stands after its name.
    pub async fn detail(&self, detail: &str) {
        let part = self.part.as_deref();
        let change = |view: &mut JobView| {
            view.step = detailed(&view.step, part, detail).into();
            forget_count(view, part.is_none());
        };
        if let Some(view) = self.entry.jobs.change(self.entry.number, change) {
            self.entry.jobs.tell(Event::Job(view)).await;
        }
    }

    /// How much of what the step works on is done, and of how much where that is known.
    pub fn bytes(&self, done: u64, total: Option<u64>) {
        self.counter()(done, total);
    }

    /// A handle for who counts for this job: see [`Self::bytes`].
    pub fn counter(&self) -> impl Fn(u64, Option<u64>) + Send + 'static {
        let (jobs, number, whole) = (Arc::clone(&self.entry.jobs), self.entry.number, self.part.is_none());
        move |done, total| {
            if let Some(view) = whole.then(|| jobs.count(number, done, total)).flatten() {
                // Where so much is to be told that there is no room, the next one tells it.
                let _ = jobs.events.try_send(Event::Job(view));
            }
        }
    }

    /// A line of what a build or an engine says, for the job's log.
    pub fn log(&self, line: &str) {
        match &self.part {
            Some(part) => self.entry.jobs.log(self.entry.number, &format!("{part}: {line}")),
            None => self.entry.jobs.log(self.entry.number, line),
        }
    }

    /// Says that `done` of `all` parts have come to their end.
    pub async fn parts_done(&self, done: usize, all: usize) {
        let change = |view: &mut JobView| view.progress = Some(done as f64 / all.max(1) as f64);
        if let Some(view) = self.entry.jobs.change(self.entry.number, change) {
            self.entry.jobs.tell(Event::Job(view)).await;
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
        if let Some(event) = self.entry.jobs.remove(self.entry.number, result, error) {
            self.entry.jobs.tell(event).await;
        }
    }
}

/// What was counted was of the step before. How far a job of parts is, is not a part's to say.
fn forget_count(view: &mut JobView, whole: bool) {
    if whole {
        (view.bytes, view.progress) = (0, None);
    }
}

/// `step: detail`, or of a part `part: step: detail`, whatever detail stood there before. The detail is a worker's word: it
/// is shortened where it is long, and has no character that D-Bus does not take.
fn detailed(step: &str, part: Option<&str>, detail: &str) -> String {
    let known = usize::from(part.is_some()) + 1;
    let head: Vec<&str> = step.split(": ").take(known).collect();
    let detail: String = detail.chars().filter(|character| !character.is_control()).take(DETAIL).collect();
    format!("{}: {detail}", head.join(": "))
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(event) = self.jobs.remove(self.number, JobResult::Failed, None) {
            let _ = self.jobs.events.try_send(event);
        }
    }
}

#[cfg(test)]
mod tests;
