//! Images as OCI has them: indexes, manifests and layers, each named by its digest.

use std::io::{Read, Write};

use super::digest::Digest;
use super::error::{Error, malformed, shown, unsupported};
use super::layers::{self, Layer, Open};
use super::limits::Meter;
use super::manifest::{self, Config, Descriptor, Manifest, Stage};
use super::tarball::{Files, Opened, document};
use super::{Found, Selection, choose};
use crate::images::signature;

/// Where an image's parts come from, by their digests: an archive, a folder, a registry.
pub trait Blobs {
    /// The part from its first byte on. It must be read through [`Meter::source`]; its digest is checked by who asks.
    ///
    /// # Errors
    /// Any; the reading ends with it.
    fn open(&mut self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, Error>;
}

/// Extracts from an index or a manifest that was read already; `media_type` is what it was announced as. What was written
/// counts only when this is `Ok`.
///
/// # Errors
/// See [`Error`].
pub fn extract(
    document: &[u8],
    media_type: &str,
    blobs: &mut dyn Blobs,
    selection: &Selection,
    meter: &Meter<'_>,
    output: &mut dyn Write,
) -> Result<Found, Error> {
    let image = Image::resolve(document, media_type, blobs, selection, meter)?;
    let found = image.extract(blobs, &selection.paths, meter, output)?;
    let is_asked = selection.signature && found.path.is_none();
    let signature = if is_asked { image.signature(blobs, meter)? } else { None };
    Ok(Found { signature, ..found })
}

/// The image that is meant, of which no layer was read yet.
#[derive(Debug)]
pub struct Image {
    /// Of the manifest.
    pub digest: Digest,
    /// The lowest first.
    layers: Vec<Descriptor>,
    described: Vec<Layer>,
    /// What signs an artifact's file, beside it.
    pub(super) signature: Option<Descriptor>,
}

/// What the name of a file that signs another ends in.
const SIGNATURE: &str = ".minisig";

impl Image {
    /// From the index, or the manifest, down to the layers.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn resolve(
        document: &[u8],
        media_type: &str,
        blobs: &mut dyn Blobs,
        selection: &Selection,
        meter: &Meter<'_>,
    ) -> Result<Self, Error> {
        let (digest, mut manifest) = resolve(document, media_type, blobs, selection, meter)?;
        layers::check_count(manifest.layers.len(), meter)?;
        let signature = if manifest.is_artifact { alone(&mut manifest.layers)? } else { None };
        let described = described(&manifest, blobs, meter)?;
        Ok(Self { digest, layers: manifest.layers, described, signature })
    }

    /// Bytes of all layers as they come.
    pub fn bytes(&self) -> u64 {
        self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size))
    }

    /// Writes the first of `paths` that there is. What was written counts only when this is `Ok`.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn extract(
        &self,
        blobs: &mut dyn Blobs,
        paths: &[String],
        meter: &Meter<'_>,
        output: &mut dyn Write,
    ) -> Result<Found, Error> {
        let mut source = Described { blobs, layers: &self.layers };
        let found = layers::extract(&self.described, &mut source, paths, meter, output)?;
        Ok(Found { image: Some(self.digest), ..found })
    }

    /// What signs an artifact's file, where that is in the artifact.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn signature(&self, blobs: &mut dyn Blobs, meter: &Meter<'_>) -> Result<Option<Vec<u8>>, Error> {
        let Some(descriptor) = &self.signature else { return Ok(None) };
        if descriptor.size > signature::LONGEST {
            return malformed(format!("the signature of the artifact has {} bytes", descriptor.size));
        }
        checked("the signature", descriptor, blobs, meter).map(Some)
    }
}

/// Leaves the artifact's file alone, and returns what signs it.
fn alone(layers: &mut Vec<Descriptor>) -> Result<Option<Descriptor>, Error> {
    let signs = |layer: &Descriptor| {
        let title = layer.annotations.as_ref().and_then(|its| its.title.as_deref());
        title.is_some_and(|title| title.ends_with(SIGNATURE))
    };
    let (mut signatures, files): (Vec<_>, Vec<_>) = layers.drain(..).partition(signs);
    *layers = files;
    match (layers.len(), signatures.len()) {
        (1, 0 | 1) => Ok(signatures.pop()),
        (files, _) => unsupported(format!(
            "the artifact has {files} files: push the unikernel alone, or with one NAME{SIGNATURE} that signs it"
        )),
    }
}

