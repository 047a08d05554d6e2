//! Tables, keys and values.
//!
//! Values are JSON of the domain types: it names its fields, so that a later version can add some without a new schema.
//! The schema's number grows when an older version could no longer read what is written.

use std::net::IpAddr;

use redb::{
    Database, Error, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Contents;
use crate::domain::{Change, Lease, Timestamp};

/// The schema that this version writes, and the newest that it reads.
pub(super) const VERSION: u64 = 1;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const UNIKERNELS: TableDefinition<&str, &[u8]> = TableDefinition::new("unikernels");
const SERVICES: TableDefinition<&str, &[u8]> = TableDefinition::new("services");
/// By tag.
const LEASES: TableDefinition<&str, &[u8]> = TableDefinition::new("leases");
/// Microseconds since the epoch by address.
const RELEASED: TableDefinition<&AddressKey, i64> = TableDefinition::new("released");
/// By digest.
const IMAGES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("images");
/// A set: the value is the key.
const STALE_FLOWS: TableDefinition<&[u8], ()> = TableDefinition::new("stale_flows");

const SCHEMA: &str = "schema";
/// Counts transactions, so that it can be told whether one whose commit failed is there after all.
const SEQUENCE: &str = "sequence";

/// 4 or 6, then the address, an IPv4 address in the first four bytes: sorts as addresses do.
type AddressKey = [u8; 17];

/// Makes a new file a ledger without contents.
pub(super) fn initialize(database: &Database) -> Result<(), Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert(SCHEMA, VERSION)?;
        meta.insert(SEQUENCE, 0)?;
        transaction.open_table(UNIKERNELS)?;
        transaction.open_table(SERVICES)?;
        transaction.open_table(LEASES)?;
        transaction.open_table(RELEASED)?;
        transaction.open_table(IMAGES)?;
        transaction.open_table(STALE_FLOWS)?;
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
    let mut released = Vec::new();
    for entry in transaction.open_table(RELEASED)?.iter()? {
        let (key, at) = entry?;
        released.push((address(key.value())?, Timestamp(at.value())));
    }
    let mut stale_flows = Vec::new();
    for entry in transaction.open_table(STALE_FLOWS)?.iter()? {
        stale_flows.push(decode("stale_flows", entry?.0.value())?);
    }
    Ok(Contents {
        unikernels: values(&transaction, UNIKERNELS)?,
        services: values(&transaction, SERVICES)?,
        leases: values(&transaction, LEASES)?,
        released,
        images: values(&transaction, IMAGES)?,
        stale_flows,
    })
}

/// Writes `changes` as the transaction with this number, and returns when it is on disk.
pub(super) fn write<'a>(
    database: &Database,
    sequence: u64,
    changes: impl IntoIterator<Item = &'a Change>,
) -> Result<(), Error> {
    let transaction = database.begin_write()?;
    for change in changes {
        apply(&transaction, change)?;
    }
    transaction.open_table(META)?.insert(SEQUENCE, sequence)?;
    Ok(transaction.commit()?)
}

fn apply(transaction: &WriteTransaction, change: &Change) -> Result<(), Error> {
    match change {
        Change::PutUnikernel(unikernel) => put(transaction, UNIKERNELS, unikernel.id.as_str(), unikernel),
        Change::RemoveUnikernel(id) => remove(transaction, UNIKERNELS, id.as_str()),
        Change::PutService(service) => put(transaction, SERVICES, service.name.as_str(), service),
        Change::RemoveService(name) => remove(transaction, SERVICES, name.as_str()),
        Change::PutLease(lease) => put_lease(transaction, lease),
        Change::ReleaseLease { tag, at } => release(transaction, tag.as_str(), *at),
        Change::PutImage(image) => put(transaction, IMAGES, &image.digest.0, image),
        Change::RemoveImage(digest) => remove(transaction, IMAGES, &digest.0),
        Change::PutStaleFlows(flows) => {
            transaction.open_table(STALE_FLOWS)?.insert(encode(flows)?.as_slice(), ())?;
            Ok(())
        }
        Change::RemoveStaleFlows(flows) => {
            transaction.open_table(STALE_FLOWS)?.remove(encode(flows)?.as_slice())?;
            Ok(())
        }
    }
}

/// As `AddressPool::insert` does: an address that the tag had before is released at the new lease's time.
fn put_lease(transaction: &WriteTransaction, lease: &Lease) -> Result<(), Error> {
    if held(transaction, lease.tag.as_str())?.is_some_and(|address| address != lease.address) {
        release(transaction, lease.tag.as_str(), lease.since)?;
    }
    transaction.open_table(RELEASED)?.remove(&address_key(lease.address))?;
    put(transaction, LEASES, lease.tag.as_str(), lease)
}

fn release(transaction: &WriteTransaction, tag: &str, at: Timestamp) -> Result<(), Error> {
    if let Some(address) = held(transaction, tag)? {
        transaction.open_table(LEASES)?.remove(tag)?;
        transaction.open_table(RELEASED)?.insert(&address_key(address), at.0)?;
    }
    Ok(())
}

/// The address that is leased to `tag`.
fn held(transaction: &WriteTransaction, tag: &str) -> Result<Option<IpAddr>, Error> {
    let leases = transaction.open_table(LEASES)?;
    let lease = leases.get(tag)?.map(|value| decode::<Lease>("leases", value.value())).transpose()?;
    Ok(lease.map(|lease| lease.address))
}

fn put<'k, K: Key + 'static>(
    transaction: &WriteTransaction,
    table: TableDefinition<K, &'static [u8]>,
    key: K::SelfType<'k>,
    value: &impl Serialize,
) -> Result<(), Error> {
    transaction.open_table(table)?.insert(key, encode(value)?.as_slice())?;
    Ok(())
}

fn remove<'k, K: Key + 'static>(
    transaction: &WriteTransaction,
    table: TableDefinition<K, &'static [u8]>,
    key: K::SelfType<'k>,
) -> Result<(), Error> {
    transaction.open_table(table)?.remove(key)?;
    Ok(())
}

fn values<K: Key + 'static, T: DeserializeOwned>(
    transaction: &ReadTransaction,
    table: TableDefinition<K, &'static [u8]>,
) -> Result<Vec<T>, Error> {
    let mut all = Vec::new();
    for entry in transaction.open_table(table)?.iter()? {
        all.push(decode(redb::TableHandle::name(&table), entry?.1.value())?);
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
fn decode<T: DeserializeOwned>(table: &str, value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|error| {
        Error::Corrupted(format!(
            "an entry of {table} cannot be read: {:?} error at {}",
            error.classify(),
            error.column()
        ))
    })
}

fn address_key(address: IpAddr) -> AddressKey {
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

fn address(key: &AddressKey) -> Result<IpAddr, Error> {
    match *key {
        [4, a, b, c, d, ..] => Ok(IpAddr::from([a, b, c, d])),
        [6, ref octets @ ..] => Ok(IpAddr::from(*octets)),
        _ => Err(Error::Corrupted("an entry of released has no address".into())),
    }
}
