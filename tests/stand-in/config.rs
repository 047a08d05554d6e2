//! The grammar of a unikernel's configuration and its arguments.

use crate::der::{self, INTEGER, Malformed, OCTETS, Reader, SET, TEXT, choice};
use std::collections::BTreeSet;

/// Which generation of daemons a message belongs to. A daemon knows the messages of the older ones too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    V2_5,
    V2_6,
    V2_7,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typ {
    Solo5,
    Bhyve,
}

/// `Restart(empty)` is every exit code that may restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FailBehaviour {
    Quit,
    Restart(BTreeSet<i64>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub name: String,
    pub device: Option<String>,
    pub sector_size: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    pub netif: String,
    pub bridge: Option<String>,
    pub mac: Option<[u8; 6]>,
}

/// Everything but the image: what `restart` may replace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arguments {
    pub fail_behaviour: FailBehaviour,
    pub startup: Option<i64>,
    pub add_name: bool,
    pub cpuids: BTreeSet<i64>,
    pub memory: i64,
    pub blocks: Vec<Block>,
    pub bridges: Vec<Bridge>,
    pub arguments: Option<Vec<String>>,
    pub cpus: Option<i64>,
    pub boot_partition: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub typ: Typ,
    pub compressed: bool,
    pub image: Vec<u8>,
    pub arguments: Arguments,
}

impl Config {
    pub fn decode(reader: &mut Reader<'_>, dialect: Dialect) -> der::Result<Self> {
        let mut fields = reader.value(der::SEQUENCE)?;
        let typ = Typ::decode(&mut fields)?;
        let compressed = fields.boolean()?;
        let image = fields.octets()?.to_vec();
        let (startup, add_name) = startup_and_name(&mut fields, dialect)?;
        let fail_behaviour = FailBehaviour::decode(&mut fields)?;
        let arguments = Arguments::decode_rest(fields, dialect, fail_behaviour, startup, add_name)?;
        Ok(Self { typ, compressed, image, arguments })
    }

    pub fn encode(&self, dialect: Dialect) -> Vec<u8> {
        let mut parts = vec![self.typ.encode(), der::boolean(self.compressed), der::octets(&self.image)];
        parts.extend(self.arguments.encode_startup_and_name(dialect));
        parts.push(self.arguments.fail_behaviour.encode());
        parts.extend(self.arguments.encode_rest(dialect));
        der::sequence(&parts)
    }
}

impl Arguments {
    pub fn decode(reader: &mut Reader<'_>, dialect: Dialect) -> der::Result<Self> {
        let mut fields = reader.value(der::SEQUENCE)?;
        let fail_behaviour = FailBehaviour::decode(&mut fields)?;
        let (startup, add_name) = startup_and_name(&mut fields, dialect)?;
        Self::decode_rest(fields, dialect, fail_behaviour, startup, add_name)
    }

    pub fn encode(&self, dialect: Dialect) -> Vec<u8> {
        let mut parts = vec![self.fail_behaviour.encode()];
        parts.extend(self.encode_startup_and_name(dialect));
        parts.extend(self.encode_rest(dialect));
        der::sequence(&parts)
    }

    fn decode_rest(
        mut fields: Reader<'_>,
        dialect: Dialect,
        fail_behaviour: FailBehaviour,
        startup: Option<i64>,
        add_name: bool,
    ) -> der::Result<Self> {
        let cpuids = decode_cpuids(&mut fields, dialect)?;
        let memory = fields.integer()?;
        let blocks = optional_list(&mut fields, 0, SET, Block::decode)?.unwrap_or_default();
        let bridges = optional_list(&mut fields, 1, SET, Bridge::decode)?.unwrap_or_default();
        let arguments = optional_list(&mut fields, 2, der::SEQUENCE, Reader::text)?;
        let (mut cpus, mut boot_partition) = (None, None);
        if dialect == Dialect::V2_7 {
            cpus = fields.optional(choice(3))?.map(|mut field| field.integer()).transpose()?;
            boot_partition = fields.optional(choice(4))?.map(|mut field| field.text()).transpose()?;
        }
        fields.end()?;
        Ok(Self { fail_behaviour, startup, add_name, cpuids, memory, blocks, bridges, arguments, cpus, boot_partition })
    }

    fn encode_startup_and_name(&self, dialect: Dialect) -> Vec<Vec<u8>> {
        match dialect {
            Dialect::V2_5 => Vec::new(),
            _ => self.startup.map(der::integer).into_iter().chain([der::boolean(self.add_name)]).collect(),
        }
    }

    fn encode_rest(&self, dialect: Dialect) -> Vec<Vec<u8>> {
        let mut parts = vec![encode_cpuids(&self.cpuids, dialect), der::integer(self.memory)];
        parts.extend(encode_set(0, self.blocks.iter().map(Block::encode)));
        parts.extend(encode_set(1, self.bridges.iter().map(Bridge::encode)));
        parts.extend(self.arguments.as_deref().map(|arguments| encode_texts(2, arguments)));
        if dialect == Dialect::V2_7 {
            parts.push(der::value(choice(3), &der::integer(self.cpus.unwrap_or(1))));
            parts.extend(self.boot_partition.as_deref().map(|text| der::value(choice(4), &der::text(text))));
        }
        parts
    }
}

