//! The outer tar of a saved image: its files by their names.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use super::entries::{Entries, Entry, Input, Seeking, Stream};
use super::error::{Error, malformed, shown, unsupported};
use super::header::Kind;
use super::limits::{Meter, Source, discard};
use super::path::ImagePath;
use super::unpack::Unpacked;

/// Files of the archive. Ten times the layers of a hundred images, and few enough to keep their names.
const FILES: usize = 32 << 10;
/// Bytes of a name that can be meant: `blobs/sha256/` and a digest has 77.
const NAME: usize = 256;
/// Links between the archive's files: Docker and skopeo use one to name a layer twice.
const LINKS: usize = 4;
const BUFFER: usize = 64 << 10;

/// Where files of a saved image come from, by their names.
pub(super) trait Files {
    /// Read through [`Meter::source`].
    fn open(&mut self, name: &str) -> Result<Option<Opened<'_>>, Error>;
}

/// A file from its first byte on.
pub(super) struct Opened<'f> {
    /// Bytes.
    pub size: u64,
    pub reader: Box<dyn Read + 'f>,
}

/// A whole small file, called `what` in messages.
pub(super) fn document(
    files: &mut dyn Files,
    name: &str,
    what: &str,
    meter: &Meter<'_>,
) -> Result<Option<Vec<u8>>, Error> {
    files.open(name)?.map(|opened| meter.document(what, opened.reader)).transpose()
}

pub(super) struct Tarball<'m, 'a, R> {
    input: Archive<'m, 'a, R>,
    members: BTreeMap<ImagePath, Member>,
}

