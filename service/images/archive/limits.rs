//! How much may be read, unpacked and kept, and who is told of it meanwhile.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use super::error::Error;

/// What an image may have at most.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of the unikernel.
    pub output: u64,
    /// Entries of one tar.
    pub entries: u64,
    pub layers: usize,
    /// Bytes decompressed in all. A layer is unpacked once to be searched and, if it has the file, once more up to it.
    pub unpacked: u64,
    /// Times as much as was read that may be unpacked; [`ROOM`] always may. Layers are compressed to a third, and to a
    /// twentieth where they are text: what comes to much more was made to keep somebody busy.
    pub ratio: u64,
    /// Bytes of a name or a link in a tar.
    pub path: usize,
    /// Bytes of a manifest, an index or a configuration.
    pub manifest: u64,
    /// Indexes within indexes.
    pub nesting: usize,
}

/// Bytes that may be unpacked of what is however small: there are files of zeros in good images too.
const ROOM: u64 = 256 << 20;

impl Default for Limits {
    fn default() -> Self {
        Self {
            output: 256 << 20,
            entries: 1_000_000,
            layers: 128,
            unpacked: 16 << 30,
            ratio: 100,
            path: 4096,
            manifest: 4 << 20,
            nesting: 4,
        }
    }
}

/// Hears how far it has come, and ends it.
pub trait Observer {
    /// `read` is the bytes read of the source so far, more than it has where parts are read twice. Called at least every
    /// 64 KiB of what is read or unpacked.
    ///
    /// # Errors
    /// [`Error::Cancelled`] or [`Error::Deadline`] ends the reading with this error.
    fn proceed(&mut self, read: u64) -> Result<(), Error>;
}

/// Any function that takes the bytes read and says whether to go on.
impl<F: FnMut(u64) -> Result<(), Error>> Observer for F {
    fn proceed(&mut self, read: u64) -> Result<(), Error> {
        self(read)
    }
}

/// Counts for one image.
///
/// Decoders hand on the errors of what they read in wrappings of their own. So the error is kept here, and
/// [`explain`](Self::explain) takes it out again.
pub struct Meter<'a> {
    pub(super) limits: &'a Limits,
    state: RefCell<State<'a>>,
}

struct State<'a> {
    observer: &'a mut dyn Observer,
    read: u64,
    unpacked: u64,
    tripped: Option<Error>,
}

impl std::fmt::Debug for Meter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meter").field("limits", self.limits).finish_non_exhaustive()
    }
}

impl<'a> Meter<'a> {
    pub fn new(limits: &'a Limits, observer: &'a mut dyn Observer) -> Self {
        Self { limits, state: RefCell::new(State { observer, read: 0, unpacked: 0, tripped: None }) }
    }

    /// Everything that comes from outside is read through this.
    pub fn source<R>(&self, inner: R) -> Source<'_, 'a, R> {
        Source { inner, meter: self }
    }

    fn count(&self, read: usize, unpacked: usize) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.read = state.read.saturating_add(read as u64);
        state.unpacked = state.unpacked.saturating_add(unpacked as u64);
        let so_far = state.read;
        let limit = self.limits.unpacked.min(ROOM.max(so_far.saturating_mul(self.limits.ratio)));
        let outcome = if state.unpacked > limit {
            Err(Error::TooLarge(format!(
                "the image unpacks to more than {limit} bytes in all, the limit for {so_far} bytes that were read of it"
            )))
        } else {
            state.observer.proceed(so_far)
        };
        outcome.map_err(|error| {
            state.tripped.get_or_insert(error);
            io::Error::other("stopped")
        })
    }

    pub(super) fn unpacked(&self, bytes: usize) -> io::Result<()> {
        self.count(0, bytes)
    }

    /// What a failed read of `what` means.
    pub(super) fn explain(&self, what: &str, error: &io::Error) -> Error {
        if let Some(tripped) = self.state.borrow_mut().tripped.take() {
            return tripped;
        }
        let why = match error.kind() {
            ErrorKind::UnexpectedEof => format!("{what} ends too early: is it cut off?"),
            _ => format!("{what} is damaged: {error}"),
        };
        Error::Malformed(why)
    }

    /// Bytes that a manifest, an index or a configuration may have.
    pub fn longest_document(&self) -> u64 {
        self.limits.manifest
    }

    /// A whole small document.
    pub(super) fn document(&self, what: &str, reader: impl Read) -> Result<Vec<u8>, Error> {
        let limit = self.limits.manifest;
        let mut bytes = Vec::new();
        let read = reader.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        read.map_err(|error| self.explain(what, &error))?;
        if bytes.len() as u64 > limit {
            return Err(Error::TooLarge(format!("{what} has more than {limit} bytes, the limit")));
        }
        Ok(bytes)
    }
}

/// What is read here is counted.
#[derive(Debug)]
pub struct Source<'m, 'a, R> {
    inner: R,
    meter: &'m Meter<'a>,
}

impl<R: Read> Read for Source<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(64 << 10);
        let read = self.inner.read(buffer.get_mut(..room).unwrap_or_default());
        if let Err(error) = &read
            && error.kind() != ErrorKind::Interrupted
        {
            let copy = io::Error::new(error.kind(), error.to_string());
            self.meter.state.borrow_mut().tripped.get_or_insert(Error::Read(copy));
        }
        let count = read?;
        self.meter.count(count, 0)?;
        Ok(count)
    }
}

impl<R: Seek> Seek for Source<'_, '_, R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// Reads `count` bytes to nowhere.
pub(super) fn discard(reader: &mut impl Read, count: u64) -> io::Result<()> {
    let passed = io::copy(&mut reader.take(count), &mut io::sink())?;
    if passed < count { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}
