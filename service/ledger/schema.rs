//! Tables, keys and values.
//!
//! Values are JSON of the domain types: it names its fields, so that a later version can add some without a new schema.
//! The schema's number grows when an older version could no longer read what is written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use redb::{
    Database, Error, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError, TableHandle,
    WriteTransaction,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Contents;
use crate::domain::{Change, ImageDigest, Lease, LeaseTag, Ordinal, Stack, StackName, Unikernel, UnikernelId};

/// The schema that this version writes, and the newest that it reads. It reads all before it; a file gets this number
/// with its next change.
///
/// 2: readiness by a line of the console, which 1 cannot read; the table of last words, which is not in every file of 1.
/// 3: stacks, which 2 would take the staged ports and the images from.
/// 4: the order of events by numbers, for which 3 would take them as times; deadlines, which 3 cannot read.
pub(super) const VERSION: u64 = 4;

/// Every table has bytes for keys and values, so that an entry can be put back without knowing what it means.
type Table = TableDefinition<'static, &'static [u8], &'static [u8]>;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const UNIKERNELS: Table = TableDefinition::new("unikernels");
const SERVICES: Table = TableDefinition::new("services");
/// By tag.
const LEASES: Table = TableDefinition::new("leases");
/// The order in which addresses were released, by the address ([`address_key`]).
const RELEASED: Table = TableDefinition::new("released");
/// By the bytes of the digest.
const IMAGES: Table = TableDefinition::new("images");
/// A set: the key is the value.
const STALE_FLOWS: Table = TableDefinition::new("stale_flows");
/// By the unikernel's id.
const LAST_WORDS: Table = TableDefinition::new("last_words");
/// Without what stands in [`STACK_PARTS`].
const STACKS: Table = TableDefinition::new("stacks");
/// Chains and manifests of stacks, by the stack's name and the digest of the part: they are large, and to move one from
/// staged to live does not write it again.
const STACK_PARTS: Table = TableDefinition::new("stack_parts");

/// Builds that were done, by the bytes of their keys. A version that does not know them does not need them.
const BUILDS: Table = TableDefinition::new("builds");

/// By the network's name. A version that does not know them does not need them.
const LOOPBACK_ROUTES: Table = TableDefinition::new("loopback_routes");

const SCHEMA: &str = "schema";
/// Counts transactions, so that it can be told whether one whose commit failed is there after all.
const SEQUENCE: &str = "sequence";
/// The last [`Ordinal`] that was given. It stays when a transaction is undone, and when what bears it is gone.
const LAST_ORDINAL: &str = "last_ordinal";

/// An entry as it was before a transaction.
pub(super) struct Before {
    table: Table,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
}

const TABLES: [Table; 11] = [
    UNIKERNELS,
    SERVICES,
    LEASES,
    RELEASED,
    IMAGES,
    STALE_FLOWS,
    LAST_WORDS,
    STACKS,
    STACK_PARTS,
    BUILDS,
    LOOPBACK_ROUTES,
];

/// Makes a new file a ledger without contents.
pub(super) fn initialize(database: &Database) -> Result<(), Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(SCHEMA, VERSION)?;
        meta.insert(SEQUENCE, 0)?;
        for table in TABLES {
            transaction.open_table(table)?;
        }
    }
    Ok(transaction.commit()?)
}

pub(super) fn version(database: &Database) -> Result<u64, Error> {
    meta(database, SCHEMA)
}

/// The number of the last transaction that is there.
pub(super) fn sequence(database: &Database) -> Result<u64, Error> {
    meta(database, SEQUENCE)
}

pub(super) fn read(database: &Database) -> Result<Contents, Error> {
    let transaction = database.begin_read()?;
    let mut contents = Contents {
        unikernels: entries(&transaction, UNIKERNELS, |_, value| Ok(in_order(decode(UNIKERNELS, value)?)))?,
        services: entries(&transaction, SERVICES, |_, value| decode(SERVICES, value))?,
        leases: entries(&transaction, LEASES, |_, value| decode(LEASES, value))?,
        released: entries(&transaction, RELEASED, |key, value| Ok((address(key)?, decode(RELEASED, value)?)))?,
        images: entries(&transaction, IMAGES, |_, value| decode(IMAGES, value))?,
        stale_flows: entries(&transaction, STALE_FLOWS, |key, _| decode(STALE_FLOWS, key))?,
        last_words: later(&transaction, LAST_WORDS, |key, value| Ok((unikernel_id(key)?, decode(LAST_WORDS, value)?)))?,
        stacks: stacks(&transaction)?,
        builds: later(&transaction, BUILDS, |_, value| decode(BUILDS, value))?,
        loopback_routes: later(&transaction, LOOPBACK_ROUTES, |_, value| decode(LOOPBACK_ROUTES, value))?,
        last_ordinal: transaction
            .open_table(META)?
            .get(LAST_ORDINAL)?
            .map(|last| Ordinal(last.value()))
            .unwrap_or_default(),
    };
    contents.last_ordinal = contents.last_ordinal.max(greatest_ordinal(&contents));
    Ok(contents)
}

