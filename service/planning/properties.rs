//! What holds after any sequence of decisions, whatever the clock does: each is taken back without a trace, no two contradict
//! each other, and what was deployed last is the newest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::admission::{self, Admitted, Deployment};
use super::collecting::{self, Keep, Removal};
use super::facts::Facts;
use super::publishing::{self, Decision, Switched, Wanted};
use super::world::World;
use super::{order, reconcile, removal};
use crate::domain::{
    AddressChoice, Arguments, Change, ConsoleLine, ImageDigest, ImageRecord, Inventory, Network, Ordinal, Phase,
    PortMapping, PortProtocol, Readiness, RestartPolicy, Running, Service, ServiceName, Timestamp, Unikernel,
    UnikernelId, UnikernelSpec,
};

const SERVICES: [&str; 3] = ["entry", "mail", "web"];

/// What a caller, Albatross or time can do, on few names so that they meet.
#[derive(Debug, Clone)]
enum Act {
    /// Reserve only; what is half-made is made or undone later.
    Reserve {
        service: usize,
        image: u8,
        /// As Restart and Rollback do: one that keeps its place.
        again: bool,
    },
    MakeReady(usize),
    UndoDeploy(usize),
    Publish {
        service: usize,
        port: u16,
        protocol: PortProtocol,
        which: Option<usize>,
    },
    TakenBackPublish {
        service: usize,
        port: u16,
    },
    Unpublish(usize),
    Rollback(usize),
    Intend {
        which: usize,
        force: bool,
    },
    TakenBackIntend(usize),
    Forget(usize),
    /// Albatross runs all but one.
    Lose(usize),
    RunAll,
    /// Albatross starts one again.
    StartAgain(usize),
    Confirm(usize),
    FallBack,
    Drained(usize),
    Collect {
        keep: BTreeSet<usize>,
        all: bool,
        previous: u32,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let (service, which) = (0..SERVICES.len(), 0..8_usize);
    let protocol = prop_oneof![Just(PortProtocol::Tcp), Just(PortProtocol::Udp), Just(PortProtocol::Any)];
    prop_oneof![
        4 => (service.clone(), 0..3_u8, prop::bool::weighted(0.2))
            .prop_map(|(service, image, again)| Act::Reserve { service, image, again }),
        4 => which.clone().prop_map(Act::MakeReady),
        1 => which.clone().prop_map(Act::UndoDeploy),
        4 => (service.clone(), 80..83_u16, protocol, prop::option::of(which.clone()))
            .prop_map(|(service, port, protocol, which)| Act::Publish { service, port, protocol, which }),
        1 => (service.clone(), 80..83_u16).prop_map(|(service, port)| Act::TakenBackPublish { service, port }),
        1 => service.clone().prop_map(Act::Unpublish),
        2 => service.clone().prop_map(Act::Rollback),
        1 => (which.clone(), any::<bool>()).prop_map(|(which, force)| Act::Intend { which, force }),
        1 => which.clone().prop_map(Act::TakenBackIntend),
        2 => which.clone().prop_map(Act::Forget),
        1 => which.clone().prop_map(Act::Lose),
        1 => Just(Act::RunAll),
        2 => which.clone().prop_map(Act::StartAgain),
        2 => which.clone().prop_map(Act::Confirm),
        2 => Just(Act::FallBack),
        1 => service.prop_map(Act::Drained),
        1 => (prop::collection::btree_set(0..SERVICES.len(), 0..3), any::<bool>(), 0..3_u32)
            .prop_map(|(keep, all, previous)| Act::Collect { keep, all, previous }),
    ]
}

/// Seconds that the clock goes on from one act to the next: as a rule one, and now and then it is set.
fn clock() -> impl Strategy<Value = i64> {
    prop_oneof![4 => Just(1), 1 => -7200..7200_i64]
}

struct Model {
    world: World,
    facts: Facts,
    /// The clock that is set back and forth.
    now: Timestamp,
    /// How many acts there were, a second each.
    acts: u64,
    begin: Instant,
    order: Order,
}

/// What came when, by the number of the act.
#[derive(Default)]
struct Order {
    deployed: BTreeMap<UnikernelId, u64>,
    last_live: BTreeMap<UnikernelId, u64>,
    /// Deployments that count when they are ready: when they began, and as which number.
    begun: BTreeMap<UnikernelId, (u64, Ordinal)>,
}

impl Model {
    fn new() -> Self {
        let network = Network {
            name: "br0".parse().unwrap(),
            prefix: "10.0.0.0/28".parse().unwrap(),
            gateway: Some("10.0.0.1".parse().unwrap()),
            exclude: Vec::new(),
        };
        let facts = Facts { networks: vec![network], ..Facts::default() };
        let (acts, begin, order) = (0, Instant::now(), Order::default());
        let now = Timestamp(1_000_000_000_000);
        Self { world: World::new(Vec::new(), Vec::new()), facts, now, acts, begin, order }
    }

