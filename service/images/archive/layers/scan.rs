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
use super::{Early, Layer, Place, Seen};

const BUFFER: usize = 64 << 10;
const ELF: &[u8] = b"\x7fELF";
const CANDIDATES: usize = 8;
const UNIKERNELS: [&[u8]; 3] = [b".hvt", b".spt", b".virtio"];

/// A layer as it comes, of which the first bytes were looked at.
type Packed<R> = io::Chain<io::Cursor<Vec<u8>>, BufReader<Hashed<R>>>;

/// Files that look like unikernels, for a message.
pub(super) type Candidates = BTreeSet<String>;

/// What a layer has at a path, with the file if it is one.
pub(super) struct Traced {
    pub trace: Trace,
    pub file: Option<Seen>,
}

/// What a layer turned out to be.
pub(super) enum Scanned {
    /// The file itself, already written.
    Whole(Seen),
    Tar(Vec<Traced>),
}

/// How one layer is looked through.
pub(super) struct Scan<'s, 'o, 'm, 'a> {
    pub layer: &'s Layer,
    /// Its number.
    pub index: usize,
    /// There is no other.
    pub is_only: bool,
    pub paths: &'s [&'s ImagePath],
    /// The file at the last of the paths is what is looked for, if this layer has it.
    pub leading: bool,
    pub candidates: &'s mut Candidates,
    pub early: &'s mut Early<'o>,
    pub meter: &'m Meter<'a>,
}

impl Scan<'_, '_, '_, '_> {
    /// Reads the layer to its end.
    pub fn run(&mut self, reader: impl Read) -> Result<Scanned, Error> {
        let what = self.layer.name.as_str();
        let mut packed = BufReader::with_capacity(BUFFER, Hashed::new(reader, self.layer.digest, self.layer.size));
        let mut start = Vec::new();
        let read = packed.by_ref().take(ELF.len() as u64).read_to_end(&mut start);
        read.map_err(|error| self.meter.explain(what, &error))?;
        let is_whole = start == ELF;
        let packed = io::Cursor::new(start).chain(packed);
        match (is_whole, self.layer) {
            (true, Layer { digest: Some(_), size: Some(size), .. }) if self.is_only => {
                self.whole(packed, *size).map(Scanned::Whole)
            }
            _ => self.tar(packed).map(Scanned::Tar),
        }
    }

    /// An artifact's only layer is the unikernel itself. Its media type says little: `oras push` calls every file a tar.
    fn whole(&mut self, mut packed: Packed<impl Read>, size: u64) -> Result<Seen, Error> {
        let limit = self.meter.limits.output;
        if size > limit {
            return Err(Error::OutputTooLarge { size, limit });
        }
        copy_through(&self.layer.name, &mut packed, self.meter, self.early.output, |_| ())?;
        packed.into_inner().1.into_inner().finish(&self.layer.name, self.meter)?;
        let place = Place { layer: self.index, position: None, size };
        self.early.written = Some(place);
        Ok(Seen { place, digest: None })
    }

    fn tar(&mut self, packed: Packed<impl Read>) -> Result<Vec<Traced>, Error> {
        let Layer { name: what, digest, diff_id, .. } = self.layer;
        let unpacked = Unpacked::new(what, packed, self.meter)?;
        // The same bytes: hashed once.
        let diff_id = diff_id.filter(|diff_id| !(unpacked.is_plain() && *digest == Some(*diff_id)));
        let tar = Stream(BufReader::with_capacity(BUFFER, Hashed::new(unpacked, diff_id, None)));
        let mut entries = Entries::new(what, tar, self.meter);
        let traced = self.trace(&mut entries)?;
        let mut unpacked = entries.into_inner().0.into_inner();
        unpacked.finish(&format!("{what}, unpacked,"), self.meter)?;
        unpacked.into_inner().into_packed().into_inner().1.into_inner().finish(what, self.meter)?;
        Ok(traced)
    }