/// A unikernel with its number: what was written before there were any was deployed when it was created, as far as anybody
/// knows.
fn in_order(mut unikernel: Unikernel) -> Unikernel {
    if unikernel.deployed == Ordinal::default() {
        unikernel.deployed = unikernel.created_at.into();
    }
    unikernel
}

/// The greatest number of all that is there: files of earlier schemas do not say which was given last.
fn greatest_ordinal(contents: &Contents) -> Ordinal {
    let unikernels = contents.unikernels.iter().flat_map(|unikernel| [Some(unikernel.deployed), unikernel.last_live]);
    let released = contents.released.iter().map(|&(_, at)| at);
    let builds = contents.builds.iter().map(|build| build.at);
    unikernels.flatten().chain(released).chain(builds).max().unwrap_or_default()
}

/// Writes `changes` as the transaction with this number, and returns when it is on disk. When it fails in the end, what
/// the entries were is in `before`.
pub(super) fn write<'a>(
    database: &Database,
    sequence: u64,
    changes: impl IntoIterator<Item = &'a Change>,
    before: &mut Vec<Before>,
) -> Result<(), Error> {
    let transaction = database.begin_write()?;
    let mut edit = Edit { transaction: &transaction, before };
    let mut ordinal = None;
    for change in changes {
        edit.apply(change)?;
        ordinal = ordinal.max(change.ordinal());
    }
    finish(transaction, sequence, ordinal)
}

/// Puts back what a transaction has changed, as a transaction with this number.
pub(super) fn undo(database: &Database, sequence: u64, before: &[Before]) -> Result<(), Error> {
    let transaction = database.begin_write()?;
    let mut edit = Edit { transaction: &transaction, before: &mut Vec::new() };
    for Before { table, key, value } in before.iter().rev() {
        edit.set(*table, key, value.as_deref())?;
    }
    finish(transaction, sequence, None)
}

/// `ordinal`: the greatest that was written.
fn finish(transaction: WriteTransaction, sequence: u64, ordinal: Option<Ordinal>) -> Result<(), Error> {
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(SCHEMA, VERSION)?;
        meta.insert(SEQUENCE, sequence)?;
        let last = meta.get(LAST_ORDINAL)?.map(|last| Ordinal(last.value()));
        if let Some(ordinal) = ordinal.filter(|_| ordinal > last) {
            meta.insert(LAST_ORDINAL, ordinal.0)?;
        }
    }
    Ok(transaction.commit()?)
}

/// A transaction that notes what it changes.
struct Edit<'t> {
    transaction: &'t WriteTransaction,
    before: &'t mut Vec<Before>,
}

