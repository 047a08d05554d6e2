//! A descriptor that a client handed over: what kind it is, and its bytes from the first one on.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};

use super::Error;

/// How long a pipe may delay the look at whether anybody still wants the image.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

pub(super) enum Source {
    /// A file or memfd, and how far it was read. The descriptor's own offset is the client's, who may have left it at
    /// the end of what it wrote.
    File {
        file: File,
        position: u64,
        size: u64,
    },
    Pipe(File),
}

impl Source {
    pub(super) fn new(file: File) -> Result<Self, Error> {
        let unusable =
            |error: rustix::io::Errno| Error::Unavailable(format!("the image's descriptor is unusable: {error}"));
        let flags = fcntl_getfl(&file).map_err(unusable)?;
        if flags.contains(OFlags::PATH) || flags & OFlags::ACCMODE == OFlags::WRONLY {
            return refused("is not open for reading: open it with O_RDONLY or O_RDWR");
        }
        let status = fstat(&file).map_err(unusable)?;
        match FileType::from_raw_mode(status.st_mode) {
            FileType::RegularFile => {
                Ok(Self::File { file, position: 0, size: u64::try_from(status.st_size).unwrap_or_default() })
            }
            FileType::Fifo => {
                // Another reader of the same pipe could take what poll has announced: then a read must not wait.
                fcntl_setfl(&file, flags | OFlags::NONBLOCK).map_err(unusable)?;
                Ok(Self::Pipe(file))
            }
            FileType::Directory => refused("is a directory, expected a file, memfd or pipe"),
            FileType::Socket => refused("is a socket, expected a file, memfd or pipe"),
            FileType::CharacterDevice | FileType::BlockDevice => refused("is a device, expected a file, memfd or pipe"),
            _ => refused("is of a kind that holds no image, expected a file, memfd or pipe"),
        }
    }

    /// Bytes, where they are known beforehand.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::File { size, .. } => Some(*size),
            Self::Pipe(_) => None,
        }
    }

    /// The next bytes; 0 at the end, `None` when `stop` was set first.
    pub(super) fn read(&mut self, buffer: &mut [u8], stop: &AtomicBool) -> Result<Option<usize>, Error> {
        while !stop.load(Ordering::Relaxed) {
            match self.try_read(buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait(self.pipe(error)?)?,
                Err(error) => return Err(unreadable(&error)),
            }
        }
        Ok(None)
    }

    fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File { file, position, .. } => {
                let count = file.read_at(buffer, *position)?;
                *position += count as u64;
                Ok(count)
            }
            Self::Pipe(pipe) => pipe.read(buffer),
        }
    }

    /// What can be waited for: a file that says "not now" would say so for ever.
    fn pipe(&self, error: io::Error) -> Result<&File, Error> {
        match self {
            Self::File { .. } => Err(unreadable(&error)),
            Self::Pipe(pipe) => Ok(pipe),
        }
    }
}

/// Until there is something to read, or a tick has passed.
fn wait(pipe: &File) -> Result<(), Error> {
    match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&TICK)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(unreadable(&error.into())),
    }
}

fn unreadable(error: &io::Error) -> Error {
    Error::Unavailable(format!("cannot read the image: {error}"))
}

fn refused<T>(why: &str) -> Result<T, Error> {
    Err(Error::Unavailable(format!("the image's descriptor {why}")))
}
