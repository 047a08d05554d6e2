//! Declarations of sets and maps.

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{SetAttribute, SetDescription, SetFlags};

use super::userdata;
use crate::planning::ruleset::{Family, Field, SetName, TABLE};

/// How a part of a key or value is kept.
pub(super) trait Layout {
    /// Its bytes in a packet.
    fn length(&self) -> usize;
    /// nft's number of its type, so that `nft list` can show it; the kernel keeps it and does not use it.
    fn nft_type(&self) -> u32;
    /// Its bytes in a concatenation: a whole number of 32-bit registers.
    fn padded(&self) -> usize {
        self.length().next_multiple_of(4)
    }
}

impl Layout for Field {
    fn length(&self) -> usize {
        match self {
            Self::Destination(Family::V4) | Self::Source(Family::V4) => 4,
            Self::Destination(Family::V6) | Self::Source(Family::V6) => 16,
            Self::Transport => 1,
            Self::Port => 2,
        }
    }

    fn nft_type(&self) -> u32 {
        match self {
            Self::Destination(Family::V4) | Self::Source(Family::V4) => 7,
            Self::Destination(Family::V6) | Self::Source(Family::V6) => 8,
            Self::Transport => 12,
            Self::Port => 13,
        }
    }
}

/// nft's number for a concatenation: six bits for each part.
fn nft_type(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |number, field| number << 6 | field.nft_type())
}

fn length(fields: &[Field]) -> u32 {
    fields.iter().map(|field| field.padded() as u32).sum()
}

/// The attributes that make it. `id` is by what later messages of the batch could name it.
pub(super) fn declaration(set: SetName, id: u32) -> Vec<SetAttribute> {
    let key = set.key();
    let mut flags = SetFlags::empty();
    let mut attributes = vec![
        SetAttribute::Table(TABLE.into()),
        SetAttribute::Name(set.to_string()),
        SetAttribute::KeyType(nft_type(&key)),
        SetAttribute::KeyLen(length(&key)),
        SetAttribute::Id(id),
        SetAttribute::UserData(userdata::set_comment(&set.comment())),
    ];
    if let Some(value) = set.value() {
        flags |= SetFlags::Map;
        attributes.push(SetAttribute::DataType(nft_type(&value)));
        attributes.push(SetAttribute::DataLen(length(&value)));
    }
    if set.is_interval() {
        // Ranges over several fields are looked up field by field, so the kernel wants to know where each ends.
        flags |= SetFlags::Interval | SetFlags::Concat;
        attributes.push(SetAttribute::Description(vec![SetDescription::Concat(key.iter().map(field).collect())]));
    }
    attributes.push(SetAttribute::Flags(flags));
    attributes
}

/// NFTA_LIST_ELEM { NFTA_SET_FIELD_LEN }
fn field(field: &Field) -> DefaultNla {
    const LIST_ELEMENT: u16 = 1;
    const FIELD_LENGTH: u16 = 1;
    let length = DefaultNla::new(FIELD_LENGTH, (field.length() as u32).to_be_bytes().to_vec());
    let mut bytes = vec![0; length.buffer_len()];
    length.emit(&mut bytes);
    DefaultNla::new(LIST_ELEMENT | NLA_F_NESTED, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planning::ruleset::SetKind;

    #[test]
    fn numbers_are_those_that_nft_writes() {
        let ports = SetName { kind: SetKind::Ports, family: Family::V4, on_address: false };
        let attributes = declaration(ports, 1);
        assert!(attributes.contains(&SetAttribute::KeyType(12 << 6 | 13)));
        assert!(attributes.contains(&SetAttribute::KeyLen(8)));
        assert!(attributes.contains(&SetAttribute::DataType(7 << 6 | 13)));
        assert!(attributes.contains(&SetAttribute::Flags(SetFlags::Map)));
        let sources = SetName { kind: SetKind::Sources, family: Family::V4, on_address: false };
        // 0x84 is what nft sends for `flags interval` of a concatenation.
        assert!(declaration(sources, 1).contains(&SetAttribute::Flags(SetFlags::from_bits_retain(0x84))));
    }
}
