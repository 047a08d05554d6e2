//! What a worker says on its way, as often as somebody can make use of it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_current_process_group};

use super::{Failure, Heard, Kind, Said};

/// Between two words of progress.
const PAUSE: Duration = Duration::from_millis(50);

/// Bytes of a line that is passed on.
const LINE: usize = 2000;

/// Nobody listens: the service has given this up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the call was given up")]
pub struct Gone;

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        Self::new(Kind::Unwanted, gone.to_string())
    }
}

/// A worker's way to tell the service what it does.
#[derive(Debug)]
pub struct Voice {
    socket: UnixStream,
    told: Option<Instant>,
}

impl Voice {
    pub(in crate::images) fn new(socket: UnixStream) -> Self {
        Self { socket, told: None }
    }

    /// From now on this process and all that it has started end as soon as nobody listens, also where nothing is said for
    /// long. The service may not have the right to end what has another user's rights.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn end_when_gone(&self) -> io::Result<()> {
        let mut socket = self.socket.try_clone()?;
        let wait = move || {
            // After the task nothing comes but the end.
            while socket.read(&mut [0; 16]).is_ok_and(|count| count > 0) {}
            let _ = kill_current_process_group(Signal::KILL);
            // Who may start nothing may not do that either.
            std::process::exit(1);
        };
        thread::Builder::new().name("listener".into()).spawn(wait).map(drop)
    }

    /// What is done next, in a word or two, e.g. `downloading`.
    pub fn step(&mut self, step: &str) -> Result<(), Gone> {
        self.told = None;
        self.hear(Heard::Step(step.into()))
    }

    /// Bytes of this step; told 20 times a second at most.
    pub fn progress(&mut self, done: u64, total: Option<u64>) -> Result<(), Gone> {
        let is_over = total.is_some_and(|total| done >= total);
        if !is_over && self.told.is_some_and(|told| told.elapsed() < PAUSE) {
            return Ok(());
        }
        self.told = Some(Instant::now());
        self.hear(Heard::Progress { done, total })
    }

    /// A line of the job's log: without control characters, and cut where it is long.
    pub fn line(&mut self, line: &str) -> Result<(), Gone> {
        let line = line.trim_end();
        let line = line.get(..line.floor_char_boundary(LINE)).unwrap_or(line);
        self.hear(Heard::Line(line.replace(char::is_control, " ")))
    }

    /// See [`Heard::Origin`].
    pub fn origin(&mut self, origin: &str) -> Result<(), Gone> {
        self.hear(Heard::Origin(origin.into()))
    }

    /// See [`Heard::Signature`].
    pub fn signature(&mut self, signature: &str) -> Result<(), Gone> {
        self.hear(Heard::Signature(signature.into()))
    }

    /// See [`Heard::Answer`].
    pub fn answer(&mut self, answer: &str) -> Result<(), Gone> {
        self.hear(Heard::Answer(answer.into()))
    }

    fn hear(&mut self, heard: Heard) -> Result<(), Gone> {
        self.say(&Said::Heard(heard)).map_err(|_| Gone)
    }

    pub(super) fn say(&mut self, said: &Said) -> io::Result<()> {
        let line = serde_json::to_string(said).map_err(io::Error::other)?;
        self.socket.write_all(format!("{line}\n").as_bytes())
    }
}