impl Edit<'_> {
    fn apply(&mut self, change: &Change) -> Result<(), Error> {
        match change {
            Change::PutUnikernel(unikernel) => self.put(UNIKERNELS, unikernel.id.as_str(), unikernel),
            Change::RemoveUnikernel(id) => self.set(UNIKERNELS, id.as_str(), None),
            Change::PutService(service) => self.put(SERVICES, service.name.as_str(), service),
            Change::RemoveService(name) => self.set(SERVICES, name.as_str(), None),
            Change::PutLease(lease) => self.put_lease(lease),
            Change::ReleaseLease { tag, at } => self.release(tag, *at),
            Change::PutImage(image) => self.put(IMAGES, image.digest.0, image),
            Change::RemoveImage(digest) => self.set(IMAGES, digest.0, None),
            Change::PutStaleFlows(flows) => self.set(STALE_FLOWS, encode(flows)?, Some(b"")),
            Change::RemoveStaleFlows(flows) => self.set(STALE_FLOWS, encode(flows)?, None),
            Change::PutLastWords { id, lines } => self.put(LAST_WORDS, id.as_str(), lines),
            Change::RemoveLastWords(id) => self.set(LAST_WORDS, id.as_str(), None),
            Change::PutBuild(build) => self.put(BUILDS, build.key.0, build),
            Change::RemoveBuild(key) => self.set(BUILDS, key.0, None),
            Change::PutLoopbackRoute(route) => self.put(LOOPBACK_ROUTES, route.network.as_str(), route),
            Change::RemoveLoopbackRoute(name) => self.set(LOOPBACK_ROUTES, name.as_str(), None),
            Change::PutStack(stack) => self.put_stack(stack),
            // Written with the transaction.
            Change::Count(_) => Ok(()),
            Change::RemoveStack(name) => {
                self.drop_parts(name, &BTreeSet::new())?;
                self.set(STACKS, name.as_str(), None)
            }
        }
    }

    fn put_stack(&mut self, stack: &Stack) -> Result<(), Error> {
        let mut parts = BTreeMap::new();
        let record = StackRecord::of(stack, &mut parts)?;
        self.drop_parts(&stack.name, &parts.keys().copied().collect())?;
        for (digest, part) in parts {
            let key = part_key(&stack.name, digest);
            let there = self.transaction.open_table(STACK_PARTS)?.get(key.as_slice())?.is_some();
            if !there {
                self.set(STACK_PARTS, key, Some(&part))?;
            }
        }
        self.put(STACKS, stack.name.as_str(), &record)
    }

    /// Removes what the record of a stack refers to, besides `kept`.
    fn drop_parts(&mut self, name: &StackName, kept: &BTreeSet<ImageDigest>) -> Result<(), Error> {
        let stacks = self.transaction.open_table(STACKS)?;
        let former = stacks.get(name.as_str().as_bytes())?.map(|value| decode::<StackRecord>(STACKS, value.value()));
        drop(stacks);
        for part in former.transpose()?.iter().flat_map(StackRecord::parts).filter(|part| !kept.contains(part)) {
            self.set(STACK_PARTS, part_key(name, part), None)?;
        }
        Ok(())
    }

    /// As `AddressPool::insert` does: an address that the tag still has is released before all others.
    fn put_lease(&mut self, lease: &Lease) -> Result<(), Error> {
        if self.held(&lease.tag)?.is_some_and(|address| address != lease.address) {
            self.release(&lease.tag, Ordinal::default())?;
        }
        self.set(RELEASED, address_key(lease.address), None)?;
        self.put(LEASES, lease.tag.as_str(), lease)
    }

    fn release(&mut self, tag: &LeaseTag, at: Ordinal) -> Result<(), Error> {
        if let Some(address) = self.held(tag)? {
            self.set(LEASES, tag.as_str(), None)?;
            self.put(RELEASED, address_key(address), &at)?;
        }
        Ok(())
    }

    /// The address that is leased to `tag`.
    fn held(&self, tag: &LeaseTag) -> Result<Option<IpAddr>, Error> {
        let leases = self.transaction.open_table(LEASES)?;
        let lease = leases.get(tag.as_str().as_bytes())?.map(|value| decode::<Lease>(LEASES, value.value()));
        Ok(lease.transpose()?.map(|lease| lease.address))
    }

    fn put(&mut self, table: Table, key: impl AsRef<[u8]>, value: &impl Serialize) -> Result<(), Error> {
        self.set(table, key, Some(&encode(value)?))
    }

    /// Every change comes down to this: an entry gets a value, or goes.
    fn set(&mut self, table: Table, key: impl AsRef<[u8]>, value: Option<&[u8]>) -> Result<(), Error> {
        let key = key.as_ref();
        let mut open = self.transaction.open_table(table)?;
        let former = match value {
            Some(value) => open.insert(key, value)?,
            None => open.remove(key)?,
        };
        let former = former.map(|former| former.value().to_vec());
        self.before.push(Before { table, key: key.to_vec(), value: former });
        Ok(())
    }
}

/// A stack as it is written: its parts by their digests.
#[derive(Serialize, Deserialize)]
struct StackRecord {
    stack: Stack,
    live: Option<ImageDigest>,
    staged: Option<ImageDigest>,
    previous: Option<ImageDigest>,
    applied: Option<ImageDigest>,
}

type Parts = BTreeMap<ImageDigest, Vec<u8>>;

impl StackRecord {
    fn of(stack: &Stack, parts: &mut Parts) -> Result<Self, Error> {
        Ok(Self {
            live: part(stack.live.as_ref(), parts)?,
            staged: part(stack.staged.as_ref(), parts)?,
            previous: part(stack.previous.as_ref(), parts)?,
            applied: part(stack.applied.as_ref(), parts)?,
            stack: Stack { live: None, staged: None, previous: None, applied: None, ..stack.clone() },
        })
    }

    fn parts(&self) -> impl Iterator<Item = ImageDigest> {
        [self.live, self.staged, self.previous, self.applied].into_iter().flatten()
    }

    fn whole(self, parts: &Parts) -> Result<Stack, Error> {
        Ok(Stack {
            live: whole(self.live, parts)?,
            staged: whole(self.staged, parts)?,
            previous: whole(self.previous, parts)?,
            applied: whole(self.applied, parts)?,
            ..self.stack
        })
    }
}

fn part(value: Option<&impl Serialize>, parts: &mut Parts) -> Result<Option<ImageDigest>, Error> {
    let Some(value) = value else { return Ok(None) };
    let bytes = encode(value)?;
    let digest = ImageDigest(Sha256::digest(&bytes).into());
    parts.insert(digest, bytes);
    Ok(Some(digest))
}

