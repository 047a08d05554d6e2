//! What the service sets on bridges: their own MAC address, and `route_localnet` where published ports answer on localhost.

use std::collections::BTreeSet;

use crate::domain::{Bridge, LoopbackRoute, MacAddress, NetworkName};

/// One thing to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The bridge keeps the MAC address that it has, whatever ports come and go.
    SetMac { network: NetworkName, bridge: u32, mac: MacAddress },
    /// The ledger's note is about a bridge that does not exist any more.
    Forget(NetworkName),
    /// It was on by our doing, and is not wanted any more: off, and then the note goes.
    StopLoopback { network: NetworkName, bridge: u32 },
    /// On; with a note in the ledger first, where there is none.
    RouteLoopback { route: LoopbackRoute, noted: bool },
}

/// What the decision is made from.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Networks with unikernels: their bridges get MAC addresses of their own. One that nobody is on is left alone, for
    /// whoever makes it may still want it to take the address of a port, such as the host's network card.
    pub own_mac: &'a BTreeSet<NetworkName>,
    /// Networks that loopback connections go to.
    pub loopback: &'a BTreeSet<NetworkName>,
    pub boot: &'a str,
}

/// The steps from what the bridges are to what they are wanted to be. `own_mac`: bridges that got theirs since the start;
/// the kernel does not say by netlink whether a MAC address was set.
pub fn steps<'a>(
    bridges: &[Bridge],
    wanted: &Wanted<'_>,
    notes: impl Iterator<Item = &'a LoopbackRoute>,
    own_mac: &BTreeSet<u32>,
) -> Vec<Step> {
    let of_now = |bridge: &Bridge| LoopbackRoute {
        network: bridge.name.clone(),
        bridge: bridge.index,
        boot: wanted.boot.to_owned(),
    };
    let to_set = bridges.iter().filter(|bridge| wanted.own_mac.contains(&bridge.name));
    let to_set = to_set.filter(|bridge| !own_mac.contains(&bridge.index));
    let mut steps: Vec<Step> = to_set
        .filter_map(|bridge| {
            Some(Step::SetMac { network: bridge.name.clone(), bridge: bridge.index, mac: bridge.mac? })
        })
        .collect();
    let mut ours = BTreeSet::new();
    for note in notes {
        let is_there = bridges.iter().any(|bridge| of_now(bridge) == *note);
        if !is_there {
            steps.push(Step::Forget(note.network.clone()));
        } else if !wanted.loopback.contains(&note.network) {
            steps.push(Step::StopLoopback { network: note.network.clone(), bridge: note.bridge });
        } else {
            ours.insert(note.bridge);
        }
    }
    // Where it is on already it is so by somebody else's doing, and stays.
    let off = bridges.iter().filter(|bridge| wanted.loopback.contains(&bridge.name) && !bridge.routes_loopback);
    steps.extend(off.map(|bridge| {
        let noted = ours.contains(&bridge.index);
        Step::RouteLoopback { route: of_now(bridge), noted }
    }));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

    fn bridge(name: &str, index: u32, routes_loopback: bool) -> Bridge {
        Bridge {
            name: name.parse().unwrap(),
            index,
            addresses: Vec::new(),
            mac: Some(MAC),
            up: true,
            carrier: true,
            forwarding: true,
            routes_loopback,
        }
    }

    fn note(bridge: u32, boot: &str) -> LoopbackRoute {
        LoopbackRoute { network: name("br0"), bridge, boot: boot.into() }
    }

    fn name(text: &str) -> NetworkName {
        text.parse().unwrap()
    }

    fn only_br0() -> BTreeSet<NetworkName> {
        [name("br0")].into()
    }

    fn decide(bridges: &[Bridge], populated: bool, loopback: bool, notes: &[LoopbackRoute], own: &[u32]) -> Vec<Step> {
        let (none, br0) = (BTreeSet::new(), only_br0());
        let set = |wanted: bool| if wanted { &br0 } else { &none };
        let wanted = Wanted { own_mac: set(populated), loopback: set(loopback), boot: "now" };
        steps(bridges, &wanted, notes.iter(), &own.iter().copied().collect())
    }

    #[test]
    fn a_bridge_gets_its_mac_address_once_somebody_is_on_it_and_only_once() {
        let bridges = [bridge("br0", 3, true), bridge("docker0", 4, false)];
        assert_eq!(decide(&bridges, false, false, &[], &[]), []);
        let set = Step::SetMac { network: name("br0"), bridge: 3, mac: MAC };
        assert_eq!(decide(&bridges, true, true, &[], &[]), [set]);
        assert_eq!(decide(&bridges, true, true, &[], &[3]), []);
        let none = Bridge { mac: None, ..bridge("br0", 3, true) };
        assert_eq!(decide(&[none], true, true, &[], &[]), []);
    }

    #[test]
    fn loopback_routing_is_noted_before_it_is_switched_on_and_goes_with_the_last_lease() {
        let (on, off) = ([bridge("br0", 3, true)], [bridge("br0", 3, false)]);
        let route = |noted| Step::RouteLoopback { route: note(3, "now"), noted };
        let stop = Step::StopLoopback { network: name("br0"), bridge: 3 };
        let forget = Step::Forget(name("br0"));
        for (bridges, wanted, notes, expected) in [
            (&off[..], true, vec![], vec![route(false)]),
            // The service ended between the two.
            (&off, true, vec![note(3, "now")], vec![route(true)]),
            (&on, true, vec![note(3, "now")], vec![]),
            (&on, false, vec![note(3, "now")], vec![stop.clone()]),
            (&off, false, vec![note(3, "now")], vec![stop]),
            // By somebody else's doing.
            (&on, true, vec![], vec![]),
            (&on, false, vec![], vec![]),
            // Made anew, or of an earlier boot.
            (&off, true, vec![note(2, "now")], vec![forget.clone(), route(false)]),
            (&on, false, vec![note(3, "before")], vec![forget.clone()]),
            (&[], true, vec![note(3, "now")], vec![forget]),
        ] {
            assert_eq!(decide(bridges, false, wanted, &notes, &[]), expected, "{bridges:?}, {wanted}, {notes:?}");
        }
    }
}
