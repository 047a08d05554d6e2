//! One import, on a thread of its own: copy and hash, check the copy, give it its name.
//!
//! The thread is not one of the runtime's: a file on a file system that stopped answering would hold the runtime's end
//! as well. What is checked and hashed is the copy, so a client that changes its file meanwhile changes nothing here.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha2::{Digest, Sha256};

use super::source::Source;
use super::{Error, solo5};
use crate::domain::{ImageDigest, ImageRecord};

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
    /// The source has ended; what follows depends on the store's disk alone.
    pub complete: AtomicBool,
}

/// Copies `source` into `directory` under the name of its digest.
pub(super) fn import(
    directory: &Path,
    limit: u64,
    mut source: Source,
    exchange: &Exchange,
) -> Result<ImageRecord, Error> {
    let mut copy = Copy::create(directory)?;
    let (digest, size) = copy_bytes(&mut source, &mut copy, limit, exchange)?;
    drop(source);
    exchange.complete.store(true, Ordering::Release);
    let devices = solo5::inspect(&copy.file)?;
    let stored = stored_path(directory, digest);
    if fs::symlink_metadata(&stored).is_ok_and(|status| status.is_file() && status.size() == size) {
        drop(copy);
    } else {
        copy.rename(&stored, &exchange.stop)?;
    }
    // Also when the file was there: another import may be between its rename and this.
    sync_directory(directory)?;
    Ok(ImageRecord { digest, size, network_device: devices.network, block_devices: devices.blocks, signature: None })
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
            tracing::warn!(path = %self.path.display(), %error, "an unfinished image stays until the next start");
        }
    }
}
