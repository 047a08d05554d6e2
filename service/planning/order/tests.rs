//! What is published and collected after a story, told with a clock that goes backwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::domain::{
    Applied, Caller, Chain, Configuration, ImageDigest, ImageRecord, Member, MemberPlan, Network, NetworkDevice, Phase,
    PortMapping, PortProtocol, ServiceName, Timestamp,
};
use crate::planning::admission::{self, Admitted, Deployment};
use crate::planning::collecting::{self, Keep, Removal};
use crate::planning::facts::Facts;
use crate::planning::publishing::{self, Decision, Wanted};
use crate::planning::reconcile;
use crate::planning::stacks::moves::Goal;
use crate::planning::stacks::placing::Defaults;
use crate::planning::stacks::samples::{self, plan, specification, tcp};
use crate::planning::stacks::staging::{self, Begun, Done};

struct Story {
    world: World,
    facts: Facts,
    /// An hour earlier with every step.
    now: Timestamp,
}

impl Story {
    fn new() -> Self {
        let network = Network {
            name: "br0".parse().unwrap(),
            prefix: "10.0.0.0/24".parse().unwrap(),
            gateway: None,
            exclude: Vec::new(),
        };
        let facts = Facts { networks: vec![network], ..Facts::default() };
        Self { world: World::new(Vec::new(), Vec::new()), facts, now: Timestamp(1_000_000_000_000_000) }
    }

    fn after(story: &str) -> Self {
        let mut after = Self::new();
        story.split(", ").for_each(|step| after.step(step));
        after
    }

    fn step(&mut self, step: &str) {
        self.now = Timestamp(self.now.0 - 3_600_000_000);
        let (service, now) = (website(), self.now);
        let changes = match step.split_once(' ') {
            Some(("deploy", name)) => return self.deploy(name, false, true),
            Some(("restart", name)) => return self.deploy(name, true, true),
            Some(("fail", name)) => return self.deploy(name, false, false),
            Some(("end", name)) => reconcile::died(&self.world, &id(name), None),
            Some(("return", name)) => {
                let returned = self.world.unikernel(&id(name)).unwrap().clone();
                vec![Change::PutUnikernel(Box::new(Unikernel { phase: Phase::Returned, ..returned }))]
            }
            Some(("publish", name)) => made(publishing::publish(&self.world, &service, &wanted(Some(name)), now)),
            None if step == "publish" => made(publishing::publish(&self.world, &service, &wanted(None), now)),
            None if step == "unpublish" => publishing::unpublish(&self.world, &service, now).unwrap(),
            None if step == "rollback" => {
                made(publishing::rollback(&self.world, &service, now).map(|(decision, _)| decision))
            }
            _ => panic!("{step}"),
        };
        self.world.apply(changes);
    }

    fn deploy(&mut self, name: &str, is_restart: bool, succeeds: bool) {
        let there = self.world.unikernel(&id(name));
        let keeps = there.filter(|_| is_restart).map(|unikernel| unikernel.deployed);
        let deployment = Deployment { keeps, ..deployment(name) };
        let (changes, admitted) = admission::admit(&deployment, &self.world, &self.facts, self.now).unwrap();
        self.world.apply(changes);
        let changes = match admitted {
            Admitted::Start { unikernel, .. } if !succeeds => {
                reconcile::undo_deploy(&self.world, &unikernel.id, &unikernel.exit_reason)
            }
            Admitted::Start { unikernel, counts_as, .. } => admission::ready(&self.world, unikernel, counts_as),
            Admitted::AlreadyThere { unikernel, counts_as: Some(counts_as) } if succeeds => {
                let mut changes = reconcile::ready_again(&self.world, &unikernel.id, unikernel.started_at);
                changes.extend(deployed_as(&self.world, &unikernel.id, counts_as).into_iter().map(
                    |change| match change {
                        Change::PutUnikernel(counted) => {
                            Change::PutUnikernel(Box::new(Unikernel { phase: Phase::Ready, ..*counted }))
                        }
                        other => other,
                    },
                ));
                changes
            }
            Admitted::AlreadyThere { .. } => Vec::new(),
        };
        self.world.apply(changes);
    }

