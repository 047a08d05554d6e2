//! The file: how it comes into being, and how it is opened.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database};

use super::{Error, schema};

/// Bytes of pages kept in memory. Everything is read once, at the start; after that only the path to a changed value.
const CACHE: usize = 1024 * 1024;

/// Opens the ledger, or creates it where there is no such file.
pub(super) fn open(path: &Path) -> Result<Database, Error> {
    match fs::exists(path) {
        Ok(true) => reopen(path),
        Ok(false) => create(path),
        Err(error) => Err(Error::io(path, error)),
    }
}

/// Opens the ledger, which has to be there.
pub(super) fn reopen(path: &Path) -> Result<Database, Error> {
    let metadata = fs::metadata(path).map_err(|error| Error::io(path, error))?;
    // It holds unikernels' arguments, and those can be secrets: a copy that was put back may be readable to all.
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|error| Error::io(path, error))?;
    }
    builder().open(path).map_err(|error| Error::of(path, error))
}

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    // Without the check redb trusts a file that was closed in order, and may panic on one that was damaged since.
    builder.set_check_integrity_on_open(true);
    builder
}

/// Creates the file under another name and gives it its own when it is whole: redb does not open one whose creation was
/// cut short. The lock that redb takes is on the file, not on its name, so it holds all the time.
fn create(path: &Path) -> Result<Database, Error> {
    let unfinished = unfinished(path);
    // Left by a process with our id that was killed here.
    let _ = fs::remove_file(&unfinished);
    let created = initialize(&unfinished).and_then(|database| {
        // A link and not a renaming: that would replace what another process may have created meanwhile.
        match fs::hard_link(&unfinished, path) {
            Ok(()) => Ok(Some(database)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(Error::io(path, error)),
        }
    });
    let _ = fs::remove_file(&unfinished);
    let Some(database) = created? else { return reopen(path) };
    sync_folder(path).map_err(|error| Error::io(path, error))?;
    Ok(database)
}

fn initialize(path: &Path) -> Result<Database, Error> {
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|error| Error::io(path, error))?;
    let backend = FileBackend::new(file).map_err(|error| Error::of(path, error))?;
    let database = builder().create_with_backend(backend).map_err(|error| Error::of(path, error))?;
    schema::initialize(&database).map_err(|error| Error::of(path, error))?;
    Ok(database)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    name.into()
}

/// Makes the file's name durable; the file is already.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder)?.sync_all()
}
