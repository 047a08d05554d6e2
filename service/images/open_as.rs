//! Opening a caller's path with no more rights than the caller has.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, openat2};
use rustix::io::Errno;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::Error;
use super::identity::take_on;
use crate::domain::Caller;

/// Opens at a time for one user, those counted that hang in a file system: each is a thread.
const PLACES: usize = 8;

/// By user: who opens files on a file system that does not answer takes nobody else's places.
static PLACES_OF: Mutex<BTreeMap<u32, Arc<Semaphore>>> = Mutex::new(BTreeMap::new());

fn places_of(user: u32) -> Arc<Semaphore> {
    let mut places = PLACES_OF.lock().unwrap_or_else(PoisonError::into_inner);
    places
        .retain(|other, theirs| *other == user || theirs.available_permits() < PLACES || Arc::strong_count(theirs) > 1);
    Arc::clone(places.entry(user).or_insert_with(|| Arc::new(Semaphore::new(PLACES))))
}

async fn place_of(user: u32) -> Result<OwnedSemaphorePermit, Error> {
    let place = timeout(DEADLINE, places_of(user).acquire_owned()).await.ok().and_then(Result::ok);
    place.ok_or_else(|| {
        Error::Unavailable(format!(
            "{PLACES} files of uid {user} are being opened and none is done: a file system does not answer; look which \
             with `findmnt`, and mount it anew"
        ))
    })
}

const DEADLINE: Duration = Duration::from_secs(10);

/// The unit does not give CAP_DAC_READ_SEARCH, and so root is bound by a file's mode like everybody.
const NOT_EVEN_ROOT: &str = ". It belongs to another user, and the service does not read past a file's mode: \
    hand it over with DeployImage, or copy it to where root may read it";

/// Opens a regular file for reading as `caller` could.
///
/// # Errors
/// [`Error::Unavailable`] with the path and the kernel's reason: not found, not permitted, not a regular file, or the
/// service itself may not act for that user.
pub async fn open_as(path: PathBuf, caller: &Caller) -> Result<File, Error> {
    within_deadline(path, caller, |path, caller| open(path, caller, FileType::RegularFile)).await
}

/// Opens a folder, otherwise as [`open_as`].
///
/// # Errors
/// As [`open_as`].
pub async fn open_folder_as(path: PathBuf, caller: &Caller) -> Result<File, Error> {
    within_deadline(path, caller, |path, caller| open(path, caller, FileType::Directory)).await
}

/// What a regular file holds, at most `limit` bytes, otherwise as [`open_as`].
///
/// # Errors
/// As [`open_as`], and where it holds more.
pub async fn read_as(path: PathBuf, caller: &Caller, limit: u64) -> Result<Vec<u8>, Error> {
    within_deadline(path, caller, move |path, caller| {
        let failed = |why: String| Error::Unavailable(format!("cannot read {}: {why}", path.display()));
        let file = open(path, caller, FileType::RegularFile)?;
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
        if bytes.len() as u64 > limit { Err(failed(format!("it is longer than {limit} bytes"))) } else { Ok(bytes) }
    })
    .await
}

async fn within_deadline<T: Send + 'static>(
    path: PathBuf,
    caller: &Caller,
    work: impl FnOnce(&Path, &Caller) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let shown = path.display().to_string();
    let caller = caller.clone();
    let place = place_of(caller.uid).await?;
    let done = timeout(DEADLINE, on_thread(place, caller.clone(), move || work(&path, &caller))).await;
    done.unwrap_or_else(|_| Err(Error::Unavailable(format!("{shown} did not open within {} s", DEADLINE.as_secs()))))
}

/// Linux keeps credentials for each thread. This one takes on the caller's, works, and ends: no other ever has them.
async fn on_thread<T: Send + 'static>(
    place: OwnedSemaphorePermit,
    caller: Caller,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let ended = || Error::Unavailable("the service is stopping".to_owned());
    let (sender, done) = oneshot::channel();
    let as_caller = move || {
        let result = take_on(&caller).and_then(|()| work());
        drop(place);
        // Nobody listens after the deadline; the file closes then.
        let _ = sender.send(result);
    };
    let thread = thread::Builder::new().name("image-open".to_owned()).spawn(as_caller);
    thread.map_err(|error| Error::Io { what: "start a thread to open the image".to_owned(), error })?;
    done.await.unwrap_or_else(|_| Err(ended()))
}

fn open(path: &Path, caller: &Caller, kind: FileType) -> Result<File, Error> {
    let failed = |error: Errno| {
        let hint = if error == Errno::ACCESS && caller.uid == 0 { NOT_EVEN_ROOT } else { "" };
        Error::Unavailable(format!("cannot open {} as uid {}: {error}{hint}", path.display(), caller.uid))
    };
    // A FIFO must not hang, a terminal must not become ours. A magic link, such as /proc/self/fd/3, would lead to what
    // the service has open, past the folders in front of it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).map_err(failed)?);
    let status = fstat(&file).map_err(failed)?;
    if FileType::from_raw_mode(status.st_mode) != kind {
        let expected = if kind == FileType::Directory { "a folder" } else { "a regular file" };
        return Err(Error::Unavailable(format!(
            "{} is not {expected}, which an image of this form is",
            path.display()
        )));
    }
    // Files of /proc/self look regular too, and would tell of this process.
    if fstatfs(&file).map_err(failed)?.f_type == PROC_SUPER_MAGIC {
        return Err(Error::Unavailable(format!("{} is in /proc, expected a Solo5 image", path.display())));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_another_users_files() {
        let (one, other) = (4_000_000_001, 4_000_000_002);
        let mut held = Vec::new();
        for _ in 0..PLACES {
            held.push(place_of(one).await.unwrap());
        }
        assert_eq!(places_of(one).available_permits(), 0);
        let theirs = place_of(other).await.unwrap();
        drop((held, theirs));
        // Those that nobody holds are forgotten, and made anew.
        assert_eq!(places_of(one).available_permits(), PLACES);
        assert!(!PLACES_OF.lock().unwrap().contains_key(&other));
    }
}