    /// What Publish without `unikernel` makes live.
    fn next(&self) -> String {
        let changes = made(publishing::publish(&self.world, &website(), &wanted(None), self.now));
        let published = changes.iter().find_map(|change| match change {
            Change::PutService(service) => Some(service.publication.as_ref().unwrap().unikernel.clone()),
            _ => None,
        });
        let live = || self.world.service(&website()).unwrap().publication.as_ref().unwrap().unikernel.clone();
        name(&published.unwrap_or_else(live))
    }

    fn collected(&self, previous: u32) -> String {
        let removals = collecting::collect(&self.world, &self.facts, &Keep { services: None, previous });
        let mut names = removals
            .iter()
            .filter_map(|removal| match removal {
                Removal::Unikernel(id) => Some(name(id)),
                _ => None,
            })
            .collect::<Vec<_>>();
        names.sort();
        names.concat()
    }
}

fn website() -> ServiceName {
    "website".parse().unwrap()
}

fn deployment(name: &str) -> Deployment {
    let digest = ImageDigest([name.as_bytes()[0]; 32]);
    let Configuration { readiness, timeout, .. } = plan(&[]).configuration;
    Deployment {
        service: website(),
        spec: specification(&plan(&[]).configuration, digest),
        image: ImageRecord {
            digest,
            size: 1,
            network_device: NetworkDevice("service".into()),
            block_devices: Vec::new(),
            origin: None,
            signature: None,
        },
        exclude: Vec::new(),
        readiness,
        timeout,
        check: None,
        stack: None,
        keeps: None,
    }
}

fn id(name: &str) -> UnikernelId {
    deployment(name).spec.id(&website())
}

fn name(wanted: &UnikernelId) -> String {
    ["A", "B", "C"].into_iter().find(|name| id(name) == *wanted).unwrap().to_string()
}

fn wanted(unikernel: Option<&str>) -> Wanted {
    Wanted {
        ports: vec![PortMapping { protocol: PortProtocol::Tcp, host: 80, unikernel: 80 }],
        unikernel: unikernel.map(id),
        addresses: BTreeSet::new(),
        sources: Vec::new(),
        drain: Duration::from_secs(1),
    }
}

