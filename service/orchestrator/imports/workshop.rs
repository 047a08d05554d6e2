//! Private folders in which workers put what they fetch, each for one call.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tracing::warn;

use super::super::error::Error;
use crate::images;

/// A folder that is gone when this is dropped, or soon after.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    is_removed: bool,
}

/// Removes what a service that was killed has left, and makes the place for new folders. Blocks: for the start.
///
/// # Errors
/// Where that cannot be done.
pub fn clear(workshop: &Path) -> io::Result<()> {
    remove(workshop)?;
    DirBuilder::new().recursive(true).mode(0o700).create(workshop)
}

impl Folder {
    /// An empty one, that nobody else can look into.
    pub(super) async fn create(workshop: &Path) -> Result<Self, Error> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = workshop.join(format!("{}-{number}", std::process::id()));
        let (workshop, made) = (workshop.to_owned(), path.clone());
        let make = move || {
            let mut builder = DirBuilder::new();
            builder.mode(0o700);
            // Somebody may have tidied up.
            builder.recursive(true).create(&workshop)?;
            builder.recursive(false).create(&made)
        };
        let what = || format!("make the folder {}", path.display());
        match spawn_blocking(make).await {
            Ok(Ok(())) => Ok(Self { path, is_removed: false }),
            Ok(Err(error)) => Err(images::Error::Io { what: what(), error }.into()),
            Err(_) => Err(Error::Stopping),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns when it is gone.
    pub(super) async fn remove(mut self) {
        self.is_removed = true;
        let path = self.path.clone();
        // The service is stopping where it fails, and looks again at its next start.
        let _ = spawn_blocking(move || remove_in_turn(&path)).await;
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_removed {
            let path = self.path.clone();
            let thread = thread::Builder::new().name("workshop".into()).spawn(move || remove_in_turn(&path));
            if let Err(error) = thread {
                let path = self.path.display();
                warn!(%error, %path, "folder {path} stays until the next start: {error}");
            }
        }
    }
}

/// What was killed a moment ago may still write.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

fn remove_in_turn(path: &Path) {
    for _ in 0..TRIES {
        if remove(path).is_ok() {
            return;
        }
        thread::sleep(PAUSE);
    }
    if let Err(error) = remove(path) {
        let path = path.display();
        warn!(%error, %path, "folder {path} stays until the next start: {error}");
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn folders_are_private_and_go() {
        let state = tempfile::tempdir().unwrap();
        let workshop = state.path().join("workshop");
        fs::create_dir_all(workshop.join("left/behind")).unwrap();
        clear(&workshop).unwrap();
        assert_eq!(fs::read_dir(&workshop).unwrap().count(), 0);
        let (one, two) = (Folder::create(&workshop).await.unwrap(), Folder::create(&workshop).await.unwrap());
        assert_ne!(one.path(), two.path());
        assert_eq!(fs::metadata(one.path()).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(two.path().join("x"), "").unwrap();
        let path = one.path().to_owned();
        one.remove().await;
        assert!(!path.exists() && two.path().exists());
        drop(two);
        (0..500).take_while(|_| fs::read_dir(&workshop).unwrap().count() > 0).for_each(|_| thread::sleep(PAUSE));
        assert_eq!(fs::read_dir(&workshop).unwrap().count(), 0);
    }
}
