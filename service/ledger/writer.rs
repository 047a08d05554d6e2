//! The thread that holds the database.

use std::path::PathBuf;

use redb::Database;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};

use super::schema::Before;
use super::{Contents, Error, schema};
use crate::domain::Change;

/// Requests that become one transaction when they wait at the same time: they share one wait for the disk.
const MOST_TOGETHER: usize = 32;

/// One caller's changes.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) changes: Vec<Change>,
    pub(super) reply: oneshot::Sender<Result<(), Error>>,
}

/// Where the database is, and how it is opened: at the start, and again after an error.
pub(super) struct Storage {
    /// For messages.
    pub(super) path: PathBuf,
    pub(super) open: Box<dyn FnMut() -> Result<Database, Error> + Send>,
}

/// Opens the database in a thread of its own, which then takes requests until all who could send one are gone.
pub(super) fn start(storage: Storage, requests: mpsc::Receiver<Request>) -> Result<Contents, Error> {
    let path = storage.path.clone();
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let work = move || match Writer::open(storage) {
        Ok((writer, contents)) => {
            let _ = tell.send(Ok(contents));
            writer.run(requests);
        }
        Err(error) => {
            let _ = tell.send(Err(error));
        }
    };
    std::thread::Builder::new().name("ledger".into()).spawn(work).map_err(|error| Error::io(&path, error))?;
    // No answer: redb has panicked on what it read.
    told.recv().unwrap_or_else(|_| Err(Error::Damaged { path, what: "the database gave up while reading it".into() }))
}

struct Writer {
    storage: Storage,
    /// `None` after an error, until it can be opened again: redb takes no transactions after a failed one.
    database: Option<Database>,
    /// Of the last transaction that counts.
    sequence: u64,
    unsettled: Option<Unsettled>,
}

/// A transaction whose commit failed. It can be there all the same, when the disk took it before something else failed.
struct Unsettled {
    sequence: u64,
    before: Vec<Before>,
}

impl Writer {
    fn open(mut storage: Storage) -> Result<(Self, Contents), Error> {
        let database = (storage.open)()?;
        let path = &storage.path;
        let found = schema::version(&database).map_err(|error| Error::of(path, error))?;
        if found > schema::VERSION {
            return Err(Error::Newer { path: path.clone(), found, known: schema::VERSION });
        }
        let contents = schema::read(&database).map_err(|error| Error::of(path, error))?;
        let sequence = schema::sequence(&database).map_err(|error| Error::of(path, error))?;
        Ok((Self { storage, database: Some(database), sequence, unsettled: None }, contents))
    }

    fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        while let Some(first) = requests.blocking_recv() {
            let mut together = vec![first];
            while together.len() < MOST_TOGETHER
                && let Ok(next) = requests.try_recv()
            {
                together.push(next);
            }
            let outcome = self.commit(&together);
            for request in together {
                // Who does not wait any more does not need the answer.
                let _ = request.reply.send(outcome.clone());
            }
        }
    }

    fn commit(&mut self, requests: &[Request]) -> Result<(), Error> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        let sequence = self.sequence + 1;
        let changes = requests.iter().flat_map(|request| &request.changes);
        let mut before = Vec::new();
        match schema::write(&database, sequence, changes, &mut before) {
            Ok(()) => {
                self.sequence = sequence;
                self.database = Some(database);
                Ok(())
            }
            Err(error) => {
                let error = Error::of(&self.storage.path, error);
                error!(%error, "a change could not be written: {error}");
                // Closed before it is opened again: it holds the lock.
                drop(database);
                self.unsettled = Some(Unsettled { sequence, before });
                match self.reopen() {
                    Ok(database) => self.database = Some(database),
                    Err(error) => warn!(%error, "the ledger stays closed until the next change: {error}"),
                }
                Err(error)
            }
        }
    }

    /// Opens the database after an error, and undoes what callers were told is not there.
    fn reopen(&mut self) -> Result<Database, Error> {
        let database = (self.storage.open)()?;
        let of = |error| Error::of(&self.storage.path, error);
        let found = schema::sequence(&database).map_err(of)?;
        match &self.unsettled {
            _ if found == self.sequence => {}
            Some(unsettled) if found == unsettled.sequence => {
                schema::undo(&database, found + 1, &unsettled.before).map_err(of)?;
                self.sequence = found + 1;
            }
            // Undone by the attempt before this one, which failed as well.
            Some(unsettled) if found == unsettled.sequence + 1 => self.sequence = found,
            _ => return Err(Error::Replaced { path: self.storage.path.clone() }),
        }
        self.unsettled = None;
        Ok(database)
    }
}