    fn which(&self, which: usize) -> Option<Unikernel> {
        let count = self.world.unikernel_count().max(1);
        self.world.unikernels().nth(which % count).cloned()
    }

    /// Applies `changes`, and before that takes them back once.
    fn write(&mut self, changes: Vec<Change>) {
        let (before, back, ordinal) = (self.snapshot(), self.world.inverse(&changes), self.world.next_ordinal());
        self.world.apply(changes.clone());
        let after = self.snapshot();
        self.world.apply(back);
        assert_eq!(self.snapshot(), before, "taken back: {changes:?}");
        self.world.apply(changes);
        assert_eq!(self.snapshot(), after, "applied once more");
        assert!(self.world.next_ordinal() >= ordinal, "a number is not given twice");
        self.check();
    }

    /// Everything but the times at which addresses were released: one that was leased for a moment counts as used.
    fn snapshot(&self) -> Vec<String> {
        let world = &self.world;
        let unikernels = world.unikernels().map(|unikernel| format!("{unikernel:?}"));
        let services = world.services().map(|service| format!("{service:?}"));
        let leases = world.pool().leases().map(|lease| format!("{lease:?}"));
        let images = world.images().map(|image| format!("{image:?}"));
        let flows = world.stale_flows().map(|flows| format!("{flows:?}"));
        let words = world.all_last_words().map(|words| format!("{words:?}"));
        let all = unikernels.chain(services).chain(leases).chain(images).chain(flows).chain(words);
        all.chain([format!("{} services", world.service_count())]).collect()
    }

    fn check(&self) {
        let world = &self.world;
        let mut ports = BTreeSet::new();
        for (name, publication) in world.publications() {
            for (port, _) in publication.host_ports() {
                assert!(ports.insert((port.transport, port.port)), "{port:?} is published twice");
                assert_eq!(world.port_taken(&port, &"nobody".parse().unwrap()), Some(name));
            }
            let live = world.unikernel(&publication.unikernel).expect("what is live has a record");
            assert_eq!(live.address, publication.target);
            assert!(!live.removing, "what is live is not being removed");
            let service = world.service(name).unwrap();
            assert!(service.draining.iter().all(|(id, _)| *id != live.id), "what is live does not drain");
            assert_ne!(service.previous.as_ref(), Some(&live.id));
        }
        for unikernel in world.unikernels() {
            let lease = world.pool().lease(&unikernel.id.tag()).expect("every unikernel has a lease");
            assert_eq!(lease.address, unikernel.address);
            assert!(world.image(unikernel.spec.image).is_some(), "every unikernel has its image");
        }
        let words = world.all_last_words();
        assert!(words.into_iter().all(|(id, _)| world.unikernel(id).is_some()), "last words go with the record");
        let addresses = world.pool().leases().map(|lease| lease.address).collect::<BTreeSet<_>>();
        assert_eq!(addresses.len(), world.unikernel_count(), "every lease has its own address and unikernel");
        assert_eq!(world.service_count(), world.service_names().len());
    }

