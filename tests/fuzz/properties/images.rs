//! What reads images: whatever the bytes are it ends, within its limits, and twice the same.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use albatross_deployer::images::archive::layers::{self as reading, Layer, Open};
use albatross_deployer::images::archive::oci::{self, Blobs};
use albatross_deployer::images::archive::{
    self, Descriptor, Digest, Error, Found, Limits, Meter, Observer, Platform, Selection,
};
use albatross_deployer::images::solo5;

use super::is_fit_to_be_shown;
use super::parts::{content, named, parts};

const LIMITS: Limits = Limits {
    output: 32 << 10,
    entries: 500,
    layers: 8,
    unpacked: 1 << 20,
    ratio: 100,
    path: 300,
    manifest: 32 << 10,
    nesting: 3,
};

fn selection() -> Selection {
    let platform = Platform { os: "linux".to_owned(), architecture: "amd64".to_owned(), variant: None };
    Selection { platform, ..Selection::default() }
}

/// What a reader wrote, or its error.
type Written = Result<(Vec<u8>, Found), Error>;

/// Reads twice.
fn check(read: impl Fn(&mut dyn Observer, &mut Vec<u8>) -> Result<Found, Error>) -> Option<Vec<u8>> {
    let once = || -> Written {
        let mut output = Vec::new();
        let mut so_far = 0;
        let mut observer = |read: u64| {
            assert!(read >= so_far, "it has read {so_far} bytes, and then {read}");
            so_far = read;
            Ok(())
        };
        read(&mut observer, &mut output).map(|found| (output, found))
    };
    match (once(), once()) {
        (Ok((bytes, found)), Ok(again)) => {
            assert_eq!(found.size, bytes.len() as u64);
            assert!(found.size <= LIMITS.output, "{found:?}");
            assert_eq!((&bytes, &found), (&again.0, &again.1));
            Some(bytes)
        }
        (Err(error), Err(again)) => {
            assert!(!matches!(error, Error::Read(_) | Error::Write(_)), "an error of this host: {error}");
            is_fit_to_be_shown(&error.to_string());
            assert_eq!(error.to_string(), again.to_string());
            None
        }
        (first, second) => panic!("{first:?} at first, then {second:?}"),
    }
}

pub fn docker_archive(data: &[u8]) -> bool {
    check(|observer, output| archive::docker(Cursor::new(data), &selection(), &LIMITS, observer, output)).is_some()
}

pub fn oci_archive(data: &[u8]) -> bool {
    check(|observer, output| archive::oci_archive(Cursor::new(data), &selection(), &LIMITS, observer, output)).is_some()
}

/// A tar as an engine gives it away: of one file, and perhaps another one of what signs it.
pub fn engine_tar(data: &[u8]) -> bool {
    let found = check(|observer, output| {
        archive::taken(Cursor::new(data), true, &LIMITS, observer, output)?;
        Ok(Found { path: None, size: output.len() as u64, image: None, signature: None })
    });
    if let Some(found) = &found {
        is_read_so_by_others(data, found);
    }
    found.is_some()
}