/// From the index down to the manifest that is meant.
fn resolve(
    document: &[u8],
    media_type: &str,
    blobs: &mut dyn Blobs,
    selection: &Selection,
    meter: &Meter<'_>,
) -> Result<(Digest, Manifest), Error> {
    let mut digest = Digest::of(document);
    let mut tag = selection.tag.as_deref();
    let mut only = tag.is_none();
    let mut stage = manifest::stage("the first document", document, media_type)?;
    for _ in 0..=meter.limits.nesting {
        let chosen = match &stage {
            Stage::Manifest(_) => break,
            Stage::Index(manifests) => choose::of_index(manifests, tag, &selection.platform, only)?,
        };
        // Those of an index within are one image, for several platforms.
        (tag, only) = (None, false);
        digest = chosen.digest;
        let bytes = checked("a manifest of the image", chosen, blobs, meter)?;
        stage = manifest::stage("a manifest", &bytes, &chosen.media_type)?;
    }
    match stage {
        Stage::Manifest(manifest) => Ok((digest, *manifest)),
        Stage::Index(_) => {
            malformed(format!("the image has indexes within indexes, more than {} of them", meter.limits.nesting))
        }
    }
}

/// A small document, with the digest and size that it was announced with.
///
/// # Errors
/// See [`Error`].
pub fn checked(what: &str, blob: &Descriptor, blobs: &mut dyn Blobs, meter: &Meter<'_>) -> Result<Vec<u8>, Error> {
    let bytes = meter.document(what, blobs.open(blob)?)?;
    blob.digest.expect(what, Digest::of(&bytes))?;
    if bytes.len() as u64 != blob.size {
        return malformed(format!("{what} has {} bytes and not {}", bytes.len(), blob.size));
    }
    Ok(bytes)
}

fn described(manifest: &Manifest, blobs: &mut dyn Blobs, meter: &Meter<'_>) -> Result<Vec<Layer>, Error> {
    let config = match &manifest.config {
        Some(config) if !manifest.is_artifact => {
            let bytes = checked("the configuration of the image", config, blobs, meter)?;
            manifest::read::<Config>("the configuration", &bytes)?.rootfs
        }
        _ => None,
    };
    let diff_ids = config.map(|rootfs| rootfs.diff_ids.0).unwrap_or_default();
    let count = manifest.layers.len();
    if !diff_ids.is_empty() && diff_ids.len() != count {
        return malformed(format!("the image has {count} layers and {} diff_ids", diff_ids.len()));
    }
    let layer = |(at, layer): (usize, &Descriptor)| {
        if layer.media_type.ends_with("+encrypted") {
            return unsupported(format!("layer {} of the image is encrypted: {}", at + 1, shown(&layer.media_type)));
        }
        let (digest, size) = (Some(layer.digest), Some(layer.size));
        Ok(Layer { name: layers::name(at, count), digest, size, diff_id: diff_ids.get(at).copied() })
    };
    manifest.layers.iter().enumerate().map(layer).collect()
}

struct Described<'b> {
    blobs: &'b mut dyn Blobs,
    layers: &'b [Descriptor],
}

impl Open for Described<'_> {
    fn open(&mut self, layer: usize) -> Result<Box<dyn Read + '_>, Error> {
        match self.layers.get(layer) {
            Some(descriptor) => self.blobs.open(descriptor),
            None => malformed("the image has fewer layers than it should have"),
        }
    }
}

/// The parts of a layout: files that are named by their digests.
pub(super) struct Layout<'f>(pub &'f mut dyn Files);

impl Blobs for Layout<'_> {
    fn open(&mut self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, Error> {
        let name = format!("blobs/sha256/{}", blob.digest.hex());
        match self.0.open(&name)? {
            Some(Opened { size, reader }) if size == blob.size => Ok(reader),
            Some(Opened { size, .. }) => malformed(format!("{name} has {size} bytes and not {}", blob.size)),
            None => malformed(format!("{name} is missing in the image")),
        }
    }
}

/// An OCI layout, in an archive or a folder.
pub(super) fn layout(
    files: &mut dyn Files,
    selection: &Selection,
    meter: &Meter<'_>,
    output: &mut dyn Write,
) -> Result<Found, Error> {
    let Some(index) = document(files, "index.json", "index.json", meter)? else {
        return unsupported("there is no index.json: this is no image in OCI's layout");
    };
    extract(&index, "application/vnd.oci.image.index.v1+json", &mut Layout(files), selection, meter, output)
}