    /// Another unikernel is live, or none.
    fn live(&self) -> BTreeMap<ServiceName, UnikernelId> {
        let live = self
            .world
            .services()
            .filter_map(|service| Some((service.name.clone(), service.publication.as_ref()?.unikernel.clone())));
        live.collect()
    }

    fn act_at(&mut self, act: &Act, clock: i64) {
        self.now = Timestamp(self.now.0 + clock * 1_000_000);
        self.acts += 1;
        let before = self.live();
        self.act(act);
        let after = self.live();
        for (service, id) in before {
            if after.get(&service) != Some(&id) {
                self.order.last_live.insert(id, self.acts);
            }
        }
        self.check_order();
    }

    /// Unikernels of a service are in the order of their deployments.
    fn check_order(&mut self) {
        let there = |id: &UnikernelId| self.world.unikernel(id).is_some();
        self.order.deployed.retain(|id, _| there(id));
        self.order.last_live.retain(|id, _| there(id));
        self.order.begun.retain(|id, _| there(id));
        let deployed = |unikernel: &Unikernel| self.order.deployed[&unikernel.id];
        for name in self.world.service_names() {
            let mut members = self.world.members(name).collect::<Vec<_>>();
            members.sort_by_key(|unikernel| unikernel.deployed);
            assert!(members.is_sorted_by(|one, other| deployed(one) < deployed(other)), "{:?}", self.order.deployed);
        }
    }

    fn reserve(&mut self, deployment: &Deployment) {
        // Calls work on those that are to count.
        self.facts.busy = self.order.begun.keys().cloned().collect();
        self.reserve_among(deployment);
        self.facts.busy.clear();
    }

    fn reserve_among(&mut self, deployment: &Deployment) {
        let id = deployment.spec.id(&deployment.service);
        let Ok((changes, admitted)) = admission::admit(deployment, &self.world, &self.facts, self.now) else { return };
        let before = self.snapshot();
        self.write(changes);
        self.undo_at_once(&admitted, deployment.image.digest, &before);
        let Ok((changes, admitted)) = admission::admit(deployment, &self.world, &self.facts, self.now) else { return };
        self.write(changes);
        let (is_new, counts_as) = match admitted {
            Admitted::Start { revived, counts_as, .. } => (!revived, counts_as),
            Admitted::AlreadyThere { unikernel, counts_as } => {
                (unikernel.phase == Phase::Ready && deployment.keeps.is_none(), counts_as)
            }
        };
        if is_new {
            self.order.deployed.insert(id.clone(), self.acts);
        }
        self.order.begun.remove(&id);
        if let Some(counts_as) = counts_as {
            self.order.begun.insert(id, (self.acts, counts_as));
        }
    }

    /// The place that a deployment gets now that its unikernel is ready.
    fn counted(&mut self, id: &UnikernelId) -> Option<Ordinal> {
        let (begun, counts_as) = self.order.begun.remove(id)?;
        self.order.deployed.insert(id.clone(), begun);
        Some(counts_as)
    }

