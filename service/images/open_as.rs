//! Opening a caller's path with no more rights than the caller has.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, openat2};
use rustix::io::Errno;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::Error;
use super::identity::take_on;
use crate::domain::Caller;

/// Opens at a time, those counted that hang in a file system: each is a thread.
static SLOTS: Semaphore = Semaphore::const_new(8);
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
    within_deadline(path, caller, FileType::RegularFile).await
}

/// Opens a folder, otherwise as [`open_as`].
///
/// # Errors
/// As [`open_as`].
pub async fn open_folder_as(path: PathBuf, caller: &Caller) -> Result<File, Error> {
    within_deadline(path, caller, FileType::Directory).await
}

async fn within_deadline(path: PathBuf, caller: &Caller, kind: FileType) -> Result<File, Error> {
    let shown = path.display().to_string();
    let opened = timeout(DEADLINE, on_thread(path, caller.clone(), kind)).await;
    opened.unwrap_or_else(|_| Err(Error::Unavailable(format!("{shown} did not open within {} s", DEADLINE.as_secs()))))
}

/// Linux keeps credentials for each thread. This one takes on the caller's, opens, and ends: no other ever has them.
async fn on_thread(path: PathBuf, caller: Caller, kind: FileType) -> Result<File, Error> {
    let ended = || Error::Unavailable("the service is stopping".to_owned());
    let slot = SLOTS.acquire().await.map_err(|_| ended())?;
    let (sender, opened) = oneshot::channel();
    let work = move || {
        let result = take_on(&caller).and_then(|()| open(&path, &caller, kind));
        drop(slot);
        // Nobody listens after the deadline; the file closes then.
        let _ = sender.send(result);
    };
    let thread = thread::Builder::new().name("image-open".to_owned()).spawn(work);
    thread.map_err(|error| Error::Io { what: "start a thread to open the image".to_owned(), error })?;
    opened.await.unwrap_or_else(|_| Err(ended()))
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
