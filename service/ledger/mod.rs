//! What the host should look like, on disk: survives a crash at any instant.
//!
//! One thread of its own holds the database, because a commit waits for the disk. It takes lists of changes in order,
//! each as one transaction: when [`Ledger::commit`] returns, the list is on disk, and when the process is killed before
//! that, all of the list is there at the next start or nothing of it.

mod error;
mod file;
mod schema;
mod writer;

use std::net::IpAddr;
use std::path::Path;

use tokio::sync::{mpsc, oneshot};

pub use self::error::Error;
use self::writer::{Request, Storage};
use crate::domain::{
    Build, Change, ConsoleLine, ImageRecord, Lease, LoopbackRoute, Ordinal, Service, Stack, StaleFlows, Unikernel,
    UnikernelId,
};

/// Callers that may wait for the disk at a time; further ones wait before they are queued.
const QUEUE: usize = 64;

/// Everything that is written down, as found at the start.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contents {
    pub unikernels: Vec<Unikernel>,
    pub services: Vec<Service>,
    pub leases: Vec<Lease>,
    /// Addresses that are free again, and their places in the order in which they became so.
    pub released: Vec<(IpAddr, Ordinal)>,
    pub images: Vec<ImageRecord>,
    pub stale_flows: Vec<StaleFlows>,
    /// What those said before they ended last that have ended.
    pub last_words: Vec<(UnikernelId, Vec<ConsoleLine>)>,
    pub stacks: Vec<Stack>,
    pub builds: Vec<Build>,
    /// The last number that was given, also to what is not there any more.
    pub last_ordinal: Ordinal,
    /// Bridges whose `route_localnet` was switched on.
    pub loopback_routes: Vec<LoopbackRoute>,
}

/// A handle to the thread that writes; it ends, and the file is closed, after the last handle is gone.
#[derive(Debug, Clone)]
pub struct Ledger {
    requests: mpsc::Sender<Request>,
}

impl Ledger {
    /// Opens the file, or creates it where there is none, and reads all of it. Blocks on the disk.
    pub fn open(path: &Path) -> Result<(Self, Contents), Error> {
        let file = path.to_owned();
        // Creates only the first time: a file that vanishes later is to be told, not to be replaced by an empty one.
        let mut open: fn(&Path) -> Result<redb::Database, Error> = file::open;
        let open = move || std::mem::replace(&mut open, file::reopen)(&file);
        Self::start(Storage { path: path.to_owned(), open: Box::new(open) })
    }

    /// Writes all of `changes` or none, and returns when they are on disk.
    ///
    /// After an error nothing of them is there, and the ledger takes further changes as soon as the cause is gone. A
    /// caller that stops waiting does not stop the write. There is no deadline: only the disk knows the outcome.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), Error> {
        let (reply, outcome) = oneshot::channel();
        self.requests.send(Request { changes, reply }).await.map_err(|_| Error::Stopped)?;
        outcome.await.map_err(|_| Error::Stopped)?
    }

    fn start(storage: Storage) -> Result<(Self, Contents), Error> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let contents = writer::start(storage, queue)?;
        Ok((Self { requests }, contents))
    }
}

#[cfg(test)]
mod tests;
