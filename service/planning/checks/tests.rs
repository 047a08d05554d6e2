use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::domain::{
    Chain, Change, Check, ImageDigest, Inventory, Member, Publication, Running, Service, ServiceName, Stack,
};
use crate::planning::degraded;
use crate::planning::stacks::placing::Defaults;
use crate::planning::stacks::samples;

const CHECK: Check = Check { interval: Duration::from_secs(8), failures: NonZeroU32::new(3).unwrap() };
const STARTED: Timestamp = Timestamp(5);
const NOW: Timestamp = Timestamp(1_000_000_000);

fn id(service: &str, number: u8) -> UnikernelId {
    UnikernelId::new(&service.parse().unwrap(), &[number; 32])
}

/// Ready, asked over TCP, and checked.
fn unikernel(service: &str, number: u8) -> Unikernel {
    Unikernel {
        readiness: Readiness::Tcp { port: 80 },
        check: Some(CHECK),
        started_at: Some(STARTED),
        ..samples::unikernel(id(service, number), ImageDigest([number; 32]), Phase::Ready)
    }
}

fn put(world: &mut World, unikernel: Unikernel) {
    world.apply(vec![Change::PutUnikernel(Box::new(unikernel))]);
}

/// With two unikernels of website: the second is live, the first was before.
fn scene() -> (World, Facts) {
    let mut world = World::new(Vec::new(), Vec::new());
    let (first, second) = (unikernel("website", 1), unikernel("website", 2));
    let service = published(&second, Some(&first));
    put(&mut world, first);
    put(&mut world, second);
    world.apply(vec![Change::PutService(Box::new(service))]);
    let facts = running(&world);
    (world, facts)
}

fn published(live: &Unikernel, previous: Option<&Unikernel>) -> Service {
    let publication = Publication {
        unikernel: live.id.clone(),
        target: live.address,
        ports: vec![samples::tcp(80, 80)],
        addresses: Default::default(),
        sources: Vec::new(),
        drain: 0,
        tolerates_until: None,
    };
    let service = Service::new(live.id.service());
    Service { publication: Some(Arc::new(publication)), previous: previous.map(|one| one.id.clone()), ..service }
}

/// Facts of an Albatross that runs all that there is.
fn running(world: &World) -> Facts {
    let running = |unikernel: &Unikernel| Running {
        id: unikernel.id.clone(),
        digest: unikernel.spec.image,
        started: unikernel.started_at,
        mac: None,
        cpus: Vec::new(),
    };
    let unikernels = world.unikernels().map(running).collect();
    Facts { inventory: Inventory { unikernels, foreign_cpus: Vec::new() }, ..Facts::default() }
}

/// A check of `id` as all are first.
fn check_of(id: &UnikernelId) -> Asked {
    let readiness = Readiness::Tcp { port: 80 };
    let (start, address) = ((id.clone(), Some(STARTED)), [10, 0, 0, 1].into());
    Asked { start, address, readiness, interval: CHECK.interval, delay: Duration::ZERO }
}

fn note_of(world: &World, facts: &mut Facts, id: &UnikernelId, works: bool) -> Option<News> {
    let outcome = if works { Ok(()) } else { Err("refused".to_string()) };
    note(world, facts, &check_of(id), outcome)
}

fn fail(world: &World, facts: &mut Facts, id: &UnikernelId) {
    let news = (0..3).map(|_| note_of(world, facts, id, false)).collect::<Vec<_>>();
    assert_eq!(news, [None, None, Some(News::Failing)]);
}

fn names(asked: &[Asked]) -> Vec<UnikernelId> {
    asked.iter().map(|asked| asked.start.0.clone()).collect()
}

#[test]
fn failures_count_in_a_row() {
    let (world, facts) = scene();
    let live = id("website", 2);
    for (outcomes, news) in [
        ("..", vec![]),
        ("xx", vec![]),
        ("xx.xx", vec![]),
        ("xxx", vec![(3, News::Failing)]),
        ("xxxxxx", vec![(3, News::Failing)]),
        ("xxxx.x", vec![(3, News::Failing), (5, News::Recovered)]),
        ("xxx.xx.xxx", vec![(3, News::Failing), (4, News::Recovered), (10, News::Failing)]),
    ] {
        let mut facts = facts.clone();
        let told = outcomes
            .chars()
            .enumerate()
            .filter_map(|(index, outcome)| Some((index + 1, note_of(&world, &mut facts, &live, outcome == '.')?)));
        assert_eq!(told.collect::<Vec<_>>(), news, "{outcomes}");
        let fails = news.last().is_some_and(|(_, news)| *news == News::Failing);
        assert_eq!(degraded::unanswering(&world, &facts).is_some(), fails, "{outcomes}");
    }
}

