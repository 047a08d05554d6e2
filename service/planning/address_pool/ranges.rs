//! Sets of addresses as ranges, each with a value: 60,000 neighbours cost one entry and one step to skip.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::domain::AddressRange;

/// Ranges that never overlap; neighbours with the same value are one range.
///
/// Both families fit in one map: `IpAddr` sorts every IPv4 address before every IPv6 address, and a range has one
/// family.
#[derive(Debug, Clone)]
pub(super) struct Ranges<V> {
    by_first: BTreeMap<IpAddr, (IpAddr, V)>,
}

impl<V> Default for Ranges<V> {
    fn default() -> Self {
        Self { by_first: BTreeMap::new() }
    }
}

impl<V: Copy + PartialEq> Ranges<V> {
    /// The range that covers `address`.
    pub(super) fn find(&self, address: IpAddr) -> Option<(AddressRange, V)> {
        #[cfg(test)]
        lookups::count();
        let (&first, &(last, value)) = self.by_first.range(..=address).next_back()?;
        (address <= last).then_some((AddressRange { first, last }, value))
    }

    /// Adds what of `range` is not covered yet; what is covered keeps its value.
    pub(super) fn insert(&mut self, range: AddressRange, value: V) {
        let uncovered: Vec<_> = self.gaps(range).collect();
        for gap in uncovered {
            self.join(gap, value);
        }
    }

    /// What of `within` is not covered, lowest first.
    pub(super) fn gaps(&self, within: AddressRange) -> impl Iterator<Item = AddressRange> + '_ {
        let mut from = Some(within.first);
        std::iter::from_fn(move || {
            let mut first = from.take()?;
            // More than one step only where ranges with different values touch.
            while let Some((covered, _)) = self.find(first) {
                first = next(covered.last)?;
            }
            if first > within.last {
                return None;
            }
            let following = self.by_first.range(first..=within.last).next();
            let last = following.and_then(|(&start, _)| previous(start)).unwrap_or(within.last);
            from = next(last);
            Some(AddressRange { first, last })
        })
    }

    /// Adds an uncovered range, as one with its neighbours where they have the same value.
    fn join(&mut self, AddressRange { mut first, mut last }: AddressRange, value: V) {
        let same = |(_, other): &(AddressRange, V)| *other == value;
        if let Some((left, _)) = previous(first).and_then(|address| self.find(address)).filter(same) {
            first = left.first;
        }
        if let Some((right, _)) = next(last).and_then(|address| self.find(address)).filter(same) {
            self.by_first.remove(&right.first);
            last = right.last;
        }
        self.by_first.insert(first, (last, value));
    }
}

/// The address after this one in its family.
pub(super) fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// The address before this one in its family.
pub(super) fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_sub(1).map(|bits| IpAddr::V4(bits.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_sub(1).map(|bits| IpAddr::V6(bits.into())),
    }
}

/// Counts searches, so that a test can show that they do not grow with the number of leases.
#[cfg(test)]
pub(super) mod lookups {
    use std::cell::Cell;

    thread_local!(static COUNT: Cell<usize> = const { Cell::new(0) });

    pub(in super::super) fn count() {
        COUNT.with(|count| count.set(count.get() + 1));
    }

    pub(in super::super) fn during(work: impl FnOnce()) -> usize {
        let before = COUNT.with(Cell::get);
        work();
        COUNT.with(Cell::get) - before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Exclusion;

    fn range(text: &str) -> AddressRange {
        text.parse::<Exclusion>().unwrap().range()
    }

    fn shown<V: Copy + PartialEq + std::fmt::Debug>(ranges: &Ranges<V>) -> Vec<String> {
        ranges.by_first.iter().map(|(first, (last, value))| format!("{first}-{last} {value:?}")).collect()
    }

    #[test]
    fn neighbours_with_the_same_value_become_one() {
        let mut ranges = Ranges::default();
        for text in ["10.0.0.1", "10.0.0.3", "10.0.0.2", "10.0.0.9", "::1"] {
            ranges.insert(range(text), ());
        }
        assert_eq!(shown(&ranges), ["10.0.0.1-10.0.0.3 ()", "10.0.0.9-10.0.0.9 ()", "::1-::1 ()"]);
    }

    #[test]
    fn what_came_first_keeps_its_value() {
        let mut ranges = Ranges::default();
        ranges.insert(range("10.0.0.4-10.0.0.5"), 'a');
        ranges.insert(range("10.0.0.0/28"), 'b');
        assert_eq!(shown(&ranges), ["10.0.0.0-10.0.0.3 'b'", "10.0.0.4-10.0.0.5 'a'", "10.0.0.6-10.0.0.15 'b'"]);
    }

    #[test]
    fn gaps_end_at_the_edges_of_the_address_space() {
        let mut ranges = Ranges::default();
        ranges.insert(range("255.255.255.250-255.255.255.255"), ());
        ranges.insert(range("0.0.0.0-0.0.0.5"), ());
        let gaps: Vec<_> = ranges.gaps(range("0.0.0.0/0")).collect();
        assert_eq!(gaps, [range("0.0.0.6-255.255.255.249")]);
        assert_eq!(ranges.gaps(range("255.255.255.255")).count(), 0);
        assert_eq!(ranges.gaps(range("::/0")).collect::<Vec<_>>(), [range("::/0")]);
    }
}
