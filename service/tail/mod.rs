//! Lines as they come: the last of them in memory, and readers that nobody ever waits for.
//!
//! A reader is a number in the ring and has no queue: what it did not read in time is lost to it, and it is told how much
//! that was.

mod pipe;
mod ring;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::unix::pipe::Sender;
use tokio::sync::{OwnedSemaphorePermit, watch};

use self::pipe::Pipe;
use crate::domain::ConsoleLine;

pub use ring::{Bounds, Ring};

/// What has become of the lines; readers are told when it changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct News {
    /// The number of the line that comes next.
    pub next: u64,
    /// No line comes any more.
    pub ended: bool,
}

/// The last lines of something that prints, or logs.
#[derive(Debug)]
pub struct Tail {
    ring: Mutex<Ring>,
    news: watch::Sender<News>,
}

impl Tail {
    pub fn new(bounds: Bounds) -> Self {
        Self { ring: Mutex::new(Ring::new(bounds)), news: watch::Sender::default() }
    }

    pub fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn news(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    pub fn push(&self, lines: impl IntoIterator<Item = ConsoleLine>) {
        let mut ring = self.ring();
        lines.into_iter().for_each(|line| ring.push(line));
        let next = ring.next();
        drop(ring);
        self.news.send_if_modified(|news| std::mem::replace(&mut news.next, next) != next);
    }

    /// No line comes any more: readers get what they have not read yet, and the end.
    pub fn end(&self) {
        self.news.send_modify(|news| news.ended = true);
    }

    /// A pipe with `first`, then the lines from the number `cursor` on, those that there are and those that come. `place`
    /// is kept until its reader closes it, or has read to the end.
    ///
    /// # Errors
    /// There can be no more descriptors.
    pub fn open(
        self: &Arc<Self>,
        first: &[ConsoleLine],
        cursor: u64,
        place: OwnedSemaphorePermit,
    ) -> io::Result<OwnedFd> {
        let (reader, writer) = io::pipe()?;
        let sender = Sender::from_owned_fd(writer.into())?;
        let mut pending = Vec::new();
        first.iter().for_each(|line| pipe::append(&mut pending, line));
        tokio::spawn(Pipe { tail: Arc::clone(self), sender, cursor, pending, _place: place }.run());
        Ok(reader.into())
    }
}
