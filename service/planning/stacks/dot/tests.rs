//! The picture of a stack that has all that there can be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::{Attempt, Change, Deadline, ImageDigest, MemberPlan, Phase, PortMapping, PortProtocol, Timestamp};
use crate::planning::stacks::graph::configuration;
use crate::planning::stacks::samples::{mail, name, specification, tcp, unikernel};

/// A chain of the example: each member by its version, which is the last byte of its address and its image.
fn chain(versions: [(&str, u8); 3]) -> Chain {
    let plans = mail().members;
    let address = |version: u8| std::net::IpAddr::from([10, 0, 0, version]);
    let addresses = versions.map(|(member, version)| (name(member), address(version))).into();
    let member = |(member, version): (&str, u8)| {
        let plan = plans[&name(member)].clone();
        let image = ImageDigest([version; 32]);
        let spec = specification(&configuration(&plan, &addresses).unwrap(), image);
        (name(member), Member { plan, image, unikernel: spec.id(&name(member)) })
    };
    Chain { members: versions.map(member).into_iter().collect::<BTreeMap<_, _>>() }
}

fn put(world: &mut World, chain: &Chain, member: &str, phase: Phase) {
    let Member { image, unikernel: id, .. } = &chain.members[&name(member)];
    world.apply(vec![Change::PutUnikernel(Box::new(unikernel(id.clone(), *image, phase)))]);
}

fn publication(chain: &Chain, member: &str, ports: Vec<PortMapping>) -> Option<Arc<Publication>> {
    let Member { unikernel, image, .. } = &chain.members[&name(member)];
    let target = [10, 0, 0, image.0[0]].into();
    let (addresses, sources) = (BTreeSet::new(), Vec::new());
    Some(Arc::new(Publication {
        unikernel: unikernel.clone(),
        target,
        ports,
        addresses,
        sources,
        drain: 0,
        tolerates_until: None,
    }))
}

fn stack(live: &Chain, staged: &Chain, previous: &Chain) -> Stack {
    let some = |chain: &Chain| Some(Arc::new(chain.clone()));
    let stack = Stack::new("mail".parse().unwrap());
    Stack { live: some(live), staged: some(staged), previous: some(previous), attempt: Attempt::Done, ..stack }
}

#[test]
fn a_new_signer_is_staged_beside_what_is_live() {
    let previous = chain([("forward", 2), ("signer", 3), ("entry", 4)]);
    let live = chain([("forward", 2), ("signer", 5), ("entry", 6)]);
    let staged = chain([("forward", 2), ("signer", 7), ("entry", 8)]);
    let mut world = World::new(Vec::new(), Vec::new());
    for (chain, member, phase) in [
        (&live, "forward", Phase::Ready),
        (&live, "signer", Phase::Ready),
        (&live, "entry", Phase::Ready),
        (&staged, "signer", Phase::Exited),
        (&staged, "entry", Phase::Ready),
        (&previous, "entry", Phase::Failed),
    ] {
        put(&mut world, chain, member, phase);
    }
    let any = PortMapping { protocol: PortProtocol::Any, ..tcp(53, 5353) };
    let mut on_one = publication(&live, "forward", vec![any]);
    Arc::make_mut(on_one.as_mut().unwrap()).addresses = ["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()].into();
    let mut entry = Service::new(name("entry"));
    entry.publication = publication(&live, "entry", vec![tcp(587, 25), tcp(25, 25)]);
    entry.staged = publication(&staged, "entry", vec![tcp(2525, 25)]);
    entry.draining =
        vec![(previous.members[&name("entry")].unikernel.clone(), Deadline::new(Timestamp(0), Duration::ZERO))];
    let forward = Service { publication: on_one, ..Service::new(name("forward")) };
    world.apply(vec![Change::PutService(Box::new(entry)), Change::PutService(Box::new(forward))]);
    let drawn = graph(&world, &stack(&live, &staged, &previous));
    assert_eq!(drawn, include_str!("mail.dot"), "{drawn}");
}

#[test]
fn chains_that_are_the_same_are_drawn_once() {
    let (live, other) =
        (chain([("forward", 2), ("signer", 3), ("entry", 4)]), chain([("forward", 5), ("signer", 6), ("entry", 7)]));
    let mut world = World::new(Vec::new(), Vec::new());
    put(&mut world, &other, "entry", Phase::Ready);
    let staged = publication(&other, "entry", vec![tcp(2525, 25)]);
    world.apply(vec![Change::PutService(Box::new(Service { staged, ..Service::new(name("entry")) }))]);
    let drawn = graph(&world, &stack(&live, &other, &other));
    assert_eq!(drawn.matches("subgraph").count(), 2, "{drawn}");
    assert!(drawn.contains("label=\"staged, previous\""), "{drawn}");
    assert!(drawn.contains("\"tcp 2525\" -> \"staged/entry\""), "{drawn}");
    let changed = other.members.iter().map(|(name, member)| {
        let plan = MemberPlan { staged: Vec::new(), ..member.plan.clone() };
        (name.clone(), Member { plan, ..member.clone() })
    });
    let drawn = graph(&world, &stack(&live, &other, &Chain { members: changed.collect() }));
    assert_eq!(drawn.matches("subgraph").count(), 3, "{drawn}");
}

#[test]
fn ports_that_fell_back_lead_to_the_chain_before() {
    let (live, previous) =
        (chain([("forward", 2), ("signer", 3), ("entry", 4)]), chain([("forward", 2), ("signer", 3), ("entry", 5)]));
    let mut world = World::new(Vec::new(), Vec::new());
    put(&mut world, &live, "entry", Phase::Exited);
    put(&mut world, &previous, "entry", Phase::Ready);
    let publication = publication(&previous, "entry", vec![tcp(25, 25)]);
    world.apply(vec![Change::PutService(Box::new(Service { publication, ..Service::new(name("entry")) }))]);
    let drawn = graph(&world, &Stack { staged: None, ..stack(&live, &live, &previous) });
    assert!(drawn.contains("\"tcp 25\" -> \"previous/entry\" [label=\"25\"]"), "{drawn}");
}

#[test]
fn a_stack_without_a_chain_is_empty() {
    let stack = Stack { attempt: Attempt::Failed, ..Stack::new("a.b-c".parse().unwrap()) };
    let drawn = graph(&World::new(Vec::new(), Vec::new()), &stack);
    assert!(drawn.starts_with("digraph \"a.b-c\" {\n") && drawn.contains("label=\"stack a.b-c: failed\""), "{drawn}");
    assert!(drawn.ends_with("]\n}\n") && !drawn.contains("subgraph"), "{drawn}");
}

#[test]
fn nothing_in_a_text_ends_it() {
    assert_eq!(quoted("a\"b\\n&lt;\nc"), r#""a\"b\\n&amp;lt;\nc""#);
}
