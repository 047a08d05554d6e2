//! The log of a job: its steps, and between them what a build or an engine says.
//!
//! A job has one from the first line on that a source says, or from when somebody opens it: most never do.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::domain::{ConsoleLine, Timestamp};
use crate::tail::{Bounds, Tail};

/// The last lines of a build are what one looks for.
const BOUNDS: Bounds = Bounds { lines: 4096, line: 2048, bytes: 1 << 20 };

/// Pipes that may be open at a time, of all jobs: one that is not read holds its job's lines after the job's end.
pub const READERS: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{READERS} logs of jobs are being read already: close one of them")]
    TooManyReaders,
    #[error("no pipe can be made: {0}")]
    Pipe(#[from] io::Error),
}

#[derive(Debug)]
pub struct Log(Arc<Tail>);

impl Log {
    /// Begins with the step that the job is at.
    pub fn new(step: &str) -> Self {
        let log = Self(Arc::new(Tail::new(BOUNDS)));
        log.step(step);
        log
    }

    /// What the job does next, or has come to.
    pub fn step(&self, step: &str) {
        self.line(&format!("== {step}"));
    }

    /// A line without a character that would move a terminal's cursor, or worse.
    pub fn line(&self, line: &str) {
        let text = line.replace(char::is_control, " ").into_bytes();
        self.0.push([ConsoleLine { at: Timestamp::now(), text }]);
    }

    /// A pipe with all lines that are kept, and those that come.
    pub fn open(&self, place: OwnedSemaphorePermit) -> io::Result<OwnedFd> {
        let first = self.0.ring().first();
        self.0.open(&[], first, place)
    }
}

impl Drop for Log {
    /// Readers get what they have not read yet, and then the end.
    fn drop(&mut self) {
        self.0.end();
    }
}