/// Parts with names are the files of the archive.
pub fn docker_parts(data: &[u8]) -> bool {
    let parts = parts(data);
    let mut archive = Vec::new();
    for (name, content) in parts.iter().filter_map(|part| named(part)) {
        let mut header = tar::Header::new_ustar();
        let room = header.as_old().name.len();
        header.as_old_mut().name[..name.len().min(room)].copy_from_slice(&name[..name.len().min(room)]);
        header.as_old_mut().linkflag[0] = b'0';
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.extend(header.as_bytes());
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    docker_archive(&archive)
}

/// Part 0 is what is read first, as an index and as a manifest.
pub fn oci_documents(data: &[u8]) -> bool {
    struct Registry<'r, 'a>(&'r [Vec<u8>], &'r Meter<'a>);
    impl Blobs for Registry<'_, '_> {
        fn open(&mut self, blob: &Descriptor) -> Result<Box<dyn Read + '_>, Error> {
            let found = self.0.iter().find(|part| Digest::of(content(part)) == blob.digest);
            let bytes = found.ok_or_else(|| Error::NotFound("no such blob".to_owned()))?;
            Ok(Box::new(self.1.source(content(bytes))))
        }
    }
    let parts = parts(data);
    let kinds = ["application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json", ""];
    let read = kinds.map(|media_type| {
        check(|observer, output| {
            let meter = Meter::new(&LIMITS, observer);
            let mut blobs = Registry(&parts, &meter);
            oci::extract(content(&parts[0]), media_type, &mut blobs, &selection(), &meter, output)
        })
    });
    read.iter().any(Option::is_some)
}

/// The parts, the lowest layer first.
pub fn layers(data: &[u8]) -> bool {
    struct Parts<'p, 'a>(&'p [Vec<u8>], &'p Meter<'a>);
    impl Open for Parts<'_, '_> {
        fn open(&mut self, layer: usize) -> Result<Box<dyn Read + '_>, Error> {
            Ok(Box::new(self.1.source(self.0[layer].as_slice())))
        }
    }
    let parts = parts(data);
    let described = |(at, part): (usize, &Vec<u8>)| {
        let name = format!("layer {} of {}", at + 1, parts.len());
        Layer { name, digest: Some(Digest::of(part)), size: Some(part.len() as u64), diff_id: None }
    };
    let described: Vec<Layer> = parts.iter().enumerate().map(described).collect();
    let paths = &selection().paths;
    let found = check(|observer, output| {
        let meter = Meter::new(&LIMITS, observer);
        reading::extract(&described, &mut Parts(&parts, &meter), paths, &meter, output)
    });
    if let ([layer], Some(found)) = (parts.as_slice(), &found) {
        is_read_so_by_others(layer, found);
    }
    found.is_some()
}

/// Where this reader takes a file out of a plain tar, another one finds these bytes in it too: an image must not show one
/// unikernel here and another one elsewhere. One that refuses it, such as for a checksum of signed bytes, shows nothing.
fn is_read_so_by_others(layer: &[u8], found: &[u8]) {
    if layer.starts_with(b"\x7fELF") || layer.starts_with(b"\x1f\x8b") || layer.starts_with(b"\x28\xb5\x2f\xfd") {
        return;
    }
    let mut archive = tar::Archive::new(layer);
    let Ok(entries) = archive.entries() else { return };
    for entry in entries {
        let Ok(mut entry) = entry else { return };
        let mut content = Vec::new();
        if entry.read_to_end(&mut content).is_ok() && content == found {
            return;
        }
    }
    assert!(layer.get(1..4) == Some(b"\x2a\x4d\x18"), "no other reader finds {found:?}");
}

/// The image as it is, and as the start of a large file of zeros, of which little may be read.
pub fn solo5_image(data: &[u8]) -> bool {
    let inspected = |image: Zeros<'_>| solo5::inspect(image).map_err(|error| error.to_string());
    let read = [data.len() as u64, 1 << 30].map(|size| {
        let first = inspected(Zeros::new(data, size));
        match &first {
            Ok(devices) => assert!(devices.blocks.len() < 64, "{devices:?}"),
            Err(message) => is_fit_to_be_shown(message),
        }
        assert_eq!(first, inspected(Zeros::new(data, size)));
        first.is_ok()
    });
    read[0]
}

/// Bytes, and zeros up to a size.
struct Zeros<'a> {
    start: &'a [u8],
    size: u64,
    position: u64,
    read: u64,
}

impl<'a> Zeros<'a> {
    fn new(start: &'a [u8], size: u64) -> Self {
        Self { start, size, position: 0, read: 0 }
    }
}

impl Read for Zeros<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX).min(buffer.len());
        let at = usize::try_from(self.position).unwrap_or(usize::MAX);
        for (offset, byte) in buffer[..count].iter_mut().enumerate() {
            *byte = self.start.get(at.saturating_add(offset)).copied().unwrap_or(0);
        }
        self.position += count as u64;
        self.read += count as u64;
        assert!(self.read <= 1 << 20, "it reads much for its headers and notes");
        Ok(count)
    }
}

impl Seek for Zeros<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
