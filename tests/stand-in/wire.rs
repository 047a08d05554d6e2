//! Albatross's messages, written from its grammar and apart from the service's own encoder.

use crate::command::{Command, chosen, finish};
use crate::config::Dialect;
use crate::der::{self, Malformed, Reader, choice};
use crate::info::{Info, Policy};
use crate::name::Name;
use crate::time::{self, Millis};

const VERSION: i64 = 5;

/// One message without the length in front of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    pub sequence: [u8; 8],
    pub name: Name,
    pub payload: Payload,
}

#[allow(clippy::large_enum_variant, reason = "one message at a time")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    Command(Command),
    Success(Success),
    Failure(String),
    Data(Data),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Success {
    Empty,
    Text(String),
    Policies(Vec<(Name, Policy)>),
    Blocks(Vec<(Name, i64, bool)>),
    Image { compressed: bool, image: Vec<u8> },
    Infos(Dialect, Vec<(Name, Info)>),
    Consoles(Vec<Name>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// Left as it is.
    Statistics(Vec<u8>),
    Console(Millis, Vec<u8>),
}

impl Wire {
    /// Decodes what a daemon of this dialect understands.
    pub fn decode(bytes: &[u8], daemon: Dialect) -> der::Result<Self> {
        let mut outer = Reader::new(bytes);
        let mut fields = outer.value(der::SEQUENCE)?;
        outer.end()?;
        let mut header = fields.value(der::SEQUENCE)?;
        if header.integer()? != VERSION {
            return Err(Malformed("unknown version number"));
        }
        let sequence = header.octets()?.try_into().map_err(|_| Malformed("sequence is not 8 bytes"))?;
        let name = Name::parse(&header.text()?)?;
        header.end()?;
        let payload = Payload::decode(&mut fields, daemon)?;
        fields.end()?;
        Ok(Self { sequence, name, payload })
    }

    pub fn encode(&self) -> Vec<u8> {
        let header = [der::integer(VERSION), der::octets(&self.sequence), der::text(&self.name.to_string())];
        der::sequence(&[der::sequence(&header), self.payload.encode()])
    }

    /// With the length in front, as it goes over the socket.
    pub fn frame(&self) -> Vec<u8> {
        let message = self.encode();
        [&(message.len() as u32).to_be_bytes()[..], &message].concat()
    }

    /// The answer to this message.
    pub fn reply(&self, payload: Payload) -> Self {
        Self { sequence: self.sequence, name: self.name.clone(), payload }
    }
}

impl Payload {
    fn decode(fields: &mut Reader<'_>, daemon: Dialect) -> der::Result<Self> {
        let (number, mut content) = chosen(fields)?;
        let payload = match number {
            0 => Self::Command(Command::decode(&mut content, daemon)?),
            1 => Self::Success(Success::decode(&mut content)?),
            2 => Self::Failure(content.text()?),
            3 => Self::Data(Data::decode(&mut content)?),
            _ => return Err(Malformed("unknown payload")),
        };
        finish(content, payload)
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Command(command) => der::value(choice(0), &command.encode()),
            Self::Success(success) => der::value(choice(1), &success.encode()),
            Self::Failure(text) => der::value(choice(2), &der::text(text)),
            Self::Data(data) => der::value(choice(3), &data.encode()),
        }
    }

    pub fn success(text: &str) -> Self {
        Self::Success(Success::Text(text.to_owned()))
    }
}

impl Success {
    fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let (number, mut content) = chosen(reader)?;
        let success = match number {
            0 => content.null().map(|()| Self::Empty)?,
            1 => Self::Text(content.text()?),
            2 => Self::Policies(content.value(der::SEQUENCE)?.all(|entry| named(entry, Policy::decode))?),
            4 => Self::Blocks(content.value(der::SEQUENCE)?.all(block)?),
            6 => {
                let mut fields = content.value(der::SEQUENCE)?;
                let (compressed, image) = (fields.boolean()?, fields.octets()?.to_vec());
                finish(fields, Self::Image { compressed, image })?
            }
            9 => Self::decode_infos(&mut content, Dialect::V2_5)?,
            11 => Self::decode_infos(&mut content, Dialect::V2_6)?,
            12 => Self::Consoles(content.value(der::SEQUENCE)?.all(name)?),
            13 => Self::decode_infos(&mut content, Dialect::V2_7)?,
            _ => return Err(Malformed("unknown success")),
        };
        finish(content, success)
    }

    fn decode_infos(content: &mut Reader<'_>, dialect: Dialect) -> der::Result<Self> {
        let infos = content.value(der::SEQUENCE)?.all(|entry| named(entry, |info| Info::decode(info, dialect)))?;
        Ok(Self::Infos(dialect, infos))
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Empty => der::value(choice(0), &der::null()),
            Self::Text(text) => der::value(choice(1), &der::text(text)),
            Self::Policies(policies) => list(2, policies, |(name, policy)| encode_named(name, policy.encode())),
            Self::Blocks(blocks) => list(4, blocks, |(name, size, active)| {
                der::sequence(&[der::text(&name.to_string()), der::integer(*size), der::boolean(*active)])
            }),
            Self::Image { compressed, image } => {
                der::value(choice(6), &der::sequence(&[der::boolean(*compressed), der::octets(image)]))
            }
            Self::Infos(dialect, infos) => {
                let number = [9, 11, 13][*dialect as usize];
                list(number, infos, |(name, info)| encode_named(name, info.encode(*dialect)))
            }
            Self::Consoles(names) => list(12, names, |name| der::text(&name.to_string())),
        }
    }
}

fn list<T>(number: u8, entries: &[T], encode: impl Fn(&T) -> Vec<u8>) -> Vec<u8> {
    der::value(choice(number), &der::sequence(&entries.iter().map(encode).collect::<Vec<_>>()))
}

fn encode_named(name: &Name, content: Vec<u8>) -> Vec<u8> {
    der::sequence(&[der::text(&name.to_string()), content])
}

fn name(reader: &mut Reader<'_>) -> der::Result<Name> {
    Name::parse(&reader.text()?)
}

fn named<'a, T>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> der::Result<T>,
) -> der::Result<(Name, T)> {
    let mut fields = reader.value(der::SEQUENCE)?;
    let entry = (name(&mut fields)?, read(&mut fields)?);
    finish(fields, entry)
}

fn block(reader: &mut Reader<'_>) -> der::Result<(Name, i64, bool)> {
    let mut fields = reader.value(der::SEQUENCE)?;
    let entry = (name(&mut fields)?, fields.integer()?, fields.boolean()?);
    finish(fields, entry)
}

impl Data {
    fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let (number, mut content) = chosen(reader)?;
        match number {
            1 => Ok(Self::Statistics(content.rest().to_vec())),
            3 => {
                let mut fields = content.value(der::SEQUENCE)?;
                let (time, line) = (time::decode(&mut fields)?, fields.value(der::TEXT)?.rest().to_vec());
                fields.end()?;
                finish(content, Self::Console(time, line))
            }
            _ => Err(Malformed("unknown data")),
        }
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Statistics(content) => der::value(choice(1), content),
            Self::Console(time, line) => {
                der::value(choice(3), &der::sequence(&[time::encode(*time), der::value(der::TEXT, line)]))
            }
        }
    }
}