#[test]
fn what_is_failing_is_named_with_its_reason() {
    let (mut world, mut facts) = scene();
    let live = id("website", 2);
    fail(&world, &mut facts, &live);
    let note = degraded::unanswering(&world, &facts).unwrap();
    assert!(note.starts_with(&format!("{live} (refused): ")) && note.contains("Rollback"), "{note}");
    assert_eq!(degraded::unanswering(&world, &Facts { busy: [live.clone()].into(), ..facts.clone() }), None);
    for changed in [
        Unikernel { started_at: Some(Timestamp(6)), ..unikernel("website", 2) },
        Unikernel { phase: Phase::Exited, ..unikernel("website", 2) },
        Unikernel { check: None, ..unikernel("website", 2) },
        Unikernel { readiness: Readiness::Tcp { port: 81 }, ..unikernel("website", 2) },
    ] {
        put(&mut world, changed);
        assert_eq!(degraded::unanswering(&world, &facts), None);
    }
    put(&mut world, unikernel("website", 2));
    world.apply(vec![Change::RemoveService("website".parse().unwrap())]);
    assert_eq!(degraded::unanswering(&world, &facts), None);
}

#[test]
fn outcomes_of_another_time_say_nothing() {
    let (mut world, mut facts) = scene();
    let live = id("website", 2);
    let fails = |world: &World, facts: &mut Facts| (0..9).any(|_| note_of(world, facts, &live, false).is_some());
    assert!(!fails(&world, &mut Facts { busy: [id("website", 2)].into(), ..facts.clone() }), "a call works on it");
    for changed in [
        Unikernel { started_at: Some(Timestamp(6)), ..unikernel("website", 2) },
        Unikernel { phase: Phase::Exited, ..unikernel("website", 2) },
        Unikernel { removing: true, ..unikernel("website", 2) },
        Unikernel { readiness: Readiness::Tcp { port: 81 }, ..unikernel("website", 2) },
    ] {
        put(&mut world, changed);
        assert!(!fails(&world, &mut facts.clone()));
    }
    world.apply(vec![Change::RemoveUnikernel(id("website", 2))]);
    assert!(!fails(&world, &mut facts));
}

#[test]
fn another_rule_begins_anew() {
    let (mut world, mut facts) = scene();
    let live = id("website", 2);
    fail(&world, &mut facts, &live);
    let readiness = Readiness::Tcp { port: 81 };
    put(&mut world, Unikernel { readiness: readiness.clone(), ..unikernel("website", 2) });
    let asked = Asked { readiness, ..check_of(&live) };
    let news = (0..3).map(|_| note(&world, &mut facts, &asked, Err("refused".into()))).collect::<Vec<_>>();
    assert_eq!(news, [None, None, Some(News::Failing)]);
}

#[test]
fn who_is_asked() {
    let returned = || Unikernel { phase: Phase::Returned, ..unikernel("website", 2) };
    let cases: [(&str, Option<Unikernel>, bool); 6] = [
        ("live and ready", None, true),
        ("nobody asks for it", Some(Unikernel { check: None, ..unikernel("website", 2) }), false),
        ("it has ended", Some(Unikernel { phase: Phase::Exited, ..unikernel("website", 2) }), false),
        ("it is started again", Some(Unikernel { phase: Phase::Starting, ..unikernel("website", 2) }), false),
        ("it is removed", Some(Unikernel { removing: true, ..unikernel("website", 2) }), false),
        ("its rule is waited for", Some(returned()), false),
    ];
    for (what, changed, asked_for) in cases {
        let (mut world, facts) = scene();
        changed.into_iter().for_each(|changed| put(&mut world, changed));
        let asked = asked(&world, &facts, true);
        let expected = if asked_for { vec![id("website", 2)] } else { Vec::new() };
        assert_eq!(names(&asked), expected, "{what}");
    }
    let (mut world, mut facts) = scene();
    put(&mut world, returned());
    facts.checks.note_late((id("website", 2), Some(STARTED)));
    assert_eq!(names(&asked(&world, &facts, true)), [id("website", 2)], "it had the time that it may take");
    put(&mut world, Unikernel { started_at: Some(Timestamp(6)), ..returned() });
    assert_eq!(asked(&world, &facts, true), [], "this is another start");
    put(&mut world, unikernel("website", 2));
    world.apply(vec![Change::RemoveService("website".parse().unwrap())]);
    assert_eq!(asked(&world, &facts, true), [], "nothing is live");
}

#[test]
fn questions_are_spread_over_the_interval() {
    let interval = Duration::from_secs(10);
    let pauses = (0..200).map(|number| spread(&id(&format!("service-{number}"), 7), interval)).collect::<Vec<_>>();
    assert!(pauses.iter().all(|pause| *pause > Duration::ZERO && *pause <= interval));
    for tenth in 0..10 {
        let within = pauses.iter().filter(|pause| pause.as_secs() == tenth).count();
        assert!((5..40).contains(&within), "{within} of 200 in second {tenth}");
    }
    assert_eq!(spread(&id("website", 1), interval), spread(&id("website", 1), interval));
}

