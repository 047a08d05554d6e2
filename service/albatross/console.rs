//! The history of a console, as the console daemon keeps it.

use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::domain::Timestamp;

use super::Error;
use super::endpoint::{Endpoint, Silence};
use super::framing::{ReceiveError, receive, send};
use super::wire::{Command, ConsoleCommand, Data, Message, Name, Payload};

/// A line is at most 512 bytes and ` [truncated]`; the rest is the frame around it.
const LINE_LIMIT: u32 = 4096;

/// What the daemon keeps of a console.
const HISTORY: u32 = 1024;

/// The history comes without a pause; after one this long, what follows is printed now.
const QUIET: Duration = Duration::from_millis(100);

/// Subscriptions at once, to all consoles together.
const SUBSCRIPTIONS: usize = 8;

/// A line that a unikernel has printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleLine {
    pub at: Timestamp,
    /// Any bytes but a newline, at most 512; a longer one ends in ` [truncated]`.
    pub line: Vec<u8>,
}

/// The console daemon.
#[derive(Debug)]
pub(super) struct Consoles {
    endpoint: Endpoint,
    places: Semaphore,
}

impl Consoles {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, places: Semaphore::new(SUBSCRIPTIONS) }
    }

    /// The last `lines` lines of a console, oldest first, as far as they come within `wait`. None of a unikernel that
    /// never ran.
    ///
    /// The connection is closed at the end: a subscriber that does not read freezes the unikernel.
    pub(super) async fn tail(&self, name: &Name, lines: u32, wait: Duration) -> Result<Vec<ConsoleLine>, Error> {
        let until = Instant::now() + wait;
        let busy = || self.endpoint.unavailable("too many consoles are being read");
        let _place = timeout_at(until, self.places.acquire()).await.map_err(|_| busy())?.map_err(|_| busy())?;
        // A negative count would make the console daemon eat all memory.
        let lines = lines.clamp(1, HISTORY);
        let mut stream = self.subscribe(name, lines, until).await?;
        let mut tail = Vec::new();
        while tail.len() < lines as usize {
            let quiet = until.min(Instant::now() + QUIET);
            match timeout_at(quiet, receive(&mut stream, LINE_LIMIT)).await {
                // The time is up, or the daemon dropped its oldest subscriber, us: what has come is the answer.
                Err(_) | Ok(Err(ReceiveError::Closed)) => break,
                Ok(Err(error)) => return Err(self.endpoint.silent(error.into())),
                Ok(Ok(bytes)) => tail.push(read_line(&bytes).map_err(|what| self.endpoint.garbled(what))?),
            }
        }
        Ok(tail)
    }

    async fn subscribe(&self, name: &Name, lines: u32, until: Instant) -> Result<UnixStream, Error> {
        let command = Command::Console(ConsoleCommand::SubscribeCount(lines.into()));
        let message = Message { sequence: 0, name: name.clone(), payload: Payload::Command(command) };
        let frame = message.encode()?;
        let mut stream = self.endpoint.connect(until).await?;
        let acknowledged = timeout_at(until, async {
            send(&mut stream, &frame, None).await.map_err(|_| Silence::Closed)?;
            receive(&mut stream, LINE_LIMIT).await.map_err(Silence::from)
        });
        let bytes = acknowledged.await.unwrap_or(Err(Silence::Late));
        let bytes = bytes.map_err(|silence| self.endpoint.silent(silence))?;
        match Message::decode(&bytes).map(|message| message.payload) {
            Ok(Payload::Success(_)) => Ok(stream),
            Ok(Payload::Failure(text)) => Err(Error::Refused(text.lossy())),
            Ok(_) => Err(self.endpoint.garbled("a line before the subscription was confirmed")),
            Err(malformed) => Err(self.endpoint.garbled(malformed)),
        }
    }
}

fn read_line(bytes: &[u8]) -> Result<ConsoleLine, String> {
    match Message::decode(bytes).map(|message| message.payload) {
        Ok(Payload::Data(Data::Console { at, line })) => Ok(ConsoleLine { at, line: line.0 }),
        Ok(_) => Err("something else than a line of the console".into()),
        Err(malformed) => Err(malformed.to_string()),
    }
}
