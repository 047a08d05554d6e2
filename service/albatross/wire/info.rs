//! What Albatross tells of a unikernel that runs.

use std::collections::BTreeSet;

use crate::domain::Timestamp;

use super::config::{
    Argv, FailBehaviour, Typ, decode_arguments, decode_cpuids, decode_machine, encode_arguments, encode_cpuids,
    encode_machine,
};
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::{Dialect, Malformed, Text, Unsayable, time};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub typ: Typ,
    pub startup: Option<i64>,
    pub fail_behaviour: FailBehaviour,
    pub cpuids: BTreeSet<i64>,
    /// MiB.
    pub memory: i64,
    /// SHA-256 of the image.
    pub digest: [u8; 32],
    pub blocks: BTreeSet<BlockInfo>,
    pub bridges: BTreeSet<BridgeInfo>,
    pub arguments: Option<Argv>,
    pub started: Option<Timestamp>,
    pub cpus: Option<i64>,
    pub linux_boot_partition: Option<Text>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockInfo {
    pub unikernel_device: Text,
    pub host_device: Text,
    /// Bytes.
    pub sector_size: i64,
    /// MiB.
    pub size: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeInfo {
    pub unikernel_device: Text,
    pub host_device: Text,
    pub mac: [u8; 6],
}

impl Info {
    pub(super) fn encode(&self, dialect: Dialect, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|info| {
            self.typ.encode(info)?;
            match self.startup {
                Some(_) if dialect == Dialect::Before2_6 => {
                    return Err(Unsayable::Dialect { what: "an order of start", dialect });
                }
                Some(startup) => info.integer(startup)?,
                None => {}
            }
            self.fail_behaviour.encode(info)?;
            encode_cpuids(&self.cpuids, dialect, info)?;
            info.integer(self.memory)?;
            info.octets(&self.digest)?;
            self.encode_devices(info)?;
            encode_arguments(self.arguments.as_ref(), info)?;
            if let Some(started) = self.started {
                info.tagged(3, |inner| time::encode(started, inner))?;
            }
            encode_machine(self.cpus, self.linux_boot_partition.as_ref(), 4, dialect, info)
        })
    }

    fn encode_devices(&self, info: &mut Encoder) -> Result<(), Unsayable> {
        if !self.blocks.is_empty() {
            info.tagged(0, |inner| inner.set_of(&self.blocks, |member, block| block.encode(member)))?;
        }
        if !self.bridges.is_empty() {
            info.tagged(1, |inner| inner.set_of(&self.bridges, |member, bridge| bridge.encode(member)))?;
        }
        Ok(())
    }

    pub(super) fn decode(dialect: Dialect, decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|info| {
            let typ = Typ::decode(info)?;
            let startup = if dialect == Dialect::Before2_6 { None } else { info.optional_integer()? };
            let fail_behaviour = FailBehaviour::decode(info)?;
            let cpuids = decode_cpuids(dialect, info)?;
            let (memory, digest) = (info.integer()?, info.fixed_octets()?);
            let blocks = info.optional(0, |blocks| blocks.set_of(BlockInfo::decode))?.unwrap_or_default();
            let bridges = info.optional(1, |bridges| bridges.set_of(BridgeInfo::decode))?.unwrap_or_default();
            let arguments = decode_arguments(info)?;
            let started = info.optional(3, time::decode)?;
            let (cpus, linux_boot_partition) = decode_machine(4, dialect, info)?;
            Ok(Self {
                typ,
                startup,
                fail_behaviour,
                cpuids,
                memory,
                digest,
                blocks,
                bridges,
                arguments,
                started,
                cpus,
                linux_boot_partition,
            })
        })
    }
}

impl BlockInfo {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|block| {
            block.text(&self.unikernel_device.0)?;
            block.text(&self.host_device.0)?;
            block.integer(self.sector_size)?;
            block.integer(self.size)
        })
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|block| {
            Ok(Self {
                unikernel_device: block.text()?,
                host_device: block.text()?,
                sector_size: block.integer()?,
                size: block.integer()?,
            })
        })
    }
}

impl BridgeInfo {
    fn encode(&self, encoder: &mut Encoder) -> Result<(), Unsayable> {
        encoder.sequence(|bridge| {
            bridge.text(&self.unikernel_device.0)?;
            bridge.text(&self.host_device.0)?;
            bridge.octets(&self.mac)
        })
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        decoder.sequence(|bridge| {
            Ok(Self { unikernel_device: bridge.text()?, host_device: bridge.text()?, mac: bridge.fixed_octets()? })
        })
    }
}
