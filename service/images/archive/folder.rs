//! A folder with an OCI layout in it, as a descriptor that was handed over.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;

use super::error::{Error, malformed, shown};
use super::limits::Meter;
use super::tarball::{Files, Opened};

pub(super) struct Folder<'m, 'a> {
    folder: OwnedFd,
    meter: &'m Meter<'a>,
}

impl<'m, 'a> Folder<'m, 'a> {
    pub fn new(folder: OwnedFd, meter: &'m Meter<'a>) -> Self {
        Self { folder, meter }
    }
}

impl Files for Folder<'_, '_> {
    fn open(&mut self, name: &str) -> Result<Option<Opened<'_>>, Error> {
        // A fifo must not hang, and no link may lead out of the folder.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let file = match openat2(&self.folder, name, flags, Mode::empty(), inside) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::LOOP | Errno::XDEV) => {
                return malformed(format!("{} in the image's folder is a link, which is not followed", shown(name)));
            }
            Err(error) => return Err(Error::Read(error.into())),
        };
        let status = fstat(&file).map_err(|error| Error::Read(error.into()))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return malformed(format!("{} in the image's folder is no file", shown(name)));
        }
        let size = u64::try_from(status.st_size).unwrap_or_default();
        // No more than was there: it may grow meanwhile.
        let reader = Box::new(self.meter.source(File::from(file)).take(size));
        Ok(Some(Opened { size, reader }))
    }
}