#[derive(Debug, Clone)]
enum Member {
    File {
        position: u64,
        size: u64,
    },
    Link(ImagePath),
    /// Nothing to be read, or twice in the archive; and the words for it.
    Unusable(&'static str),
}

impl<'m, 'a, R: Read + Seek> Tarball<'m, 'a, R> {
    /// Reads the names. What is compressed as a whole is unpacked for that, and later once more for what is read of it:
    /// there is no going back in it.
    pub fn open(mut archive: R, meter: &'m Meter<'a>) -> Result<Self, Error> {
        archive.rewind().map_err(Error::Read)?;
        let size = archive.seek(SeekFrom::End(0)).map_err(Error::Read)?;
        archive.rewind().map_err(Error::Read)?;
        let unpacked = unpacked(archive, meter)?;
        if !unpacked.is_plain() {
            let mut packed = Packed { unpacked: Some(unpacked), position: 0, meter };
            let members = members(Entries::new(WHAT, Stream(&mut packed), meter))?;
            // What is behind tells whether it is whole.
            io::copy(&mut packed, &mut io::sink()).map_err(|error| meter.explain(WHAT, &error))?;
            return Ok(Self { input: Archive::Packed(Box::new(packed)), members });
        }
        let mut source = unpacked.into_packed().into_inner();
        source.rewind().map_err(Error::Read)?;
        let members = members(Entries::new(WHAT, Seeking(&mut source), meter))?;
        let is_cut = |member: &Member| matches!(member, Member::File { position, size: its } if position + its > size);
        if members.values().any(is_cut) {
            return Err(meter.explain(WHAT, &io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Self { input: Archive::Plain(source), members })
    }

    fn find(&self, name: &str) -> Result<Option<(u64, u64)>, Error> {
        let mut path = ImagePath::entry(name.as_bytes())?;
        for _ in 0..=LINKS {
            match self.members.get(&path) {
                None => return Ok(None),
                Some(Member::File { position, size }) => return Ok(Some((*position, *size))),
                Some(Member::Link(target)) => path = target.clone(),
                Some(Member::Unusable(why)) => {
                    return malformed(format!("{} in the archive is {why}", path.shown()));
                }
            }
        }
        malformed(format!("{} in the archive leads through a circle of links", shown(name)))
    }
}

const WHAT: &str = "the archive";

impl<R: Read + Seek> Files for Tarball<'_, '_, R> {
    fn open(&mut self, name: &str) -> Result<Option<Opened<'_>>, Error> {
        let Some((position, size)) = self.find(name)? else { return Ok(None) };
        match &mut self.input {
            Archive::Plain(source) => {
                source.seek(SeekFrom::Start(position)).map_err(Error::Read)?;
                Ok(Some(Opened { size, reader: Box::new(source.take(size)) }))
            }
            Archive::Packed(packed) => {
                packed.go_to(position)?;
                Ok(Some(Opened { size, reader: Box::new(packed.take(size)) }))
            }
        }
    }
}

fn members<R: Input>(mut entries: Entries<'_, '_, R>) -> Result<BTreeMap<ImagePath, Member>, Error> {
    let mut members = BTreeMap::new();
    while let Some(entry) = entries.next()? {
        if entry.path.as_bytes().len() > NAME || entry.kind == Kind::Directory {
            continue;
        }
        if members.len() >= FILES {
            return Err(Error::TooLarge(format!("{WHAT} has more than {FILES} files, which no saved image needs")));
        }
        let member = member(&entry)?;
        members.entry(entry.path).and_modify(|known| *known = Member::Unusable("there twice")).or_insert(member);
    }
    if members.is_empty() {
        return unsupported(format!("{WHAT} has no files: is it a saved image?"));
    }
    if !entries.is_marked() {
        return malformed(format!("{WHAT} ends too early: is it cut off?"));
    }
    Ok(members)
}

fn member(entry: &Entry) -> Result<Member, Error> {
    let target = match entry.kind {
        Kind::File => return Ok(Member::File { position: entry.position, size: entry.size }),
        Kind::Symlink => {
            let folder = entry.path.ancestor(entry.path.depth().saturating_sub(1));
            // Only up and down again, as `../NAME.tar` is.
            folder.follow(&entry.link, std::iter::empty())
        }
        Kind::HardLink => ImagePath::entry(&entry.link),
        kind => return Ok(Member::Unusable(kind.words())),
    };
    Ok(match target {
        Ok(target) if target.as_bytes().len() <= NAME => Member::Link(target),
        _ => Member::Unusable("a link to nothing in the archive"),
    })
}

type Stage<'m, 'a, R> = Unpacked<'m, 'a, BufReader<Source<'m, 'a, R>>>;

enum Archive<'m, 'a, R> {
    Plain(Source<'m, 'a, R>),
    Packed(Box<Packed<'m, 'a, R>>),
}

/// An archive compressed as a whole, at some place.
struct Packed<'m, 'a, R> {
    /// Away only while it begins anew.
    unpacked: Option<Stage<'m, 'a, R>>,
    position: u64,
    meter: &'m Meter<'a>,
}

fn unpacked<'m, 'a, R: Read>(archive: R, meter: &'m Meter<'a>) -> Result<Stage<'m, 'a, R>, Error> {
    Unpacked::new(WHAT, BufReader::with_capacity(BUFFER, meter.source(archive)), meter)
}

impl<R: Read + Seek> Packed<'_, '_, R> {
    fn go_to(&mut self, position: u64) -> Result<(), Error> {
        if position < self.position {
            let gone = || Error::Malformed(format!("{WHAT} is damaged"));
            let mut source = self.unpacked.take().ok_or_else(gone)?.into_packed().into_inner();
            source.rewind().map_err(Error::Read)?;
            self.unpacked = Some(Unpacked::new(WHAT, BufReader::with_capacity(BUFFER, source), self.meter)?);
            self.position = 0;
        }
        let ahead = position - self.position;
        discard(self, ahead).map_err(|error| self.meter.explain(WHAT, &error))
    }
}

impl<R: Read> Read for Packed<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.unpacked.as_mut().map_or(Ok(0), |unpacked| unpacked.read(buffer))?;
        self.position += count as u64;
        Ok(count)
    }
}
