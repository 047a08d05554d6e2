//! One layer, read to its end: what it says of the wanted paths, and whether it is what its digests say.

use std::collections::BTreeSet;
use std::io::{self, BufReader, Read, Write};

use sha2::{Digest as _, Sha256};

use super::super::digest::{Digest, Hashed};
use super::super::entries::{Entries, Entry, Input, Stream};
use super::super::error::{Error, shown};
use super::super::header::Kind;
use super::super::limits::{Meter, discard};
use super::super::path::ImagePath;
use super::super::unpack::Unpacked;
use super::view::Trace;
use super::{Layer, Place};
use crate::domain::ImageDigest;

const BUFFER: usize = 64 << 10;
const CANDIDATES: usize = 8;
const UNIKERNELS: [&[u8]; 3] = [b".hvt", b".spt", b".virtio"];

/// Files that look like unikernels, for a message.
pub(super) type Candidates = BTreeSet<String>;

/// What a layer has at a path, with the place of the file if it is one.
pub(super) struct Traced {
    pub trace: Trace,
    pub file: Option<Place>,
}

/// Reads `reader`, the layer of the number `index`, for all of `paths`.
pub(super) fn scan(
    index: usize,
    layer: &Layer,
    reader: impl Read,
    paths: &[&ImagePath],
    candidates: &mut Candidates,
    meter: &Meter<'_>,
) -> Result<Vec<Traced>, Error> {
    let what = layer.name.as_str();
    let packed = BufReader::with_capacity(BUFFER, Hashed::new(reader, layer.digest, layer.size));
    let unpacked = Unpacked::new(what, packed, meter)?;
    // The same bytes: hashed once.
    let diff_id = layer.diff_id.filter(|diff_id| !(unpacked.is_plain() && layer.digest == Some(*diff_id)));
    let tar = Stream(BufReader::with_capacity(BUFFER, Hashed::new(unpacked, diff_id, None)));
    let mut entries = Entries::new(what, tar, meter);
    let traced = trace(index, &mut entries, paths, candidates, meter)?;
    let mut unpacked = entries.into_inner().0.into_inner();
    unpacked.finish(&format!("{what}, unpacked,"), meter)?;
    unpacked.into_inner().into_packed().into_inner().finish(what, meter)?;
    Ok(traced)
}

/// Goes through the entries of the layer.
fn trace<R: Input>(
    index: usize,
    entries: &mut Entries<'_, '_, R>,
    paths: &[&ImagePath],
    candidates: &mut Candidates,
    meter: &Meter<'_>,
) -> Result<Vec<Traced>, Error> {
    let mut traced: Vec<Traced> = paths.iter().map(|path| Traced { trace: Trace::new(path), file: None }).collect();
    while let Some(entry) = entries.next()? {
        note(&entry, candidates);
        let mut hits = Vec::new();
        for one in &mut traced {
            if one.trace.note(&entry.path, entry.kind, &entry.link)? {
                hits.push(one);
            }
        }
        if entry.kind == Kind::File && !hits.is_empty() {
            let digest = content(&entry, entries, meter)?;
            let place = Place { layer: index, position: Some(entry.position), size: entry.size, digest };
            hits.into_iter().for_each(|one| one.file = Some(place.clone()));
        }
    }
    Ok(traced)
}

/// Keeps the name if it looks like a unikernel's.
fn note(entry: &Entry, candidates: &mut Candidates) {
    let name = entry.path.as_bytes();
    let looks_so = UNIKERNELS.iter().any(|ending| name.ends_with(ending));
    if looks_so && entry.kind == Kind::File && candidates.len() < CANDIDATES {
        candidates.insert(format!("/{}", shown(name)));
    }
}

fn content(entry: &Entry, reader: &mut impl Read, meter: &Meter<'_>) -> Result<ImageDigest, Error> {
    let limit = meter.limits.output;
    if entry.size > limit {
        return Err(Error::OutputTooLarge { size: entry.size, limit });
    }
    let mut hash = Hasher(Sha256::new());
    io::copy(reader, &mut hash).map_err(|error| meter.explain(&entry.path.shown(), &error))?;
    Ok(ImageDigest(hash.0.finalize().into()))
}

/// Writes the file at `place` of the layer that `reader` has. What was written counts only when this is `Ok`: the layer may
/// have become another since it was scanned.
pub(super) fn copy(
    layer: &Layer,
    reader: impl Read,
    place: &Place,
    meter: &Meter<'_>,
    output: &mut dyn Write,
) -> Result<(), Error> {
    let what = layer.name.as_str();
    let packed = BufReader::with_capacity(BUFFER, reader);
    match place.position {
        Some(position) => {
            let mut unpacked = Unpacked::new(what, packed, meter)?;
            discard(&mut unpacked, position).map_err(|error| meter.explain(what, &error))?;
            copy_bytes(what, unpacked, place, meter, output)
        }
        None => copy_bytes(what, packed, place, meter, output),
    }
}

fn copy_bytes(
    what: &str,
    reader: impl Read,
    place: &Place,
    meter: &Meter<'_>,
    output: &mut dyn Write,
) -> Result<(), Error> {
    let mut rest = reader.take(place.size);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match rest.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|error| meter.explain(what, &error))?,
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hash.update(bytes);
        output.write_all(bytes).map_err(Error::Write)?;
    }
    output.flush().map_err(Error::Write)?;
    let found = Digest(hash.finalize().into());
    Digest(place.digest.0).expect(what, found)
}

struct Hasher(Sha256);

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
