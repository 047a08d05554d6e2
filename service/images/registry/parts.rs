//! An image's parts by their digests: out of the cache, or from the registry and into the cache.

use std::collections::BTreeSet;
use std::io::{self, Cursor, Read};

use super::cache::{Cache, Incoming};
use super::client::{Client, is_manifest};
use super::download::Download;
use crate::images::archive::oci::Blobs;
use crate::images::archive::{Descriptor, Digest, Error, Meter};

/// What is known of an image's parts from one reading to the next.
pub(super) struct Parts<'c> {
    client: &'c Client,
    cache: Cache,
    /// In the cache, and compared with their digests by this process.
    checked: BTreeSet<Digest>,
}

impl<'c> Parts<'c> {
    pub fn new(client: &'c Client, cache: Cache) -> Self {
        Self { client, cache, checked: BTreeSet::new() }
    }

    /// To be read once.
    pub fn metered<'p, 'a>(&'p mut self, meter: &'p Meter<'a>) -> Metered<'p, 'c, 'a> {
        Metered { parts: self, meter }
    }
}

pub(super) struct Metered<'p, 'c, 'a> {
    parts: &'p mut Parts<'c>,
    meter: &'p Meter<'a>,
}

impl Blobs for Metered<'_, '_, '_> {
    fn open(&mut self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, Error> {
        let Parts { client, cache, checked } = &mut *self.parts;
        if is_manifest(&blob.media_type) {
            let digest = blob.digest.to_string();
            let document = client.manifest(&digest, &format!("manifest {digest}"), self.meter.longest_document())?;
            return Ok(Box::new(self.meter.source(Cursor::new(document.bytes))));
        }
        if let Some(file) = cache.get(blob.digest, blob.size, checked.contains(&blob.digest)) {
            checked.insert(blob.digest);
            return Ok(Box::new(self.meter.source(file)));
        }
        checked.remove(&blob.digest);
        let download = Download::start(client, blob.digest, blob.size)?;
        let copy = cache.begin(blob.digest, blob.size);
        Ok(Box::new(self.meter.source(Kept { download, copy, digest: blob.digest, checked })))
    }
}

/// What is read of a download, and kept in the cache when it was read to its end.
struct Kept<'p> {
    download: Download<'p>,
    copy: Option<Incoming>,
    digest: Digest,
    checked: &'p mut BTreeSet<Digest>,
}

impl Read for Kept<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.download.read(buffer)?;
        if count > 0 {
            let bytes = buffer.get(..count).unwrap_or_default();
            // What cannot be kept can be read all the same.
            if self.copy.as_mut().is_some_and(|copy| copy.write(bytes).is_err()) {
                self.copy = None;
            }
        } else if !buffer.is_empty() && self.copy.take().is_some_and(Incoming::keep) {
            self.checked.insert(self.digest);
        }
        Ok(count)
    }
}
