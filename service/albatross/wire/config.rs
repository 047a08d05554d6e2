//! How a unikernel is to run.

use std::collections::BTreeSet;
use std::fmt;

use super::decoder::Decoder;
use super::devices::{Block, Bridge};
use super::encoder::Encoder;
use super::{Dialect, Malformed, Text, Unsayable};

/// All that a create says. The oldest dialect has no word for `startup` and `add_name`: read in it, a config has
/// those that Albatross then assumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub typ: Typ,
    /// The image is zlib-compressed.
    pub compressed: bool,
    pub image: Image,
    pub run: Run,
}

/// What a restart may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub startup: Option<i64>,
    /// Put `--name=<label>` before the arguments.
    pub add_name: bool,
    pub fail_behaviour: FailBehaviour,
    pub cpuids: BTreeSet<i64>,
    /// MiB.
    pub memory: i64,
    pub blocks: BTreeSet<Block>,
    pub bridges: BTreeSet<Bridge>,
    pub arguments: Option<Argv>,
    pub cpus: Option<i64>,
    pub linux_boot_partition: Option<Text>,
}

/// What executes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typ {
    Solo5,
    BHyve,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Image {
    Bytes(Vec<u8>),
    /// So many bytes, sent between a frame's head and tail.
    Elsewhere(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailBehaviour {
    Quit,
    /// With these exit codes; none: with every one that may restart.
    Restart(BTreeSet<i64>),
}

/// A unikernel's arguments. They can hold secrets: `Debug` shows how many there are and nothing else.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Argv(pub Vec<Text>);

impl fmt::Debug for Argv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} arguments", self.0.len())
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Elsewhere(length) => write!(f, "{length} bytes elsewhere"),
        }
    }
}

impl Config {
    pub(super) fn encode(&self, dialect: Dialect, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|config| {
            self.typ.encode(config)?;
            config.boolean(self.compressed)?;
            match &self.image {
                Image::Bytes(bytes) => config.octets(bytes)?,
                Image::Elsewhere(length) => config.octets_elsewhere(*length)?,
            }
            self.run.encode_start(dialect, config)?;
            self.run.fail_behaviour.encode(config)?;
            self.run.encode_resources(dialect, config)
        })
    }

    pub(super) fn decode(dialect: Dialect, decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|config| {
            let typ = Typ::decode(config)?;
            let compressed = config.boolean()?;
            let image = Image::Bytes(config.octets()?.to_vec());
            let start = Run::decode_start(dialect, config)?;
            let fail_behaviour = FailBehaviour::decode(config)?;
            let run = Run::decode_resources(dialect, config, start, fail_behaviour)?;
            Ok(Self { typ, compressed, image, run })
        })
    }
}

impl Run {
    pub(super) fn encode(&self, dialect: Dialect, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|run| {
            self.fail_behaviour.encode(run)?;
            self.encode_start(dialect, run)?;
            self.encode_resources(dialect, run)
        })
    }

    pub(super) fn decode(dialect: Dialect, decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|run| {
            let fail_behaviour = FailBehaviour::decode(run)?;
            let start = Self::decode_start(dialect, run)?;
            Self::decode_resources(dialect, run, start, fail_behaviour)
        })
    }

    fn encode_start(&self, dialect: Dialect, encoder: &mut Encoder) -> Result<(), Unsayable> {
        if dialect == Dialect::Before2_6 {
            // Those releases never added a name, and later ones read their creates as wanting one: no word for either.
            return match self.startup {
                Some(_) => Err(Unsayable::Dialect { what: "an order of start", dialect }),
                None => Ok(()),
            };
        }
        if let Some(startup) = self.startup {
            encoder.integer(startup)?;
        }
        encoder.boolean(self.add_name)
    }

    fn decode_start(dialect: Dialect, decoder: &mut Decoder<'_>) -> Result<(Option<i64>, bool), Malformed> {
        if dialect == Dialect::Before2_6 {
            return Ok((None, true));
        }
        Ok((decoder.optional_integer()?, decoder.boolean()?))
    }

    fn encode_resources(&self, dialect: Dialect, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encode_cpuids(&self.cpuids, dialect, encoder)?;
        encoder.integer(self.memory)?;
        if !self.blocks.is_empty() {
            encoder.tagged(0, |blocks| blocks.set_of(&self.blocks, |member, block| block.encode(member)))?;
        }
        if !self.bridges.is_empty() {
            encoder.tagged(1, |bridges| bridges.set_of(&self.bridges, |member, bridge| bridge.encode(member)))?;
        }
        encode_arguments(self.arguments.as_ref(), encoder)?;
        encode_machine(self.cpus, self.linux_boot_partition.as_ref(), 3, dialect, encoder)
    }

    fn decode_resources(
        dialect: Dialect,
        decoder: &mut Decoder<'_>,
        (startup, add_name): (Option<i64>, bool),
        fail_behaviour: FailBehaviour,
    ) -> Result<Self, Malformed> {
        let cpuids = decode_cpuids(dialect, decoder)?;
        let memory = decoder.integer()?;
        let blocks = decoder.optional(0, |blocks| blocks.set_of(Block::decode))?.unwrap_or_default();
        let bridges = decoder.optional(1, |bridges| bridges.set_of(Bridge::decode))?.unwrap_or_default();
        let arguments = decode_arguments(decoder)?;
        let (cpus, linux_boot_partition) = decode_machine(3, dialect, decoder)?;
        Ok(Self {
            startup,
            add_name,
            fail_behaviour,
            cpuids,
            memory,
            blocks,
            bridges,
            arguments,
            cpus,
            linux_boot_partition,
        })
    }
}

