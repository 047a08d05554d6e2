//! Which redirected connections are alive, as events tell it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::events::FlowChange;
use super::flow::{FlowId, FlowKey};

/// Connections that are kept at most: 10 MiB. The kernel's own limit (`nf_conntrack_max`) is 262,144 by default, at more
/// than 300 bytes each.
const MAX_FLOWS: usize = 1 << 20;

/// Connections at most for which it is kept how the kernel finds them: 10 MiB.
const MAX_UNREPORTED: usize = 1 << 16;

/// The most UDP flows whose keys are kept: 10 MiB.
const MAX_UDP: usize = 1 << 16;

/// A redirected connection that is alive, and what the kernel finds it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where its answers come from.
    pub target: IpAddr,
    pub flow: FlowId,
    pub key: FlowKey,
}

/// The alive connections to each target. Only targets in the networks' prefixes are kept: what others translate costs
/// no memory.
#[derive(Debug, Default)]
pub struct Census {
    prefixes: Vec<IpNet>,
    targets: BTreeMap<IpAddr, Target>,
    flows: usize,
    unreported: usize,
    udp: usize,
    max_flows: Option<usize>,
    max_udp: Option<usize>,
}

#[derive(Debug, Default)]
struct Target {
    alive: BTreeSet<FlowId>,
    /// Those of them that came from a list, so that the kernel may never notify of their end: it does so only of
    /// connections that began while somebody listened.
    unreported: BTreeMap<FlowId, Listed>,
    /// The keys of those that are of UDP.
    udp: BTreeMap<FlowId, FlowKey>,
    /// More than could be kept.
    overflowed: bool,
    /// More UDP flows began than could be kept.
    udp_overflowed: bool,
}

impl Census {
    /// Keeps only targets within `prefixes`. Returns whether connections may be missing now: a new one is in `used`, where
    /// unikernels have addresses already.
    pub fn keep_within(&mut self, prefixes: Vec<IpNet>, used: &[IpNet]) -> bool {
        let is_new = |prefix: &IpNet| !self.prefixes.iter().any(|known| known.contains(prefix));
        let grown = prefixes.iter().any(|prefix| is_new(prefix) && used.contains(prefix));
        self.prefixes = prefixes;
        let left = self.targets.keys().copied().filter(|target| !self.is_ours(*target)).collect::<Vec<_>>();
        for target in left {
            self.forget(target);
        }
        grown
    }

