//! The store: a folder of images under the names of their digests.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval, timeout};

use super::Error;
use super::import::{Exchange, Received, UNFINISHED, receive, stored_path, sync_directory, used, verify};
use super::inspection::{Inspection, Inspector};
use super::solo5::Devices;
use crate::domain::{ImageDigest, ImageRecord};

/// Imports at a time, those counted whose source has stopped answering: each is a thread.
const IMPORTS: usize = 16;
/// How often an import's progress is looked at.
const TICK: Duration = Duration::from_millis(50);

/// The images that the service keeps. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    directory: Arc<Path>,
    bounds: Arc<Bounds>,
    inspection: Arc<Inspection>,
    silence: Duration,
    longest: Duration,
    slots: Arc<Semaphore>,
}

/// Bytes. They can change while others read them.
#[derive(Debug)]
struct Bounds {
    /// Of one image.
    limit: AtomicU64,
    /// Of all images.
    room: AtomicU64,
}

impl Store {
    /// Opens the folder, for its owner alone, and removes what an import that was killed has left in it. `limit` is what
    /// an image may have at most, in bytes. Blocks: for the start of the service.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be made, or is not this user's.
    pub fn open(directory: &Path, limit: u64) -> Result<Self, Error> {
        let failed = |doing: &str| {
            let what = format!("{doing} the image store {}", directory.display());
            move |error| Error::Io { what, error }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("create"))?;
        fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(failed("close to others"))?;
        for entry in fs::read_dir(directory).map_err(failed("read"))? {
            let entry = entry.map_err(failed("read"))?;
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                fs::remove_file(entry.path()).map_err(failed("clean up"))?;
            }
        }
        Ok(Self {
            directory: directory.into(),
            bounds: Arc::new(Bounds { limit: limit.into(), room: u64::MAX.into() }),
            inspection: Arc::new(Inspection::new(Inspector::Worker)),
            silence: Duration::from_secs(30),
            longest: Duration::from_secs(15 * 60),
            slots: Arc::new(Semaphore::new(IMPORTS)),
        })
    }

    /// What an image may have at most, in bytes.
    pub fn limit(&self) -> u64 {
        self.bounds.limit.load(Ordering::Relaxed)
    }

    fn room(&self) -> u64 {
        self.bounds.room.load(Ordering::Relaxed)
    }

    /// Changes what an image, and all images together, may have, in bytes, for imports from now on. What is stored stays.
    pub fn set_limits(&self, limit: u64, room: u64) {
        self.bounds.limit.store(limit, Ordering::Relaxed);
        self.bounds.room.store(room, Ordering::Relaxed);
    }

    /// What all images may have together, in bytes; without end where it is not said.
    #[must_use]
    pub fn with_room(self, room: u64) -> Self {
        self.set_limits(self.limit(), room);
        self
    }

    /// Looks at images in this process instead of a worker's: for who is not the executable that has workers.
    #[must_use]
    pub fn inspecting_here(self) -> Self {
        Self { inspection: Arc::new(Inspection::new(Inspector::Here)), ..self }
    }

    /// Whether there may be no room for one more image, besides those that are on their way.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn is_nearly_full(&self) -> Result<bool, Error> {
        let room = self.room();
        if room == u64::MAX {
            return Ok(false);
        }
        // Those that come at this moment may grow as well.
        let coming = IMPORTS.saturating_sub(self.slots.available_permits()) as u64 + 1;
        let wanted = self.limit().saturating_mul(coming);
        let (directory, room) = (self.directory.clone(), room.saturating_sub(wanted));
        blocking(move || Ok(used(&directory)? > room)).await
    }

    /// How long a source may send nothing (30 s), and how long it may take in all (15 min).
    #[must_use]
    pub fn with_patience(self, silence: Duration, longest: Duration) -> Self {
        Self { silence, longest, ..self }
    }

    /// Copies an image into the store, checks it and makes it durable. `source` is a file or memfd, taken from its first
    /// byte whatever its offset, or a pipe, taken to its end and made non-blocking. `progress` is told the bytes so far
    /// and, of a file, in all: about 20 times a second while they change, and once at the end.
    ///
    /// Ends with [`Error::Cancelled`] when `cancel` does; to drop the future does the same. Then, as after every other
    /// error, nothing is left in the store, if need be after the next 50 ms.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::TooLarge`], [`Error::NoSpace`]; [`Error::Unavailable`] for a descriptor that cannot
    /// be read or a source that sends nothing.
    pub async fn import(
        &self,
        source: File,
        mut progress: impl FnMut(u64, Option<u64>) + Send,
        cancel: impl Future<Output = ()>,
    ) -> Result<ImageRecord, Error> {
        tokio::select! {
            biased;
            () = cancel => Err(Error::Cancelled),
            imported = async {
                let mut running = self.start(source).await?;
                let received = self.watch(&mut running, &mut progress).await?;
                self.keep(received, &running).await
            } => imported,
        }
    }

    /// Checks what has come, and gives it its name.
    async fn keep(&self, received: Received, running: &Running) -> Result<ImageRecord, Error> {
        let (digest, size) = (received.digest, received.size);
        let devices = self.inspection.devices(digest, || received.open()).await?;
        let (directory, room, exchange) = (self.directory.clone(), self.room(), running.exchange.clone());
        blocking(move || received.keep(&directory, room, &exchange)).await?;
        self.inspection.remember(digest, &devices);
        Ok(record_of(digest, size, devices))
    }

    async fn start(&self, source: File) -> Result<Running, Error> {
        let busy =
            || Error::Unavailable(format!("{IMPORTS} images are being imported and none is done: try again later"));
        let slot = timeout(self.silence, self.slots.clone().acquire_owned()).await.map_err(|_| busy())?;
        let slot = slot.map_err(|_| busy())?;
        let exchange = Arc::new(Exchange::default());
        let (sender, outcome) = oneshot::channel();
        let (directory, limit) = (self.directory.clone(), self.limit());
        let theirs = exchange.clone();
        let work = move || {
            let received = receive(&directory, limit, source, &theirs);
            // Before the outcome is told: who hears of it can start the next.
            drop(slot);
            // Nobody listens after a cancellation; the import has cleaned up by itself.
            let _ = sender.send(received);
        };
        let thread = thread::Builder::new().name("image-import".to_owned()).spawn(work);
        thread.map_err(|error| Error::Io { what: "start a thread for the import".to_owned(), error })?;
        Ok(Running { exchange, outcome })
    }

    /// Waits for the thread as long as bytes come. This is where a source is given up that hangs in the kernel, as a
    /// file can on a network's or a user's file system: the thread is left to itself then, with its slot.
    async fn watch(
        &self,
        running: &mut Running,
        progress: &mut impl FnMut(u64, Option<u64>),
    ) -> Result<Received, Error> {
        let started = Instant::now();
        let (mut seen, mut since) = (0, started);
        let mut ticks = interval(TICK);
        loop {
            tokio::select! {
                biased;
                outcome = &mut running.outcome => {
                    let received = outcome.unwrap_or_else(|_| Err(Error::Unavailable("the import ended early".to_owned())))?;
                    progress(received.size, running.exchange.total());
                    return Ok(received);
                }
                _ = ticks.tick() => {}
            }
            let received = running.exchange.received.load(Ordering::Relaxed);
            if received != seen {
                (seen, since) = (received, Instant::now());
                progress(received, running.exchange.total());
            }
            if running.exchange.complete.load(Ordering::Acquire) {
                continue;
            }
            if since.elapsed() >= self.silence {
                return Err(silent(received, self.silence));
            }
            if started.elapsed() >= self.longest {
                let longest = self.longest.as_secs_f32();
                return Err(Error::Unavailable(format!(
                    "the image was not there after {longest} s: {received} bytes came"
                )));
            }
        }
    }

    /// An image of the store, opened for reading at its first byte, and its size in bytes. What is in it is not looked at:
    /// see [`Self::verify`].
    ///
    /// # Errors
    /// [`Error::NotStored`].
    pub async fn open_stored(&self, digest: ImageDigest) -> Result<(File, u64), Error> {
        let path = stored_path(&self.directory, digest);
        blocking(move || open_stored(&path, digest)).await
    }

    /// What the notes of a stored image say.
    ///
    /// # Errors
    /// [`Error::NotStored`]; [`Error::Invalid`] where it is damaged.
    pub async fn record(&self, digest: ImageDigest) -> Result<ImageRecord, Error> {
        let (file, size) = self.open_stored(digest).await?;
        let devices = self.inspection.devices(digest, || Ok(file)).await?;
        Ok(record_of(digest, size, devices))
    }

    /// Whether a stored image still is what its digest says: a disk can forget.
    ///
    /// # Errors
    /// [`Error::NotStored`], [`Error::Io`].
    pub async fn verify(&self, digest: ImageDigest) -> Result<bool, Error> {
        let directory = self.directory.clone();
        blocking(move || verify(&directory, digest)).await
    }

    /// Whether it was there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn remove(&self, digest: ImageDigest) -> Result<bool, Error> {
        self.inspection.forget(digest);
        let directory = self.directory.clone();
        blocking(move || {
            let path = stored_path(&directory, digest);
            match fs::remove_file(&path) {
                Ok(()) => sync_directory(&directory).map(|()| true),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
                Err(error) => Err(Error::storing("remove", &path, error)),
            }
        })
        .await
    }

    /// Every image of the store, in the order of their digests.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub async fn list(&self) -> Result<Vec<ImageDigest>, Error> {
        let directory = self.directory.clone();
        blocking(move || {
            let names = fs::read_dir(&directory).and_then(|entries| {
                entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<Vec<_>, _>>()
            });
            let names = names.map_err(|error| Error::storing("list", &directory, error))?;
            let mut digests: Vec<ImageDigest> = names.iter().filter_map(|name| stored_digest(name.to_str()?)).collect();
            digests.sort_unstable();
            Ok(digests)
        })
        .await
    }
}

