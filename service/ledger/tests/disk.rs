//! A disk in memory that can be full, fail, and lose what was not yet synced.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

use super::super::writer::Storage;
use super::*;

#[derive(Debug, Clone)]
pub(super) enum Operation {
    Write { offset: usize, data: Vec<u8> },
    Length(usize),
    Sync,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) bytes: Vec<u8>,
    pub(super) log: Vec<Operation>,
    /// Operations until everything fails that writes; `None`: nothing does.
    pub(super) operations_left: Option<usize>,
    /// A sync fails although the disk has everything.
    pub(super) syncs_fail: bool,
    /// The file cannot be opened.
    pub(super) closed: bool,
}

impl State {
    pub(super) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Write { offset, data } => {
                let end = offset + data.len();
                if self.bytes.len() < end {
                    self.bytes.resize(end, 0);
                }
                self.bytes[*offset..end].copy_from_slice(data);
            }
            Operation::Length(length) => self.bytes.resize(*length, 0),
            Operation::Sync => {}
        }
    }

    fn perform(&mut self, operation: Operation) -> io::Result<()> {
        if let Some(left) = &mut self.operations_left {
            *left = left.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        }
        self.apply(&operation);
        if self.syncs_fail && matches!(operation, Operation::Sync) {
            return Err(io::Error::other("the cable is loose"));
        }
        self.log.push(operation);
        Ok(())
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<State>>);

impl Disk {
    /// A disk with an empty ledger on it.
    pub(super) fn formatted() -> Self {
        let disk = Self::default();
        let database = file::builder().create_with_backend(disk.clone()).unwrap();
        schema::initialize(&database).unwrap();
        drop(database);
        disk.state().log.clear();
        disk
    }

    pub(super) fn with(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.state().bytes = bytes;
        disk
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(super) fn open(&self) -> Result<(Ledger, Contents), Error> {
        let (disk, path) = (self.clone(), Path::new("/disk"));
        let open = move || {
            if disk.state().closed {
                return Err(Error::io(path, io::ErrorKind::PermissionDenied.into()));
            }
            file::builder().create_with_backend(disk.clone()).map_err(|error| Error::of(path, error))
        };
        Ledger::start(Storage { path: path.into(), open: Box::new(open) })
    }

    /// What another process would find now, without writing to this disk.
    pub(super) fn contents(&self) -> Contents {
        let copy = Self::with(self.state().bytes.clone());
        copy.open().unwrap().1
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let (state, start) = (self.state(), offset as usize);
        let bytes = state.bytes.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.state().perform(Operation::Length(length as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.state().perform(Operation::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.state().perform(Operation::Write { offset: offset as usize, data: data.into() })
    }
}
