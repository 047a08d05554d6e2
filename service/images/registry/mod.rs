//! Images of registries: the distribution protocol, and the cache of layers.
//!
//! ```text
//!  run ─► client: manifests, tokens, redirects ──► archive::oci::Image::resolve ─► extract ─► the pipe
//!           ▲  (challenge, redirect: pure)            │ asks for parts by their digests
//!           └── download: goes on where it was cut off ◄── parts ──► cache: layers by their digests
//! ```
//!
//! In a worker, and so it blocks: one thing is read after the other, as it comes, into the pipe and into the cache.
//!
//! HTTP is spoken with ureq, and what a registry adds to it is here: oci-client takes answers of any size into memory, waits
//! for each as long as it takes, and goes wherever a registry sends it with the credentials; none of it can be told otherwise.

pub mod access;
mod cache;
mod challenge;
mod client;
mod download;
mod error;
mod parts;
mod redirect;
mod trust;

#[cfg(test)]
#[path = "../../../tests/registry/hostile.rs"]
mod hostile;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::archive::oci::Image;
#[cfg(test)]
use super::archive::saved_image;
use super::archive::{self, Digest, Found, Limits, Meter, Selection};
use super::signature;
use super::worker::{Failure, Voice, Wanted};
use crate::domain::ImageName;
use cache::Cache;
use client::{Client, Document};
use parts::Parts;

pub use access::{Access, Credential};
pub use cache::empty as empty_cache;
pub use redirect::Insecure;

/// One image of a registry.
#[derive(Clone, Serialize, Deserialize)]
pub struct Request {
    /// With its registry.
    pub image: ImageName,
    /// Registries that may be asked without TLS, and where they may send who asks.
    pub insecure: Insecure,
    pub access: Access,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// Bytes that the cache may have.
    pub cache_limit: u64,
    pub wanted: Wanted,
    pub patience: Patience,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").field("image", &self.image).finish_non_exhaustive()
    }
}

/// How long a registry is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// In which it sends something, from the connection on.
    pub silence: Duration,
    /// Bytes that it sends in such a time at least.
    pub slowest: u64,
    /// Times that the same is tried without anything having come of it.
    pub attempts: u32,
    /// Before the second attempt; each time doubled.
    pub pause: Duration,
    /// For everything.
    pub whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(20),
            slowest: 16 << 10,
            attempts: 4,
            pause: Duration::from_millis(250),
            whole: Duration::from_secs(25 * 60),
        }
    }
}

/// Downloads what is not in the cache, and writes the unikernel to `output`.
pub(super) fn run(request: &Request, mut output: File, voice: &mut Voice) -> Result<(), Failure> {
    let client = Client::new(request)?;
    voice.step("asking the registry")?;
    let document = manifest(&client, request)?;
    let cache = Cache::open(&request.cache, request.cache_limit);
    let mut parts = Parts::new(&client, cache);
    let image = resolve(&document, &mut parts, voice)?;
    voice.step("downloading")?;
    let paths = request.wanted.paths.iter().map(ToString::to_string).collect::<Vec<_>>();
    let found = extract(&image, &mut parts, &paths, request.wanted.limit, &mut output, voice);
    if let Ok(_) | Err(archive::Error::NotFound(_)) = &found {
        parts.keep_last();
    }
    let found = found?;
    request.wanted.check(&found)?;
    voice.origin(&image.digest.to_string())?;
    if request.wanted.signature
        && let Some(signature) = signature(&image, found.path.as_deref(), &mut parts, voice)?
    {
        voice.signature(&String::from_utf8_lossy(&signature))?;
    }
    Ok(())
}

/// What the name stands for.
fn manifest(client: &Client, request: &Request) -> Result<Document, Failure> {
    let image = &request.image;
    let reference = image.digest.as_ref().map_or(image.tag(), |digest| digest.as_str());
    let limit = Limits::default().manifest;
    let name = ImageName { registry: None, ..image.clone() }.to_string();
    let document = client.manifest(reference, &name, limit)?;
    if document.bytes.len() as u64 > limit {
        return Err(archive::Error::TooLarge(format!("the manifest has more than {limit} bytes, the limit")).into());
    }
    let Some(digest) = &image.digest else { return Ok(document) };
    let (expected, found) = (Digest::parse(digest.as_str())?, Digest::of(&document.bytes));
    if expected != found {
        let what = format!("the manifest that {} sent", client.host());
        return Err(archive::Error::Digest { what, expected, found }.into());
    }
    Ok(document)
}

fn resolve(document: &Document, parts: &mut Parts<'_>, voice: &mut Voice) -> Result<Image, archive::Error> {
    let limits = Limits::default();
    let mut observer = |_| voice.progress(0, None).map_err(|_| archive::Error::Cancelled);
    let meter = Meter::new(&limits, &mut observer);
    let selection = Selection::default();
    Image::resolve(&document.bytes, &document.media_type, &mut parts.metered(&meter), &selection, &meter)
}

fn extract(
    image: &Image,
    parts: &mut Parts<'_>,
    paths: &[String],
    limit: u64,
    output: &mut dyn Write,
    voice: &mut Voice,
) -> Result<Found, archive::Error> {
    let limits = Limits { output: limit, ..Limits::default() };
    let (total, farthest) = (image.bytes(), Cell::new(0));
    let mut observer = |read: u64| {
        // Layers may be read twice.
        farthest.set(farthest.get().max(read.min(total)));
        voice.progress(farthest.get(), Some(total)).map_err(|_| archive::Error::Cancelled)
    };
    let meter = Meter::new(&limits, &mut observer);
    image.extract(&mut parts.metered(&meter), paths, &meter, output)
}

/// What signs the unikernel: beside it in the image, or in the artifact. That it is not there is for others to judge.
fn signature(
    image: &Image,
    path: Option<&str>,
    parts: &mut Parts<'_>,
    voice: &mut Voice,
) -> Result<Option<Vec<u8>>, Failure> {
    let Some(path) = path else {
        let (limits, mut observer) = (Limits::default(), |_| Ok(()));
        let meter = Meter::new(&limits, &mut observer);
        return Ok(image.signature(&mut parts.metered(&meter), &meter)?);
    };
    let mut text = Vec::new();
    match extract(image, parts, &[format!("{path}.minisig")], signature::LONGEST, &mut text, voice) {
        Ok(_) => Ok(Some(text)),
        Err(archive::Error::NotFound(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
