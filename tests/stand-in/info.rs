//! The grammar of what the daemon tells of unikernels, and of policies.

use crate::config::{
    Dialect, FailBehaviour, Typ, decode_cpuids, encode_cpuids, encode_set, encode_texts, mac, optional_list,
};
use crate::der::{self, INTEGER, Reader, SET, choice};
use crate::time::{self, Millis};
use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockInfo {
    pub unikernel_device: String,
    pub host_device: String,
    pub sector_size: i64,
    pub size: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetInfo {
    pub unikernel_device: String,
    pub host_device: String,
    pub mac: [u8; 6],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    pub typ: Typ,
    pub startup: Option<i64>,
    pub fail_behaviour: FailBehaviour,
    pub cpuids: BTreeSet<i64>,
    pub memory: i64,
    pub digest: Vec<u8>,
    pub blocks: Vec<BlockInfo>,
    pub bridges: Vec<NetInfo>,
    pub arguments: Option<Vec<String>>,
    pub started: Option<Millis>,
    pub cpus: Option<i64>,
    pub boot_partition: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub cpuids: BTreeSet<i64>,
    pub unikernels: i64,
    pub memory: i64,
    pub block: Option<i64>,
    pub bridges: BTreeSet<String>,
}

impl Info {
    pub fn decode(reader: &mut Reader<'_>, dialect: Dialect) -> der::Result<Self> {
        let mut fields = reader.value(der::SEQUENCE)?;
        let typ = Typ::decode(&mut fields)?;
        let with_startup = dialect > Dialect::V2_5 && fields.peek() == Some(INTEGER);
        let startup = if with_startup { Some(fields.integer()?) } else { None };
        let fail_behaviour = FailBehaviour::decode(&mut fields)?;
        let cpuids = decode_cpuids(&mut fields, dialect)?;
        let memory = fields.integer()?;
        let digest = fields.octets()?.to_vec();
        let blocks = optional_list(&mut fields, 0, SET, BlockInfo::decode)?.unwrap_or_default();
        let bridges = optional_list(&mut fields, 1, SET, NetInfo::decode)?.unwrap_or_default();
        let arguments = optional_list(&mut fields, 2, der::SEQUENCE, Reader::text)?;
        let started = fields.optional(choice(3))?.map(|mut field| time::decode(&mut field)).transpose()?;
        let cpus = fields.optional(choice(4))?.map(|mut field| field.integer()).transpose()?;
        let boot_partition = fields.optional(choice(5))?.map(|mut field| field.text()).transpose()?;
        fields.end()?;
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
            boot_partition,
        })
    }

    pub fn encode(&self, dialect: Dialect) -> Vec<u8> {
        let mut parts = vec![self.typ.encode()];
        if dialect > Dialect::V2_5 {
            parts.extend(self.startup.map(der::integer));
        }
        parts.push(self.fail_behaviour.encode());
        parts.push(encode_cpuids(&self.cpuids, dialect));
        parts.push(der::integer(self.memory));
        parts.push(der::octets(&self.digest));
        parts.extend(encode_set(0, self.blocks.iter().map(BlockInfo::encode)));
        parts.extend(encode_set(1, self.bridges.iter().map(NetInfo::encode)));
        parts.extend(self.arguments.as_deref().map(|arguments| encode_texts(2, arguments)));
        parts.extend(self.started.map(|started| der::value(choice(3), &time::encode(started))));
        if dialect == Dialect::V2_7 {
            parts.extend(self.cpus.map(|cpus| der::value(choice(4), &der::integer(cpus))));
            parts.extend(self.boot_partition.as_deref().map(|text| der::value(choice(5), &der::text(text))));
        }
        der::sequence(&parts)
    }
}

impl BlockInfo {
    fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let mut fields = reader.value(der::SEQUENCE)?;
        let (unikernel_device, host_device) = (fields.text()?, fields.text()?);
        let (sector_size, size) = (fields.integer()?, fields.integer()?);
        fields.end().map(|()| Self { unikernel_device, host_device, sector_size, size })
    }

    fn encode(&self) -> Vec<u8> {
        let names = [der::text(&self.unikernel_device), der::text(&self.host_device)].concat();
        der::sequence(&[names, der::integer(self.sector_size), der::integer(self.size)])
    }
}

impl NetInfo {
    fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let mut fields = reader.value(der::SEQUENCE)?;
        let (unikernel_device, host_device, mac) = (fields.text()?, fields.text()?, mac(fields.octets()?)?);
        fields.end().map(|()| Self { unikernel_device, host_device, mac })
    }

    fn encode(&self) -> Vec<u8> {
        der::sequence(&[der::text(&self.unikernel_device), der::text(&self.host_device), der::octets(&self.mac)])
    }
}

impl Policy {
    pub fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let mut fields = reader.value(der::SEQUENCE)?;
        let cpuids = fields.value(der::SEQUENCE)?.all(Reader::integer)?.into_iter().collect();
        let (unikernels, memory) = (fields.integer()?, fields.integer()?);
        let block = if fields.peek() == Some(INTEGER) { Some(fields.integer()?) } else { None };
        let bridges = fields.value(der::SEQUENCE)?.all(Reader::text)?.into_iter().collect();
        fields.end().map(|()| Self { cpuids, unikernels, memory, block, bridges })
    }

    pub fn encode(&self) -> Vec<u8> {
        let cpuids: Vec<_> = self.cpuids.iter().copied().map(der::integer).collect();
        let bridges: Vec<_> = self.bridges.iter().map(|bridge| der::text(bridge)).collect();
        der::sequence(&[
            der::sequence(&cpuids),
            der::integer(self.unikernels),
            der::integer(self.memory),
            self.block.map(der::integer).unwrap_or_default(),
            der::sequence(&bridges),
        ])
    }
}
