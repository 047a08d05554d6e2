//! What holds for any graph and any change: what gets a new id is what depends on the change, and all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use proptest::sample::Index;

use super::graph::{self, Order};
use super::samples::{name, plan, specification};
use crate::domain::{Arguments, ImageDigest, Manifest, MemberPlan, Readiness, ServiceName, UnikernelId};
use crate::planning::Error;

/// Names that could be taken for each other, or for placeholders.
const NAMES: [&str; 12] =
    ["a", "a.b", "address", "a.address", "a.b.address", "gateway", "id", "0-1", "x.", "x", "service.id", "network"];

/// A member by its place in [`NAMES`].
type Place = usize;

#[derive(Debug, Clone, PartialEq)]
struct Node {
    image: u8,
    memory: u64,
    argument: u8,
    dependencies: BTreeSet<Place>,
    /// Decides nothing about what runs.
    readiness: u16,
}

type Nodes = BTreeMap<Place, Node>;

#[derive(Debug, Clone)]
enum Change {
    Image(Place, u8),
    Memory(Place, u64),
    Argument(Place, u8),
    Readiness(Place, u16),
    Add(Place, Node),
    Remove(Place),
    Depend(Place, Place),
    DependNoMore(Place, Place),
}

fn place() -> impl Strategy<Value = Place> {
    0..NAMES.len()
}

fn node() -> impl Strategy<Value = Node> {
    let dependencies = prop::collection::btree_set(place(), 0..4);
    (0..3_u8, 1..3_u64, 0..3_u8, dependencies, 1..3_u16).prop_map(
        |(image, memory, argument, dependencies, readiness)| Node { image, memory, argument, dependencies, readiness },
    )
}

/// A graph of any shape, and who is above whom: what only goes downwards has no cycle.
fn nodes() -> impl Strategy<Value = Nodes> {
    prop::collection::btree_map(place(), node(), 1..=NAMES.len())
}

fn ranks() -> impl Strategy<Value = Vec<Place>> {
    Just((0..NAMES.len()).collect::<Vec<_>>()).prop_shuffle()
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (place(), 0..3_u8).prop_map(|(place, image)| Change::Image(place, image)),
        (place(), 1..3_u64).prop_map(|(place, memory)| Change::Memory(place, memory)),
        (place(), 0..3_u8).prop_map(|(place, argument)| Change::Argument(place, argument)),
        (place(), 1..3_u16).prop_map(|(place, readiness)| Change::Readiness(place, readiness)),
        (place(), node()).prop_map(|(place, node)| Change::Add(place, node)),
        place().prop_map(Change::Remove),
        (place(), place()).prop_map(|(from, to)| Change::Depend(from, to)),
        (place(), place()).prop_map(|(from, to)| Change::DependNoMore(from, to)),
    ]
}

fn changed(nodes: &mut Nodes, change: &Change) {
    match change {
        Change::Add(place, node) => {
            nodes.entry(*place).or_insert_with(|| node.clone());
        }
        Change::Remove(place) => {
            nodes.remove(place);
        }
        Change::Image(place, image) => on(nodes, *place, |node| node.image = *image),
        Change::Memory(place, memory) => on(nodes, *place, |node| node.memory = *memory),
        Change::Argument(place, argument) => on(nodes, *place, |node| node.argument = *argument),
        Change::Readiness(place, readiness) => on(nodes, *place, |node| node.readiness = *readiness),
        Change::Depend(from, to) => on(nodes, *from, |node| node.dependencies.extend([*to])),
        Change::DependNoMore(from, to) => on(nodes, *from, |node| node.dependencies.retain(|other| other != to)),
    }
}

fn on(nodes: &mut Nodes, place: Place, change: impl FnOnce(&mut Node)) {
    nodes.entry(place).and_modify(change);
}

/// Without what is not there and, where `ranks` are given, without what goes upwards in them.
fn trimmed(nodes: &Nodes, ranks: Option<&[Place]>) -> Nodes {
    let trim = |(&place, node): (&Place, &Node)| {
        let below = |other: &Place| ranks.is_none_or(|ranks| ranks[*other] < ranks[place]);
        let kept = node.dependencies.iter().copied().filter(|other| nodes.contains_key(other) && below(other));
        (place, Node { dependencies: kept.collect(), ..node.clone() })
    };
    nodes.iter().map(trim).collect()
}

