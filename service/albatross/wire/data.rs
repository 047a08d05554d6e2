//! What comes on a subscription.

use crate::domain::Timestamp;

use super::decoder::Decoder;
use super::encoder::Encoder;
use super::{Malformed, Text, Unsayable, time};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    Statistics(Box<Statistics>),
    /// A line of a console, as the unikernel wrote it.
    Console {
        at: Timestamp,
        line: Text,
    },
    /// A part of a block device's content; `None` ends it.
    Block(Option<Vec<u8>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statistics {
    pub usage: Usage,
    pub interfaces: Vec<Interface>,
    /// The hypervisor's own, by name.
    pub hypervisor: Option<Vec<(Text, i64)>>,
    pub memory: Option<Memory>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeValue {
    pub seconds: i64,
    pub microseconds: i64,
}

/// As of getrusage(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    pub user: TimeValue,
    pub system: TimeValue,
    /// maxrss, ixrss, idrss, isrss, minflt, majflt, nswap, inblock, oublock, msgsnd, msgrcv, nsignals, nvcsw, nivcsw.
    pub counters: [i64; 14],
}

/// A network interface on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The device's name in the unikernel.
    pub bridge: Text,
    /// flags, send length, greatest send length, send drops, MTU.
    pub numbers: [i64; 5],
    /// baud rate; packets and errors in; packets and errors out; collisions; bytes in and out; multicasts in and out;
    /// dropped in and out.
    pub counters: [i64; 12],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// Sizes: virtual, resident, text, data, stack; and run time.
    pub counters: [i64; 6],
    pub copied_on_write: i64,
    pub start: TimeValue,
}

impl Data {
    pub(super) fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        match self {
            Self::Statistics(statistics) => encoder.tagged(1, |inner| statistics.encode(inner)),
            Self::Console { at, line } => encoder.tagged(3, |inner| {
                inner.sequence(|console| {
                    time::encode(*at, console)?;
                    console.text(&line.0)
                })
            }),
            Self::Block(Some(part)) => encoder.tagged(4, |inner| inner.tagged(0, |inner| inner.octets(part))),
            Self::Block(None) => encoder.tagged(4, |inner| inner.tagged(1, Encoder::null)),
        }
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| match tag {
            1 => Statistics::decode(inner).map(|statistics| Self::Statistics(Box::new(statistics))),
            3 => inner.sequence(|console| Ok(Self::Console { at: time::decode(console)?, line: console.text()? })),
            4 => inner.choice(|tag, inner| match tag {
                0 => Ok(Self::Block(Some(inner.octets()?.to_vec()))),
                1 => inner.null().map(|()| Self::Block(None)),
                _ => Err(Malformed::unknown("part of a block device", tag)),
            }),
            _ => Err(Malformed::unknown("data", tag)),
        })
    }
}

impl Statistics {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|statistics| {
            self.usage.encode(statistics)?;
            statistics.sequence_of(&self.interfaces, |item, interface| interface.encode(item))?;
            if let Some(hypervisor) = &self.hypervisor {
                statistics.tagged(0, |inner| {
                    inner.sequence_of(hypervisor, |item, (key, value)| {
                        item.sequence(|pair| {
                            pair.text(&key.0)?;
                            pair.counter(*value)
                        })
                    })
                })?;
            }
            self.memory.as_ref().map_or(Ok(()), |memory| memory.encode(statistics))
        })
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|statistics| {
            Ok(Self {
                usage: Usage::decode(statistics)?,
                interfaces: statistics.sequence_of(Interface::decode)?,
                hypervisor: statistics.optional(0, |inner| {
                    inner.sequence_of(|item| item.sequence(|pair| Ok((pair.text()?, pair.counter()?))))
                })?,
                memory: statistics.optional(1, Memory::decode)?,
            })
        })
    }
}

impl TimeValue {
    fn encode(self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|value| {
            value.counter(self.seconds)?;
            value.integer(self.microseconds)
        })
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|value| Ok(Self { seconds: value.counter()?, microseconds: value.integer()? }))
    }
}

impl Usage {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|usage| {
            self.user.encode(usage)?;
            self.system.encode(usage)?;
            self.counters.iter().try_for_each(|counter| usage.counter(*counter))
        })
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|usage| {
            Ok(Self { user: TimeValue::decode(usage)?, system: TimeValue::decode(usage)?, counters: counters(usage)? })
        })
    }
}

fn counters<const N: usize>(decoder: &mut Decoder<'_>) -> Result<[i64; N], Malformed> {
    let mut counters = [0; N];
    counters.iter_mut().try_for_each(|counter| decoder.counter().map(|value| *counter = value))?;
    Ok(counters)
}

impl Interface {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|interface| {
            interface.text(&self.bridge.0)?;
            self.numbers.iter().try_for_each(|number| interface.integer(*number))?;
            self.counters.iter().try_for_each(|counter| interface.counter(*counter))
        })
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|interface| {
            let bridge = interface.text()?;
            let mut numbers = [0; 5];
            numbers.iter_mut().try_for_each(|number| interface.integer().map(|value| *number = value))?;
            Ok(Self { bridge, numbers, counters: counters(interface)? })
        })
    }
}

impl Memory {
    /// The one implicit tag of the grammar: `[1]` stands in the place of the sequence's own.
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.tagged(1, |memory| {
            self.counters.iter().try_for_each(|counter| memory.counter(*counter))?;
            memory.integer(self.copied_on_write)?;
            self.start.encode(memory)
        })
    }

    fn decode(memory: &mut Decoder<'_>) -> Result<Self, Malformed> {
        Ok(Self { counters: counters(memory)?, copied_on_write: memory.integer()?, start: TimeValue::decode(memory)? })
    }
}