/// An import's thread, as the one sees it who waits for it. To drop this is to stop it.
struct Running {
    exchange: Arc<Exchange>,
    outcome: oneshot::Receiver<Result<Received, Error>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.exchange.stop.store(true, Ordering::Relaxed);
    }
}

fn silent(received: u64, silence: Duration) -> Error {
    Error::Unavailable(format!(
        "the image's source sent nothing for {} s, {received} bytes before: write all of it and close the pipe",
        silence.as_secs_f32()
    ))
}

fn open_stored(path: &PathBuf, digest: ImageDigest) -> Result<(File, u64), Error> {
    let no_follow = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new().read(true).custom_flags(no_follow.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::NotStored(digest),
        _ => Error::storing("open", path, error),
    })?;
    let size = file.metadata().map_err(|error| Error::storing("open", path, error))?.len();
    Ok((file, size))
}

/// Of an image of which nobody has said yet where it came from.
fn record_of(digest: ImageDigest, size: u64, devices: Devices) -> ImageRecord {
    let Devices { network, blocks } = devices;
    ImageRecord { digest, size, network_device: network, block_devices: blocks, origin: None, signature: None }
}

fn stored_digest(name: &str) -> Option<ImageDigest> {
    let hex = name.strip_prefix("sha256-")?;
    format!("sha256:{hex}").parse().ok()
}

/// The store's folder is on a local disk, so these may have threads of the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let stopped = |_| Error::Unavailable("the service is stopping".to_owned());
    spawn_blocking(work).await.map_err(stopped)?
}
