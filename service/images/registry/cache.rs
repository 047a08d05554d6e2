//! Layers that were downloaded before: files that are named by their digests, in a folder of this service alone.
//!
//! A layer on its way has no name at all (`O_TMPFILE`): however its worker ends, nothing of it is left. It gets its name
//! when whoever read it has compared it with its digest, and is compared again whenever it is used. Who takes a file away
//! under a lock, or reads one that is taken away, disturbs nobody.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use crate::images::archive::Digest;

/// Nothing that is done under it takes long.
const LOCK: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(10);
const LOCK_FILE: &str = "lock";

/// Times its size that must be free where a layer is kept.
const ROOM: u64 = 4;

/// A folder of layers.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: PathBuf,
    /// Bytes of all that have names.
    limit: u64,
}

impl Cache {
    /// Takes away what is over the limit.
    pub fn open(folder: &Path, limit: u64) -> Self {
        let cache = Self { folder: folder.into(), limit };
        // It is tried again with the next layer.
        let _ = cache.locked(|| cache.make_room(0));
        cache
    }

    /// A layer from its first byte on. `is_checked`: it was compared with its digest before by this process. One that is
    /// damaged is taken away.
    pub fn get(&self, digest: Digest, size: u64, is_checked: bool) -> Option<File> {
        let path = self.folder.join(digest.hex());
        let mut options = File::options();
        let mut file = options
            .read(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(&path)
            .ok()?;
        if !is_checked && !is_good(&mut file, digest, size).unwrap_or(false) {
            // Somebody may have put a good one there meanwhile: it is downloaded once more then.
            let _ = fs::remove_file(&path);
            return None;
        }
        // What was used last stays longest. It does not matter if it cannot be said, or if a clock that was set back says it
        // wrong: the worst is that a layer is downloaded once more.
        let _ = file.set_modified(SystemTime::now());
        Some(file)
    }

    /// A place for a layer that is on its way; none where the limit or the file system does not permit it. What comes out
    /// of the layer needs room as well, and more than the cache does.
    pub fn begin(&self, digest: Digest, size: u64) -> Option<Incoming> {
        let status = rustix::fs::statvfs(&self.folder).ok()?;
        let free = status.f_bavail.saturating_mul(status.f_frsize);
        if size > self.limit || size.saturating_mul(ROOM) > free {
            return None;
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, &self.folder, flags, Mode::RUSR | Mode::WUSR).ok()?;
        Some(Incoming { cache: self.clone(), file: file.into(), digest, size, written: 0 })
    }

    /// Alone among the workers.
    fn locked<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let lock =
            File::options().create(true).write(true).truncate(false).mode(0o600).open(self.folder.join(LOCK_FILE))?;
        let mut left = LOCK;
        loop {
            match lock.try_lock() {
                Ok(()) => return work(),
                Err(TryLockError::WouldBlock) if !left.is_zero() => thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(error.into()),
            }
            left = left.saturating_sub(LOCK_PAUSE);
        }
    }

    /// So that `size` more do not go over the limit.
    fn make_room(&self, size: u64) -> io::Result<()> {
        too_much(layers(&self.folder)?, self.limit.saturating_sub(size)).iter().try_for_each(fs::remove_file)
    }
}

fn layers(folder: &Path) -> io::Result<Vec<Stored>> {
    let mut layers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_layer = entry.file_name().to_str().is_some_and(|name| Digest::from_hex(name).is_some());
        if let (true, Ok(status)) = (is_layer, entry.metadata()) {
            layers.push(Stored { used: status.modified()?, size: status.len(), path: entry.path() });
        }
    }
    Ok(layers)
}

/// Takes away all layers, and says whether there were any. Blocks.
pub fn empty(folder: &Path) -> bool {
    let had = layers(folder).is_ok_and(|layers| !layers.is_empty());
    Cache::open(folder, 0);
    had
}

struct Stored {
    used: SystemTime,
    size: u64,
    path: PathBuf,
}

/// What has to go, what was not used for longest first, so that the rest is no more than `limit`.
fn too_much(mut layers: Vec<Stored>, limit: u64) -> Vec<PathBuf> {
    layers.sort_by(|one, other| other.used.cmp(&one.used).then_with(|| one.path.cmp(&other.path)));
    let mut sum = 0_u64;
    let goes = |layer: &Stored| {
        sum = sum.saturating_add(layer.size);
        sum > limit
    };
    // From the first that does not fit on: a small old one does not outlive a large new one.
    let first = layers.iter().position(goes).unwrap_or(layers.len());
    layers.into_iter().skip(first).map(|layer| layer.path).collect()
}

fn is_good(file: &mut File, digest: Digest, size: u64) -> io::Result<bool> {
    let status = file.metadata()?;
    if !status.is_file() || status.len() != size {
        return Ok(false);
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(buffer.get(..count).unwrap_or_default());
    }
    file.rewind()?;
    Ok(Digest(hash.finalize().into()) == digest)
}