fn made(decision: Result<Decision, crate::planning::Error>) -> Vec<Change> {
    match decision {
        Ok(Decision::Now(changes)) => changes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_deployed_last_is_the_newest() {
    for (story, next, collected, collected_all) in [
        ("deploy A, publish, deploy B", "B", "", ""),
        ("deploy A, publish, deploy B, deploy C", "C", "", ""),
        ("deploy A, deploy B, publish", "B", "A", "A"),
        ("deploy A, publish, deploy B, publish", "B", "", "A"),
        // Found running, live or not.
        ("deploy A, publish, deploy B, publish, deploy A", "A", "", ""),
        ("deploy A, publish, deploy B, publish, deploy A, publish", "A", "", "B"),
        ("deploy A, publish, deploy B, deploy A", "A", "B", "B"),
        ("deploy A, publish, unpublish", "A", "A", "A"),
        ("deploy A, publish, unpublish, deploy A", "A", "", ""),
        // What was redeployed and overtaken is as old as others.
        ("deploy A, publish, deploy B, publish, deploy A, deploy C, publish", "C", "A", "AB"),
        // Started again, by whomever.
        ("deploy A, publish, deploy B, publish, restart A", "B", "", "A"),
        ("deploy A, publish, deploy B, publish, end A, restart A", "B", "", "A"),
        ("deploy A, publish, deploy B, publish, rollback", "B", "", "B"),
        ("deploy A, publish, deploy B, publish, end A, deploy A", "A", "", ""),
        ("deploy A, publish, deploy B, publish, return A, deploy A", "A", "", ""),
        // A deployment that fails is none.
        ("deploy A, publish, deploy B, publish, end A, fail A, restart A", "B", "", "A"),
        ("deploy A, publish, deploy B, publish, return A, fail A", "B", "", "A"),
        ("deploy A, publish, fail B", "A", "", ""),
        // Who is named is published, and what is newer waits for its turn.
        ("deploy A, deploy B, publish A", "B", "", ""),
        ("deploy A, deploy B, publish A, deploy A", "A", "B", "B"),
    ] {
        let after = Story::after(story);
        assert_eq!(
            (after.next().as_str(), after.collected(1).as_str(), after.collected(0).as_str()),
            (next, collected, collected_all),
            "{story}"
        );
    }
}

/// A stack's member that runs already, and one of the same service that was deployed by hand since.
fn stack() -> (World, Arc<Applied>, [UnikernelId; 2]) {
    let entry: ServiceName = "entry".parse().unwrap();
    let image = ImageDigest([2; 32]);
    let manifest = samples::manifest([("entry", MemberPlan { ports: vec![tcp(25, 25)], ..plan(&[]) })]);
    let ids = [image, ImageDigest([3; 32])].map(|image| specification(&plan(&[]).configuration, image).id(&entry));
    let mut world = World::new(Vec::new(), Vec::new());
    for (id, number) in ids.iter().zip(2..) {
        let unikernel = samples::unikernel(id.clone(), ImageDigest([number; 32]), Phase::Ready);
        let deployed = Ordinal(u64::from(number));
        world.apply(vec![Change::PutUnikernel(Box::new(Unikernel { deployed, ..unikernel }))]);
    }
    let caller = Caller { uid: 0, gid: 0, groups: Vec::new() };
    let images = [(entry, image)].into();
    (world, Arc::new(Applied { manifest, caller, activate: false, images }), ids)
}

#[test]
fn an_apply_deploys_what_it_finds_and_a_move_does_not() {
    let (mut world, applied, [member, by_hand]) = stack();
    let (facts, now, defaults) = (Story::new().facts, Timestamp(0), Defaults { drain: Duration::ZERO });
    let newest = |world: &World, id: &UnikernelId| {
        let others = world.unikernels().filter(|other| other.id != *id);
        others.map(|other| other.deployed).max() < world.unikernel(id).map(|unikernel| unikernel.deployed)
    };
    let begin = |world: &World| staging::begin(world, &facts, &applied, Goal::Stage, defaults, now).unwrap();
    let name = &applied.manifest.stack;
    let (changes, begun) = begin(&world);
    world.apply(changes);
    assert_eq!(begun, Begun::Staging);
    assert!(newest(&world, &by_hand), "an Apply that works has not deployed it yet");
    let member_of =
        |plan: &MemberPlan| Member { plan: plan.clone(), image: ImageDigest([2; 32]), unikernel: member.clone() };
    let members = applied.manifest.members.iter().map(|(name, plan)| (name.clone(), member_of(plan)));
    let done = |goal, applied| Done {
        chain: Chain { members: members.clone().collect() },
        goal,
        applied,
        because: String::new(),
    };
    // What is only made once more for a move keeps its place.
    let (moved, _) = staging::finish(&world, &facts, name, done(Goal::Activate, None), defaults, now).unwrap();
    assert!(!moved.iter().any(|change| matches!(change, Change::PutUnikernel(unikernel) if unikernel.id == member)));
    let (changes, _) = staging::finish(&world, &facts, name, done(Goal::Stage, Some(&applied)), defaults, now).unwrap();
    world.apply(changes);
    assert!(newest(&world, &member), "applied");

    let again = world.unikernel(&by_hand).unwrap().clone();
    let deployed = world.next_ordinal();
    world.apply(vec![Change::PutUnikernel(Box::new(Unikernel { deployed, ..again }))]);
    let (changes, begun) = begin(&world);
    world.apply(changes);
    assert_eq!(begun, Begun::Nothing);
    assert!(newest(&world, &member), "also where nothing had to be done");
}

#[test]
fn a_number_is_not_given_again_when_what_has_it_is_gone() {
    let mut story = Story::after("deploy A, deploy B");
    let gone = story.world.unikernel(&id("B")).unwrap().deployed;
    let changes = crate::planning::removal::forget(&story.world, &id("B"));
    story.world.apply(changes);
    story.step("deploy C");
    assert!(story.world.unikernel(&id("C")).unwrap().deployed > gone);
}

#[test]
fn an_address_that_answered_in_a_time_to_come_is_asked_again() {
    let mut story = Story::new();
    story.facts.answering.insert("10.0.0.1".parse().unwrap(), story.now);
    story.step("deploy A");
    assert_eq!(story.world.unikernel(&id("A")).unwrap().address, std::net::IpAddr::from([10, 0, 0, 1]));
}
