//! What unikernels print: the last lines of each in memory, and readers that none of them ever waits for.
//!
//! ```text
//!   console daemon ── one subscription for each record ──► Follower ──► Console (a Tail) ◄── cursor ── pipe (OpenConsole)
//!                                                                            ▲               cursor ── readiness
//!                                                                            └── ReadConsole, last words
//! ```
//!
//! A follower always reads. Who reads from the service is not waited for ([`crate::tail`]).

mod console;
mod follower;
mod known;

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use self::console::Console;
use self::follower::Follower;
use crate::albatross::Client;
use crate::domain::{Change, ConsoleLine, Timestamp, UnikernelId};
use crate::tail::Bounds;

/// Lines that are kept of each: as many as Albatross's console daemon keeps.
pub const LINES: usize = 1024;

/// Lines of Albatross have 512 bytes and ` [truncated]` at most.
const BOUNDS: Bounds = Bounds { lines: LINES, line: 1024, bytes: LINES * 1024 };

/// Pipes that may be open at a time.
pub const READERS: usize = 256;

/// How much of what was printed before a reader gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    All,
    /// As many lines.
    Lines(usize),
    /// Those of this time or later.
    Since(Timestamp),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{READERS} consoles are being read already: close one of them")]
    TooManyReaders,
    #[error("no pipe can be made: {0}")]
    Pipe(#[from] io::Error),
}

/// The consoles of all unikernels that have a record.
#[derive(Debug)]
pub struct Consoles {
    albatross: Client,
    all: Mutex<BTreeMap<UnikernelId, Arc<Console>>>,
    places: Arc<Semaphore>,
    again: watch::Sender<()>,
}

impl Consoles {
    pub fn new(albatross: Client) -> Self {
        let places = Arc::new(Semaphore::new(READERS));
        Self { albatross, all: Mutex::default(), places, again: watch::Sender::new(()) }
    }

    /// Follows the consoles of unikernels that get a record, before Albatross is asked to create them, and leaves those
    /// that lose it.
    pub fn apply(&self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::PutUnikernel(unikernel) => self.follow(&unikernel.id),
                Change::RemoveUnikernel(id) => self.leave(id),
                _ => {}
            }
        }
    }

    pub fn follow(&self, id: &UnikernelId) {
        let mut all = self.all();
        if all.contains_key(id) {
            return;
        }
        let console = Arc::new(Console::default());
        all.insert(id.clone(), Arc::clone(&console));
        let (albatross, again) = (self.albatross.clone(), self.again.subscribe());
        tokio::spawn(Follower { console, albatross, id: id.clone(), again }.run());
    }

    fn leave(&self, id: &UnikernelId) {
        if let Some(console) = self.all().remove(id) {
            console.remove();
        }
    }

    /// Albatross answers: who waits to subscribe tries at once.
    pub fn try_again(&self) {
        self.again.send_replace(());
    }

    /// `id` is about to be started: what it prints from now on is of this start.
    pub fn begin(&self, id: &UnikernelId) {
        if let Some(console) = self.get(id) {
            console.begin();
            self.try_again();
        }
    }

    /// `id` was started at `at` by others: what it has printed since is of that start.
    pub fn begun(&self, id: &UnikernelId, at: Timestamp) {
        if let Some(console) = self.get(id) {
            console.begun(at);
        }
    }

    /// The last lines of `id`, at most `count`, with the history from before the service's start. `None`: it has no
    /// record.
    pub async fn read(&self, id: &UnikernelId, count: usize) -> Option<Vec<ConsoleLine>> {
        let console = self.get(id)?;
        console.settled().await;
        Some(console.last(count))
    }

    /// As [`Consoles::read`] of one that has just ended or failed: what it said last is given the time to arrive, until
    /// nothing has come for `pause`.
    pub async fn read_last(&self, id: &UnikernelId, count: usize, pause: Duration) -> Vec<ConsoleLine> {
        let Some(console) = self.get(id) else { return Vec::new() };
        console.settled().await;
        console.quiet(pause).await;
        console.last(count)
    }

    /// The last lines of one that has just ended, as they are known now: nothing is waited for but what is on its way, until
    /// nothing has come for `pause`, and not for longer than `within`.
    pub async fn just_said(
        &self,
        id: &UnikernelId,
        count: usize,
        pause: Duration,
        within: Duration,
    ) -> Vec<ConsoleLine> {
        let Some(console) = self.get(id) else { return Vec::new() };
        console.quiet_until(pause, Instant::now() + within).await;
        let ring = console.tail.ring();
        ring.from(ring.back(count)).1.cloned().collect()
    }

    /// A pipe with the history and then the lines as they come. `stored`: what is known of it where the history is
    /// empty. `None`: it has no record.
    pub async fn open(
        &self,
        id: &UnikernelId,
        history: History,
        stored: Vec<ConsoleLine>,
    ) -> Result<Option<OwnedFd>, Error> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Error::TooManyReaders)?;
        let Some(console) = self.get(id) else { return Ok(None) };
        console.settled().await;
        let (first, cursor) = {
            let ring = console.tail.ring();
            let first = if ring.is_empty() { select(&stored, history) } else { &[] };
            let cursor = match history {
                History::All => ring.first(),
                History::Lines(count) => ring.back(count),
                History::Since(at) => ring.since(at),
            };
            (first, cursor)
        };
        Ok(Some(console.tail.open(first, cursor, place)?))
    }

    /// Waits for a line since the last start of `id` that `matches`; for ever where it has no record.
    pub async fn wait_for(&self, id: &UnikernelId, matches: impl Fn(&[u8]) -> bool) {
        let Some(console) = self.get(id) else { return std::future::pending().await };
        let start = console.start();
        let (mut news, mut cursor) = (console.tail.news(), start.number);
        loop {
            while cursor < news.borrow_and_update().next {
                match console.find(cursor, |line| line.at >= start.at && matches(&line.text)) {
                    ControlFlow::Break(()) => return,
                    ControlFlow::Continue(next) => cursor = next,
                }
                // An expression takes its time, and others want to work as well.
                tokio::task::yield_now().await;
            }
            if news.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn get(&self, id: &UnikernelId) -> Option<Arc<Console>> {
        self.all().get(id).cloned()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<UnikernelId, Arc<Console>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn select(lines: &[ConsoleLine], history: History) -> &[ConsoleLine] {
    let skip = match history {
        History::All => 0,
        History::Lines(count) => lines.len().saturating_sub(count),
        History::Since(at) => lines.len() - lines.iter().rev().take_while(|line| line.at >= at).count(),
    };
    lines.get(skip..).unwrap_or_default()
}