    fn act(&mut self, act: &Act) {
        let now = self.now;
        match act {
            Act::Reserve { service, image, again } => {
                let mut deployment = deployment(name(*service), *image);
                let there = self.world.unikernel(&deployment.spec.id(&deployment.service));
                deployment.keeps = there.filter(|_| *again).map(|unikernel| unikernel.deployed);
                self.reserve(&deployment);
            }
            Act::MakeReady(which) => {
                if let Some(unikernel) = self.which(*which).filter(|u| !u.removing && reconcile::is_half_made(u)) {
                    let counts_as = self.counted(&unikernel.id);
                    self.write(admission::ready(&self.world, unikernel, counts_as));
                }
            }
            Act::UndoDeploy(which) => {
                if let Some(unikernel) = self.which(*which).filter(|u| !u.removing && reconcile::is_half_made(u)) {
                    self.write(reconcile::undo_deploy(&self.world, &unikernel.id, &unikernel.exit_reason));
                    self.order.begun.remove(&unikernel.id);
                    let left = self.world.unikernel(&unikernel.id);
                    let ended = Unikernel::has_ended;
                    assert!(left.is_none_or(ended), "what has run before is kept, ended");
                }
            }
            Act::Publish { service, port, protocol, which } => {
                let unikernel = which.and_then(|which| self.which(which)).map(|unikernel| unikernel.id);
                let wanted = wanted(*port, *protocol, unikernel);
                if let Ok(Decision::Now(changes)) = publishing::publish(&self.world, &name(*service), &wanted, now) {
                    self.write(changes);
                    let service = name(*service);
                    let live = self.live()[&service].clone();
                    let newer = |id: &UnikernelId| self.order.deployed[id] > self.order.deployed[&live];
                    let mut ready = self.world.members(&service).filter(|u| u.phase == Phase::Ready && !u.removing);
                    assert!(wanted.unikernel.is_some() || !ready.any(|u| newer(&u.id)), "{live} was not deployed last");
                }
            }
            Act::TakenBackPublish { service, port } => {
                let published = |world: &World| world.service(&name(*service)).and_then(|s| s.publication.clone());
                let before = published(&self.world);
                let wanted = wanted(*port, PortProtocol::Any, None);
                if let Ok(Decision::Now(changes)) = publishing::publish(&self.world, &name(*service), &wanted, now)
                    && let Some(switched) = Switched::by(&changes, &self.world)
                {
                    self.write(changes);
                    self.write(switched.take_back(&self.world));
                    assert_eq!(published(&self.world), before);
                    assert!(switched.take_back(&self.world).is_empty(), "once is enough");
                }
            }
            Act::Unpublish(service) => {
                if let Ok(changes) = publishing::unpublish(&self.world, &name(*service), now) {
                    self.write(changes);
                }
            }
            Act::Rollback(service) => {
                if let Ok((Decision::Now(changes), live)) = publishing::rollback(&self.world, &name(*service), now) {
                    self.write(changes);
                    assert!(self.world.is_live(&live));
                }
            }
            Act::Intend { which, force } => {
                if let Some(unikernel) = self.which(*which)
                    && let Ok(changes) = removal::intend(&self.world, &self.facts, &unikernel.id, *force, now)
                {
                    assert!(*force || !self.world.is_live(&unikernel.id), "live and not forced");
                    self.write(changes);
                    assert!(!self.world.is_live(&unikernel.id));
                }
            }
            Act::TakenBackIntend(which) => {
                if let Some(unikernel) = self.which(*which).filter(|unikernel| !unikernel.removing)
                    && let Ok(changes) = removal::intend(&self.world, &self.facts, &unikernel.id, true, now)
                {
                    let was_live = self.world.is_live(&unikernel.id);
                    let unpublished = Switched::by(&changes, &self.world);
                    self.write(changes);
                    self.write(removal::withdraw(&self.world, &unikernel.id, unpublished.as_ref()));
                    assert_eq!(self.world.is_live(&unikernel.id), was_live);
                    assert_eq!(self.world.unikernel(&unikernel.id), Some(&unikernel));
                }
            }
            Act::Forget(which) => {
                if let Some(unikernel) = self.which(*which).filter(|unikernel| unikernel.removing) {
                    self.write(removal::forget(&self.world, &unikernel.id));
                }
            }
            Act::Lose(which) => self.observe(self.which(*which).map(|unikernel| unikernel.id), None),
            Act::RunAll => self.observe(None, None),
            Act::StartAgain(which) => self.observe(None, self.which(*which).map(|unikernel| unikernel.id)),
            Act::Confirm(which) => {
                if let Some(unikernel) = self.which(*which) {
                    if unikernel.phase == Phase::Returned
                        && let Some(counts_as) = self.counted(&unikernel.id)
                    {
                        self.write(order::deployed_as(&self.world, &unikernel.id, counts_as));
                    }
                    self.write(reconcile::ready_again(&self.world, &unikernel.id, unikernel.started_at));
                }
            }
            Act::FallBack => {
                self.write(publishing::fall_back(&self.world, &self.facts, now));
                assert!(publishing::fall_back(&self.world, &self.facts, now).is_empty(), "nobody falls back twice");
            }
            Act::Drained(service) => {
                if let Some(service) = self.world.service(&name(*service)).cloned() {
                    self.write(vec![Change::PutService(Box::new(Service { draining: Vec::new(), ..service }))]);
                }
            }
            Act::Collect { keep, all, previous } => self.collect(keep, *all, *previous),
        }
    }

