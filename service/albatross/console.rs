//! A subscription to a console: its history, then its lines as they come.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use super::Error;
use super::endpoint::{Endpoint, Silence};
use super::framing::{receive, send};
use super::wire::{Command, ConsoleCommand, Data, Message, Name, Payload};
use crate::domain::{ConsoleLine, Timestamp};

/// A line is at most 512 bytes and ` [truncated]`; the rest is the frame around it.
const LINE_LIMIT: u32 = 4096;

/// Lines that the daemon keeps of a console.
pub const HISTORY: u32 = 1024;

/// How much of the history comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleHistory {
    /// All that the daemon keeps.
    All,
    /// What came at this millisecond or later.
    Since(Timestamp),
}

/// Lines of one console. To be read always: the daemon waits for its subscribers, and the unikernel for the daemon.
pub struct ConsoleStream {
    stream: BufReader<UnixStream>,
    endpoint: Arc<Endpoint>,
}

impl fmt::Debug for ConsoleStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsoleStream")
    }
}

impl ConsoleStream {
    /// Returns when the daemon has confirmed, at the latest after `wait`. One that never ran is waited for.
    pub(super) async fn subscribe(
        endpoint: &Arc<Endpoint>,
        name: &Name,
        history: ConsoleHistory,
        wait: Duration,
    ) -> Result<Self, Error> {
        let until = Instant::now() + wait;
        let from = match history {
            // Never a negative count: it would make the console daemon eat all memory.
            ConsoleHistory::All => ConsoleCommand::SubscribeCount(HISTORY.into()),
            ConsoleHistory::Since(at) => ConsoleCommand::SubscribeSince(at),
        };
        let message = Message { sequence: 0, name: name.clone(), payload: Payload::Command(Command::Console(from)) };
        let frame = message.encode()?;
        let mut stream = BufReader::new(endpoint.connect(until).await?);
        let acknowledged = timeout_at(until, async {
            send(&mut stream, &frame, None).await.map_err(|_| Silence::Closed)?;
            receive(&mut stream, LINE_LIMIT).await.map_err(Silence::from)
        });
        let bytes = acknowledged.await.unwrap_or(Err(Silence::Late)).map_err(|silence| endpoint.silent(silence))?;
        match Message::decode(&bytes).map(|message| message.payload) {
            Ok(Payload::Success(_)) => Ok(Self { stream, endpoint: Arc::clone(endpoint) }),
            Ok(Payload::Failure(text)) => Err(Error::Refused(text.lossy())),
            Ok(_) => Err(endpoint.garbled("a line before the subscription was confirmed")),
            Err(malformed) => Err(endpoint.garbled(malformed)),
        }
    }

    /// Waits for a line, and returns it with those that came together with it. Not to be called again when dropped
    /// before it has returned.
    ///
    /// # Errors
    /// When the daemon ends, or has more subscribers than it serves and drops the oldest.
    pub async fn lines(&mut self) -> Result<Vec<ConsoleLine>, Error> {
        let mut lines = Vec::new();
        while lines.is_empty() || begins_with_a_frame(self.stream.buffer()) {
            let bytes = receive(&mut self.stream, LINE_LIMIT).await;
            let bytes = bytes.map_err(|error| self.endpoint.silent(error.into()))?;
            lines.push(read_line(&bytes).map_err(|what| self.endpoint.garbled(what))?);
        }
        Ok(lines)
    }
}

fn begins_with_a_frame(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk() else { return false };
    usize::try_from(u32::from_be_bytes(*length)).is_ok_and(|length| length <= rest.len())
}

fn read_line(bytes: &[u8]) -> Result<ConsoleLine, String> {
    match Message::decode(bytes).map(|message| message.payload) {
        Ok(Payload::Data(Data::Console { at, line })) => Ok(ConsoleLine { at, text: line.0 }),
        Ok(_) => Err("something else than a line of the console".into()),
        Err(malformed) => Err(malformed.to_string()),
    }
}
