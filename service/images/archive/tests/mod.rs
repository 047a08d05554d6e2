//! Saved images of every form, good and bad.

mod forms;
mod generated;
mod hostile;
mod once;
mod paths;
mod tools;

use std::io::Cursor;

use super::saved_image::{Files, tar_of};
use super::{Error, Found, Limits, Platform, Selection, docker, oci_archive};

/// Bytes that begin as a unikernel does, so that an artifact is known.
pub(super) const UNIKERNEL: &[u8] = b"\x7fELF, and then the rest of a unikernel";

pub(super) fn for_amd64() -> Selection {
    let platform = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None };
    Selection { platform, ..Selection::default() }
}

pub(super) fn wanting(paths: &[&str]) -> Selection {
    Selection { paths: paths.iter().map(|path| (*path).to_owned()).collect(), ..for_amd64() }
}

pub(super) fn tagged(tag: &str) -> Selection {
    Selection { tag: Some(tag.to_owned()), ..for_amd64() }
}

pub(super) type Read = Result<(Vec<u8>, Found), Error>;

pub(super) fn from_docker(archive: &[u8], selection: &Selection, limits: &Limits) -> Read {
    let mut output = Vec::new();
    let found = docker(Cursor::new(archive), selection, limits, &mut |_| Ok(()), &mut output)?;
    Ok((output, found))
}

pub(super) fn from_oci(archive: &[u8], selection: &Selection, limits: &Limits) -> Read {
    let mut output = Vec::new();
    let found = oci_archive(Cursor::new(archive), selection, limits, &mut |_| Ok(()), &mut output)?;
    Ok((output, found))
}

pub(super) fn docker_files(files: &Files) -> Read {
    from_docker(&tar_of(files), &for_amd64(), &Limits::default())
}

pub(super) fn oci_files(files: &Files) -> Read {
    from_oci(&tar_of(files), &for_amd64(), &Limits::default())
}

#[track_caller]
pub(super) fn is_unikernel(read: Read) -> Found {
    let (bytes, found) = read.unwrap();
    assert_eq!(bytes, UNIKERNEL);
    assert_eq!(found.size, UNIKERNEL.len() as u64);
    found
}
