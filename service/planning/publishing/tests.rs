//! Which flows are stale after a switch or a death, and what becomes of sources that may not connect any more.

use super::super::facts::Facts;
use super::super::reconcile;
use super::super::stale_flows::is_dead;
use super::*;
use crate::domain::{
    AddressChoice, Arguments, ImageDigest, Inventory, Ordinal, PortProtocol, Readiness, RestartPolicy, Running,
    UnikernelSpec,
};

fn website() -> ServiceName {
    "website".parse().unwrap()
}

fn unikernel(number: u8, phase: Phase) -> Unikernel {
    let spec = UnikernelSpec {
        image: ImageDigest([number; 32]),
        arguments: Arguments::default(),
        memory: 32,
        network: "br0".parse().unwrap(),
        cpu: None,
        block_devices: Vec::new(),
        restart: RestartPolicy::Never,
        address: AddressChoice::default(),
    };
    Unikernel {
        id: UnikernelId::new(&website(), &[number; 32]),
        spec,
        readiness: Readiness::Running,
        timeout: Duration::from_secs(1),
        check: None,
        phase,
        brought_image: false,
        removing: false,
        address: IpAddr::from([10, 0, 0, number]),
        mac: None,
        cpu: 0,
        created_at: Timestamp(i64::from(number)),
        deployed: Ordinal(u64::from(number)),
        started_at: None,
        restarts: 0,
        exit_reason: String::new(),
        last_live: None,
        provisional: None,
    }
}

/// The first is live, the second is ready.
fn world() -> World {
    let mut world = World::new(Vec::new(), Vec::new());
    put(&mut world, 2, Phase::Ready);
    let first = now(publish(&world, &website(), &wanted(2), Timestamp(0)));
    world.apply(first);
    put(&mut world, 3, Phase::Ready);
    world
}

fn now(decision: Result<Decision, Error>) -> Vec<Change> {
    match decision {
        Ok(Decision::Now(changes)) => changes,
        other => panic!("{other:?}"),
    }
}

fn put(world: &mut World, number: u8, phase: Phase) {
    let id = UnikernelId::new(&website(), &[number; 32]);
    let last_live = world.unikernel(&id).and_then(|unikernel| unikernel.last_live);
    world.apply(vec![Change::PutUnikernel(Box::new(Unikernel { last_live, ..unikernel(number, phase) }))]);
}

fn wanted(number: u8) -> Wanted {
    Wanted {
        ports: vec![PortMapping { protocol: PortProtocol::Tcp, host: 80, unikernel: 80 }],
        unikernel: Some(UnikernelId::new(&website(), &[number; 32])),
        addresses: BTreeSet::new(),
        sources: Vec::new(),
        drain: Duration::from_secs(1),
    }
}

fn half_open_of(changes: &[Change]) -> Vec<IpAddr> {
    let flows = changes.iter().filter_map(|change| match change {
        Change::PutStaleFlows(flows) if flows.half_open => Some(flows.target),
        _ => None,
    });
    flows.collect()
}

fn observe(world: &World, runs: &[u8]) -> Vec<Change> {
    let running = |&number: &u8| {
        let Unikernel { id, spec, .. } = unikernel(number, Phase::Ready);
        Running { id, digest: spec.image, started: None, mac: None, cpus: Vec::new() }
    };
    let inventory = Inventory { unikernels: runs.iter().map(running).collect(), foreign_cpus: Vec::new() };
    reconcile::observe(world, &Facts { inventory, ..Facts::default() }, &Default::default())
}

#[test]
fn a_switch_frees_the_clients_that_the_one_before_has_not_answered() {
    for phase in [Phase::Ready, Phase::Exited, Phase::Failed] {
        let mut world = world();
        put(&mut world, 2, phase);
        let changes = now(publish(&world, &website(), &wanted(3), Timestamp(1)));
        assert_eq!(half_open_of(&changes), [IpAddr::from([10, 0, 0, 2])], "once");
        let changes = unpublish(&world, &website(), Timestamp(1)).unwrap();
        assert_eq!(half_open_of(&changes), [IpAddr::from([10, 0, 0, 2])], "they are refused, or another's");
    }
}