    /// Goes through the entries of the layer.
    fn trace<R: Input>(&mut self, entries: &mut Entries<'_, '_, R>) -> Result<Vec<Traced>, Error> {
        let mut traced: Vec<Traced> =
            self.paths.iter().map(|path| Traced { trace: Trace::new(path), file: None }).collect();
        while let Some(entry) = entries.next()? {
            note(&entry, self.candidates);
            let mut is_leading = false;
            let mut hits = Vec::new();
            for (at, one) in traced.iter_mut().enumerate() {
                if one.trace.note(&entry.path, entry.kind, &entry.link)? {
                    is_leading = self.leading && at + 1 == self.paths.len();
                    hits.push(one);
                }
            }
            if entry.kind == Kind::File && !hits.is_empty() {
                let seen = self.content(&entry, entries, is_leading)?;
                hits.into_iter().for_each(|one| one.file = Some(seen));
            }
        }
        Ok(traced)
    }

    /// Reads the entry's content, and writes it where it is what is looked for.
    fn content(&mut self, entry: &Entry, reader: &mut impl Read, is_leading: bool) -> Result<Seen, Error> {
        let limit = self.meter.limits.output;
        if entry.size > limit {
            return Err(Error::OutputTooLarge { size: entry.size, limit });
        }
        let what = entry.path.shown();
        let place = Place { layer: self.index, position: Some(entry.position), size: entry.size };
        if is_leading && self.early.written.is_none() {
            copy_through(&what, reader, self.meter, self.early.output, |_| ())?;
            self.early.written = Some(place);
            return Ok(Seen { place, digest: None });
        }
        let mut hash = Sha256::new();
        copy_through(&what, reader, self.meter, &mut io::sink(), |bytes| hash.update(bytes))?;
        Ok(Seen { place, digest: Some(Digest(hash.finalize().into())) })
    }
}

/// Keeps the name if it looks like a unikernel's.
fn note(entry: &Entry, candidates: &mut Candidates) {
    let name = entry.path.as_bytes();
    let looks_so = UNIKERNELS.iter().any(|ending| name.ends_with(ending));
    if looks_so && entry.kind == Kind::File && candidates.len() < CANDIDATES {
        candidates.insert(format!("/{}", shown(name)));
    }
}

/// Writes the file that was seen in the layer that `reader` has. What was written counts only when this is `Ok`: the layer may
/// have become another since it was scanned.
pub(super) fn copy(
    layer: &Layer,
    reader: impl Read,
    seen: &Seen,
    meter: &Meter<'_>,
    output: &mut dyn Write,
) -> Result<(), Error> {
    let what = layer.name.as_str();
    let packed = BufReader::with_capacity(BUFFER, reader);
    match seen.place.position {
        Some(position) => {
            let mut unpacked = Unpacked::new(what, packed, meter)?;
            discard(&mut unpacked, position).map_err(|error| meter.explain(what, &error))?;
            copy_bytes(what, unpacked, seen, meter, output)
        }
        None => copy_bytes(what, packed, seen, meter, output),
    }
}

fn copy_bytes(
    what: &str,
    reader: impl Read,
    seen: &Seen,
    meter: &Meter<'_>,
    output: &mut dyn Write,
) -> Result<(), Error> {
    let mut hash = Sha256::new();
    copy_through(what, &mut reader.take(seen.place.size), meter, output, |bytes| hash.update(bytes))?;
    let found = Digest(hash.finalize().into());
    seen.digest.map_or(Ok(()), |digest| digest.expect(what, found))
}

/// Copies to the end, and shows `seen` every byte.
fn copy_through(
    what: &str,
    reader: &mut impl Read,
    meter: &Meter<'_>,
    output: &mut dyn Write,
    mut seen: impl FnMut(&[u8]),
) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match reader.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|error| meter.explain(what, &error))?,
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        seen(bytes);
        output.write_all(bytes).map_err(Error::Write)?;
    }
    output.flush().map_err(Error::Write)
}