fn manifest(nodes: &Nodes) -> Manifest {
    let member = |(&place, node): (&Place, &Node)| {
        let own = format!("--ip={{address}} {{{{{}}}}}", node.argument);
        let relays = node.dependencies.iter().map(|&other| format!("--relay={{{}.address}}", NAMES[other]));
        let mut plan = plan(&[]);
        plan.configuration.arguments = Arguments([own].into_iter().chain(relays).collect());
        plan.configuration.memory = node.memory;
        plan.configuration.readiness = Readiness::Tcp { port: node.readiness };
        (name(NAMES[place]), plan)
    };
    Manifest { stack: "mail".parse().unwrap(), members: nodes.iter().map(member).collect() }
}

/// Everything reachable from each, itself only by a way round.
fn reachable(nodes: &Nodes) -> BTreeMap<Place, BTreeSet<Place>> {
    let mut reachable =
        nodes.iter().map(|(&place, node)| (place, node.dependencies.clone())).collect::<BTreeMap<_, _>>();
    for _ in nodes {
        for (place, before) in reachable.clone() {
            let further = before.iter().flat_map(|other| nodes[other].dependencies.clone()).collect::<Vec<_>>();
            reachable.get_mut(&place).unwrap().extend(further);
        }
    }
    reachable
}

/// Who is to get a new id: what is new or says otherwise than before, and what reaches such a one.
fn restarted(before: &Nodes, after: &Nodes) -> BTreeSet<ServiceName> {
    let differs = |place: &Place| {
        let node = &after[place];
        before.get(place).is_none_or(|old| Node { readiness: node.readiness, ..old.clone() } != *node)
    };
    let reached = reachable(after);
    let hit = after.keys().filter(|place| differs(place) || reached[place].iter().any(differs));
    hit.map(|&place| name(NAMES[place])).collect()
}

/// What starts, in an order that `choices` make of what may start, and whether that is all that may at each point.
fn walk(members: &BTreeMap<ServiceName, MemberPlan>, choices: &[Index], mut start: impl FnMut(&ServiceName)) {
    let (mut order, mut running) = Order::new(members);
    let (mut done, mut started) = (BTreeSet::new(), BTreeSet::new());
    let mut choices = choices.iter().cycle();
    started.extend(running.clone());
    loop {
        let may = members.iter().filter(|(_, plan)| graph::dependencies(plan).is_subset(&done));
        assert_eq!(started, may.map(|(name, _)| name.clone()).collect(), "with {done:?} done");
        let waiting = members.keys().filter(|name| !started.contains(name));
        assert!(order.waiting().eq(waiting), "what has not started waits");
        if running.is_empty() {
            break;
        }
        let next = running.swap_remove(choices.next().unwrap().index(running.len()));
        start(&next);
        let now = order.done(&next);
        done.insert(next);
        for name in now {
            assert!(started.insert(name.clone()), "{name} starts twice");
            running.push(name);
        }
    }
    assert_eq!(done.len(), members.len(), "all came to their end");
}

/// Unikernels that are there, by what Apply asks for.
#[derive(Default)]
struct Host {
    addresses: BTreeMap<UnikernelId, IpAddr>,
}

