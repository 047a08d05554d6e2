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
    /// Was read to its end, and has no name in the cache yet.
    last: Option<Incoming>,
}

impl<'c> Parts<'c> {
    pub fn new(client: &'c Client, cache: Cache) -> Self {
        Self { client, cache, checked: BTreeSet::new(), last: None }
    }

    /// Called when whoever read the last part has compared it with its digest, and found it good.
    pub fn keep_last(&mut self) {
        let Some(last) = self.last.take() else { return };
        let digest = last.digest();
        if last.keep() {
            self.checked.insert(digest);
        }
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
        // Nobody asks for more after what was damaged.
        self.parts.keep_last();
        let Parts { client, cache, checked, last } = &mut *self.parts;
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
        Ok(Box::new(self.meter.source(Kept { download, copy, last })))
    }
}

/// What is read of a download, with a copy for the cache.
struct Kept<'p> {
    download: Download<'p>,
    copy: Option<Incoming>,
    last: &'p mut Option<Incoming>,
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
        } else if !buffer.is_empty() && self.copy.is_some() {
            *self.last = self.copy.take();
        }
        Ok(count)
    }
}
