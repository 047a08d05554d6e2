//! One question to the daemon and its answer, and which release's words it understands.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};

use super::Error;
use super::deadline::Deadline;
use super::endpoint::{Endpoint, Silence};
use super::wire::{Command, Dialect, Info, Message, Name, Payload, Success, UnikernelCommand};

/// Connections at once for commands that change something, and for those that only ask: a destroy that hangs holds one
/// of the former until its deadline, and must not keep anybody from asking what runs.
const CHANGES: usize = 32;
const QUESTIONS: usize = 8;

/// What came of a command that was sent.
#[derive(Debug)]
pub(super) enum Reply {
    Done(Success),
    /// Albatross's words on why not.
    Refused(String),
    /// It may be done or not.
    Unknown(Silence),
}

/// A command on its way.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub name: &'a Name,
    pub command: Command,
    pub image: Option<&'a Arc<File>>,
    pub deadline: Duration,
}

#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) endpoint: Endpoint,
    changes: Semaphore,
    questions: Semaphore,
    sequence: AtomicU64,
    /// `None`: not found out, or the daemon was away since and may be another when it comes back.
    dialect: Mutex<Option<Dialect>>,
    deadline: Deadline,
}

impl Daemon {
    pub(super) fn new(endpoint: Endpoint, deadline: Deadline) -> Self {
        Self {
            endpoint,
            changes: Semaphore::new(CHANGES),
            questions: Semaphore::new(QUESTIONS),
            sequence: AtomicU64::new(1),
            dialect: Mutex::new(None),
            deadline,
        }
    }

    pub(super) fn dialect(&self) -> Option<Dialect> {
        *self.dialect.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, dialect: Option<Dialect>) {
        let before = std::mem::replace(&mut *self.dialect.lock().unwrap_or_else(PoisonError::into_inner), dialect);
        if let (Some(dialect), true) = (dialect, dialect != before) {
            info!(%dialect, "Albatross answers: {dialect}");
        }
    }

    /// Sends a command that changes something.
    ///
    /// # Errors
    /// Only where it was certainly not done.
    pub(super) async fn change(&self, request: Request<'_>) -> Result<Reply, Error> {
        self.ask(&self.changes, request).await
    }

    /// Sends a command that only asks.
    pub(super) async fn question(&self, name: &Name, command: Command) -> Result<Reply, Error> {
        self.ask(&self.questions, Request { name, command, image: None, deadline: self.deadline.get() }).await
    }

    async fn ask(&self, lane: &Semaphore, request: Request<'_>) -> Result<Reply, Error> {
        let until = Instant::now() + request.deadline;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let message = Message { sequence, name: request.name.clone(), payload: Payload::Command(request.command) };
        let frame = message.encode()?;
        let busy = || self.endpoint.unavailable("too many commands are under way");
        // The semaphore is never closed.
        let _place = timeout_at(until, lane.acquire()).await.map_err(|_| busy())?.map_err(|_| busy())?;
        let answered = self.endpoint.exchange(&frame, request.image, until).await.inspect_err(|error| {
            if matches!(error, Error::Unavailable { .. }) {
                self.remember(None);
            }
        })?;
        let reply = answered.map_or_else(Reply::Unknown, |bytes| read_reply(&bytes, sequence));
        debug!(name = %message.name, outcome = reply.summary(), "asked Albatross");
        Ok(reply)
    }

    /// What runs under `name`, with full names.
    ///
    /// It is also how the dialect is found out: a daemon closes on words that it does not know, as it does when it
    /// dies, and asking does no harm.
    pub(super) async fn info(&self, name: &Name) -> Result<Vec<(Name, Info)>, Error> {
        if let Some(dialect) = self.dialect()
            && let Some(infos) = self.info_in(dialect, name).await?
        {
            return Ok(infos);
        }
        let mut found = self.first_understood(name).await?;
        // A daemon that died under the newest question and was back for an older one looks like an old daemon: what
        // is not the newest is believed when it is found again.
        if found.as_ref().is_some_and(|(dialect, _)| *dialect != Dialect::NEWEST_FIRST[0]) {
            found = self.first_understood(name).await?;
        }
        self.remember(found.as_ref().map(|(dialect, _)| *dialect));
        let unknown = "it closes on every question of 2.4 to 2.7, so its version is another, or it dies on them";
        found.map(|(_, infos)| infos).ok_or_else(|| self.endpoint.unavailable(unknown))
    }

    /// The dialect that commands are to be sent in, found out by a question about `name` if need be.
    pub(super) async fn dialect_to_use(&self, name: &Name) -> Result<Dialect, Error> {
        if self.dialect().is_none() {
            self.info(name).await?;
        }
        self.dialect().ok_or_else(|| self.endpoint.unavailable("it went away"))
    }

    async fn first_understood(&self, name: &Name) -> Result<Option<(Dialect, Vec<(Name, Info)>)>, Error> {
        for dialect in Dialect::NEWEST_FIRST {
            if let Some(infos) = self.info_in(dialect, name).await? {
                return Ok(Some((dialect, infos)));
            }
        }
        Ok(None)
    }

    /// `None`: the daemon closed without an answer.
    async fn info_in(&self, dialect: Dialect, name: &Name) -> Result<Option<Vec<(Name, Info)>>, Error> {
        match self.question(name, Command::Unikernel(UnikernelCommand::Info(dialect))).await? {
            Reply::Done(Success::Info(answered, infos)) if answered == dialect => {
                Ok(Some(infos.into_iter().map(|(found, info)| (name.resolve(found), info)).collect()))
            }
            Reply::Done(_) => Err(self.endpoint.garbled("no list of unikernels where one was asked for")),
            Reply::Refused(text) => Err(Error::Refused(text)),
            Reply::Unknown(Silence::Closed) => Ok(None),
            Reply::Unknown(silence) => Err(self.endpoint.silent(silence)),
        }
    }
}

fn read_reply(bytes: &[u8], sequence: u64) -> Reply {
    let garbled = |what: String| Reply::Unknown(Silence::Garbled(what));
    match Message::decode(bytes) {
        Ok(message) if message.sequence != sequence => {
            garbled(format!("an answer to question {}, not to {sequence}", message.sequence))
        }
        Ok(Message { payload: Payload::Success(success), .. }) => Reply::Done(success),
        Ok(Message { payload: Payload::Failure(text), .. }) => Reply::Refused(text.lossy()),
        Ok(_) => garbled("neither success nor failure".into()),
        Err(malformed) => garbled(malformed.to_string()),
    }
}

impl Reply {
    /// For the journal: what failures say is left to who handles them.
    fn summary(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Refused(_) => "refused",
            Self::Unknown(Silence::Closed) => "closed",
            Self::Unknown(Silence::Late) => "late",
            Self::Unknown(Silence::Garbled(_)) => "garbled",
        }
    }
}
