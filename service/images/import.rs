//! One import: a copy is made and hashed on a thread of its own, looked at by others, and then given its name.
//!
//! The thread is not one of the runtime's: a file on a file system that stopped answering would hold the runtime's end
//! as well. What is checked and hashed is the copy, so a client that changes its file meanwhile changes nothing here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::Error;
use super::source::Source;
use crate::domain::ImageDigest;

/// Files that begin so are unfinished: the next start of the service removes them.
pub(super) const UNFINISHED: &str = "incoming-";
const BUFFER: usize = 256 << 10;

/// What the thread and the one who waits for it tell each other.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Nobody waits any more.
    pub stop: AtomicBool,
    /// Bytes.
    pub received: AtomicU64,
    /// Bytes that there are in all, once it is known whether that can be known.
    total: OnceLock<Option<u64>>,
    /// The source has ended; what follows depends on the store's disk alone.
    pub complete: AtomicBool,
}

impl Exchange {
    /// Bytes, where they are known beforehand.
    pub fn total(&self) -> Option<u64> {
        self.total.get().copied().flatten()
    }
}

/// Copies `source` into `directory`, under a name that says it is unfinished.
pub(super) fn receive(directory: &Path, limit: u64, source: File, exchange: &Exchange) -> Result<Received, Error> {
    // Here, since even to ask what it is may take for ever.
    let mut source = Source::new(source)?;
    exchange.total.get_or_init(|| source.size());
    let mut copy = Copy::create(directory)?;
    let (digest, size) = copy_bytes(&mut source, &mut copy, limit, exchange)?;
    drop(source);
    exchange.complete.store(true, Ordering::Release);
    Ok(Received { copy, digest, size })
}

/// A whole image that has no name yet. Dropped, it is gone.
pub(super) struct Received {
    copy: Copy,
    pub digest: ImageDigest,
    /// Bytes.
    pub size: u64,
}

impl Received {
    /// The image to look at, for who may not write to it.
    pub(super) fn open(&self) -> Result<File, Error> {
        File::open(&self.copy.path).map_err(|error| Error::storing("open", &self.copy.path, error))
    }

    /// Gives it its name, in a store of at most `room` bytes. What is there under that name is left where it is the same,
    /// and replaced where it was damaged.
    pub(super) fn keep(self, directory: &Path, room: u64, exchange: &Exchange) -> Result<(), Error> {
        let stored = stored_path(directory, self.digest);
        if is_the_same(&stored, &self) {
            drop(self.copy);
        } else {
            // Its own bytes are in the folder already.
            if used(directory)? > room {
                return Err(Error::StoreFull { limit: room });
            }
            self.copy.rename(&stored, &exchange.stop)?;
        }
        // Also when the file was there: another import may be between its rename and this.
        sync_directory(directory)
    }
}

/// Byte by byte: a hash would take longer. What cannot be read is not the same.
fn is_the_same(stored: &Path, received: &Received) -> bool {
    let opened = fs::symlink_metadata(stored).is_ok_and(|status| status.is_file() && status.size() == received.size);
    let (Some(stored), Ok(received)) = (opened.then(|| File::open(stored).ok()).flatten(), received.open()) else {
        return false;
    };
    let (mut left, mut right) = (vec![0; BUFFER], vec![0; BUFFER]);
    let mut position = 0;
    loop {
        match (read_full(&stored, &mut left, position), read_full(&received, &mut right, position)) {
            (Ok(0), Ok(0)) => return true,
            (Ok(ours), Ok(theirs)) if ours == theirs && left.get(..ours) == right.get(..ours) => {
                position += ours as u64
            }
            _ => return false,
        }
    }
}

fn read_full(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read_at(room, position + filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// Bytes of all files in the store, unfinished ones counted.
pub(super) fn used(directory: &Path) -> Result<u64, Error> {
    let sizes = fs::read_dir(directory).and_then(|entries| {
        entries.map(|entry| Ok(entry?.metadata().map_or(0, |status| status.len()))).sum::<io::Result<u64>>()
    });
    sizes.map_err(|error| Error::storing("list", directory, error))
}

/// Whether a stored image still is what its name says.
pub(super) fn verify(directory: &Path, digest: ImageDigest) -> Result<bool, Error> {
    let path = stored_path(directory, digest);
    let failed = |error: io::Error| match error.kind() {
        ErrorKind::NotFound => Error::NotStored(digest),
        _ => Error::storing("read", &path, error),
    };
    let mut file = File::open(&path).map_err(failed)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        match buffer.get(..count) {
            Some(bytes) if !bytes.is_empty() => hash.update(bytes),
            _ => return Ok(ImageDigest(hash.finalize().into()) == digest),
        }
    }
}

fn copy_bytes(
    source: &mut Source,
    copy: &mut Copy,
    limit: u64,
    exchange: &Exchange,
) -> Result<(ImageDigest, u64), Error> {
    if source.size().is_some_and(|size| size > limit) {
        return Err(Error::TooLarge { limit });
    }
    let mut buffer = vec![0; BUFFER];
    let mut hash = Sha256::new();
    let mut received = 0;
    loop {
        let count = source.read(&mut buffer, &exchange.stop)?.ok_or(Error::Cancelled)?;
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            return Ok((ImageDigest(hash.finalize().into()), received));
        }
        received += bytes.len() as u64;
        if received > limit {
            return Err(Error::TooLarge { limit });
        }
        hash.update(bytes);
        copy.file.write_all(bytes).map_err(|error| Error::storing("write", &copy.path, error))?;
        exchange.received.store(received, Ordering::Relaxed);
    }
}

/// `sha256-HEX` in the store's folder.
pub(super) fn stored_path(directory: &Path, digest: ImageDigest) -> PathBuf {
    directory.join(format!("sha256-{}", digest.hex()))
}

/// Without this a crash of the host could forget a rename that was reported done.
pub(super) fn sync_directory(directory: &Path) -> Result<(), Error> {
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.map_err(|error| Error::Io { what: format!("sync {}", directory.display()), error })
}

/// A file that is gone when it is dropped, unless it got its name.
struct Copy {
    file: File,
    path: PathBuf,
    unfinished: bool,
}

impl Copy {
    fn create(directory: &Path) -> Result<Self, Error> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{UNFINISHED}{}-{number}", std::process::id()));
        let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = opened.map_err(|error| Error::storing("create", &path, error))?;
        Ok(Self { file, path, unfinished: true })
    }

    fn rename(mut self, name: &Path, stop: &AtomicBool) -> Result<(), Error> {
        self.file.sync_all().map_err(|error| Error::storing("sync", &self.path, error))?;
        // A slow disk is where a cancellation most likely comes: the last moment to heed it.
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        fs::rename(&self.path, name).map_err(|error| Error::storing("rename", &self.path, error))?;
        self.unfinished = false;
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if self.unfinished
            && let Err(error) = fs::remove_file(&self.path)
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "unfinished image {path} stays until the next start: {error}");
        }
    }
}