    /// A deployment that ends right after its reservation leaves nothing of its own.
    fn undo_at_once(&mut self, admitted: &Admitted, image: ImageDigest, before: &[String]) {
        if let Admitted::Start { unikernel, revived: false, .. } = admitted {
            self.write(reconcile::undo_deploy(&self.world, &unikernel.id, &unikernel.exit_reason));
            if unikernel.brought_image {
                self.world.apply(vec![Change::RemoveImage(image)]);
            }
            assert_eq!(self.snapshot(), before);
        }
    }

    /// Whether it runs, and was deployed after what is live and after it was live itself.
    fn is_next(&self, id: &UnikernelId) -> bool {
        let order = &self.order;
        let runs = self.world.unikernel(id).is_some_and(|unikernel| !unikernel.removing && !unikernel.has_ended());
        let since = [self.live().get(&id.service()).map(|live| order.deployed[live]), order.last_live.get(id).copied()];
        runs && since.into_iter().flatten().all(|since| since < order.deployed[id])
    }

    fn observe(&mut self, lost: Option<UnikernelId>, again: Option<UnikernelId>) {
        let settled = |u: &&Unikernel| !reconcile::is_half_made(u) && lost.as_ref() != Some(&u.id);
        let running = |u: &Unikernel| Running {
            id: u.id.clone(),
            digest: u.spec.image,
            started: if again.as_ref() == Some(&u.id) { Some(self.now) } else { u.started_at },
            mac: None,
            cpus: Vec::new(),
        };
        let unikernels = self.world.unikernels().filter(settled).map(running).collect();
        self.facts.inventory = Inventory { unikernels, foreign_cpus: Vec::new() };
        reconcile::note_starts(&self.world, &mut self.facts, self.begin + Duration::from_secs(self.acts));
        let mut changes = reconcile::observe(&self.world, &self.facts, &Default::default());
        for change in &changes {
            let changed = match change {
                Change::PutUnikernel(changed) => changed,
                Change::PutStaleFlows(flows) => {
                    let of_dead = lost.as_ref().and_then(|id| self.world.unikernel(id));
                    assert!(flows.half_open && of_dead.is_some_and(|dead| dead.address == flows.target), "{flows:?}");
                    assert!(lost.as_ref().is_some_and(|id| !self.world.is_live(id)), "what is live is left alone");
                    continue;
                }
                _ => panic!("{change:?}"),
            };
            let was = self.world.unikernel(&changed.id).unwrap();
            assert!(!reconcile::is_half_made(was) && !was.removing, "calls' own are left alone");
            assert!(changed.restarts >= was.restarts);
        }
        let line = ConsoleLine { at: self.now, text: b"Solo5: solo5_exit(3) called".to_vec() };
        let said = self.world.unikernels().map(|unikernel| (unikernel.id.clone(), vec![line.clone()]));
        changes.extend(reconcile::last_words(&changes, said.collect()));
        self.write(changes);
        reconcile::note_starts(&self.world, &mut self.facts, self.begin + Duration::from_secs(self.acts));
        assert!(reconcile::observe(&self.world, &self.facts, &Default::default()).is_empty(), "seen once is enough");
    }

