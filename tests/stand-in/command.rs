//! The grammar of the commands.

use crate::config::{Arguments, Config, Dialect};
use crate::der::{self, Malformed, Reader, choice};
use crate::info::Policy;
use crate::time::{self, Millis};

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

/// The number of an explicit choice, and what is in it.
pub fn chosen<'a>(reader: &mut Reader<'a>) -> der::Result<(u8, Reader<'a>)> {
    let (tag, content) = reader.any()?;
    if tag & 0xe0 == 0xa0 { Ok((tag & 0x1f, content)) } else { Err(Malformed("not a choice")) }
}

/// Nothing may follow in it.
pub fn finish<T>(content: Reader<'_>, value: T) -> der::Result<T> {
    content.end().map(|()| value)
}

impl Command {
    pub fn decode(reader: &mut Reader<'_>, daemon: Dialect) -> der::Result<Self> {
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

    pub fn encode(&self) -> Vec<u8> {
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
