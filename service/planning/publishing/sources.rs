//! Who may connect, and what becomes of those who no longer may.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::super::world::World;
use crate::domain::{Change, Deadline, Publication, Service, Timestamp};

/// Whether each source that `whom` admits is admitted by `by` too. An empty list admits every source.
pub(super) fn admits_all(by: &[IpNet], whom: &[IpNet]) -> bool {
    if by.is_empty() {
        return true;
    }
    let by = aggregated(by);
    !whom.is_empty() && whom.iter().all(|prefix| by.iter().any(|wide| wide.contains(prefix)))
}

/// As few prefixes as hold the same addresses: one of them holds whatever prefix several held together.
fn aggregated(prefixes: &[IpNet]) -> Vec<IpNet> {
    let v4 = prefixes.iter().filter_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None });
    let v6 = prefixes.iter().filter_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None });
    let v4 = Ipv4Net::aggregate(&v4.collect()).into_iter().map(IpNet::V4);
    v4.chain(Ipv6Net::aggregate(&v6.collect()).into_iter().map(IpNet::V6)).collect()
}

/// `new` with the time for which it lets the TCP connections of sources go on that `old`, or what drains, has admitted.
pub(super) fn tolerant(world: &World, old: Option<&Publication>, new: Publication, now: Timestamp) -> Publication {
    let narrowed = old.filter(|old| !admits_all(&new.sources, &old.sources));
    let narrowed = narrowed.map(|_| Deadline::new(now, Duration::from_millis(new.drain)));
    let still = old.and_then(|old| old.tolerates_until);
    // What had the port before, of whatever service, may finish its connections all the same.
    let draining = world.services().filter(|_| old.is_none()).flat_map(|service| &service.draining);
    let draining = draining.map(|(_, until)| *until).max();
    let until = [narrowed, still, draining].into_iter().flatten().max();
    let tolerates_until = until.filter(|until| !new.sources.is_empty() && !until.left(now).is_zero());
    Publication { tolerates_until, ..new }
}

/// Until when connections go on whose sources may not connect any more.
pub fn tolerances(world: &World) -> BTreeSet<Deadline> {
    world.publications().filter_map(|(_, publication)| publication.tolerates_until).collect()
}

/// Resets the connections whose time is over.
pub fn end_tolerance(world: &World, over: &BTreeSet<Deadline>) -> Vec<Change> {
    let over = |publication: &Publication| publication.tolerates_until.is_some_and(|until| over.contains(&until));
    let strict = |publication: &Arc<Publication>| {
        if over(publication) {
            Arc::new(Publication { tolerates_until: None, ..publication.as_ref().clone() })
        } else {
            Arc::clone(publication)
        }
    };
    let ended = world.services().filter(|service| service.publications().any(|publication| over(publication)));
    let strict = ended.map(|service| Service {
        publication: service.publication.as_ref().map(strict),
        staged: service.staged.as_ref().map(strict),
        ..service.clone()
    });
    strict.map(|service| Change::PutService(Box::new(service))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(prefixes: &[&str]) -> Vec<IpNet> {
        prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect()
    }

    #[test]
    fn who_admits_whom() {
        for (by, whom, all) in [
            (&[][..], &[][..], true),
            (&[], &["10.0.0.0/8"], true),
            (&["10.0.0.0/8"], &[], false),
            (&["10.0.0.0/8"], &["10.1.0.0/16", "10.2.0.0/16"], true),
            (&["10.0.0.0/9", "10.128.0.0/9"], &["10.0.0.0/8"], true),
            (&["10.1.0.0/16"], &["10.0.0.0/8"], false),
            (&["10.0.0.0/8"], &["10.0.0.0/8", "192.0.2.1/32"], false),
            (&["fd00::/8"], &["fd00::/64"], true),
            (&["0.0.0.0/0"], &["fd00::/64"], false),
        ] {
            assert_eq!(admits_all(&nets(by), &nets(whom)), all, "{by:?} {whom:?}");
        }
    }
}