#[test]
fn one_that_dies_after_the_switch_frees_its_clients() {
    let mut world = world();
    let switch = now(publish(&world, &website(), &wanted(3), Timestamp(1)));
    world.apply(switch);
    assert!(half_open_of(&observe(&world, &[2, 3])).is_empty());
    let died = observe(&world, &[3]);
    assert_eq!(half_open_of(&died), [IpAddr::from([10, 0, 0, 2])]);
    world.apply(died);
    let flows = world.stale_flows().find(|flows| flows.half_open).unwrap().clone();
    assert!(is_dead(&world, flows.target));
    assert!(half_open_of(&observe(&world, &[3])).is_empty(), "once");
    put(&mut world, 2, Phase::Ready);
    assert!(!is_dead(&world, flows.target), "it answers again");
}

#[test]
fn the_clients_of_a_dead_one_that_is_live_wait() {
    let world = world();
    assert!(half_open_of(&observe(&world, &[3])).is_empty(), "there is no other to go to");
}

/// UDP ports left, and ports opened, by the changes.
fn stale(changes: &[Change]) -> (Vec<u16>, Vec<u16>) {
    let flows = changes.iter().filter_map(|change| match change {
        Change::PutStaleFlows(flows) => Some(flows),
        _ => None,
    });
    let (mut left, mut opened) = (Vec::new(), Vec::new());
    for flows in flows {
        left.extend(&flows.ports);
        opened.extend(flows.opened.iter().map(|port| port.port));
    }
    (left, opened)
}

fn on(number: u8, ports: &[u16], sources: &[&str]) -> Wanted {
    let mapping = |&host| PortMapping { protocol: PortProtocol::Udp, host, unikernel: 80 };
    let sources = sources.iter().map(|prefix| prefix.parse().unwrap()).collect();
    Wanted { ports: ports.iter().map(mapping).collect(), sources, ..wanted(number) }
}

/// What follows when `second` is published after `first`.
fn published_after(first: &Wanted, second: &Wanted) -> (World, Vec<Change>) {
    let mut world = World::new(Vec::new(), Vec::new());
    put(&mut world, 2, Phase::Ready);
    put(&mut world, 3, Phase::Ready);
    let changes = now(publish(&world, &website(), first, Timestamp(0)));
    world.apply(changes);
    let changes = now(publish(&world, &website(), second, Timestamp(1)));
    (world, changes)
}

#[test]
fn what_conntrack_has_to_forget() {
    let narrow = ["10.0.0.0/8"];
    for (first, second, left, opened) in [
        (on(2, &[53], &[]), on(2, &[53], &[]), &[][..], &[][..]),
        (on(2, &[53], &[]), on(3, &[53], &[]), &[53], &[]),
        (on(2, &[53], &[]), on(3, &[53, 54], &[]), &[53], &[54]),
        (on(2, &[53, 54], &[]), on(2, &[54], &[]), &[53], &[]),
        // Fewer may connect: those who may not are cut, and those who may begin anew with their next packet.
        (on(2, &[53], &[]), on(2, &[53], &narrow), &[53], &[]),
        // More may connect: who was left out until now is let in.
        (on(2, &[53], &narrow), on(2, &[53], &[]), &[], &[53]),
        (on(2, &[53], &narrow), on(2, &[53], &["10.0.0.0/9", "10.128.0.0/9"]), &[], &[]),
        (on(2, &[53], &narrow), on(2, &[53], &["192.0.2.0/24"]), &[53], &[53]),
    ] {
        let (_, changes) = published_after(&first, &second);
        assert_eq!(stale(&changes), (left.to_vec(), opened.to_vec()), "{first:?} {second:?}");
    }
    let (world, _) = published_after(&on(2, &[53], &[]), &on(2, &[53], &[]));
    assert_eq!(stale(&unpublish(&world, &website(), Timestamp(1)).unwrap()), (vec![53], vec![]));
}

fn tolerates_until(world: &World) -> Option<Deadline> {
    world.service(&website()).unwrap().publication.as_ref().unwrap().tolerates_until
}

