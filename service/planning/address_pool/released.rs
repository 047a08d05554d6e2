//! Which of the released addresses of a range has rested longest.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::exclusions::Exclusions;
use crate::domain::{AddressRange, Ordinal};

/// Released addresses by number, with the oldest of every block of 256 beside them: a search looks at one entry for
/// each block, and at single addresses only in a block whose oldest one cannot be had.
#[derive(Debug, Clone, Default)]
pub(super) struct Released {
    since: BTreeMap<IpAddr, Ordinal>,
    oldest: BTreeMap<IpAddr, (Ordinal, IpAddr)>,
}

impl Released {
    pub(super) fn insert(&mut self, address: IpAddr, at: Ordinal) {
        self.remove(address);
        self.since.insert(address, at);
        let entry = self.oldest.entry(block(address).first).or_insert((at, address));
        *entry = (at, address).min(*entry);
    }

    pub(super) fn remove(&mut self, address: IpAddr) {
        if self.since.remove(&address).is_none() {
            return;
        }
        let block = block(address);
        match self.oldest_of(block) {
            Some(oldest) => self.oldest.insert(block.first, oldest),
            None => self.oldest.remove(&block.first),
        };
    }

    /// The address of `range` that was released first and is not excluded; of several that were together, the lowest.
    pub(super) fn oldest_in(&self, range: AddressRange, excluded: &Exclusions) -> Option<IpAddr> {
        let mut best = None;
        for (&first, &oldest) in self.oldest.range(block(range.first).first..=range.last) {
            #[cfg(test)]
            super::ranges::lookups::count();
            if best.is_some_and(|best| best < oldest) {
                continue;
            }
            let inside = AddressRange { first: first.max(range.first), last: block(first).last.min(range.last) };
            let can_be_had = (inside.first..=inside.last).contains(&oldest.1) && !excluded.contains(oldest.1);
            let candidate = if can_be_had {
                Some(oldest)
            } else {
                excluded.free(inside).filter_map(|free| self.oldest_of(free)).min()
            };
            best = best.into_iter().chain(candidate).min();
        }
        best.map(|(_, address)| address)
    }

    /// Looks at every released address of the range.
    fn oldest_of(&self, range: AddressRange) -> Option<(Ordinal, IpAddr)> {
        self.since.range(range.first..=range.last).map(|(&address, &at)| (at, address)).min()
    }
}

/// The block of 256 addresses around this one.
fn block(address: IpAddr) -> AddressRange {
    match address {
        IpAddr::V4(v4) => {
            let bits = u32::from(v4);
            AddressRange { first: IpAddr::V4((bits & !0xff).into()), last: IpAddr::V4((bits | 0xff).into()) }
        }
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            AddressRange { first: IpAddr::V6((bits & !0xff).into()), last: IpAddr::V6((bits | 0xff).into()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::exclusions::Reason;
    use super::*;
    use crate::domain::Exclusion;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + number).into())
    }

    proptest! {
        #[test]
        fn as_a_search_through_all(
            steps in prop::collection::vec((0..2000_u32, prop::option::weighted(0.8, 0..50_u64)), 0..300),
            bounds in (0..2000_u32, 0..2000_u32),
            excluded in prop::collection::vec((0..2000_u32, 0..600_u32), 0..4),
        ) {
            let mut released = Released::default();
            let mut naive = BTreeMap::new();
            for (number, at) in steps {
                match at {
                    Some(at) => {
                        released.insert(address(number), Ordinal(at));
                        naive.insert(number, at);
                    }
                    None => {
                        released.remove(address(number));
                        naive.remove(&number);
                    }
                }
            }
            let (first, last) = (bounds.0.min(bounds.1), bounds.0.max(bounds.1));
            let mut exclusions = Exclusions::default();
            for &(number, length) in &excluded {
                let text = format!("{}-{}", address(number), address(number + length));
                exclusions.add(text.parse::<Exclusion>().unwrap(), Reason::Request);
            }
            let free = |number: &u32| !excluded.iter().any(|(first, length)| (*first..=first + length).contains(number));
            let expected = naive.range(first..=last).filter(|(number, _)| free(number));
            let expected = expected.map(|(&number, &at)| (at, number)).min();
            let found = released.oldest_in(AddressRange { first: address(first), last: address(last) }, &exclusions);
            prop_assert_eq!(found, expected.map(|(_, number)| address(number)));
        }
    }
}