#[test]
fn the_one_before_takes_over_once_it_has_answered() {
    let (world, mut facts) = scene();
    let (previous, live) = (id("website", 1), id("website", 2));
    let falls = |world: &World, facts: &Facts| !publishing::fall_back(world, facts, NOW).is_empty();
    // An answer from before says nothing.
    note_of(&world, &mut facts, &previous, true);
    assert!(!falls(&world, &facts));
    fail(&world, &mut facts, &live);
    assert!(!falls(&world, &facts), "whether it answers is not known");
    assert_eq!(names(&asked(&world, &facts, false)), std::slice::from_ref(&live));
    let both = asked(&world, &facts, true);
    assert_eq!(names(&both), [previous.clone(), live.clone()]);
    assert_eq!((both[0].delay, both[0].interval), (Duration::ZERO, CHECK.interval));
    note_of(&world, &mut facts, &previous, false);
    assert!(!falls(&world, &facts));
    note_of(&world, &mut facts, &previous, true);
    assert!(falls(&world, &facts));
    assert!(!falls(&world, &Facts { busy: [live.clone()].into(), ..facts.clone() }));
    assert!(!falls(&world, &Facts { inventory: Inventory::default(), ..facts.clone() }), "Albatross does not run it");
    note_of(&world, &mut facts, &live, true);
    assert!(!falls(&world, &facts), "it has recovered");
}

#[test]
fn going_back_does_not_swing() {
    let (mut world, mut facts) = scene();
    let (first, second) = (id("website", 1), id("website", 2));
    fail(&world, &mut facts, &second);
    note_of(&world, &mut facts, &first, true);
    world.apply(publishing::fall_back(&world, &facts, NOW));
    assert!(world.is_live(&first));
    let note = degraded::fell_back(&world, &facts).unwrap();
    assert!(note.contains(second.as_str()) && note.contains("stopped answering"), "{note}");
    fail(&world, &mut facts, &first);
    assert!(publishing::fall_back(&world, &facts, NOW).is_empty(), "neither answers");
    note_of(&world, &mut facts, &second, true);
    assert!(!publishing::fall_back(&world, &facts, NOW).is_empty(), "the other one does again");
}

#[test]
fn one_that_cannot_be_asked_takes_over_as_after_a_death() {
    let (mut world, mut facts) = scene();
    put(&mut world, Unikernel { readiness: Readiness::Running, check: None, ..unikernel("website", 1) });
    fail(&world, &mut facts, &id("website", 2));
    assert_eq!(names(&asked(&world, &facts, true)), [id("website", 2)]);
    assert!(!publishing::fall_back(&world, &facts, NOW).is_empty());
}

#[test]
fn what_was_known_of_a_start_goes_with_it() {
    let (mut world, mut facts) = scene();
    fail(&world, &mut facts, &id("website", 2));
    facts.checks.forget(&world);
    assert!(facts.checks.any_failing());
    put(&mut world, Unikernel { started_at: Some(Timestamp(6)), ..unikernel("website", 2) });
    facts.checks.forget(&world);
    assert!(!facts.checks.any_failing());
}

/// A stack with a new chain of two members; `shared` is of both chains.
fn stack() -> (World, Facts) {
    let mut world = World::new(Vec::new(), Vec::new());
    let member = |service: &str, number: u8| {
        let plan = samples::plan(&[]);
        let member = Member { plan, image: ImageDigest([number; 32]), unikernel: id(service, number) };
        (service.parse::<ServiceName>().unwrap(), member)
    };
    for (service, number) in [("entry", 1), ("entry", 2), ("shared", 3)] {
        put(&mut world, unikernel(service, number));
    }
    let chain =
        |number| Some(Arc::new(Chain { members: BTreeMap::from([member("entry", number), member("shared", 3)]) }));
    let stack = Stack { live: chain(2), previous: chain(1), ..Stack::new("mail".parse().unwrap()) };
    world.apply(vec![Change::PutStack(Box::new(stack))]);
    let facts = running(&world);
    (world, facts)
}

#[test]
fn a_stack_goes_back_once_all_of_the_chain_before_has_answered() {
    let (world, mut facts) = stack();
    let fallen = |world: &World, facts: &Facts| {
        let defaults = Defaults { drain: Duration::ZERO };
        let fallen = moves::fall_back(world, facts, defaults, NOW);
        fallen.into_iter().flat_map(|(_, changes)| changes).find_map(|change| match change {
            Change::PutStack(stack) => Some((stack.fell_back_from.unwrap(), stack.last_result)),
            _ => None,
        })
    };
    assert_eq!(names(&asked(&world, &facts, true)), [id("entry", 2), id("shared", 3)], "members without ports too");
    fail(&world, &mut facts, &id("entry", 2));
    assert_eq!(names(&asked(&world, &facts, true)), [id("entry", 1), id("entry", 2), id("shared", 3)]);
    assert_eq!(fallen(&world, &facts), None);
    note_of(&world, &mut facts, &id("entry", 1), true);
    let (from, result) = fallen(&world, &facts).unwrap();
    assert_eq!(from, id("entry", 2));
    assert!(result.contains("does not answer any more: the chain before is live again"), "{result}");
    fail(&world, &mut facts, &id("shared", 3));
    assert_eq!(fallen(&world, &facts), None, "one of both chains does not answer");
}
