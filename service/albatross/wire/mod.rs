//! The grammar of Albatross's messages, wire version 5: values, their bytes, and back. No I/O.
//!
//! ```text
//! Message ::= SEQUENCE { header, CHOICE { command [0], success [1], failure [2], data [3] } }
//! ```
//! All tags are explicit but one. What newer releases put in place of older commands keeps its old tag; [`Dialect`]
//! says of which release a command or answer is.

mod answer;
mod command;
mod config;
mod data;
mod decoder;
mod devices;
mod encoder;
mod info;
mod name;
mod policy;
#[cfg(test)]
mod properties;
mod time;
mod unikernel;

use std::fmt;

pub use answer::{BlockDeviceInfo, Success};
pub use command::{BlockCommand, Command, ConsoleCommand, PolicyCommand, StatisticsCommand};
pub use config::{Argv, Config, FailBehaviour, Image, Run, Typ};
pub use data::{Data, Interface, Memory, Statistics, TimeValue, Usage};
pub use devices::{Block, Bridge};
pub use info::{BlockInfo, BridgeInfo, Info};
pub use name::{InvalidAlbatrossName, Label, Name, Path};
pub use policy::Policy;
pub use unikernel::UnikernelCommand;

use decoder::Decoder;
use encoder::Encoder;

/// The wire version of every message here.
pub const VERSION: i64 = 5;

/// Which release's commands are spoken. The wire version has been the same through all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// 2.4 and 2.5.
    Before2_6,
    V2_6,
    V2_7,
}

impl Dialect {
    pub const NEWEST_FIRST: [Self; 3] = [Self::V2_7, Self::V2_6, Self::Before2_6];
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let release = match self {
            Self::Before2_6 => "before 2.6",
            Self::V2_6 => "of 2.6",
            Self::V2_7 => "of 2.7",
        };
        write!(f, "wire {VERSION}, commands {release}")
    }
}

/// What the tag calls UTF-8 and Albatross fills with any bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text(pub Vec<u8>);

impl Text {
    /// For a person: what is not UTF-8 is replaced.
    pub fn lossy(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.lossy(), f)
    }
}

/// A value that the wire, or the dialect that was asked for, has no words for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsayable {
    #[error("the message is longer than the 2147483647 bytes that one to Albatross can have")]
    TooLong,
    #[error("a time lies outside the years 0 to 9999")]
    Time,
    #[error("this version of Albatross ({dialect}) cannot be told of {what}: upgrade Albatross")]
    Dialect { what: &'static str, dialect: Dialect },
}

/// Bytes that are not a message of Albatross, or not one that is known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

impl Malformed {
    fn new(what: &str) -> Self {
        Self(what.into())
    }

    fn unknown(what: &str, tag: u32) -> Self {
        Self(format!("{what} [{tag}] is not known"))
    }
}

impl From<der::Error> for Malformed {
    fn from(error: der::Error) -> Self {
        Self(error.to_string())
    }
}

/// One message of either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Chosen by who asks, repeated in the answer. What comes later on a subscription has 0.
    pub sequence: u64,
    /// What it is about.
    pub name: Name,
    pub payload: Payload,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    Command(Command),
    Success(Success),
    /// Albatross's words on why not.
    Failure(Text),
    Data(Data),
}

/// A message as it is sent, its length in front. An image that was not given as bytes goes between `head` and `tail`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub head: Vec<u8>,
    /// Bytes that `head` has announced and does not hold.
    pub image_length: u64,
    pub tail: Vec<u8>,
}

impl Message {
    /// # Errors
    /// When the message says what its dialect cannot, or is too long for the length in front of it.
    pub fn encode(&self) -> Result<Frame, Unsayable> {
        let mut encoder = Encoder::default();
        encoder.sequence(|message| {
            message.sequence(|header| {
                header.integer(VERSION)?;
                header.octets(&self.sequence.to_be_bytes())?;
                self.name.encode(header)
            })?;
            self.payload.encode(message)
        })?;
        let (mut body, image_length, tail) = encoder.finish();
        // Read as a signed number over there: a negative one closes the connection.
        let length = body.len() as u64 + image_length + tail.len() as u64;
        let length = i32::try_from(length).map_err(|_| Unsayable::TooLong)?;
        let mut head = length.to_be_bytes().to_vec();
        head.append(&mut body);
        Ok(Frame { head, image_length, tail })
    }

    /// Reads the bytes of a frame without the length in front.
    ///
    /// # Errors
    /// When they are not exactly one message of this wire version.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes);
        let message = decoder.sequence(|message| {
            let (sequence, name) = message.sequence(|header| {
                let version = header.integer()?;
                if version != VERSION {
                    return Err(Malformed(format!("wire version {version} is not {VERSION}")));
                }
                Ok((u64::from_be_bytes(header.fixed_octets()?), Name::decode(header)?))
            })?;
            Ok(Self { sequence, name, payload: Payload::decode(message)? })
        })?;
        decoder.finish().map(|()| message)
    }
}

impl Payload {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        match self {
            Self::Command(command) => encoder.tagged(0, |inner| command.encode(inner)),
            Self::Success(success) => encoder.tagged(1, |inner| success.encode(inner)),
            Self::Failure(text) => encoder.tagged(2, |inner| inner.text(&text.0)),
            Self::Data(data) => encoder.tagged(3, |inner| data.encode(inner)),
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| match tag {
            0 => Command::decode(inner).map(Self::Command),
            1 => Success::decode(inner).map(Self::Success),
            2 => inner.text().map(Self::Failure),
            3 => Data::decode(inner).map(Self::Data),
            _ => Err(Malformed::unknown("payload", tag)),
        })
    }
}
