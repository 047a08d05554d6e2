//! Which flows to unikernels that have ended are freed, and when.

use super::super::facts::Facts;
use super::super::reconcile;
use super::*;
use crate::domain::{
    AddressChoice, Arguments, ImageDigest, Inventory, PortProtocol, Readiness, RestartPolicy, Running, UnikernelSpec,
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
fn a_switch_frees_the_clients_of_one_that_has_died_and_no_others() {
    for (phase, freed) in
        [(Phase::Ready, None), (Phase::Exited, Some([10, 0, 0, 2])), (Phase::Failed, Some([10, 0, 0, 2]))]
    {
        let mut world = world();
        put(&mut world, 2, phase);
        let changes = now(publish(&world, &website(), &wanted(3), Timestamp(1)));
        assert_eq!(half_open_of(&changes), freed.map(IpAddr::from).into_iter().collect::<Vec<_>>());
        // Nobody would answer their next attempt.
        assert!(half_open_of(&unpublish(&world, &website(), Timestamp(1)).unwrap()).is_empty());
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
    let flows = world.stale_flows().next().unwrap().clone();
    assert!(is_dead(&world, &flows));
    assert!(half_open_of(&observe(&world, &[3])).is_empty(), "once");
    put(&mut world, 2, Phase::Ready);
    assert!(!is_dead(&world, &flows), "it answers again");
}

#[test]
fn the_clients_of_a_dead_one_that_is_live_wait() {
    let world = world();
    assert!(half_open_of(&observe(&world, &[3])).is_empty(), "there is no other to go to");
}
