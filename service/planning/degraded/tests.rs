use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::domain::{
    Chain, Change, ImageDigest, Inventory, Member, Phase, Publication, Running, Service, Stack, Timestamp,
};
use crate::planning::stacks::samples;

fn id(service: &str) -> UnikernelId {
    UnikernelId::new(&service.parse().unwrap(), &[1; 32])
}

fn unikernel(service: &str, phase: Phase) -> Unikernel {
    let exit_reason = if phase == Phase::Exited { "exited with 3".into() } else { String::new() };
    Unikernel { exit_reason, ..samples::unikernel(id(service), ImageDigest([1; 32]), phase) }
}

fn published(service: &str) -> Change {
    let publication = Publication {
        unikernel: id(service),
        target: [10, 0, 0, 1].into(),
        ports: vec![samples::tcp(80, 80)],
        addresses: Default::default(),
        sources: Vec::new(),
        drain: 0,
        tolerates_until: None,
    };
    let service = Service::new(service.parse().unwrap());
    Change::PutService(Box::new(Service { publication: Some(Arc::new(publication)), ..service }))
}

/// website in `phase`, and live.
fn world(phase: Phase) -> World {
    let mut world = World::new(Vec::new(), Vec::new());
    world.apply(vec![Change::PutUnikernel(Box::new(unikernel("website", phase))), published("website")]);
    world
}

fn running(service: &str) -> Inventory {
    let running = Running { id: id(service), digest: ImageDigest([1; 32]), started: None, mac: None, cpus: Vec::new() };
    Inventory { unikernels: vec![running], foreign_cpus: Vec::new() }
}

#[test]
fn a_live_one_that_has_ended_is_named() {
    let note = ended(&world(Phase::Exited), &Facts::default()).unwrap();
    assert!(note.starts_with(&format!("{} (exited with 3): is live and has ended", id("website"))), "{note}");
    for what in ["Restart", "Rollback", "Deploy"] {
        assert!(note.contains(what), "{note}");
    }
    assert!(ended(&world(Phase::Failed), &Facts::default()).is_some());
}

#[test]
fn one_that_runs_or_comes_back_or_is_not_live_is_not_named() {
    for phase in [Phase::Ready, Phase::Returned, Phase::Creating, Phase::Starting, Phase::Running] {
        assert_eq!(ended(&world(phase), &Facts::default()), None, "{phase:?}");
    }
    let busy = Facts { busy: [id("website")].into(), ..Facts::default() };
    assert_eq!(ended(&world(Phase::Exited), &busy), None, "a call works on it");
    let runs = Facts { inventory: running("website"), ..Facts::default() };
    assert_eq!(ended(&world(Phase::Exited), &runs), None, "Albatross was not asked since its death, or has it again");
    let (mut loops, now) = (Facts::default(), std::time::Instant::now());
    (0..9).for_each(|start| loops.starts.note(&id("website"), Timestamp(start), now));
    let looping = world(Phase::Failed);
    assert_eq!(ended(&looping, &loops), None, "it has a note of its own");
    assert!(super::loops(&looping, &loops).is_some());
    let mut unpublished = world(Phase::Exited);
    unpublished.apply(vec![Change::RemoveService("website".parse().unwrap())]);
    assert_eq!(ended(&unpublished, &Facts::default()), None);
}

#[test]
fn many_are_counted_and_reasons_are_short() {
    let mut world = World::new(Vec::new(), Vec::new());
    for number in 0..11 {
        let service = format!("service-{number:02}");
        let ended = Unikernel { exit_reason: "x".repeat(5000), ..unikernel(&service, Phase::Exited) };
        world.apply(vec![Change::PutUnikernel(Box::new(ended)), published(&service)]);
    }
    let note = ended(&world, &Facts::default()).unwrap();
    assert!(note.contains("service-07.") && !note.contains("service-08.") && note.contains(" and 3 more"), "{note}");
    assert!(note.len() < 2000, "{}", note.len());
}

#[test]
fn members_of_a_stack_have_a_note_of_their_own() {
    for (phase, facts, named) in [
        (Phase::Exited, Facts::default(), true),
        (Phase::Ready, Facts::default(), false),
        (Phase::Exited, Facts { busy: [id("website")].into(), ..Facts::default() }, false),
        (Phase::Exited, Facts { inventory: running("website"), ..Facts::default() }, false),
    ] {
        let mut world = world(phase);
        let plan = samples::plan(&[]);
        let member = Member { plan, image: ImageDigest([1; 32]), unikernel: id("website") };
        let live = Some(Arc::new(Chain { members: BTreeMap::from([(samples::name("website"), member)]) }));
        world.apply(vec![Change::PutStack(Box::new(Stack { live, ..Stack::new("mail".parse().unwrap()) }))]);
        let note = broken_stacks(&world, &facts);
        assert_eq!(note.is_some(), named, "{phase:?}: {note:?}");
        assert!(note.is_none_or(|note| note.starts_with("website of stack mail: ")));
        assert_eq!(ended(&world, &facts), None);
    }
}

#[test]
fn what_albatross_runs_without_a_record_is_named() {
    let facts = Facts { inventory: running("website"), ..Facts::default() };
    assert_eq!(strangers(&world(Phase::Ready), &facts), None);
    let empty = World::new(Vec::new(), Vec::new());
    assert!(strangers(&empty, &facts).unwrap().contains("no record"));
    assert_eq!(strangers(&empty, &Facts { busy: [id("website")].into(), ..facts }), None);
}

#[test]
fn what_went_back_is_named() {
    let mut world = world(Phase::Ready);
    assert_eq!(fell_back(&world, &Facts::default()), None);
    let service = world.service(&samples::name("website")).unwrap().clone();
    let fell = Service { fell_back_from: Some(id("website")), ..service };
    world.apply(vec![Change::PutService(Box::new(fell))]);
    assert!(fell_back(&world, &Facts::default()).unwrap().starts_with(id("website").as_str()));
}
