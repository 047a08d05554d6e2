//! Albatross's messages, written from its grammar and apart from the service's own encoder.

use crate::config::{Arguments, Config, Dialect, Info, Policy};
use crate::der::{self, Malformed, Reader, choice};
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
pub enum Command {
    Console(ConsoleCommand),
    Statistics(StatsCommand),
    Unikernel(UnikernelCommand),
    Policy(PolicyCommand),
    Block(BlockCommand),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleCommand {
    Add(i64),
    Since(Millis),
    Count(i64),
    ListInactive,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatsCommand {
    /// Only albatrossd sends it; its content is left as it is.
    Add(Vec<u8>),
    Remove,
    Subscribe,
    Initial,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnikernelCommand {
    Destroy,
    Create { dialect: Dialect, force: bool, config: Config },
    Get(i64),
    Restart(Option<(Dialect, Arguments)>),
    Info(Dialect),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyCommand {
    Info,
    Add(Policy),
    Remove,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockCommand {
    Info,
    Add(i64),
    Remove,
    /// What moves contents of block devices: known, not answered by the stand-in.
    Other(u8, Vec<u8>),
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

/// The number of an explicit choice, and what is in it.
fn chosen<'a>(reader: &mut Reader<'a>) -> der::Result<(u8, Reader<'a>)> {
    let (tag, content) = reader.any()?;
    if tag & 0xe0 == 0xa0 { Ok((tag & 0x1f, content)) } else { Err(Malformed("not a choice")) }
}

fn finish<T>(content: Reader<'_>, value: T) -> der::Result<T> {
    content.end().map(|()| value)
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

impl Command {
    fn decode(reader: &mut Reader<'_>, daemon: Dialect) -> der::Result<Self> {
        let (number, mut content) = chosen(reader)?;
        let command = match number {
            0 => Self::Console(ConsoleCommand::decode(&mut content, daemon)?),
            1 => Self::Statistics(StatsCommand::decode(&mut content)?),
            3 => Self::Unikernel(UnikernelCommand::decode(&mut content, daemon)?),
            4 => Self::Policy(PolicyCommand::decode(&mut content)?),
            5 => Self::Block(BlockCommand::decode(&mut content)?),
            _ => return Err(Malformed("unknown command")),
        };
        finish(content, command)
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Console(command) => der::value(choice(0), &command.encode()),
            Self::Statistics(command) => der::value(choice(1), &command.encode()),
            Self::Unikernel(command) => der::value(choice(3), &command.encode()),
            Self::Policy(command) => der::value(choice(4), &command.encode()),
            Self::Block(command) => der::value(choice(5), &command.encode()),
        }
    }

    /// A short word for counts and for what misbehaves.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Console(_) => "console",
            Self::Statistics(_) => "statistics",
            Self::Unikernel(UnikernelCommand::Destroy) => "destroy",
            Self::Unikernel(UnikernelCommand::Create { force: false, .. }) => "create",
            Self::Unikernel(UnikernelCommand::Create { force: true, .. }) => "force-create",
            Self::Unikernel(UnikernelCommand::Get(_)) => "get",
            Self::Unikernel(UnikernelCommand::Restart(_)) => "restart",
            Self::Unikernel(UnikernelCommand::Info(_)) => "info",
            Self::Policy(_) => "policy",
            Self::Block(_) => "block",
        }
    }
}

impl ConsoleCommand {
    fn decode(reader: &mut Reader<'_>, daemon: Dialect) -> der::Result<Self> {
        let (number, mut content) = chosen(reader)?;
        let command = match number {
            0 => Self::Add(content.integer()?),
            2 => {
                let (number, mut from) = chosen(&mut content)?;
                let command = match number {
                    0 => Self::Since(time::decode(&mut from)?),
                    1 => Self::Count(from.integer()?),
                    _ => return Err(Malformed("unknown subscription")),
                };
                finish(from, command)?
            }
            3 if daemon > Dialect::V2_5 => content.null().map(|()| Self::ListInactive)?,
            _ => return Err(Malformed("unknown console command")),
        };
        finish(content, command)
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Add(count) => der::value(choice(0), &der::integer(*count)),
            Self::Since(time) => der::value(choice(2), &der::value(choice(0), &time::encode(*time))),
            Self::Count(count) => der::value(choice(2), &der::value(choice(1), &der::integer(*count))),
            Self::ListInactive => der::value(choice(3), &der::null()),
        }
    }
}

impl StatsCommand {
    fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let (number, mut content) = chosen(reader)?;
        let command = match number {
            0 => return Ok(Self::Add(content.rest().to_vec())),
            1 => content.null().map(|()| Self::Remove)?,
            2 => content.null().map(|()| Self::Subscribe)?,
            3 => content.null().map(|()| Self::Initial)?,
            _ => return Err(Malformed("unknown statistics command")),
        };
        finish(content, command)
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Add(content) => der::value(choice(0), content),
            Self::Remove => der::value(choice(1), &der::null()),
            Self::Subscribe => der::value(choice(2), &der::null()),
            Self::Initial => der::value(choice(3), &der::null()),
        }
    }
}

