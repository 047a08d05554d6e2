//! A tar, one entry after the other. Nothing is kept but the entry at hand.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use super::error::{Error, malformed, shown};
use super::header::{self, BLOCK, Header, Kind, Records, Type};
use super::limits::{Meter, discard};
use super::path::ImagePath;

/// Bytes of an extended header: what Go's archive/tar takes, which Docker is made of.
const EXTENDED: u64 = 1 << 20;

/// What a tar is read from.
pub(super) trait Input: Read {
    /// Passes over `count` bytes.
    fn skip(&mut self, count: u64) -> io::Result<()>;
}

/// Read to its end, for its digest or because it is unpacked on the way.
pub(super) struct Stream<R>(pub R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Input for Stream<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        discard(&mut self.0, count)
    }
}

/// Where there is no need to read what is passed over.
pub(super) struct Seeking<R>(pub R);

impl<R: Read> Read for Seeking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read + Seek> Input for Seeking<R> {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let count = i64::try_from(count).map_err(|_| io::Error::from(ErrorKind::UnexpectedEof))?;
        self.0.seek(SeekFrom::Current(count)).map(drop)
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub path: ImagePath,
    pub kind: Kind,
    pub size: u64,
    /// Where its content begins in the tar.
    pub position: u64,
    /// The target of a link.
    pub link: Vec<u8>,
}

/// To read from this is to read the content of the last entry.
pub(super) struct Entries<'m, 'a, R> {
    input: R,
    meter: &'m Meter<'a>,
    what: &'m str,
    position: u64,
    /// Of the last entry's content.
    left: u64,
    padding: u64,
    count: u64,
    ended: bool,
    marked: bool,
}

/// What the headers in front of an entry say of it.
#[derive(Default)]
struct Pending {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Option<Records>,
}

impl<'m, 'a, R: Input> Entries<'m, 'a, R> {
    /// `what` names the tar in messages.
    pub fn new(what: &'m str, input: R, meter: &'m Meter<'a>) -> Self {
        Self { input, meter, what, position: 0, left: 0, padding: 0, count: 0, ended: false, marked: false }
    }

    pub fn into_inner(self) -> R {
        self.input
    }

    /// Whether it has ended as a tar should, with a block of zeros. Some programs forget that; where a digest stands for
    /// the whole, it does not matter.
    pub fn is_marked(&self) -> bool {
        self.marked
    }

    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut pending = Pending::default();
        while let Some(header) = self.header()? {
            self.padding = header.size.wrapping_neg() % BLOCK as u64;
            match header.kind {
                Type::Entry(kind) => return self.entry(kind, header, pending).map(Some),
                Type::LongName => only_once(&mut pending.name, self.long(header.size)?)?,
                Type::LongLink => only_once(&mut pending.link, self.long(header.size)?)?,
                Type::Extended => {
                    let records = header::records(&self.content(header.size, EXTENDED, "an extended header")?)?;
                    only_once(&mut pending.records, records)?;
                }
                Type::Global => {
                    let records = header::records(&self.content(header.size, EXTENDED, "a global header")?)?;
                    if records != Records::default() {
                        return malformed("the tar has a header that gives all files the same name or size");
                    }
                }
            }
        }
        if pending.name.is_some() || pending.link.is_some() || pending.records.is_some() {
            return malformed(format!("{} ends after an extended header: is it cut off?", self.what));
        }
        Ok(None)
    }

    fn header(&mut self) -> Result<Option<Header>, Error> {
        if self.ended {
            return Ok(None);
        }
        let rest = self.left + self.padding;
        if rest > 0 {
            let skipped = self.input.skip(rest);
            skipped.map_err(|error| self.meter.explain(self.what, &error))?;
            self.advance(rest)?;
            (self.left, self.padding) = (0, 0);
        }
        let mut block = [0; BLOCK];
        let header = if self.block(&mut block)? { header::parse(&block)? } else { None };
        self.count += 1;
        if self.count > self.meter.limits.entries {
            let limit = self.meter.limits.entries;
            return Err(Error::TooLarge(format!("{} has more than {limit} entries, the limit", self.what)));
        }
        self.ended = header.is_none();
        Ok(header)
    }

    /// Whether there is one.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Error> {
        let read = fill(&mut self.input, block).map_err(|error| self.meter.explain(self.what, &error))?;
        match read {
            0 => return Ok(false),
            BLOCK => {}
            _ => return Err(self.meter.explain(self.what, &ErrorKind::UnexpectedEof.into())),
        }
        self.marked = block.iter().all(|byte| *byte == 0);
        self.advance(BLOCK as u64)?;
        Ok(true)
    }

    fn advance(&mut self, count: u64) -> Result<(), Error> {
        let position = self.position.checked_add(count);
        self.position = position.map_or_else(|| malformed(format!("{} is longer than can be", self.what)), Ok)?;
        Ok(())
    }

    fn entry(&mut self, kind: Kind, header: Header, pending: Pending) -> Result<Entry, Error> {
        let records = pending.records.unwrap_or_default();
        let name = one_of(pending.name, records.name)?.unwrap_or(header.name);
        let link = one_of(pending.link, records.link)?.unwrap_or(header.link);
        for text in [&name, &link] {
            if text.len() > self.meter.limits.path {
                return Err(Error::TooLarge(format!("{} has a name that is too long: {}", self.what, shown(text))));
            }
        }
        let size = records.size.unwrap_or(header.size);
        // Readers do not agree whether content follows, and so not on what the next entry is either.
        if kind != Kind::File && size != 0 {
            return malformed(format!("the tar gives {}, {}, a size", shown(&name), kind.words()));
        }
        self.padding = size.wrapping_neg() % BLOCK as u64;
        // Later sums of these do not overflow.
        if size.checked_add(self.padding).and_then(|size| size.checked_add(self.position)).is_none() {
            return malformed(format!("the tar gives {} a size that no file can have", shown(&name)));
        }
        self.left = size;
        Ok(Entry { path: ImagePath::entry(&name)?, kind, size, position: self.position, link })
    }

    /// A name from a GNU header, with a NUL behind.
    fn long(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let limit = (self.meter.limits.path as u64).saturating_add(1);
        let mut name = self.content(size, limit, "a name")?;
        if name.last() == Some(&0) {
            name.pop();
        }
        if name.contains(&0) {
            return malformed("the tar has a long name with a NUL in it");
        }
        Ok(name)
    }

    fn content(&mut self, size: u64, limit: u64, of: &str) -> Result<Vec<u8>, Error> {
        if size > limit {
            return Err(Error::TooLarge(format!(
                "{} has {of} of {size} bytes, more than the limit of {limit}",
                self.what
            )));
        }
        self.left = size;
        let mut content = Vec::new();
        let read = self.read_to_end(&mut content);
        read.map_err(|error| self.meter.explain(self.what, &error))?;
        Ok(content)
    }
}

impl<R: Input> Read for Entries<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if room == 0 {
            return Ok(0);
        }
        let count = self.input.read(buffer.get_mut(..room).unwrap_or_default())?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

/// Reads until the buffer is full or nothing comes any more, and says how much there was.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
        match reader.read(room) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Readers do not agree whether the first or the last counts.
fn only_once<T>(slot: &mut Option<T>, value: T) -> Result<(), Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => malformed("the tar has the same extended header twice for one entry"),
    }
}

fn one_of(long: Option<Vec<u8>>, record: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error> {
    match (long, record) {
        (Some(long), Some(record)) if long != record => malformed("the tar gives one entry two names"),
        (long, record) => Ok(long.or(record)),
    }
}