    fn collect(&mut self, keep: &BTreeSet<usize>, all: bool, previous: u32) {
        let services = (!all).then(|| keep.iter().map(|&service| name(service)).collect::<BTreeSet<_>>());
        let keep = Keep { services: services.clone(), previous };
        self.facts.busy = self.which(0).map(|unikernel| unikernel.id).into_iter().collect();
        let list = collecting::collect(&self.world, &self.facts, &keep);
        for removal in &list {
            match removal {
                Removal::Publication(name) => assert!(services.as_ref().is_some_and(|kept| !kept.contains(name))),
                Removal::Unikernel(id) => {
                    let going = self.world.unikernel(id).is_some_and(|unikernel| unikernel.removing);
                    assert!(going || !self.facts.busy.contains(id), "{id} is being worked on");
                    let unpublished = services.as_ref().is_some_and(|kept| !kept.contains(&id.service()));
                    assert!(unpublished || !self.world.is_live(id), "{id} is live");
                    assert!(unpublished || !self.is_next(id), "{id} is the next to be published");
                }
                _ => {}
            }
        }
        // Done one after the other, each is still what the list said: a dry run is no guess.
        for removal in &list {
            let still = collecting::collect(&self.world, &self.facts, &keep);
            match removal {
                Removal::Publication(name) => {
                    self.write(publishing::unpublish(&self.world, name, self.now).unwrap());
                }
                Removal::Unikernel(id) => {
                    assert!(still.contains(removal), "{removal:?} of {list:?} is not in {still:?}");
                    self.write(removal::intend(&self.world, &self.facts, id, false, self.now).unwrap());
                    self.write(removal::forget(&self.world, id));
                }
                Removal::Lease(tag) => assert!(self.world.pool().lease(tag).is_none()),
                Removal::Image(digest) => {
                    assert!(still.contains(removal), "{removal:?} of {list:?} is not in {still:?}");
                    self.write(vec![Change::RemoveImage(*digest)]);
                }
            }
        }
        assert!(collecting::collect(&self.world, &self.facts, &keep).is_empty(), "all was in the list: {list:?}");
        self.facts.busy.clear();
    }
}

fn name(service: usize) -> ServiceName {
    SERVICES[service].parse().unwrap()
}

fn wanted(host: u16, protocol: PortProtocol, unikernel: Option<UnikernelId>) -> Wanted {
    let ports = vec![PortMapping { protocol, host, unikernel: 80 }];
    Wanted { ports, unikernel, addresses: BTreeSet::new(), sources: Vec::new(), drain: Duration::from_secs(1) }
}

fn deployment(service: ServiceName, image: u8) -> Deployment {
    let digest = ImageDigest([image; 32]);
    let spec = UnikernelSpec {
        image: digest,
        arguments: Arguments::default(),
        memory: 32,
        network: "br0".parse().unwrap(),
        cpu: None,
        block_devices: Vec::new(),
        restart: RestartPolicy::Never,
        address: AddressChoice::default(),
    };
    let image = ImageRecord {
        digest,
        size: 1,
        network_device: crate::domain::NetworkDevice("service".into()),
        block_devices: Vec::new(),
        origin: None,
        signature: None,
    };
    let (readiness, timeout) = (Readiness::Running, Duration::from_secs(1));
    Deployment { service, spec, image, exclude: Vec::new(), readiness, timeout, check: None, stack: None, keeps: None }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn decisions_are_taken_back_without_a_trace_and_never_contradict(
        acts in prop::collection::vec((act(), clock()), 1..60),
    ) {
        let mut model = Model::new();
        for (act, clock) in &acts {
            model.act_at(act, *clock);
        }
    }
}