/// Before 2.7 a unikernel had exactly one core.
pub(super) fn encode_cpuids(cpuids: &BTreeSet<i64>, dialect: Dialect, encoder: &mut Encoder) -> Result<(), Unsayable> {
    if dialect == Dialect::V2_7 {
        return encoder.set_of(cpuids, |member, cpu| member.integer(*cpu));
    }
    match cpuids.first() {
        Some(cpu) if cpuids.len() == 1 => encoder.integer(*cpu),
        _ => Err(Unsayable::Dialect { what: "any but exactly one core", dialect }),
    }
}

pub(super) fn decode_cpuids(dialect: Dialect, decoder: &mut Decoder<'_>) -> Result<BTreeSet<i64>, Malformed> {
    if dialect == Dialect::V2_7 {
        return decoder.set_of(Decoder::integer);
    }
    decoder.integer().map(|cpu| BTreeSet::from([cpu]))
}

pub(super) fn encode_arguments(arguments: Option<&Argv>, encoder: &mut Encoder) -> Result<(), Unsayable> {
    let Some(Argv(arguments)) = arguments else { return Ok(()) };
    encoder.tagged(2, |inner| inner.sequence_of(arguments, |item, argument| item.text(&argument.0)))
}

pub(super) fn decode_arguments(decoder: &mut Decoder<'_>) -> Result<Option<Argv>, Malformed> {
    decoder.optional(2, |inner| inner.sequence_of(Decoder::text).map(Argv))
}

/// The parts that came with 2.7, under `[first]` and the tag after it.
pub(super) fn encode_machine(
    cpus: Option<i64>,
    linux_boot_partition: Option<&Text>,
    first: u32,
    dialect: Dialect,
    encoder: &mut Encoder,
) -> Result<(), Unsayable> {
    if dialect != Dialect::V2_7 {
        // One core and no partition is what the older releases mean without saying it.
        return match (cpus, linux_boot_partition) {
            (None | Some(1), None) => Ok(()),
            _ => Err(Unsayable::Dialect { what: "several cores or a boot partition", dialect }),
        };
    }
    if let Some(cpus) = cpus {
        encoder.tagged(first, |inner| inner.integer(cpus))?;
    }
    if let Some(partition) = linux_boot_partition {
        encoder.tagged(first + 1, |inner| inner.text(&partition.0))?;
    }
    Ok(())
}

pub(super) fn decode_machine(
    first: u32,
    dialect: Dialect,
    decoder: &mut Decoder<'_>,
) -> Result<(Option<i64>, Option<Text>), Malformed> {
    if dialect != Dialect::V2_7 {
        return Ok((None, None));
    }
    Ok((decoder.optional(first, Decoder::integer)?, decoder.optional(first + 1, Decoder::text)?))
}

impl Typ {
    pub(super) fn encode(self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        let tag = match self {
            Self::Solo5 => 0,
            Self::BHyve => 1,
        };
        encoder.tagged(tag, Encoder::null)
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| {
            inner.null()?;
            match tag {
                0 => Ok(Self::Solo5),
                1 => Ok(Self::BHyve),
                _ => Err(Malformed::unknown("type of unikernel", tag)),
            }
        })
    }
}

impl FailBehaviour {
    pub(super) fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        match self {
            Self::Quit => encoder.tagged(0, Encoder::null),
            Self::Restart(codes) => {
                encoder.tagged(1, |inner| inner.set_of(codes, |member, code| member.integer(*code)))
            }
        }
    }

    pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.choice(|tag, inner| match tag {
            0 => inner.null().map(|()| Self::Quit),
            1 => inner.set_of(Decoder::integer).map(Self::Restart),
            _ => Err(Malformed::unknown("fail behaviour", tag)),
        })
    }
}