impl UnikernelCommand {
    fn decode(reader: &mut Reader<'_>, daemon: Dialect) -> der::Result<Self> {
        let (number, mut content) = chosen(reader)?;
        let known = |dialect| if dialect <= daemon { Ok(dialect) } else { Err(Malformed("newer than the daemon")) };
        let mut create = |dialect, force| {
            let dialect = known(dialect)?;
            Ok(Self::Create { dialect, force, config: Config::decode(&mut content, dialect)? })
        };
        let command = match number {
            9 => create(Dialect::V2_5, false)?,
            10 => create(Dialect::V2_5, true)?,
            16 => create(Dialect::V2_6, false)?,
            17 => create(Dialect::V2_6, true)?,
            20 => create(Dialect::V2_7, false)?,
            21 => create(Dialect::V2_7, true)?,
            3 => content.null().map(|()| Self::Destroy)?,
            11 => Self::Get(content.integer()?),
            14 => Self::decode_restart(&mut content, known)?,
            15 => content.null().map(|()| Self::Info(Dialect::V2_5))?,
            18 => Self::Info(content.null().and_then(|()| known(Dialect::V2_6))?),
            19 => Self::Info(content.null().and_then(|()| known(Dialect::V2_7))?),
            _ => return Err(Malformed("unknown unikernel command")),
        };
        finish(content, command)
    }

    fn decode_restart(reader: &mut Reader<'_>, known: impl Fn(Dialect) -> der::Result<Dialect>) -> der::Result<Self> {
        let (number, mut content) = chosen(reader)?;
        let dialect = match number {
            0 => return content.null().map(|()| Self::Restart(None)),
            1 => known(Dialect::V2_5)?,
            2 => known(Dialect::V2_6)?,
            3 => known(Dialect::V2_7)?,
            _ => return Err(Malformed("unknown restart")),
        };
        let arguments = Arguments::decode(&mut content, dialect)?;
        finish(content, Self::Restart(Some((dialect, arguments))))
    }

    fn encode(&self) -> Vec<u8> {
        let by_dialect = |dialect: &Dialect, numbers: [u8; 3]| choice(numbers[*dialect as usize]);
        match self {
            Self::Destroy => der::value(choice(3), &der::null()),
            Self::Create { dialect, force, config } => {
                let numbers = if *force { [10, 17, 21] } else { [9, 16, 20] };
                der::value(by_dialect(dialect, numbers), &config.encode(*dialect))
            }
            Self::Get(level) => der::value(choice(11), &der::integer(*level)),
            Self::Restart(None) => der::value(choice(14), &der::value(choice(0), &der::null())),
            Self::Restart(Some((dialect, arguments))) => {
                der::value(choice(14), &der::value(by_dialect(dialect, [1, 2, 3]), &arguments.encode(*dialect)))
            }
            Self::Info(dialect) => der::value(by_dialect(dialect, [15, 18, 19]), &der::null()),
        }
    }
}

impl PolicyCommand {
    fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let (number, mut content) = chosen(reader)?;
        let command = match number {
            0 => content.null().map(|()| Self::Info)?,
            1 => Self::Add(Policy::decode(&mut content)?),
            2 => content.null().map(|()| Self::Remove)?,
            _ => return Err(Malformed("unknown policy command")),
        };
        finish(content, command)
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Info => der::value(choice(0), &der::null()),
            Self::Add(policy) => der::value(choice(1), &policy.encode()),
            Self::Remove => der::value(choice(2), &der::null()),
        }
    }
}

impl BlockCommand {
    fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let (number, mut content) = chosen(reader)?;
        let command = match number {
            0 => content.null().map(|()| Self::Info)?,
            1 => Self::Add(content.integer()?),
            2 => content.null().map(|()| Self::Remove)?,
            3..=7 => return Ok(Self::Other(number, content.rest().to_vec())),
            _ => return Err(Malformed("unknown block command")),
        };
        finish(content, command)
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Info => der::value(choice(0), &der::null()),
            Self::Add(size) => der::value(choice(1), &der::integer(*size)),
            Self::Remove => der::value(choice(2), &der::null()),
            Self::Other(number, content) => der::value(choice(*number), content),
        }
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
