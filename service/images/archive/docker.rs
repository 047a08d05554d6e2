//! What `docker save` writes, and `podman save` and skopeo's `docker-archive:` after it.
//!
//! `manifest.json` names the configuration and the layers by their paths in the archive. Before Docker 25 these were
//! `HEX.json` and `ID/layer.tar`, since then they are the blobs of an OCI layout in the same archive.

use std::io::{Read, Write};

use super::digest::Digest;
use super::error::{Error, malformed, shown};
use super::layers::{self, Layer, Open};
use super::limits::Meter;
use super::manifest::{self, Bounded, Config, Saved};
use super::tarball::{Files, document};
use super::{Found, Selection, choose, oci};

pub(super) fn extract(
    files: &mut dyn Files,
    selection: &Selection,
    meter: &Meter<'_>,
    output: &mut dyn Write,
) -> Result<Found, Error> {
    let listed = document(files, "manifest.json", "manifest.json", meter)?;
    // An image of several platforms, none of them the engine's, is saved without.
    let Some(listed) = listed else { return oci::layout(files, selection, meter, output) };
    let images: Bounded<Saved> = manifest::read("manifest.json", &listed)?;
    let image = choose::of_saved(images.0, selection.tag.as_deref())?;
    let count = image.layers.0.len();
    layers::check_count(count, meter)?;
    let (digest, diff_ids) = config(&image.config, files, meter)?;
    if diff_ids.len() != count {
        return malformed(format!("the image has {count} layers and {} diff_ids", diff_ids.len()));
    }
    let layer = |(at, (path, diff_id)): (usize, (&String, Digest))| {
        let name = layers::name(at, count);
        Layer { name, digest: named(path), size: None, diff_id: Some(diff_id) }
    };
    let layers: Vec<Layer> = image.layers.0.iter().zip(diff_ids).enumerate().map(layer).collect();
    let mut source = Paths { files, paths: &image.layers.0 };
    let found = layers::extract(&layers, &mut source, &selection.paths, meter, output)?;
    Ok(Found { image: Some(digest), ..found })
}

/// The image's id, and what its layers are.
fn config(path: &str, files: &mut dyn Files, meter: &Meter<'_>) -> Result<(Digest, Vec<Digest>), Error> {
    let what = "the configuration of the image";
    let Some(bytes) = document(files, path, what, meter)? else {
        return malformed(format!("{what} is missing in the archive: {}", shown(path)));
    };
    let digest = Digest::of(&bytes);
    if let Some(expected) = named(path) {
        expected.expect(what, digest)?;
    }
    match manifest::read::<Config>("the configuration", &bytes)?.rootfs {
        Some(rootfs) => Ok((digest, rootfs.diff_ids.0)),
        None => malformed("the configuration of the image does not say what its layers are"),
    }
}

/// The digest in a name: `HEX.json`, `sha256:HEX` of crane, or a blob's `blobs/sha256/HEX`. A layer's `HEX.tar` of podman
/// is its diff_id, which is in the configuration too, and `ID/layer.tar` says nothing.
fn named(path: &str) -> Option<Digest> {
    let name = path
        .strip_prefix("blobs/sha256/")
        .or_else(|| path.strip_prefix("sha256:"))
        .or_else(|| path.strip_suffix(".json"));
    Digest::from_hex(name?)
}

struct Paths<'f> {
    files: &'f mut dyn Files,
    paths: &'f [String],
}

impl Open for Paths<'_> {
    fn open(&mut self, layer: usize) -> Result<Box<dyn Read + '_>, Error> {
        let path = self.paths.get(layer).map_or("", String::as_str);
        match self.files.open(path)? {
            Some(opened) => Ok(opened.reader),
            None => malformed(format!("layer {} is missing in the archive: {}", layer + 1, shown(path))),
        }
    }
}