/// A layer on its way into the cache.
#[derive(Debug)]
pub(super) struct Incoming {
    cache: Cache,
    file: File,
    digest: Digest,
    size: u64,
    written: u64,
}

impl Incoming {
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// # Errors
    /// Such as that the disk is full: it cannot be kept then.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        self.file.write_all(bytes)
    }

    /// Gives it its name, if it is all there. Returns whether the cache has it then.
    pub fn keep(self) -> bool {
        let Self { cache, file, digest, size, written } = self;
        if written != size {
            return false;
        }
        let name = cache.folder.join(digest.hex());
        let named = cache.locked(|| {
            cache.make_room(size)?;
            // The way to give a name to what has none, for who may not do everything.
            let open = format!("/proc/self/fd/{}", file.as_raw_fd());
            Ok(rustix::fs::linkat(CWD, open, CWD, &name, AtFlags::SYMLINK_FOLLOW)?)
        });
        match named {
            Ok(()) => true,
            // Another worker was faster.
            Err(error) => error.kind() == io::ErrorKind::AlreadyExists,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scene(tempfile::TempDir, Cache);

    fn scene(limit: u64) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), limit);
        Scene(folder, cache)
    }

    impl Scene {
        fn keep(&self, bytes: &[u8]) -> bool {
            let mut incoming = self.1.begin(Digest::of(bytes), bytes.len() as u64).unwrap();
            incoming.write(bytes).unwrap();
            incoming.keep()
        }

        fn get(&self, bytes: &[u8]) -> Option<Vec<u8>> {
            let mut read = Vec::new();
            self.1.get(Digest::of(bytes), bytes.len() as u64, false)?.read_to_end(&mut read).unwrap();
            Some(read)
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> =
                fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.retain(|name| name != LOCK_FILE);
            names.sort();
            names
        }

        fn age(&self, bytes: &[u8], seconds: u64) {
            let path = self.0.path().join(Digest::of(bytes).hex());
            let then = SystemTime::now() - Duration::from_secs(seconds);
            File::open(path).unwrap().set_modified(then).unwrap();
        }
    }

    #[test]
    fn what_is_kept_is_found() {
        let scene = scene(100);
        assert_eq!(scene.get(b"one"), None);
        assert!(scene.keep(b"one"));
        assert!(scene.keep(b"one"), "as if by another worker");
        assert_eq!(scene.get(b"one").unwrap(), b"one");
        assert_eq!(scene.names(), [Digest::of(b"one").hex()]);
    }

    #[test]
    fn what_is_not_finished_leaves_nothing() {
        let scene = scene(100);
        let mut cut = scene.1.begin(Digest::of(b"one"), 3).unwrap();
        cut.write(b"on").unwrap();
        assert!(!cut.keep());
        drop(scene.1.begin(Digest::of(b"one"), 3).unwrap());
        assert!(scene.names().is_empty());
        assert!(scene.1.begin(Digest::of(b"one"), 101).is_none());
    }

    #[test]
    fn what_is_damaged_is_taken_away() {
        let scene = scene(100);
        for damaged in [&b"tww"[..], b"on", b"ones", b""] {
            assert!(scene.keep(b"one"));
            fs::write(scene.0.path().join(Digest::of(b"one").hex()), damaged).unwrap();
            assert_eq!(scene.get(b"one"), None, "{damaged:?}");
            assert!(scene.names().is_empty());
        }
        let elsewhere = scene.0.path().join("elsewhere");
        fs::write(&elsewhere, b"one").unwrap();
        std::os::unix::fs::symlink(&elsewhere, scene.0.path().join(Digest::of(b"one").hex())).unwrap();
        assert_eq!(scene.get(b"one"), None);
    }

    #[test]
    fn what_was_not_used_for_longest_goes() {
        let scene = scene(10);
        for (bytes, age) in [(b"one", 30), (b"two", 20), (b"six", 10)] {
            assert!(scene.keep(bytes));
            scene.age(bytes, age);
        }
        assert!(scene.get(b"one").is_some(), "used now");
        assert!(scene.keep(b"ten"));
        assert!(scene.get(b"two").is_none());
        for bytes in [b"one", b"six", b"ten"] {
            assert!(scene.get(bytes).is_some(), "{bytes:?}");
        }
        assert!(scene.keep(b"0123456789"));
        assert_eq!(scene.names(), [Digest::of(b"0123456789").hex()]);
        Cache::open(scene.0.path(), 9);
        assert!(scene.names().is_empty(), "a smaller limit holds at once");
    }

    #[test]
    fn many_at_once_stay_within_the_limit() {
        let scene = scene(1000);
        thread::scope(|scope| {
            for worker in 0..8_u8 {
                let scene = &scene;
                scope.spawn(move || {
                    for at in 0..20 {
                        scene.keep(&[worker.wrapping_mul(20).wrapping_add(at) / 2; 90]);
                    }
                });
            }
        });
        let sizes =
            scene.names().iter().map(|name| fs::metadata(scene.0.path().join(name)).unwrap().len()).sum::<u64>();
        assert!((900..=1000).contains(&sizes), "{sizes}");
    }
}
