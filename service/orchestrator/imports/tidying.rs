//! What calls have left in the engine is removed: at once, again later, and where the engine did not answer when it is used
//! next.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::images;
use crate::images::engine::{Patience, Request, Work};
use crate::images::worker::{self, Next, Task};

/// What tidying may take.
const TIDYING: Duration = Duration::from_secs(30);

/// After which it is looked again, and again: the engine may come to the end of what it was in the middle of long after it
/// was left.
const LATER: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(30)];

/// Labels that are kept for an engine that does not answer. What is more is removed at the service's next start.
const MOST: usize = 1000;

/// Tidies up in engines. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Tidier(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// How many work for the first time, which the end of the service waits for.
    working: AtomicUsize,
    /// That the engine could not be asked for.
    untidied: Mutex<BTreeSet<Left>>,
}

/// What is to be removed from the engine behind this socket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Left {
    socket: PathBuf,
    by: By,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    /// The call with this label.
    Call(String),
    /// Runs of the service before the one whose labels begin so.
    Others(String),
}

impl Tidier {
    /// Nobody is kept waiting for it.
    pub(super) fn after_call(&self, socket: PathBuf, label: String) {
        self.spawn(Left { socket, by: By::Call(label) });
    }

    /// Removes what runs of the service before this one have left, where there is an engine.
    pub(super) async fn after_others(&self, socket: PathBuf, instance: String) {
        let left = Left { socket, by: By::Others(instance) };
        if tokio::fs::metadata(&left.socket).await.is_err() || !self.tidy(&left).await {
            self.remember(left);
        }
    }

    /// What it could not be asked for before, it is asked for now that somebody needs it.
    pub(super) fn engine_is_used(&self, socket: &Path) {
        let mut untidied = self.0.untidied.lock().unwrap_or_else(PoisonError::into_inner);
        let (here, elsewhere) = std::mem::take(&mut *untidied).into_iter().partition(|left| left.socket == socket);
        *untidied = elsewhere;
        drop(untidied);
        let here: BTreeSet<Left> = here;
        here.into_iter().for_each(|left| self.spawn(left));
    }

    pub fn is_done(&self) -> bool {
        self.0.working.load(Ordering::Relaxed) == 0
    }

    fn spawn(&self, left: Left) {
        let this = self.clone();
        this.0.working.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(async move {
            let mut is_done = this.tidy(&left).await;
            this.0.working.fetch_sub(1, Ordering::Relaxed);
            for pause in LATER {
                sleep(pause).await;
                is_done = this.tidy(&left).await;
            }
            if !is_done {
                this.remember(left);
            }
        });
    }

    fn remember(&self, left: Left) {
        let mut untidied = self.0.untidied.lock().unwrap_or_else(PoisonError::into_inner);
        if untidied.len() < MOST {
            untidied.insert(left);
        }
    }

    /// Whether the engine has removed all that there was.
    async fn tidy(&self, left: &Left) -> bool {
        let (work, label) = match &left.by {
            By::Call(label) => (Work::Tidy, label.clone()),
            By::Others(instance) => (Work::TidyOthers, instance.clone()),
        };
        let patience = Patience { whole: TIDYING, ..Patience::default() };
        let task = Task::Engine(Request { socket: left.socket.clone(), work, label, patience });
        let working = async {
            let (_, mut worker) = worker::start(&task.into(), None).await?;
            while let Next::Heard(_) = worker.next(0).await? {}
            Ok::<(), images::Error>(())
        };
        match timeout(TIDYING, working).await {
            Ok(Ok(())) => return true,
            Ok(Err(images::Error::Unavailable(why))) => {
                info!(why, "what a build has left in the engine stays for now: {why}")
            }
            Ok(Err(error)) => warn!(%error, "what a build has left in the engine could not be removed: {error}"),
            Err(_) => warn!("what a build has left in the engine was not removed within {} s", TIDYING.as_secs()),
        }
        false
    }
}