fn whole<T: DeserializeOwned>(digest: Option<ImageDigest>, parts: &Parts) -> Result<Option<T>, Error> {
    let Some(digest) = digest else { return Ok(None) };
    let missing = || Error::Corrupted(format!("{digest} is missing in stack_parts"));
    decode(STACK_PARTS, parts.get(&digest).ok_or_else(missing)?).map(Some)
}

/// The name, which holds no NUL, a NUL, and the digest.
fn part_key(name: &StackName, part: ImageDigest) -> Vec<u8> {
    [name.as_str().as_bytes(), &[0], &part.0].concat()
}

fn stacks(transaction: &ReadTransaction) -> Result<Vec<Stack>, Error> {
    let digest = |key: &[u8]| key.last_chunk().map(|digest| ImageDigest(*digest));
    let nameless = || Error::Corrupted("an entry of stack_parts has no digest".into());
    let parts = later(transaction, STACK_PARTS, |key, value| Ok((digest(key).ok_or_else(nameless)?, value.to_vec())))?;
    let parts = parts.into_iter().collect::<Parts>();
    later(transaction, STACKS, |_, value| decode::<StackRecord>(STACKS, value)?.whole(&parts))
}

/// The entries of a table that the first schema did not have.
fn later<T>(
    transaction: &ReadTransaction,
    table: Table,
    read: impl Fn(&[u8], &[u8]) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    match transaction.open_table(table) {
        Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
        _ => entries(transaction, table, read),
    }
}

fn unikernel_id(key: &[u8]) -> Result<UnikernelId, Error> {
    let id = std::str::from_utf8(key).ok().and_then(|key| key.parse().ok());
    id.ok_or_else(|| Error::Corrupted("an entry of last_words names no unikernel".into()))
}

fn entries<T>(
    transaction: &ReadTransaction,
    table: Table,
    read: impl Fn(&[u8], &[u8]) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    let mut all = Vec::new();
    for entry in transaction.open_table(table)?.iter()? {
        let (key, value) = entry?;
        all.push(read(key.value(), value.value())?);
    }
    Ok(all)
}

fn meta(database: &Database, key: &str) -> Result<u64, Error> {
    let missing = || Error::Corrupted(format!("it does not say its {key}"));
    match database.begin_read()?.open_table(META) {
        Ok(meta) => meta.get(key)?.map(|value| value.value()).ok_or_else(missing),
        Err(TableError::TableDoesNotExist(_)) => Err(missing()),
        Err(error) => Err(error.into()),
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|error| Error::Corrupted(error.to_string()))
}

/// The message says where the value cannot be read, not what stands there: that may be a unikernel's argument.
fn decode<T: DeserializeOwned>(table: Table, value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|error| {
        let (table, kind, at) = (table.name(), error.classify(), error.column());
        Error::Corrupted(format!("an entry of {table} cannot be read: {kind:?} error at byte {at} of its value"))
    })
}

/// 4 or 6, then 16 bytes with the address at their beginning: sorts as addresses do.
pub(super) fn address_key(address: IpAddr) -> [u8; 17] {
    let mut key = [0; 17];
    match address {
        IpAddr::V4(v4) => {
            key[0] = 4;
            key[1..5].copy_from_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            key[0] = 6;
            key[1..].copy_from_slice(&v6.octets());
        }
    }
    key
}

fn address(key: &[u8]) -> Result<IpAddr, Error> {
    match *key {
        [4, a, b, c, d, ..] => Some(IpAddr::from([a, b, c, d])),
        [6, ref octets @ ..] => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
    .ok_or_else(|| Error::Corrupted("an entry of released has no address".into()))
}

/// For tests of what a newer version leaves behind.
#[cfg(test)]
pub(super) fn set_version(database: &Database, version: u64) -> Result<(), Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(SCHEMA, version)?;
    Ok(transaction.commit()?)
}

/// For tests of what this version cannot read.
#[cfg(test)]
pub(super) fn set_raw(database: &Database, table: &'static str, key: &[u8], value: &[u8]) -> Result<(), Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(Table::new(table))?.insert(key, value)?;
    Ok(transaction.commit()?)
}

/// For tests of what an older version leaves behind.
#[cfg(test)]
pub(super) fn make_first(database: &Database) -> Result<(), Error> {
    let transaction = database.begin_write()?;
    transaction.delete_table(LAST_WORDS)?;
    transaction.delete_table(STACKS)?;
    transaction.delete_table(STACK_PARTS)?;
    transaction.delete_table(BUILDS)?;
    transaction.delete_table(LOOPBACK_ROUTES)?;
    transaction.open_table(META)?.insert(SCHEMA, 1)?;
    Ok(transaction.commit()?)
}
