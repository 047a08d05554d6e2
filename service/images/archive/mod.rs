//! One file out of a saved image: `docker save`'s tar, a tar of an OCI layout, or a folder with one.
//!
//! ```text
//!  docker ─► tarball ─► docker: manifest.json ──────────────┐
//!  oci_archive ─► tarball ─┐                                ├─► layers: the file, the upper-most layer first
//!  oci_folder  ─► folder  ─┴─► oci: index ─► manifest ──────┘     scan (one layer) ─► view (pure: what is at a path)
//!  a registry ────────────────► oci::extract                      entries ─► header (one tar)
//!  an engine's tar of one file ─► taken
//! ```
//!
//! The bytes are foreign. They are read as streams with a bound on everything ([`Limits`]), nothing of an image is kept
//! but names, and nothing is believed before its digest was compared. Synchronous, and for a process that may nothing but
//! read what it was given.

mod choose;
mod digest;
mod docker;
mod entries;
mod error;
mod folder;
mod header;
pub mod layers;
mod limits;
mod manifest;
pub mod oci;
mod path;
mod taken;
mod tarball;
mod unpack;

#[cfg(test)]
#[path = "../../../tests/support/saved_image.rs"]
pub mod saved_image;
#[cfg(test)]
mod tests;

use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;

use crate::domain::ImagePath;
use folder::Folder;
use tarball::Tarball;

pub use digest::Digest;
pub use error::Error;
pub use limits::{Limits, Meter, Observer, Source};
pub use manifest::{Annotations, Descriptor, Platform};
pub use taken::taken;

/// Which file of which image.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Of an archive with several images: `REPOSITORY:TAG` of Docker's, `org.opencontainers.image.ref.name` of OCI's.
    pub tag: Option<String>,
    /// Of an index with several.
    pub platform: Platform,
    /// The first that there is. An artifact, which is the file itself, does not need one.
    pub paths: Vec<String>,
    /// Of an artifact, also what signs it.
    pub signature: bool,
}

impl Default for Selection {
    /// The only image, for this host, with the unikernel where it usually is.
    fn default() -> Self {
        let paths = ImagePath::defaults().map(String::from).to_vec();
        Self { tag: None, platform: Platform::host(), paths, signature: false }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Which of the wanted paths; none of an artifact.
    pub path: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Of the image: its manifest's, or of Docker's its configuration's.
    pub image: Option<Digest>,
    /// Of an artifact, where it was asked for and there is one.
    pub signature: Option<Vec<u8>>,
}

/// Writes the file out of what `docker save` wrote, gzip'd or not, from the first byte of `archive` on whatever its offset.
/// What was written counts only when this is `Ok`.
///
/// # Errors
/// See [`Error`]: each is of the image, of the limits or of the observer.
pub fn docker(
    archive: impl Read + Seek,
    selection: &Selection,
    limits: &Limits,
    observer: &mut dyn Observer,
    output: &mut dyn Write,
) -> Result<Found, Error> {
    let meter = Meter::new(limits, observer);
    docker::extract(&mut Tarball::open(archive, &meter)?, selection, &meter, output)
}

/// Writes the file out of a tar of an OCI layout, otherwise as [`docker`].
///
/// # Errors
/// As [`docker`].
pub fn oci_archive(
    archive: impl Read + Seek,
    selection: &Selection,
    limits: &Limits,
    observer: &mut dyn Observer,
    output: &mut dyn Write,
) -> Result<Found, Error> {
    let meter = Meter::new(limits, observer);
    oci::layout(&mut Tarball::open(archive, &meter)?, selection, &meter, output)
}

/// Writes the file out of a folder with an OCI layout, otherwise as [`docker`]. Links in the folder are not followed.
///
/// # Errors
/// As [`docker`].
pub fn oci_folder(
    folder: OwnedFd,
    selection: &Selection,
    limits: &Limits,
    observer: &mut dyn Observer,
    output: &mut dyn Write,
) -> Result<Found, Error> {
    let meter = Meter::new(limits, observer);
    oci::layout(&mut Folder::new(folder, &meter), selection, &meter, output)
}
