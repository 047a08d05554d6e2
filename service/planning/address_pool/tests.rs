use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::domain::Timestamp;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn tag(text: &str) -> LeaseTag {
    text.parse().unwrap()
}

fn lease(name: &str, address: &str, since: i64) -> Lease {
    Lease { tag: tag(name), address: ip(address), prefix: net("10.0.0.0/24"), since: Timestamp(since) }
}

fn excluding(text: &str) -> Exclusions {
    let mut exclusions = Exclusions::default();
    exclusions.add_all(text.split_whitespace().map(|one| one.parse::<Exclusion>().unwrap()), Reason::Request);
    exclusions
}

/// Leases addresses of `prefix` until there are none; the addresses in the order they came.
fn exhaust(pool: &mut AddressPool, prefix: &str, exclusions: &Exclusions) -> Vec<String> {
    let mut order = Vec::new();
    while let Ok(address) = pool.choose(net(prefix), exclusions) {
        pool.insert(Lease {
            tag: tag(&address.to_string()),
            address,
            prefix: net(prefix),
            since: Timestamp(order.len() as i64),
        });
        order.push(address.to_string());
    }
    assert_eq!(pool.choose(net(prefix), exclusions), Err(Error::Exhausted { prefix: net(prefix) }));
    order
}

#[test]
fn sizes_of_prefixes() {
    let all = |prefix: &str| exhaust(&mut AddressPool::default(), prefix, &Exclusions::default());
    assert_eq!(all("10.0.0.0/31"), ["10.0.0.0", "10.0.0.1"]);
    assert_eq!(all("10.0.0.0/30"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(all("10.0.0.8/29").len(), 6);
    assert_eq!(all("255.255.255.0/24").len(), 254);
    for refused in ["10.0.0.1/32", "10.0.0.0/7", "0.0.0.0/0", "fd00::/64", "fd00::/127"] {
        let error = AddressPool::default().choose(net(refused), &Exclusions::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("no address can be leased from {refused}: give an IPv4 prefix from /8 to /31")
        );
    }
}

#[test]
fn new_addresses_first_then_the_one_released_longest_ago() {
    let mut pool = AddressPool::new(
        vec![lease("a", "10.0.0.1", 1), lease("b", "10.0.0.2", 1)],
        vec![(ip("10.0.0.3"), Ordinal(9)), (ip("10.0.0.4"), Ordinal(5))],
    );
    pool.release(&tag("a"), Ordinal(7)).unwrap();
    assert_eq!(
        exhaust(&mut pool, "10.0.0.0/29", &Exclusions::default()),
        ["10.0.0.5", "10.0.0.6", "10.0.0.4", "10.0.0.1", "10.0.0.3"]
    );
}

/// Whatever the clock said when: the leases are of times that go backwards.
#[test]
fn what_was_released_last_rests_longest_also_when_the_clock_is_set_back() {
    let mut pool = AddressPool::new(vec![lease("a", "10.0.0.1", 9), lease("b", "10.0.0.2", 5)], vec![]);
    for (tag, at) in [("a", 1), ("b", 2)] {
        pool.release(&self::tag(tag), Ordinal(at)).unwrap();
    }
    assert_eq!(exhaust(&mut pool, "10.0.0.0/30", &Exclusions::default()), ["10.0.0.1", "10.0.0.2"]);
}

#[test]
fn exclusions_hold_for_new_and_for_released_addresses() {
    let mut pool = AddressPool::new(vec![], vec![(ip("10.0.0.1"), Ordinal(1)), (ip("10.0.0.4"), Ordinal(2))]);
    assert_eq!(
        exhaust(&mut pool, "10.0.0.0/29", &excluding("10.0.0.1-10.0.0.2 10.0.0.5")),
        ["10.0.0.3", "10.0.0.6", "10.0.0.4"]
    );
}

#[test]
fn a_tag_that_moves_releases_its_former_address() {
    let mut pool = AddressPool::new(vec![lease("a", "10.0.0.1", 1)], vec![]);
    pool.insert(lease("a", "10.0.0.2", 3));
    assert_eq!((pool.holder(ip("10.0.0.1")), pool.len()), (None, 1));
    assert_eq!(exhaust(&mut pool, "10.0.0.0/30", &Exclusions::default()), ["10.0.0.1"]);
    assert_eq!(pool.release(&tag("nobody"), Ordinal(4)), None);
}

#[test]
fn an_address_has_one_holder() {
    let mut pool = AddressPool::new(vec![lease("a", "10.0.0.1", 1), lease("b", "10.0.0.1", 2)], vec![]);
    assert_eq!((pool.lease(&tag("a")), pool.holder(ip("10.0.0.1"))), (None, Some(&tag("b"))));
    assert_eq!(pool.release(&tag("b"), Ordinal(3)), Some(lease("b", "10.0.0.1", 2)));
    assert!(pool.is_empty());
}

#[test]
fn leases_are_listed_by_tag() {
    let pool = AddressPool::new(vec![lease("b", "10.0.0.1", 1), lease("a", "10.0.0.2", 1)], vec![]);
    assert_eq!(pool.leases().map(|lease| lease.tag.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn why_an_address_cannot_be_had() {
    let pool = AddressPool::new(vec![lease("website.0123456789", "10.0.0.9", 1)], vec![]);
    let exclusions = excluding("10.0.0.7");
    let message = |address: &str| {
        pool.check(ip(address), net("10.0.0.0/28"), &exclusions).map_err(|error| error.to_string()).err()
    };
    for (address, expected) in [
        ("10.0.0.0", "10.0.0.0 cannot be leased: it is the network address of 10.0.0.0/28"),
        ("10.0.0.15", "10.0.0.15 cannot be leased: it is the broadcast address of 10.0.0.0/28"),
        ("10.0.0.16", "10.0.0.16 cannot be leased: it is not in 10.0.0.0/28"),
        ("fd00::1", "fd00::1 cannot be leased: it is not in 10.0.0.0/28"),
        ("10.0.0.9", "10.0.0.9 cannot be leased: website.0123456789 holds it"),
        ("10.0.0.7", "10.0.0.7 cannot be leased: the call excludes it"),
    ] {
        assert_eq!(message(address).as_deref(), Some(expected));
    }
    assert_eq!(message("10.0.0.8"), None);
    assert_eq!(pool.check(ip("10.0.0.0"), net("10.0.0.0/31"), &Exclusions::default()), Ok(()));
}

/// Counted, not timed: the searches of a choice are as many with 60,000 leases as with 10.
#[test]
fn a_choice_costs_the_same_with_many_leases() {
    let exclusions = excluding("10.0.0.1 10.0.0.100-10.0.0.199 10.0.250.0/24");
    let lookups = |count: u32| {
        let numbers = (0x0a00_0001..).filter(|&number| !exclusions.contains(IpAddr::V4(number.into())));
        let leases = numbers.take(count as usize).map(|number| Lease {
            tag: tag(&number.to_string()),
            address: IpAddr::V4(number.into()),
            prefix: net("10.0.0.0/16"),
            since: Timestamp(1),
        });
        let pool = AddressPool::new(leases.collect(), vec![]);
        ranges::lookups::during(|| {
            pool.choose(net("10.0.0.0/16"), &exclusions).unwrap();
        })
    };
    let (few, many) = (lookups(10), lookups(60_000));
    assert!(few <= 8 && many <= few + 4, "{few} searches with 10 leases, {many} with 60,000");
}

/// The same for a prefix whose addresses all have been leased once: a step a block of 256 addresses, whatever is released.
#[test]
fn a_choice_among_many_released_addresses_looks_at_few() {
    let exclusions = excluding("10.0.0.1 10.0.0.100-10.0.0.199 10.0.250.0/24 10.0.7.9");
    let released = (0x0a00_0001..=0x0a00_fffe).map(|number| (IpAddr::V4(number.into()), Ordinal(number.into())));
    let pool = AddressPool::new(vec![], released.collect());
    let lookups = ranges::lookups::during(|| {
        assert_eq!(pool.choose(net("10.0.0.0/16"), &exclusions), Ok(ip("10.0.0.2")));
    });
    assert!(lookups < 300, "{lookups} searches");
}

/// What the pool promises, written the plain way.
#[derive(Default)]
struct Naive {
    leases: BTreeMap<String, IpAddr>,
    released: BTreeMap<IpAddr, i64>,
}

impl Naive {
    fn choose(&self, prefix: IpNet, excluded: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let IpNet::V4(v4) = prefix else { return None };
        let hosts = v4.hosts().map(IpAddr::V4).filter(|address| !excluded.contains(address));
        let free: Vec<_> = hosts.filter(|address| !self.leases.values().any(|leased| leased == address)).collect();
        let new = free.iter().find(|address| !self.released.contains_key(address));
        new.or_else(|| free.iter().min_by_key(|address| (self.released.get(address), **address))).copied()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Lease { name: u8, prefix: u8 },
    Release { name: u8 },
    Exclude { number: u8, length: u8 },
    Reload,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        prop_oneof![
            6 => (0..40_u8, 24..=31_u8).prop_map(|(name, prefix)| Step::Lease { name, prefix }),
            4 => (0..40_u8).prop_map(|name| Step::Release { name }),
            1 => (0..64_u8, 0..4_u8).prop_map(|(number, length)| Step::Exclude { number, length }),
            1 => Just(Step::Reload),
        ],
        0..250,
    )
}

proptest! {
    #[test]
    fn as_the_naive_model(steps in steps()) {
        let (mut pool, mut naive) = (AddressPool::default(), Naive::default());
        let (mut exclusions, mut excluded) = (Exclusions::default(), BTreeSet::new());
        for (now, step) in steps.into_iter().enumerate() {
            // Several can be released by one decision.
            let now = (now / 3) as i64;
            match step {
                Step::Lease { name, prefix } => {
                    let name = name.to_string();
                    let prefix = IpNet::new(ip("10.0.0.16"), prefix).unwrap();
                    let expected = naive.choose(prefix, &excluded);
                    prop_assert_eq!(pool.choose(prefix, &exclusions).ok(), expected);
                    let Some(address) = expected else { continue };
                    prop_assert_eq!(pool.check(address, prefix, &exclusions), Ok(()));
                    pool.insert(Lease { tag: tag(&name), address, prefix, since: Timestamp(now) });
                    naive.released.remove(&address);
                    if let Some(former) = naive.leases.insert(name, address) {
                        naive.released.insert(former, 0);
                    }
                }
                Step::Release { name } => {
                    let released = pool.release(&tag(&name.to_string()), Ordinal(now.unsigned_abs())).map(|lease| lease.address);
                    let expected = naive.leases.remove(&name.to_string());
                    prop_assert_eq!(released, expected);
                    naive.released.extend(expected.map(|address| (address, now)));
                }
                Step::Exclude { number, length } => {
                    for number in number..=number + length {
                        excluded.insert(IpAddr::V4((0x0a00_0000 + u32::from(number)).into()));
                    }
                    let text = format!("10.0.0.{number}-10.0.0.{}", number + length);
                    exclusions.add(text.parse::<Exclusion>().unwrap(), Reason::Request);
                }
                // What the ledger keeps is enough to go on with.
                Step::Reload => {
                    let released = naive.released.iter().map(|(&address, &at)| (address, Ordinal(at.unsigned_abs()))).collect();
                    pool = AddressPool::new(pool.leases().cloned().collect(), released);
                }
            }
            let held: BTreeMap<_, _> =
                pool.leases().map(|lease| (lease.tag.to_string(), lease.address)).collect();
            prop_assert_eq!(&held, &naive.leases);
            prop_assert_eq!(held.values().collect::<BTreeSet<_>>().len(), pool.len());
        }
    }
}