    fn is_ours(&self, target: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&target))
    }

    fn forget(&mut self, target: IpAddr) {
        if let Some(gone) = self.targets.remove(&target) {
            self.flows -= gone.alive.len();
            self.unreported -= gone.unreported.len();
            self.udp -= gone.udp.len();
        }
    }

    /// Applies an event. Events may come twice, and of connections that nobody knows.
    pub fn apply(&mut self, change: FlowChange) {
        if change.ended {
            self.end(change.target, change.flow);
        } else if self.is_ours(change.target) {
            self.begin(change.target, change.flow, change.udp);
        }
    }

    fn begin(&mut self, target: IpAddr, flow: FlowId, udp: Option<FlowKey>) {
        let full = self.flows >= self.max_flows.unwrap_or(MAX_FLOWS);
        let entry = self.targets.entry(target).or_default();
        if full && !entry.alive.contains(&flow) {
            entry.overflowed = true;
        } else if entry.alive.insert(flow) {
            self.flows += 1;
        }
        if let Some(key) = udp.filter(|_| entry.alive.contains(&flow)) {
            if self.udp >= self.max_udp.unwrap_or(MAX_UDP) && !entry.udp.contains_key(&flow) {
                entry.udp_overflowed = true;
            } else if entry.udp.insert(flow, key).is_none() {
                self.udp += 1;
            }
        }
        // The kernel tells of this one.
        if entry.unreported.remove(&flow).is_some() {
            self.unreported -= 1;
        }
    }

    fn end(&mut self, target: IpAddr, flow: FlowId) {
        let Some(entry) = self.targets.get_mut(&target) else { return };
        if entry.alive.remove(&flow) {
            self.flows -= 1;
        }
        if entry.unreported.remove(&flow).is_some() {
            self.unreported -= 1;
        }
        if entry.udp.remove(&flow).is_some() {
            self.udp -= 1;
        }
        if entry.alive.is_empty() && !entry.overflowed {
            self.targets.remove(&target);
        }
    }

    /// Begins anew with all connections of a list. Those that events have told of before are still told of.
    pub fn replace(&mut self, listed: Vec<Listed>) {
        let before = std::mem::take(&mut self.targets);
        (self.flows, self.unreported, self.udp) = (0, 0, 0);
        for found in listed.into_iter().filter(|found| self.is_ours(found.target)).collect::<Vec<_>>() {
            let reported =
                |known: &Target| known.alive.contains(&found.flow) && !known.unreported.contains_key(&found.flow);
            let reported = before.get(&found.target).is_some_and(reported);
            self.begin(found.target, found.flow, Some(found.key.clone()).filter(FlowKey::is_udp));
            if !reported && self.unreported < MAX_UNREPORTED {
                let entry = self.targets.entry(found.target).or_default();
                if entry.alive.contains(&found.flow) && entry.unreported.insert(found.flow, found).is_none() {
                    self.unreported += 1;
                }
            }
        }
    }

    pub fn has_unreported(&self, target: IpAddr) -> bool {
        self.targets.get(&target).is_some_and(|entry| !entry.unreported.is_empty())
    }

    /// Connections to `target` whose end the kernel may never notify of.
    pub fn unreported(&self, target: IpAddr) -> Vec<Listed> {
        self.targets.get(&target).map(|entry| entry.unreported.values().cloned().collect()).unwrap_or_default()
    }

    /// Takes out those of `asked` that are not `alive` any more.
    pub fn confirm(&mut self, asked: &[Listed], alive: &BTreeSet<FlowId>) {
        for gone in asked.iter().filter(|flow| !alive.contains(&flow.flow)) {
            // One that an event has told of meanwhile has begun anew.
            let entry = self.targets.get(&gone.target);
            if entry.is_some_and(|entry| entry.unreported.contains_key(&gone.flow)) {
                self.end(gone.target, gone.flow);
            }
        }
    }

    /// The UDP flows to `target` that came to this port of the host, or to any. `None` where they are not all known, or where
    /// the target has more than `most`.
    pub fn udp(&self, target: IpAddr, host_port: Option<u16>, most: usize) -> Option<Vec<Listed>> {
        if !self.is_ours(target) {
            return None;
        }
        let Some(entry) = self.targets.get(&target) else { return Some(Vec::new()) };
        if entry.overflowed || entry.udp_overflowed || entry.udp.len() > most {
            return None;
        }
        let wanted = entry.udp.iter().filter(|(_, key)| host_port.is_none() || key.host_port() == host_port);
        Some(wanted.map(|(&flow, key)| Listed { target, flow, key: key.clone() }).collect())
    }

    /// How many are alive; `None` where they are more than can be kept.
    pub fn alive(&self, target: IpAddr) -> Option<u32> {
        match self.targets.get(&target) {
            None => Some(0),
            Some(entry) if entry.overflowed => None,
            Some(entry) => Some(u32::try_from(entry.alive.len()).unwrap_or(u32::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TARGET: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 17, 0, 2));

    /// The key of a flow: of UDP where its number is odd, to a port of the same number.
    fn key(flow: u32) -> FlowKey {
        FlowKey::of(if flow % 2 == 1 { 17 } else { 6 }, flow.try_into().unwrap())
    }

    fn change(target: IpAddr, flow: u32, ended: bool) -> FlowChange {
        let udp = Some(key(flow)).filter(|key| !ended && key.is_udp());
        FlowChange { target, flow: FlowId(flow), ended, udp }
    }

    fn listed(flow: u32) -> Listed {
        Listed { target: TARGET, flow: FlowId(flow), key: key(flow) }
    }

    fn census() -> Census {
        let mut census = Census::default();
        let prefix = "10.0.0.0/24".parse().unwrap();
        assert!(census.keep_within(vec![prefix], &[prefix]));
        census
    }

    #[test]
    fn only_targets_of_our_networks_are_kept() {
        let mut census = census();
        census.apply(change(OTHER, 1, false));
        census.apply(change(TARGET, 2, false));
        assert_eq!((census.alive(OTHER), census.alive(TARGET), census.flows), (Some(0), Some(1), 1));
        let [half, other, unused] =
            ["10.0.0.0/25", "172.17.0.0/16", "172.18.0.0/16"].map(|prefix| prefix.parse().unwrap());
        assert!(!census.keep_within(vec![half], &[half]), "nothing new");
        assert!(!census.keep_within(vec![half, unused], &[half]), "nobody has an address there");
        assert!(!census.keep_within(vec![half, unused], &[half, unused]), "it was known before its first lease");
        assert!(census.keep_within(vec![other], &[other]));
        assert_eq!((census.alive(TARGET), census.flows), (Some(0), 0));
    }

    #[test]
    fn what_is_too_much_is_not_counted_and_a_list_counts_it() {
        let mut census = Census { max_flows: Some(2), ..census() };
        (0..3).for_each(|flow| census.apply(change(TARGET, flow, false)));
        assert_eq!(census.alive(TARGET), None);
        (0..3).for_each(|flow| census.apply(change(TARGET, flow, true)));
        assert_eq!(census.alive(TARGET), None, "one that was not kept may be alive");
        census.replace(vec![listed(3)]);
        assert_eq!(census.alive(TARGET), Some(1));
    }

    #[test]
    fn what_a_list_brought_is_asked_for_until_an_event_tells_of_it() {
        let mut census = census();
        census.apply(change(TARGET, 1, false));
        census.replace(vec![listed(1), listed(2), listed(3), listed(4)]);
        let asked = census.unreported(TARGET);
        assert_eq!(asked, [listed(2), listed(3), listed(4)], "of the first an event has told");
        census.apply(change(TARGET, 3, true));
        census.apply(change(TARGET, 4, true));
        census.apply(change(TARGET, 4, false));
        census.confirm(&asked, &BTreeSet::new());
        assert_eq!(census.alive(TARGET), Some(2), "the first, and the one that began anew meanwhile");
        assert!(census.unreported(TARGET).is_empty());
    }

    fn udp(census: &Census, port: Option<u16>) -> Option<Vec<u32>> {
        Some(census.udp(TARGET, port, 4)?.into_iter().map(|listed| listed.flow.0).collect())
    }

    #[test]
    fn udp_flows_are_found_by_their_port() {
        let mut census = Census { max_udp: Some(2), ..census() };
        assert_eq!(udp(&census, None), Some(vec![]));
        (0..4).for_each(|flow| census.apply(change(TARGET, flow, false)));
        assert_eq!((udp(&census, None), udp(&census, Some(3))), (Some(vec![1, 3]), Some(vec![3])));
        census.apply(change(TARGET, 3, false));
        assert_eq!(udp(&census, Some(3)), Some(vec![3]), "told of twice");
        census.apply(change(TARGET, 5, false));
        assert_eq!((udp(&census, Some(3)), census.alive(TARGET)), (None, Some(5)), "more than can be kept");
        census.replace(vec![listed(3)]);
        assert_eq!(udp(&census, None), Some(vec![3]));
        assert_eq!(census.udp(TARGET, None, 0), None, "more than are wanted");
        assert_eq!(census.udp(OTHER, None, 4), None, "nobody counts what goes there");
        census.keep_within(Vec::new(), &[]);
        assert_eq!(udp(&census, None), None, "its network is gone");
    }

    #[derive(Debug, Clone)]
    enum Deed {
        Event(u32, bool),
        List(BTreeSet<u32>),
        Confirm(BTreeSet<u32>),
    }

    fn deed() -> impl Strategy<Value = Deed> {
        let some = || prop::collection::btree_set(0..8_u32, 0..8);
        prop_oneof![
            4 => (0..8_u32, any::<bool>()).prop_map(|(flow, ended)| Deed::Event(flow, ended)),
            1 => some().prop_map(Deed::List),
            1 => some().prop_map(Deed::Confirm),
        ]
    }

    proptest! {
        /// In any order, twice, or of what nobody knows: what is alive is what began and did not end after that.
        #[test]
        fn counts_are_those_of_a_set(deeds in prop::collection::vec(deed(), 0..60)) {
            let (mut census, mut model, mut silent) = (census(), BTreeSet::new(), BTreeSet::new());
            for deed in deeds {
                match deed {
                    Deed::Event(flow, ended) => {
                        census.apply(change(TARGET, flow, ended));
                        if ended { model.remove(&flow) } else { model.insert(flow) };
                        silent.remove(&flow);
                    }
                    Deed::List(flows) => {
                        census.replace(flows.iter().copied().map(listed).collect());
                        silent = flows.iter().copied().filter(|flow| !model.contains(flow) || silent.contains(flow)).collect();
                        model = flows;
                    }
                    Deed::Confirm(alive) => {
                        let asked = census.unreported(TARGET);
                        census.confirm(&asked, &alive.iter().copied().map(FlowId).collect());
                        model.retain(|flow| !silent.contains(flow) || alive.contains(flow));
                        silent.retain(|flow| alive.contains(flow));
                    }
                }
                prop_assert_eq!(census.alive(TARGET), u32::try_from(model.len()).ok());
                prop_assert_eq!(census.unreported(TARGET).len(), silent.len());
                let of_udp = model.iter().copied().filter(|flow| flow % 2 == 1).collect::<Vec<_>>();
                prop_assert_eq!((census.flows, census.unreported, census.udp), (model.len(), silent.len(), of_udp.len()));
                prop_assert_eq!(udp(&census, None), Some(of_udp));
            }
        }
    }
}
