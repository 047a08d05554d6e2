//! The ledger against a plain model of it, and against the address pool that is told the same changes.

use proptest::prelude::*;

use super::disk::Disk;
use super::*;
use crate::planning::address_pool::AddressPool;

/// What the ledger promises, written the plain way.
pub(super) fn apply(contents: &mut Contents, change: &Change) {
    contents.last_ordinal = contents.last_ordinal.max(change.ordinal().unwrap_or_default());
    match change {
        Change::PutUnikernel(new) => put(&mut contents.unikernels, (**new).clone(), |one| one.id == new.id),
        Change::RemoveUnikernel(id) => contents.unikernels.retain(|one| one.id != *id),
        Change::PutService(new) => put(&mut contents.services, (**new).clone(), |one| one.name == new.name),
        Change::RemoveService(name) => contents.services.retain(|one| one.name != *name),
        Change::PutLease(new) => {
            let former = contents.leases.iter().find(|one| one.tag == new.tag).map(|one| one.address);
            contents.released.extend(former.map(|address| (address, Ordinal::default())));
            contents.released.retain(|(address, _)| *address != new.address);
            put(&mut contents.leases, new.clone(), |one| one.tag == new.tag);
        }
        Change::ReleaseLease { tag, at } => {
            let former = contents.leases.iter().find(|one| one.tag == *tag).map(|one| one.address);
            contents.released.extend(former.map(|address| (address, *at)));
            contents.leases.retain(|one| one.tag != *tag);
        }
        Change::PutImage(new) => put(&mut contents.images, new.clone(), |one| one.digest == new.digest),
        Change::RemoveImage(digest) => contents.images.retain(|one| one.digest != *digest),
        Change::PutStaleFlows(new) => put(&mut contents.stale_flows, new.clone(), |one| one == new),
        Change::RemoveStaleFlows(old) => contents.stale_flows.retain(|one| one != old),
        Change::PutLastWords { id, lines } => {
            put(&mut contents.last_words, (id.clone(), lines.clone()), |(one, _)| one == id);
        }
        Change::RemoveLastWords(id) => contents.last_words.retain(|(one, _)| one != id),
        Change::PutBuild(new) => put(&mut contents.builds, (**new).clone(), |one| one.key == new.key),
        Change::RemoveBuild(key) => contents.builds.retain(|one| one.key != *key),
        Change::PutLoopbackRoute(new) => {
            put(&mut contents.loopback_routes, new.clone(), |one| one.network == new.network);
        }
        Change::RemoveLoopbackRoute(name) => contents.loopback_routes.retain(|one| one.network != *name),
        Change::PutStack(new) => put(&mut contents.stacks, (**new).clone(), |one| one.name == new.name),
        Change::RemoveStack(name) => contents.stacks.retain(|one| one.name != *name),
        Change::Count(_) => {}
    }
}

fn put<T>(values: &mut Vec<T>, new: T, same: impl Fn(&T) -> bool) {
    values.retain(|one| !same(one));
    values.push(new);
}

fn tell(pool: &mut AddressPool, change: &Change) {
    match change {
        Change::PutLease(lease) => pool.insert(lease.clone()),
        Change::ReleaseLease { tag, at } => drop(pool.release(tag, *at)),
        _ => {}
    }
}

/// Changes of every kind on few names, so that they meet. An address belongs to one tag at a time, as the owner sees to:
/// every tag has a pair of its own.
pub(super) fn change() -> impl Strategy<Value = Change> {
    let since = 0..100_i64;
    prop_oneof![
        (0..4_u8, "[a-z]{0,300}").prop_map(|(n, text)| Change::PutUnikernel(Box::new(unikernel("web", n, &text)))),
        (0..4_u8).prop_map(|n| Change::RemoveUnikernel(unikernel("web", n, "").id)),
        (0..3_u8, 0..200_u16).prop_map(|(n, ports)| Change::PutService(Box::new(service(&format!("s{n}"), ports)))),
        (0..3_u8).prop_map(|n| Change::RemoveService(format!("s{n}").parse().unwrap())),
        (0..3_u8, "[a-z]{0,300}")
            .prop_map(|(n, text)| Change::PutStack(Box::new(Stack { last_result: text, ..stack(&format!("s{n}")) }))),
        (0..3_u8).prop_map(|n| Change::RemoveStack(format!("s{n}").parse().unwrap())),
        (0..6_u8, 0..2_u8, since.clone()).prop_map(|(n, which, since)| Change::PutLease(lease(
            &n.to_string(),
            &format!("10.0.0.{}", 2 * n + which + 1),
            since
        ))),
        (0..6_u8, since)
            .prop_map(|(n, at)| Change::ReleaseLease { tag: tag(&n.to_string()), at: Ordinal(at.unsigned_abs()) }),
        (0..3_u8).prop_map(|n| Change::PutImage(image(n))),
        (0..3_u8).prop_map(|n| Change::RemoveImage(ImageDigest([n; 32]))),
        (0..3_u8, 0..3_u8).prop_map(|(n, image)| Change::PutBuild(Box::new(build(n, image)))),
        (0..3_u8).prop_map(|n| Change::RemoveBuild(BuildKey([n; 32]))),
        (0..2_u32, 0..3_u32)
            .prop_map(|(n, bridge)| Change::PutLoopbackRoute(loopback_route(&format!("br{n}"), bridge))),
        (0..2_u32).prop_map(|n| Change::RemoveLoopbackRoute(format!("br{n}").parse().unwrap())),
        (0..3_u16).prop_map(|n| Change::PutStaleFlows(flows("web", n))),
        (0..3_u16).prop_map(|n| Change::RemoveStaleFlows(flows("web", n))),
        (0..3_u8, "[a-z]{0,9}").prop_map(|(n, text)| last_words(n, text.as_bytes())),
        (0..3_u8).prop_map(|n| Change::RemoveLastWords(unikernel("web", n, "").id)),
        (0..100_u64).prop_map(|n| Change::Count(Ordinal(n))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn as_the_model_and_as_the_pool(
        transactions in prop::collection::vec(prop::collection::vec(change(), 0..8), 1..8),
    ) {
        let disk = Disk::formatted();
        let (ledger, mut expected) = disk.open().unwrap();
        let mut pool = AddressPool::default();
        for changes in transactions {
            for change in &changes {
                apply(&mut expected, change);
                tell(&mut pool, change);
            }
            commit(&ledger, changes).unwrap();
        }
        let found = disk.contents();
        prop_assert_eq!(as_sets(&found), as_sets(&expected));
        prop_assert_eq!(found.last_ordinal, expected.last_ordinal);
        // The same choice follows from the disk as from memory.
        let read = AddressPool::new(found.leases, found.released);
        prop_assert!(read.leases().eq(pool.leases()));
        let choice = |pool: &AddressPool| pool.choose("10.0.0.0/28".parse().unwrap(), &Default::default());
        prop_assert_eq!(choice(&read), choice(&pool));
    }
}