impl Host {
    fn apply(&mut self, nodes: &Nodes, choices: &[Index]) -> BTreeMap<ServiceName, UnikernelId> {
        let manifest = manifest(nodes);
        graph::check(&manifest).unwrap();
        let (mut ids, mut addresses) = (BTreeMap::new(), BTreeMap::new());
        walk(&manifest.members, choices, |name| {
            let configuration = graph::configuration(&manifest.members[name], &addresses).unwrap();
            let node = NAMES.iter().position(|text| *text == name.as_str()).unwrap();
            let id = specification(&configuration, ImageDigest([nodes[&node].image; 32])).id(name);
            let fresh = IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0002 + u32::try_from(self.addresses.len()).unwrap()));
            addresses.insert(name.clone(), *self.addresses.entry(id.clone()).or_insert(fresh));
            ids.insert(name.clone(), id);
        });
        ids
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_depends_on_a_change_starts_anew_and_nothing_else(
        first in nodes(),
        ranks in ranks(),
        steps in prop::collection::vec(prop::collection::vec(change(), 0..3), 1..6),
        choices in prop::collection::vec(any::<Index>(), 1..20),
    ) {
        let mut host = Host::default();
        let mut nodes = trimmed(&first, Some(&ranks));
        let mut ids = host.apply(&nodes, &choices);
        for step in steps {
            let before = nodes.clone();
            step.iter().for_each(|one| changed(&mut nodes, one));
            nodes = trimmed(&nodes, Some(&ranks));
            prop_assume!(!nodes.is_empty());
            let now = host.apply(&nodes, &choices);
            let new = now.iter().filter(|(name, id)| ids.get(name) != Some(id)).map(|(name, _)| name.clone());
            prop_assert_eq!(new.collect::<BTreeSet<_>>(), restarted(&before, &nodes));
            let there = host.addresses.len();
            let backwards = choices.iter().rev().copied().collect::<Vec<_>>();
            prop_assert_eq!(&host.apply(&nodes, &backwards), &now, "once more, done in another order");
            prop_assert_eq!(host.addresses.len(), there);
            ids = now;
        }
    }

    #[test]
    fn dependents_go_before_what_they_depend_on(nodes in nodes(), ranks in ranks()) {
        let manifest = manifest(&trimmed(&nodes, Some(&ranks)));
        let order = graph::dependents_first(&manifest.members);
        prop_assert_eq!(order.iter().collect::<BTreeSet<_>>(), manifest.members.keys().collect());
        prop_assert_eq!(order.len(), manifest.members.len());
        for (place, name) in order.iter().enumerate() {
            let dependencies = graph::dependencies(&manifest.members[name]);
            prop_assert!(order[..place].iter().all(|earlier| !dependencies.contains(earlier)), "{:?}", order);
        }
    }

    #[test]
    fn what_has_a_cycle_is_refused_and_nothing_else(nodes in nodes()) {
        let nodes = trimmed(&nodes, None);
        let manifest = manifest(&nodes);
        let in_cycles = reachable(&nodes).into_iter().filter(|(place, reached)| reached.contains(place));
        let in_cycles = in_cycles.map(|(place, _)| name(NAMES[place])).collect::<BTreeSet<_>>();
        let all = graph::dependents_first(&manifest.members).into_iter().collect::<BTreeSet<_>>();
        prop_assert!(all.iter().eq(manifest.members.keys()), "nobody is left out");
        match graph::check(&manifest) {
            Ok(()) => prop_assert!(in_cycles.is_empty(), "{:?}", in_cycles),
            Err(Error::InvalidArgument(message)) => {
                prop_assert!(!in_cycles.is_empty(), "{}", message);
                let Some((_, path)) = message.split_once("addresses: ") else {
                    prop_assert!(message.contains("its own address"), "{}", message);
                    return Ok(());
                };
                let path = path.split(" -> ").map(name).collect::<Vec<_>>();
                prop_assert!(path.len() > 2 && path.first() == path.last(), "{}", message);
                for pair in path.windows(2) {
                    let dependencies = graph::dependencies(&manifest.members[&pair[0]]);
                    prop_assert!(dependencies.contains(&pair[1]), "{}", message);
                }
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn what_is_not_there_is_named(nodes in nodes()) {
        let absent = nodes.values().flat_map(|node| &node.dependencies).any(|other| !nodes.contains_key(other));
        let nobody = graph::check(&manifest(&nodes)).is_err_and(|error| error.to_string().contains("there is no member"));
        let own = nodes.iter().any(|(place, node)| node.dependencies.contains(place));
        // Where both are wrong, either may be what is said.
        prop_assert!(absent || !nobody);
        prop_assert!(own || nobody || !absent);
    }
}