#[test]
fn established_connections_have_the_time_of_a_drain_when_sources_are_narrowed() {
    let (narrow, narrower) = (["10.0.0.0/8"], ["10.0.0.0/16"]);
    for (first, second, until) in [
        (on(2, &[53], &[]), on(2, &[53], &narrow), Some(Deadline::new(Timestamp(1), Duration::from_secs(1)))),
        (on(2, &[53], &[]), on(3, &[53], &narrow), Some(Deadline::new(Timestamp(1), Duration::from_secs(1)))),
        (on(2, &[53], &narrow), on(3, &[53], &narrow), None),
        (on(2, &[53], &narrow), on(3, &[53], &[]), None),
        (on(2, &[53], &narrow), on(2, &[53], &narrower), Some(Deadline::new(Timestamp(1), Duration::from_secs(1)))),
        (on(2, &[53], &[]), Wanted { drain: Duration::ZERO, ..on(2, &[53], &narrow) }, None),
    ] {
        let (mut world, changes) = published_after(&first, &second);
        world.apply(changes);
        assert_eq!(tolerates_until(&world), until, "{first:?} {second:?}");
        assert_eq!(tolerances(&world), until.into_iter().collect());
        // The same call again changes nothing, and gives no time besides.
        assert!(now(publish(&world, &website(), &second, Timestamp(500_000))).is_empty());
        assert!(end_tolerance(&world, &BTreeSet::new()).is_empty());
        let ended = end_tolerance(&world, &tolerances(&world));
        world.apply(ended);
        assert_eq!(tolerates_until(&world), None);
    }
}

#[test]
fn what_was_unpublished_meanwhile_may_finish_its_connections() {
    let (mut world, _) = published_after(&on(2, &[53], &[]), &on(2, &[53], &[]));
    let unpublished = unpublish(&world, &website(), Timestamp(5)).unwrap();
    world.apply(unpublished);
    let again = now(publish(&world, &website(), &on(3, &[53], &["10.0.0.0/8"]), Timestamp(6)));
    world.apply(again);
    assert_eq!(tolerates_until(&world), Some(Deadline::new(Timestamp(5), Duration::from_secs(1))));
}

#[test]
fn a_port_that_comes_from_another_service_lets_that_one_finish_its_connections() {
    let (mut world, _) = published_after(&on(2, &[53], &[]), &on(2, &[53], &[]));
    let unpublished = unpublish(&world, &website(), Timestamp(5)).unwrap();
    world.apply(unpublished);
    let shop: ServiceName = "shop".parse().unwrap();
    let id = UnikernelId::new(&shop, &[4; 32]);
    world.apply(vec![Change::PutUnikernel(Box::new(Unikernel { id: id.clone(), ..unikernel(4, Phase::Ready) }))]);
    let wanted = Wanted { unikernel: Some(id), ..on(4, &[53], &["10.0.0.0/8"]) };
    let published = now(publish(&world, &shop, &wanted, Timestamp(6)));
    world.apply(published);
    let until = world.service(&shop).unwrap().publication.as_ref().unwrap().tolerates_until;
    assert_eq!(until, Some(Deadline::new(Timestamp(5), Duration::from_secs(1))));
}

#[test]
fn a_switch_is_one_line_with_its_ports() {
    let mut world = World::new(Vec::new(), Vec::new());
    let [two, three] = [2, 3].map(|number| UnikernelId::new(&website(), &[number; 32]));
    let line = |changes: &[Change], world: &World| Switched::by(changes, world).unwrap().to_string();
    put(&mut world, 2, Phase::Ready);
    put(&mut world, 3, Phase::Ready);
    let changes = now(publish(&world, &website(), &wanted(2), Timestamp(0)));
    assert_eq!(line(&changes, &world), format!("{two} is live on port 80/tcp"));
    world.apply(changes);
    let ports = (1..=10).map(|host| PortMapping { protocol: PortProtocol::Any, host, unikernel: 80 });
    let many = Wanted { ports: ports.collect(), ..wanted(2) };
    let changes = now(publish(&world, &website(), &many, Timestamp(0)));
    let named = (1..=8).map(|host| format!("port {host}/any")).collect::<Vec<_>>().join(", ");
    assert_eq!(line(&changes, &world), format!("{two} is live on {named} and 2 more"));
    let changes = now(publish(&world, &website(), &wanted(3), Timestamp(0)));
    assert_eq!(line(&changes, &world), format!("{three} is live on port 80/tcp, and {two} was before"));
    let changes = unpublish(&world, &website(), Timestamp(0)).unwrap();
    assert_eq!(line(&changes, &world), format!("{two} is not published any more"));
}
