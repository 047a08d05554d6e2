//! What Albatross answers when it did what it was asked.

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::info::Info;
use super::policy::Policy;
use super::{Dialect, Malformed, Name, Text, Unsayable};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Success {
    Empty,
    Text(Text),
    Policies(Vec<(Name, Policy)>),
    BlockDevices(Vec<BlockDeviceInfo>),
    UnikernelImage {
        compressed: bool,
        image: Vec<u8>,
    },
    OldBlockImage {
        compressed: bool,
        image: Vec<u8>,
    },
    /// The content follows as data, compressed or not.
    BlockImage(bool),
    Consoles(Vec<Name>),
    Info(Dialect, Vec<(Name, Info)>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDeviceInfo {
    pub name: Name,
    /// MiB.
    pub size: i64,
    pub active: bool,
}

fn info_tag(dialect: Dialect) -> u32 {
    match dialect {
        Dialect::Before2_6 => 9,
        Dialect::V2_6 => 11,
        Dialect::V2_7 => 13,
    }
}

impl Success {
    pub(super) fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        match self {
            Self::Empty => encoder.tagged(0, Encoder::null),
            Self::Text(text) => encoder.tagged(1, |inner| inner.text(&text.0)),
            Self::Policies(policies) => {
                encoder.tagged(2, |inner| inner.sequence_of(policies, |item, (name, policy)| named(item, name, policy)))
            }
            Self::BlockDevices(devices) => {
                encoder.tagged(4, |inner| inner.sequence_of(devices, |item, device| device.encode(item)))
            }
            Self::UnikernelImage { compressed, image } => {
                encoder.tagged(6, |inner| encode_image(*compressed, image, inner))
            }
            Self::OldBlockImage { compressed, image } => {
                encoder.tagged(7, |inner| encode_image(*compressed, image, inner))
            }
            Self::BlockImage(compressed) => encoder.tagged(10, |inner| inner.boolean(*compressed)),
            Self::Consoles(names) => {
                encoder.tagged(12, |inner| inner.sequence_of(names, |item, name| name.encode(item)))
            }
            Self::Info(dialect, unikernels) => encoder.tagged(info_tag(*dialect), |inner| {
                inner.sequence_of(unikernels, |item, (name, info)| {
                    item.sequence(|pair| {
                        name.encode(pair)?;
                        info.encode(*dialect, pair)
                    })
                })
            }),
        }
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| match tag {
            0 => inner.null().map(|()| Self::Empty),
            1 => inner.text().map(Self::Text),
            2 => inner
                .sequence_of(|item| item.sequence(|pair| Ok((Name::decode(pair)?, Policy::decode(pair)?))))
                .map(Self::Policies),
            4 => inner.sequence_of(BlockDeviceInfo::decode).map(Self::BlockDevices),
            6 => decode_image(inner).map(|(compressed, image)| Self::UnikernelImage { compressed, image }),
            7 => decode_image(inner).map(|(compressed, image)| Self::OldBlockImage { compressed, image }),
            10 => inner.boolean().map(Self::BlockImage),
            12 => inner.sequence_of(Name::decode).map(Self::Consoles),
            _ => decode_infos(tag, inner),
        })
    }
}

fn named(encoder: &mut Encoder, name: &Name, policy: &Policy) -> Result<(), Unsayable> {
    encoder.sequence(|pair| {
        name.encode(pair)?;
        policy.encode(pair)
    })
}

fn decode_infos(tag: u32, decoder: &mut Decoder<'_>) -> Result<Success, Malformed> {
    let dialect = Dialect::NEWEST_FIRST.into_iter().find(|dialect| info_tag(*dialect) == tag);
    let dialect = dialect.ok_or_else(|| Malformed::unknown("answer", tag))?;
    let unikernels =
        decoder.sequence_of(|item| item.sequence(|pair| Ok((Name::decode(pair)?, Info::decode(dialect, pair)?))))?;
    Ok(Success::Info(dialect, unikernels))
}

fn encode_image(compressed: bool, image: &[u8], encoder: &mut Encoder) -> Result<(), Unsayable> {
    encoder.sequence(|pair| {
        pair.boolean(compressed)?;
        pair.octets(image)
    })
}

fn decode_image(decoder: &mut Decoder<'_>) -> Result<(bool, Vec<u8>), Malformed> {
    decoder.sequence(|pair| Ok((pair.boolean()?, pair.octets()?.to_vec())))
}

impl BlockDeviceInfo {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|device| {
            self.name.encode(device)?;
            device.integer(self.size)?;
            device.boolean(self.active)
        })
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|device| {
            Ok(Self { name: Name::decode(device)?, size: device.integer()?, active: device.boolean()? })
        })
    }
}
