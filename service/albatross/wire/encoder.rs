//! Writes DER. An image may be left out as a gap of known length, to be sent from its file later.

use der::asn1::Null;
use der::{Encode, Header, Length, Tag, TagNumber};

use super::Unsayable;

/// DER in the making.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    bytes: Vec<u8>,
    gap: Option<Gap>,
}

/// Bytes that are counted in every length around them and are not here.
#[derive(Debug, Clone, Copy)]
struct Gap {
    at: usize,
    length: u64,
}

impl Encoder {
    /// What was written before the gap, the gap's length, and what was written after it.
    pub(super) fn finish(mut self) -> (Vec<u8>, u64, Vec<u8>) {
        let Some(gap) = self.gap else { return (self.bytes, 0, Vec::new()) };
        let after = self.bytes.split_off(gap.at);
        (self.bytes, gap.length, after)
    }

    fn length(&self) -> u64 {
        self.bytes.len() as u64 + self.gap.map_or(0, |gap| gap.length)
    }

    fn header(&mut self, tag: Tag, length: u64) -> Result<(), Unsayable> {
        let length = u32::try_from(length).map_err(|_| Unsayable::TooLong)?;
        self.encode(&Header::new(tag, Length::new(length)))
    }

    fn encode(&mut self, value: &impl Encode) -> Result<(), Unsayable> {
        value.encode(&mut self.bytes).map_err(|_| Unsayable::TooLong)
    }

    /// A value that holds others: they are written first, since its length stands in front of them.
    pub(super) fn constructed(
        &mut self,
        tag: Tag,
        content: impl FnOnce(&mut Self) -> Result<(), Unsayable>,
    ) -> Result<(), Unsayable> {
        let mut inner = Self::default();
        content(&mut inner)?;
        self.header(tag, inner.length())?;
        if let Some(gap) = inner.gap {
            self.gap = Some(Gap { at: self.bytes.len() + gap.at, ..gap });
        }
        self.bytes.append(&mut inner.bytes);
        Ok(())
    }

    pub(super) fn sequence(
        &mut self,
        content: impl FnOnce(&mut Self) -> Result<(), Unsayable>,
    ) -> Result<(), Unsayable> {
        self.constructed(Tag::Sequence, content)
    }

    /// The explicit tag `[number]` around its content.
    pub(super) fn tagged(
        &mut self,
        number: u32,
        content: impl FnOnce(&mut Self) -> Result<(), Unsayable>,
    ) -> Result<(), Unsayable> {
        self.constructed(Tag::ContextSpecific { constructed: true, number: TagNumber(number) }, content)
    }

    pub(super) fn sequence_of<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T) -> Result<(), Unsayable>,
    ) -> Result<(), Unsayable> {
        self.sequence(|inner| items.into_iter().try_for_each(|item| each(inner, item)))
    }

    /// A set: DER sorts its members by their encoding.
    pub(super) fn set_of<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T) -> Result<(), Unsayable>,
    ) -> Result<(), Unsayable> {
        let mut members = Vec::new();
        for item in items {
            let mut member = Self::default();
            each(&mut member, item)?;
            members.push(member.bytes);
        }
        members.sort();
        self.constructed(Tag::Set, |inner| {
            inner.bytes.extend(members.into_iter().flatten());
            Ok(())
        })
    }

    fn primitive(&mut self, tag: Tag, value: &[u8]) -> Result<(), Unsayable> {
        self.header(tag, value.len() as u64)?;
        self.bytes.extend_from_slice(value);
        Ok(())
    }

    pub(super) fn null(&mut self) -> Result<(), Unsayable> {
        self.encode(&Null)
    }

    pub(super) fn boolean(&mut self, value: bool) -> Result<(), Unsayable> {
        self.encode(&value)
    }

    pub(super) fn integer(&mut self, value: i64) -> Result<(), Unsayable> {
        self.encode(&value)
    }

    pub(super) fn octets(&mut self, value: &[u8]) -> Result<(), Unsayable> {
        self.primitive(Tag::OctetString, value)
    }

    /// An octet string whose bytes are sent from elsewhere. A message has at most one.
    pub(super) fn octets_elsewhere(&mut self, length: u64) -> Result<(), Unsayable> {
        self.header(Tag::OctetString, length)?;
        self.gap = Some(Gap { at: self.bytes.len(), length });
        Ok(())
    }

    /// The tag says UTF-8; Albatross puts any bytes there.
    pub(super) fn text(&mut self, value: &[u8]) -> Result<(), Unsayable> {
        self.primitive(Tag::Utf8String, value)
    }

    pub(super) fn time(&mut self, value: &[u8]) -> Result<(), Unsayable> {
        self.primitive(Tag::GeneralizedTime, value)
    }

    /// A 64-bit number as Albatross writes its counters: eight octets, big-endian.
    pub(super) fn counter(&mut self, value: i64) -> Result<(), Unsayable> {
        self.octets(&value.to_be_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_in_every_length_around_it() {
        let mut encoder = Encoder::default();
        encoder
            .sequence(|sequence| {
                sequence.boolean(true)?;
                sequence.tagged(20, |tagged| tagged.octets_elsewhere(300))?;
                sequence.integer(7)
            })
            .unwrap();
        let (before, gap, after) = encoder.finish();
        assert_eq!(before, [0x30, 0x82, 0x01, 0x3a, 1, 1, 0xff, 0xb4, 0x82, 0x01, 0x30, 4, 0x82, 0x01, 0x2c]);
        assert_eq!((gap, after), (300, vec![2, 1, 7]));
    }

    #[test]
    fn a_set_is_sorted_by_its_encoding() {
        let mut encoder = Encoder::default();
        encoder.set_of([255, 2, 128, 0], |member, value| member.integer(value)).unwrap();
        let (bytes, ..) = encoder.finish();
        assert_eq!(bytes, [0x31, 14, 2, 1, 0, 2, 1, 2, 2, 2, 0, 128, 2, 2, 0, 255]);
    }

    #[test]
    fn what_no_length_can_say_is_an_error() {
        let mut encoder = Encoder::default();
        let refused = encoder.sequence(|inner| inner.octets_elsewhere(u64::from(u32::MAX)));
        assert_eq!(refused, Err(Unsayable::TooLong));
    }
}