fn startup_and_name(fields: &mut Reader<'_>, dialect: Dialect) -> der::Result<(Option<i64>, bool)> {
    if dialect == Dialect::V2_5 {
        return Ok((None, true));
    }
    let startup = if fields.peek() == Some(INTEGER) { Some(fields.integer()?) } else { None };
    Ok((startup, fields.boolean()?))
}

pub fn decode_cpuids(fields: &mut Reader<'_>, dialect: Dialect) -> der::Result<BTreeSet<i64>> {
    match dialect {
        Dialect::V2_7 => Ok(fields.value(SET)?.all(Reader::integer)?.into_iter().collect()),
        _ => Ok(BTreeSet::from([fields.integer()?])),
    }
}

pub fn encode_cpuids(cpuids: &BTreeSet<i64>, dialect: Dialect) -> Vec<u8> {
    match dialect {
        Dialect::V2_7 => der::set(cpuids.iter().copied().map(der::integer).collect()),
        _ => der::integer(cpuids.first().copied().unwrap_or_default()),
    }
}

pub fn optional_list<'a, T>(
    fields: &mut Reader<'a>,
    number: u8,
    tag: u8,
    read: impl FnMut(&mut Reader<'a>) -> der::Result<T>,
) -> der::Result<Option<Vec<T>>> {
    fields.optional(choice(number))?.map(|mut field| field.value(tag)?.all(read)).transpose()
}

/// An optional set that is left out when it is empty.
pub fn encode_set(number: u8, parts: impl Iterator<Item = Vec<u8>>) -> Option<Vec<u8>> {
    let parts: Vec<_> = parts.collect();
    (!parts.is_empty()).then(|| der::value(choice(number), &der::set(parts)))
}

pub fn encode_texts(number: u8, texts: &[String]) -> Vec<u8> {
    der::value(choice(number), &der::sequence(&texts.iter().map(|text| der::text(text)).collect::<Vec<_>>()))
}

fn optional_text(fields: &mut Reader<'_>) -> der::Result<Option<String>> {
    if fields.peek() == Some(TEXT) { fields.text().map(Some) } else { Ok(None) }
}

pub fn mac(bytes: &[u8]) -> der::Result<[u8; 6]> {
    bytes.try_into().map_err(|_| Malformed("bad mac address"))
}

impl Block {
    fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let mut fields = reader.value(der::SEQUENCE)?;
        let name = fields.text()?;
        let device = optional_text(&mut fields)?;
        let sector_size = if fields.peek() == Some(INTEGER) { Some(fields.integer()?) } else { None };
        fields.end().map(|()| Self { name, device, sector_size })
    }

    fn encode(&self) -> Vec<u8> {
        let device = self.device.as_deref().map(der::text);
        let sector_size = self.sector_size.map(der::integer);
        der::sequence(&[der::text(&self.name), device.unwrap_or_default(), sector_size.unwrap_or_default()])
    }

    /// The name of the block device on the host.
    pub fn host_device(&self) -> &str {
        self.device.as_deref().unwrap_or(&self.name)
    }
}

impl Bridge {
    fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let mut fields = reader.value(der::SEQUENCE)?;
        let netif = fields.text()?;
        let bridge = optional_text(&mut fields)?;
        let mac = if fields.peek() == Some(OCTETS) { Some(mac(fields.octets()?)?) } else { None };
        fields.end().map(|()| Self { netif, bridge, mac })
    }

    fn encode(&self) -> Vec<u8> {
        let bridge = self.bridge.as_deref().map(der::text);
        let mac = self.mac.map(|mac| der::octets(&mac));
        der::sequence(&[der::text(&self.netif), bridge.unwrap_or_default(), mac.unwrap_or_default()])
    }

    /// The name of the bridge on the host.
    pub fn host_device(&self) -> &str {
        self.bridge.as_deref().unwrap_or(&self.netif)
    }
}

impl Typ {
    pub fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let (tag, mut content) = reader.any()?;
        content.null()?;
        match tag {
            tag if tag == choice(0) => Ok(Self::Solo5),
            tag if tag == choice(1) => Ok(Self::Bhyve),
            _ => Err(Malformed("unknown typ")),
        }
    }

    pub fn encode(self) -> Vec<u8> {
        der::value(choice(if self == Self::Solo5 { 0 } else { 1 }), &der::null())
    }
}

impl FailBehaviour {
    pub fn decode(reader: &mut Reader<'_>) -> der::Result<Self> {
        let (tag, mut content) = reader.any()?;
        match tag {
            tag if tag == choice(0) => content.null().map(|()| Self::Quit),
            tag if tag == choice(1) => {
                Ok(Self::Restart(content.value(SET)?.all(Reader::integer)?.into_iter().collect()))
            }
            _ => Err(Malformed("unknown fail behaviour")),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Quit => der::value(choice(0), &der::null()),
            Self::Restart(codes) => der::value(choice(1), &der::set(codes.iter().copied().map(der::integer).collect())),
        }
    }
}
