//! What is asked of Albatross.

use crate::domain::Timestamp;

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::policy::Policy;
use super::{Malformed, Text, UnikernelCommand, Unsayable, time};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Console(ConsoleCommand),
    Statistics(StatisticsCommand),
    Unikernel(UnikernelCommand),
    Policy(PolicyCommand),
    Block(BlockCommand),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsoleCommand {
    /// From the daemon to its console daemon: a console for so many unikernels of the path.
    Add(i64),
    SubscribeSince(Timestamp),
    /// With so many lines of history. A negative number makes the console daemon eat all memory: never send one.
    SubscribeCount(i64),
    ListInactive,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatisticsCommand {
    Add {
        vmm_device: Text,
        pid: i64,
        /// Bridge and tap of each network device.
        network: Vec<(Text, Text)>,
    },
    Remove,
    Subscribe,
    Initial,
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
    /// So many MiB.
    Add(i64),
    Remove,
    AddOld {
        size: i64,
        compressed: bool,
        data: Option<Vec<u8>>,
    },
    SetOld {
        compressed: bool,
        data: Vec<u8>,
    },
    /// Compressed this hard.
    DumpOld(i64),
    Dump(i64),
    /// Compressed or not; the content follows.
    Set(bool),
}

impl Command {
    pub(super) fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        match self {
            Self::Console(command) => encoder.tagged(0, |inner| command.encode(inner)),
            Self::Statistics(command) => encoder.tagged(1, |inner| command.encode(inner)),
            Self::Unikernel(command) => encoder.tagged(3, |inner| command.encode(inner)),
            Self::Policy(command) => encoder.tagged(4, |inner| command.encode(inner)),
            Self::Block(command) => encoder.tagged(5, |inner| command.encode(inner)),
        }
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| match tag {
            0 => ConsoleCommand::decode(inner).map(Self::Console),
            1 => StatisticsCommand::decode(inner).map(Self::Statistics),
            3 => UnikernelCommand::decode(inner).map(Self::Unikernel),
            4 => PolicyCommand::decode(inner).map(Self::Policy),
            5 => BlockCommand::decode(inner).map(Self::Block),
            _ => Err(Malformed::unknown("command", tag)),
        })
    }
}

impl ConsoleCommand {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        match self {
            Self::Add(unikernels) => encoder.tagged(0, |inner| inner.integer(*unikernels)),
            Self::SubscribeSince(since) => {
                encoder.tagged(2, |inner| inner.tagged(0, |inner| time::encode(*since, inner)))
            }
            Self::SubscribeCount(count) => encoder.tagged(2, |inner| inner.tagged(1, |inner| inner.integer(*count))),
            Self::ListInactive => encoder.tagged(3, Encoder::null),
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| match tag {
            0 => inner.integer().map(Self::Add),
            2 => inner.choice(|tag, inner| match tag {
                0 => time::decode(inner).map(Self::SubscribeSince),
                1 => inner.integer().map(Self::SubscribeCount),
                _ => Err(Malformed::unknown("kind of subscription", tag)),
            }),
            3 => inner.null().map(|()| Self::ListInactive),
            _ => Err(Malformed::unknown("command about a console", tag)),
        })
    }
}

impl StatisticsCommand {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        match self {
            Self::Add { vmm_device, pid, network } => encoder.tagged(0, |inner| {
                inner.sequence(|add| {
                    add.text(&vmm_device.0)?;
                    add.integer(*pid)?;
                    add.sequence_of(network, |item, (bridge, tap)| {
                        item.sequence(|pair| {
                            pair.text(&bridge.0)?;
                            pair.text(&tap.0)
                        })
                    })
                })
            }),
            Self::Remove => encoder.tagged(1, Encoder::null),
            Self::Subscribe => encoder.tagged(2, Encoder::null),
            Self::Initial => encoder.tagged(3, Encoder::null),
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| match tag {
            0 => inner.sequence(|add| {
                Ok(Self::Add {
                    vmm_device: add.text()?,
                    pid: add.integer()?,
                    network: add.sequence_of(|item| item.sequence(|pair| Ok((pair.text()?, pair.text()?))))?,
                })
            }),
            1 => inner.null().map(|()| Self::Remove),
            2 => inner.null().map(|()| Self::Subscribe),
            3 => inner.null().map(|()| Self::Initial),
            _ => Err(Malformed::unknown("command about statistics", tag)),
        })
    }
}

impl PolicyCommand {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        match self {
            Self::Info => encoder.tagged(0, Encoder::null),
            Self::Add(policy) => encoder.tagged(1, |inner| policy.encode(inner)),
            Self::Remove => encoder.tagged(2, Encoder::null),
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| match tag {
            0 => inner.null().map(|()| Self::Info),
            1 => Policy::decode(inner).map(Self::Add),
            2 => inner.null().map(|()| Self::Remove),
            _ => Err(Malformed::unknown("command about a policy", tag)),
        })
    }
}

impl BlockCommand {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        match self {
            Self::Info => encoder.tagged(0, Encoder::null),
            Self::Add(size) => encoder.tagged(1, |inner| inner.integer(*size)),
            Self::Remove => encoder.tagged(2, Encoder::null),
            Self::AddOld { size, compressed, data } => encoder.tagged(3, |inner| {
                inner.sequence(|add| {
                    add.integer(*size)?;
                    add.boolean(*compressed)?;
                    data.as_ref().map_or(Ok(()), |data| add.octets(data))
                })
            }),
            Self::SetOld { compressed, data } => encoder.tagged(4, |inner| {
                inner.sequence(|set| {
                    set.boolean(*compressed)?;
                    set.octets(data)
                })
            }),
            Self::DumpOld(level) => encoder.tagged(5, |inner| inner.integer(*level)),
            Self::Dump(level) => encoder.tagged(6, |inner| inner.integer(*level)),
            Self::Set(compressed) => encoder.tagged(7, |inner| inner.boolean(*compressed)),
        }
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| match tag {
            0 => inner.null().map(|()| Self::Info),
            1 => inner.integer().map(Self::Add),
            2 => inner.null().map(|()| Self::Remove),
            3 => inner.sequence(|add| {
                let (size, compressed) = (add.integer()?, add.boolean()?);
                Ok(Self::AddOld { size, compressed, data: add.optional_octets()?.map(<[u8]>::to_vec) })
            }),
            4 => inner.sequence(|set| Ok(Self::SetOld { compressed: set.boolean()?, data: set.octets()?.to_vec() })),
            5 => inner.integer().map(Self::DumpOld),
            6 => inner.integer().map(Self::Dump),
            7 => inner.boolean().map(Self::Set),
            _ => Err(Malformed::unknown("command about a block device", tag)),
        })
    }
}
