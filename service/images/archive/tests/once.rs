//! How often parts of an image are asked for, and what is an artifact's own.

use std::io::{Cursor, Read};

use serde_json::{Value, json};

use super::super::oci::{Blobs, Image};
use super::super::saved_image::{Files, Layer, OCI_MANIFEST, Tar, artifact, descriptor, hex, oci_image, with};
use super::super::{Descriptor, Error, Found, Limits, Meter};
use super::{UNIKERNEL, for_amd64};

/// Counts what it is asked for.
struct Counted {
    files: Files,
    asked: Vec<String>,
}

impl Blobs for Counted {
    fn open(&mut self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, Error> {
        let name = format!("blobs/sha256/{}", blob.digest.hex());
        self.asked.push(blob.digest.hex());
        let found = self.files.iter().find(|(file, _)| *file == name);
        Ok(Box::new(Cursor::new(found.map(|(_, content)| content.clone()).unwrap_or_default())))
    }
}

/// What was written, even if it does not count, and how often the layer was asked for.
fn read(image: (Files, Vec<u8>), layer: &[u8]) -> (Vec<u8>, Result<Found, Error>, usize) {
    let (files, manifest) = image;
    let mut blobs = Counted { files, asked: Vec::new() };
    let (limits, mut observer, mut output) = (Limits::default(), |_| Ok(()), Vec::new());
    let meter = Meter::new(&limits, &mut observer);
    let selection = for_amd64();
    let image = Image::resolve(&manifest, OCI_MANIFEST, &mut blobs, &selection, &meter).unwrap();
    let found = image.extract(&mut blobs, &selection.paths, &meter, &mut output);
    let asked = blobs.asked.iter().filter(|asked| **asked == hex(layer)).count();
    (output, found, asked)
}

#[test]
fn what_is_wanted_most_is_written_at_once() {
    for (files, asked) in [
        // Nothing can be wanted more.
        (&["unikernel.hvt"][..], 1),
        (&["a", "unikernel.hvt", "unikernel.spt", "z"], 1),
        // Behind it there could be something that is.
        (&["unikernel.spt"], 2),
    ] {
        let tar = files.iter().fold(Tar::new(), |tar, file| tar.file(file, UNIKERNEL));
        let layer = Layer::gzip(tar);
        let (output, found, times) = read(oci_image(std::slice::from_ref(&layer)), &layer.stored);
        assert_eq!(output, UNIKERNEL, "{files:?}");
        assert_eq!(found.unwrap().size, UNIKERNEL.len() as u64);
        assert_eq!(times, asked, "{files:?}");
    }
}

#[test]
fn what_is_wanted_less_gives_way() {
    let tar = Tar::new().file("unikernel.spt", b"less").file("unikernel.hvt", UNIKERNEL);
    let layer = Layer::plain(tar);
    let (output, found, times) = read(oci_image(std::slice::from_ref(&layer)), &layer.stored);
    assert_eq!((output.as_slice(), times), (UNIKERNEL, 1));
    assert_eq!(found.unwrap().path.as_deref(), Some("/unikernel.hvt"));
}

#[test]
fn what_was_written_does_not_count_where_the_layer_is_bad() {
    let layer = Layer::plain(Tar::new().file("unikernel.hvt", UNIKERNEL).file("z", b"z"));
    let (mut files, manifest) = oci_image(std::slice::from_ref(&layer));
    let stored = files.iter_mut().find(|(_, content)| *content == layer.stored).unwrap();
    let end = stored.1.len() - 1;
    stored.1[end] = 1;
    let (output, found, _) = read((files, manifest), &layer.stored);
    assert_eq!(output, UNIKERNEL);
    assert!(matches!(found, Err(Error::Digest { .. })), "{found:?}");
}

#[test]
fn an_artifact_is_read_once() {
    let (output, found, times) = read(artifact(UNIKERNEL, None), UNIKERNEL);
    assert_eq!((output.as_slice(), times), (UNIKERNEL, 1));
    assert_eq!(found.unwrap().path, None);
    let (files, manifest) = artifact(UNIKERNEL, None);
    let files = files.into_iter().map(|(name, mut content)| {
        content.iter_mut().last().into_iter().for_each(|byte| *byte ^= 1);
        (name, content)
    });
    let (_, found, _) = read((files.collect(), manifest), UNIKERNEL);
    assert!(matches!(found, Err(Error::Digest { .. })), "{found:?}");
}

#[test]
fn an_artifact_may_be_signed() {
    let titled = |content: &[u8], title: &str| {
        with(descriptor("text/plain", content), "annotations", json!({"org.opencontainers.image.title": title}))
    };
    let with_layers = |more: &[Value]| {
        let (files, manifest) = artifact(UNIKERNEL, Some("it.hvt"));
        let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
        manifest["layers"].as_array_mut().unwrap().extend_from_slice(more);
        let mut blobs = Counted { files, asked: Vec::new() };
        let (limits, mut observer) = (Limits::default(), |_| Ok(()));
        let meter = Meter::new(&limits, &mut observer);
        Image::resolve(&serde_json::to_vec(&manifest).unwrap(), OCI_MANIFEST, &mut blobs, &for_amd64(), &meter)
    };
    assert_eq!(with_layers(&[]).unwrap().signature, None);
    let signed = with_layers(&[titled(b"signed", "it.hvt.minisig")]).unwrap();
    assert_eq!(signed.signature.unwrap().digest.hex(), hex(b"signed"));
    assert_eq!(signed.digest.hex().len(), 64);
    for more in [
        vec![titled(b"a", "other.hvt")],
        vec![titled(b"a", "a.minisig"), titled(b"b", "b.minisig")],
        vec![titled(b"a", "a.minisig"), titled(b"b", "b")],
    ] {
        let refused = with_layers(&more).unwrap_err();
        assert!(matches!(&refused, Error::Unsupported(text) if text.contains("push the unikernel alone")), "{refused}");
    }
}
