//! Reads DER, strictly: what is not consumed is an error, and nothing is believed beyond the bytes that are there.

use der::asn1::Null;
use der::{Decode, Header, Reader, SliceReader, Tag, TagNumber};

use super::{Malformed, Text};

/// What is left to read of a value's content.
#[derive(Debug, Clone)]
pub(super) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::new("bytes are left over")) }
    }

    /// Runs `read` on the whole content and sees to it that nothing is left.
    fn whole<T>(mut self, read: impl FnOnce(&mut Self) -> Result<T, Malformed>) -> Result<T, Malformed> {
        let value = read(&mut self)?;
        self.finish().map(|()| value)
    }

    fn next(&mut self) -> Result<(Tag, &'a [u8]), Malformed> {
        let mut reader = SliceReader::new(self.rest)?;
        let header = Header::decode(&mut reader)?;
        let content = reader.read_slice(header.length())?;
        let consumed = usize::try_from(reader.position())?;
        self.rest = &self.rest[consumed..];
        Ok((header.tag(), content))
    }

    fn peek(&self) -> Option<Tag> {
        Tag::decode(&mut SliceReader::new(self.rest).ok()?).ok()
    }

    fn expect(&mut self, tag: Tag) -> Result<&'a [u8], Malformed> {
        let (found, content) = self.next()?;
        if found == tag { Ok(content) } else { Err(Malformed(format!("{found} where {tag} belongs"))) }
    }

    /// A value of one of `der`'s own types, which check the canonical form.
    fn decode<T: Decode<'a, Error = der::Error>>(&mut self) -> Result<T, Malformed> {
        let mut reader = SliceReader::new(self.rest)?;
        let value = T::decode(&mut reader)?;
        let consumed = usize::try_from(reader.position())?;
        self.rest = &self.rest[consumed..];
        Ok(value)
    }

    pub(super) fn sequence<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, Malformed>) -> Result<T, Malformed> {
        Self::new(self.expect(Tag::Sequence)?).whole(read)
    }

    pub(super) fn sequence_of<T, C: FromIterator<T>>(
        &mut self,
        read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<C, Malformed> {
        Self::members(self.expect(Tag::Sequence)?, read)
    }

    /// A set, in whatever order it comes.
    pub(super) fn set_of<T, C: FromIterator<T>>(
        &mut self,
        read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<C, Malformed> {
        Self::members(self.expect(Tag::Set)?, read)
    }

    fn members<T, C: FromIterator<T>>(
        content: &'a [u8],
        mut read: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<C, Malformed> {
        let mut inner = Self::new(content);
        std::iter::from_fn(|| (!inner.rest.is_empty()).then(|| read(&mut inner))).collect()
    }

    /// One of several explicit tags: its number goes to `read` with the content.
    pub(super) fn choice<T>(
        &mut self,
        read: impl FnOnce(u32, &mut Self) -> Result<T, Malformed>,
    ) -> Result<T, Malformed> {
        match self.next()? {
            (Tag::ContextSpecific { constructed: true, number }, content) => {
                Self::new(content).whole(|inner| read(number.value(), inner))
            }
            (tag, _) => Err(Malformed(format!("{tag} where a choice belongs"))),
        }
    }

    /// The content under `[number]`, when that is what comes next.
    pub(super) fn optional<T>(
        &mut self,
        number: u32,
        read: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        let tag = Tag::ContextSpecific { constructed: true, number: TagNumber(number) };
        if self.peek() != Some(tag) {
            return Ok(None);
        }
        Self::new(self.expect(tag)?).whole(read).map(Some)
    }

    pub(super) fn null(&mut self) -> Result<(), Malformed> {
        self.decode::<Null>().map(|_| ())
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Malformed> {
        self.decode()
    }

    pub(super) fn integer(&mut self) -> Result<i64, Malformed> {
        self.decode()
    }

    pub(super) fn optional_integer(&mut self) -> Result<Option<i64>, Malformed> {
        if self.peek() == Some(Tag::Integer) { self.integer().map(Some) } else { Ok(None) }
    }

    pub(super) fn octets(&mut self) -> Result<&'a [u8], Malformed> {
        self.expect(Tag::OctetString)
    }

    pub(super) fn fixed_octets<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let octets = self.octets()?;
        octets.try_into().map_err(|_| Malformed(format!("{} octets where {N} belong", octets.len())))
    }

    pub(super) fn optional_octets(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        if self.peek() == Some(Tag::OctetString) { self.octets().map(Some) } else { Ok(None) }
    }

    pub(super) fn text(&mut self) -> Result<Text, Malformed> {
        self.expect(Tag::Utf8String).map(|bytes| Text(bytes.to_vec()))
    }

    pub(super) fn optional_text(&mut self) -> Result<Option<Text>, Malformed> {
        if self.peek() == Some(Tag::Utf8String) { self.text().map(Some) } else { Ok(None) }
    }

    pub(super) fn time(&mut self) -> Result<&'a [u8], Malformed> {
        self.expect(Tag::GeneralizedTime)
    }

    pub(super) fn counter(&mut self) -> Result<i64, Malformed> {
        self.fixed_octets().map(i64::from_be_bytes)
    }
}
