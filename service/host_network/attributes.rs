//! Reading a message of nf_tables by the numbers of its attributes.
//!
//! What others have made, such as a rule in our table of a kind that nobody has heard of, must not keep us from reading
//! the rest: nothing is parsed but what is asked for.

use netlink_packet_core::{NLA_HEADER_SIZE, NLA_TYPE_MASK, NlasIterator};

/// The attributes of a message or of an attribute that holds others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Those that follow after the fixed part of a message.
    pub fn after(fixed: usize, payload: &'a [u8]) -> Self {
        Self(payload.get(fixed..).unwrap_or_default())
    }

    pub fn bytes(self, wanted: u16) -> Option<&'a [u8]> {
        let mut all = NlasIterator::new(self.0).map_while(Result::ok);
        let nla = all.find(|nla| nla.kind() & NLA_TYPE_MASK == wanted)?;
        let length = usize::from(nla.length());
        nla.into_inner().get(NLA_HEADER_SIZE..length)
    }

    pub fn nested(self, wanted: u16) -> Option<Self> {
        self.bytes(wanted).map(Self)
    }

    /// Each of several with the same number, and what is in it.
    pub fn all(self, wanted: u16) -> impl Iterator<Item = Self> {
        let all = NlasIterator::new(self.0).map_while(Result::ok);
        all.filter(move |nla| nla.kind() & NLA_TYPE_MASK == wanted).filter_map(|nla| {
            let length = usize::from(nla.length());
            nla.into_inner().get(NLA_HEADER_SIZE..length).map(Self)
        })
    }

    pub fn text(self, wanted: u16) -> Option<&'a str> {
        let bytes = self.bytes(wanted)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    }

    /// In the network's byte order, as netfilter has all its numbers.
    pub fn number_be(self, wanted: u16) -> Option<u32> {
        self.bytes(wanted)?.try_into().map(u32::from_be_bytes).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_not_there() {
        let bytes = [8, 0, 1, 0, 0, 0, 0, 7, 6, 0, 2, 128, b'a', 0, 0, 0];
        let attributes = Attributes::after(0, &bytes);
        assert_eq!(attributes.number_be(1), Some(7));
        assert_eq!(attributes.text(2), Some("a"));
        assert_eq!(attributes.text(3), None);
        for length in 0..bytes.len() {
            let cut = Attributes::after(0, &bytes[..length]);
            assert!(cut.number_be(1).is_none_or(|number| number == 7));
        }
        assert_eq!(Attributes::after(99, &bytes).bytes(1), None);
    }
}
