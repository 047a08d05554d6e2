//! A socket of Albatross.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use super::Error;
use super::framing::{ReceiveError, SendError, receive, send};
use super::wire::Frame;

/// The longest answer that is read. A unikernel takes some 150 bytes of one, and up to 8 KiB with all the arguments
/// that a tender takes: this holds a thousand of those.
const ANSWER_LIMIT: u32 = 8 * 1024 * 1024;

/// Pauses between attempts to connect to a busy daemon.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

/// Why a command that was sent, or partly sent, has no answer. What became of it is not known.
#[derive(Debug)]
pub(super) enum Silence {
    /// Closed without a byte: not understood, or the daemon died.
    Closed,
    Late,
    Garbled(String),
}

#[derive(Debug)]
pub(super) struct Endpoint {
    socket: PathBuf,
    /// One connects at a time, in the order of coming: the daemon's listen queue has room for one, and who finds it
    /// full is turned away at once, with no way to wait but to try again.
    turn: Mutex<()>,
}

impl Endpoint {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket, turn: Mutex::new(()) }
    }

    /// # Errors
    /// `Unavailable`, at once when nobody listens, at `until` when the daemon is too busy to take another.
    pub(super) async fn connect(&self, until: Instant) -> Result<UnixStream, Error> {
        match timeout_at(until, self.connect_patiently()).await {
            Ok(connected) => connected.map_err(|error| self.unavailable(reason(&error))),
            Err(_) => Err(self.unavailable("it took no new connection in time")),
        }
    }

    async fn connect_patiently(&self) -> io::Result<UnixStream> {
        let _turn = self.turn.lock().await;
        let mut pause = FIRST_PAUSE;
        loop {
            match UnixStream::connect(&self.socket).await {
                // EAGAIN: the listen queue is full.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Sends `frame` on a connection of its own and reads one frame. The connection is closed however this ends.
    ///
    /// # Errors
    /// Only where the daemon cannot have done anything: it was not reached, or the image's file broke in the middle.
    pub(super) async fn exchange(
        &self,
        frame: &Frame,
        image: Option<&Arc<File>>,
        until: Instant,
    ) -> Result<Result<Vec<u8>, Silence>, Error> {
        let mut stream = self.connect(until).await?;
        let exchange = async {
            match send(&mut stream, frame, image).await {
                Ok(()) => Ok(receive(&mut stream, ANSWER_LIMIT).await.map_err(Silence::from)),
                Err(SendError::Image(error)) => Err(Error::Image(error)),
                // It closed before it had all: it cannot have understood.
                Err(SendError::Socket(error)) => {
                    debug!(%error, "Albatross closed before it had the whole command");
                    Ok(Err(Silence::Closed))
                }
            }
        };
        timeout_at(until, exchange).await.unwrap_or(Ok(Err(Silence::Late)))
    }

    pub(super) fn unavailable(&self, reason: impl Into<String>) -> Error {
        Error::Unavailable { socket: self.socket.clone(), reason: reason.into() }
    }

    pub(super) fn garbled(&self, what: impl ToString) -> Error {
        Error::Garbled { socket: self.socket.clone(), what: what.to_string() }
    }

    /// The error of a command that got no answer and, as was found since, was not done.
    pub(super) fn silent(&self, silence: Silence) -> Error {
        match silence {
            Silence::Closed => self.unavailable("it closed the connection without an answer"),
            Silence::Late => self.unavailable("it did not answer in time"),
            Silence::Garbled(what) => self.garbled(what),
        }
    }
}

impl From<ReceiveError> for Silence {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Closed => Self::Closed,
            ReceiveError::Broken(what) => Self::Garbled(what),
        }
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such socket, so the daemon does not run or has another directory".into(),
        ErrorKind::ConnectionRefused => "nobody listens on it, so the daemon does not run".into(),
        ErrorKind::PermissionDenied => "this service may not connect to it, its group should be albatross".into(),
        _ => error.to_string(),
    }
}
