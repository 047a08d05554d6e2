//! What the ledger says, in memory: looked up by every decision, changed only by the list of changes that was written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::address_pool::AddressPool;
use super::error::Error;
use super::ports::Ports;
use super::states::{stack_state, state};
use crate::domain::{
    Build, BuildKey, Chain, Change, ConsoleLine, Event, HostPort, ImageDigest, ImageRecord, Lease, LoopbackRoute,
    NetworkName, Ordinal, Phase, Publication, Service, ServiceName, ServiceView, Stack, StackName, StackView,
    StaleFlows, Transport, Unikernel, UnikernelId, UnikernelView,
};

/// The ledger's contents with the indices that decisions need.
#[derive(Debug)]
pub struct World {
    unikernels: BTreeMap<UnikernelId, Unikernel>,
    members: BTreeMap<ServiceName, BTreeSet<UnikernelId>>,
    /// Unikernels whose readiness rule is asked again while they are live.
    checked: BTreeSet<UnikernelId>,
    services: BTreeMap<ServiceName, Service>,
    ports: Ports<ServiceName>,
    pool: AddressPool,
    images: BTreeMap<ImageDigest, ImageRecord>,
    builds: BTreeMap<BuildKey, Build>,
    stale_flows: BTreeSet<StaleFlows>,
    last_words: BTreeMap<UnikernelId, Vec<ConsoleLine>>,
    stacks: BTreeMap<StackName, Stack>,
    loopback_routes: BTreeMap<NetworkName, LoopbackRoute>,
    /// Services that have a unikernel or a record; counted along, since a switch must not cost more with many.
    service_count: usize,
    /// The last number that was given, also to what is not there any more.
    last_ordinal: Ordinal,
}

impl World {
    /// Of leases and of addresses released earlier; everything else comes by [`World::apply`].
    pub fn new(leases: Vec<Lease>, released: Vec<(IpAddr, Ordinal)>) -> Self {
        Self {
            unikernels: BTreeMap::new(),
            members: BTreeMap::new(),
            checked: BTreeSet::new(),
            services: BTreeMap::new(),
            ports: Ports::default(),
            pool: AddressPool::new(leases, released),
            images: BTreeMap::new(),
            builds: BTreeMap::new(),
            stale_flows: BTreeSet::new(),
            last_words: BTreeMap::new(),
            stacks: BTreeMap::new(),
            loopback_routes: BTreeMap::new(),
            service_count: 0,
            last_ordinal: Ordinal::default(),
        }
    }

    /// The number of what is decided now: greater than all before.
    pub fn next_ordinal(&self) -> Ordinal {
        self.last_ordinal.next()
    }

    pub fn unikernel(&self, id: &UnikernelId) -> Option<&Unikernel> {
        self.unikernels.get(id)
    }

    pub fn unikernels(&self) -> impl Iterator<Item = &Unikernel> {
        self.unikernels.values()
    }

    /// Unikernels whose readiness rule is asked again while they are live.
    pub fn checked(&self) -> impl Iterator<Item = &Unikernel> {
        self.checked.iter().filter_map(|id| self.unikernels.get(id))
    }

    /// The unikernels of a service.
    pub fn members(&self, service: &ServiceName) -> impl Iterator<Item = &Unikernel> {
        self.members.get(service).into_iter().flatten().filter_map(|id| self.unikernels.get(id))
    }

    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)
    }

    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// Every service that has a unikernel or a record of its own.
    pub fn service_names(&self) -> BTreeSet<&ServiceName> {
        self.services.keys().chain(self.members.keys()).collect()
    }

    /// All that is in the kernel: what is live, and what is staged.
    pub fn publications(&self) -> impl Iterator<Item = (&ServiceName, &Arc<Publication>)> {
        self.services.values().flat_map(|service| service.publications().map(move |one| (&service.name, one)))
    }

    pub fn stack(&self, name: &StackName) -> Option<&Stack> {
        self.stacks.get(name)
    }

    pub fn stacks(&self) -> impl Iterator<Item = &Stack> {
        self.stacks.values()
    }

    /// The stack that has `service` in one of its chains, or is about to take away what was of it.
    pub fn stack_of(&self, service: &ServiceName) -> Option<&Stack> {
        let member = |stack: &Stack| stack.chains().any(|chain| chain.members.contains_key(service));
        let leaving = |stack: &Stack| stack.removing && stack.former.iter().any(|id| id.service() == *service);
        self.stacks.values().find(|stack| member(stack) || leaving(stack))
    }

    /// The stack whose live or staged chain is made of a unikernel.
    pub fn stack_needing(&self, id: &UnikernelId) -> Option<&Stack> {
        let needs = |stack: &&Stack| stack.live.iter().chain(&stack.staged).any(|chain| chain.has(id));
        self.stacks.values().find(needs)
    }

    /// That `port` is taken by `other`, with what to do about it.
    pub fn port_conflict(&self, port: HostPort, other: &ServiceName) -> Error {
        let stack = self.stack_of(other).map(|stack| stack.name.clone());
        Error::PortConflict { port, other: other.clone(), stack }
    }

    /// What a unikernel is made of, or may be once more for a stack.
    pub fn images_in_use(&self) -> BTreeSet<ImageDigest> {
        self.images_in_use_without(&BTreeSet::new())
    }

    /// [`World::images_in_use`], once `removed` are gone.
    pub fn images_in_use_without(&self, removed: &BTreeSet<UnikernelId>) -> BTreeSet<ImageDigest> {
        let stay = self.unikernels().filter(|unikernel| !removed.contains(&unikernel.id));
        let members = self.stacks.values().flat_map(Stack::chains).flat_map(|chain| chain.members.values());
        stay.map(|unikernel| unikernel.spec.image).chain(members.map(|member| member.image)).collect()
    }

    /// Whether the unikernel is what its service publishes.
    pub fn is_live(&self, id: &UnikernelId) -> bool {
        self.services
            .get(&id.service())
            .and_then(|service| service.publication.as_ref())
            .is_some_and(|publication| publication.unikernel == *id)
    }

    /// Whether the unikernel is a member of a stack's live chain, with ports or without.
    pub fn is_in_live_chain(&self, id: &UnikernelId) -> bool {
        self.stacks.values().filter_map(|stack| stack.live.as_ref()).any(|chain| chain.has(id))
    }

    /// Whether clients reach the unikernel, or others that do by it.
    pub fn serves(&self, id: &UnikernelId) -> bool {
        self.is_live(id) || self.is_in_live_chain(id)
    }

    pub fn service_count(&self) -> usize {
        self.service_count
    }

    pub fn unikernel_count(&self) -> usize {
        self.unikernels.len()
    }

    pub fn pool(&self) -> &AddressPool {
        &self.pool
    }

    pub fn image(&self, digest: ImageDigest) -> Option<&ImageRecord> {
        self.images.get(&digest)
    }

    pub fn images(&self) -> impl Iterator<Item = &ImageRecord> {
        self.images.values()
    }

    pub fn build(&self, key: &BuildKey) -> Option<&Build> {
        self.builds.get(key)
    }

    pub fn builds(&self) -> impl Iterator<Item = &Build> {
        self.builds.values()
    }

    pub fn stale_flows(&self) -> impl Iterator<Item = &StaleFlows> {
        self.stale_flows.iter()
    }

    /// Bridges whose `route_localnet` this service has switched on.
    pub fn loopback_routes(&self) -> impl Iterator<Item = &LoopbackRoute> {
        self.loopback_routes.values()
    }

    /// What a unikernel said before it ended last, where that was written down.
    pub fn last_words(&self, id: &UnikernelId) -> Option<&Vec<ConsoleLine>> {
        self.last_words.get(id)
    }

    /// For tests of what holds for all.
    #[cfg(test)]
    pub fn all_last_words(&self) -> impl Iterator<Item = (&UnikernelId, &Vec<ConsoleLine>)> {
        self.last_words.iter()
    }

    /// The other service that already takes `port`.
    pub fn port_taken(&self, port: &HostPort, by_other_than: &ServiceName) -> Option<&ServiceName> {
        self.port_takers(port).find(|service| *service != by_other_than)
    }

    /// Whether exactly this port is in the kernel, whoever has it.
    pub fn is_published(&self, port: &HostPort) -> bool {
        self.ports.get(port).is_some()
    }

    /// The published ports with a number from `first` to `last`, on whatever addresses.
    pub fn published_between(&self, transport: Transport, first: u16, last: u16) -> impl Iterator<Item = HostPort> {
        self.ports.between(transport, first, last)
    }

    /// The services whose ports clash with `port`.
    pub fn port_takers(&self, port: &HostPort) -> impl Iterator<Item = &ServiceName> {
        self.ports.takers(port)
    }

    fn origin_of(&self, image: ImageDigest) -> String {
        self.image(image).and_then(|record| record.origin.as_ref()).map(ToString::to_string).unwrap_or_default()
    }

    pub fn unikernel_view(&self, id: &UnikernelId) -> Option<UnikernelView> {
        let unikernel = self.unikernels.get(id)?;
        Some(UnikernelView {
            id: id.clone(),
            state: state(unikernel, self.services.get(&id.service())),
            address: unikernel.address,
            network: unikernel.spec.network.clone(),
            mac: unikernel.mac,
            memory: unikernel.spec.memory,
            cpu: unikernel.cpu,
            image: unikernel.spec.image,
            image_origin: self.origin_of(unikernel.spec.image),
            created_at: unikernel.created_at,
            revision: unikernel.deployed,
            started_at: unikernel.started_at,
            restarts: unikernel.restarts,
            // The record keeps it until the rule holds, should that have to be undone.
            exit_reason: if unikernel.phase == Phase::Running { String::new() } else { unikernel.exit_reason.clone() },
        })
    }

    pub fn stack_view(&self, name: &StackName) -> Option<StackView> {
        let stack = self.stacks.get(name)?;
        let there = |id: &UnikernelId| self.unikernels.contains_key(id).then(|| id.clone());
        let chain = |chain: &Option<Arc<Chain>>| {
            let members = chain.iter().flat_map(|chain| &chain.members);
            members.map(|(name, member)| (name.clone(), there(&member.unikernel))).collect()
        };
        Some(StackView {
            name: name.clone(),
            state: stack_state(stack),
            live: chain(&stack.live),
            staged: chain(&stack.staged),
            previous: chain(&stack.previous),
            last_check: stack.last_check,
            last_result: stack.last_result.clone(),
        })
    }

    pub fn service_view(&self, name: &ServiceName) -> Option<ServiceView> {
        let service = self.services.get(name);
        if service.is_none() && !self.members.contains_key(name) {
            return None;
        }
        Some(ServiceView {
            name: name.clone(),
            publication: service.and_then(|service| service.publication.clone()),
            previous: service.and_then(|service| service.previous.clone()),
        })
    }

    /// Applies what was written to the ledger, and says how things looked before and look now.
    pub fn apply(&mut self, changes: Vec<Change>) -> Vec<Event> {
        let services = changes.iter().filter_map(touched_service).collect::<BTreeSet<_>>();
        let stacks = self.touched_stacks(&changes);
        let before = self.views(&services, &stacks);
        for change in changes {
            self.apply_one(change);
        }
        let after = self.views(&services, &stacks);
        self.service_count = (self.service_count + after.services.len()).saturating_sub(before.services.len());
        differences(before, after)
    }

    /// The changes that take `changes` back, were they applied now.
    pub fn inverse(&self, changes: &[Change]) -> Vec<Change> {
        let mut back = changes.iter().filter_map(|change| self.inverse_of(change)).collect::<Vec<_>>();
        back.reverse();
        back
    }

    fn inverse_of(&self, change: &Change) -> Option<Change> {
        Some(match change {
            Change::PutUnikernel(new) => match self.unikernels.get(&new.id) {
                Some(old) => Change::PutUnikernel(Box::new(old.clone())),
                None => Change::RemoveUnikernel(new.id.clone()),
            },
            Change::RemoveUnikernel(id) => Change::PutUnikernel(Box::new(self.unikernels.get(id)?.clone())),
            Change::PutService(new) => match self.services.get(&new.name) {
                Some(old) => Change::PutService(Box::new(old.clone())),
                None => Change::RemoveService(new.name.clone()),
            },
            Change::RemoveService(name) => Change::PutService(Box::new(self.services.get(name)?.clone())),
            Change::PutLease(lease) => match self.pool.lease(&lease.tag) {
                Some(old) => Change::PutLease(old.clone()),
                None => Change::ReleaseLease { tag: lease.tag.clone(), at: self.next_ordinal() },
            },
            Change::ReleaseLease { tag, .. } => Change::PutLease(self.pool.lease(tag)?.clone()),
            Change::PutImage(image) => match self.images.get(&image.digest) {
                Some(old) => Change::PutImage(old.clone()),
                None => Change::RemoveImage(image.digest),
            },
            Change::RemoveImage(digest) => Change::PutImage(self.images.get(digest)?.clone()),
            Change::PutBuild(new) => match self.builds.get(&new.key) {
                Some(old) => Change::PutBuild(Box::new(old.clone())),
                None => Change::RemoveBuild(new.key),
            },
            Change::RemoveBuild(key) => Change::PutBuild(Box::new(self.builds.get(key)?.clone())),
            Change::PutStaleFlows(flows) if self.stale_flows.contains(flows) => return None,
            Change::PutStaleFlows(flows) => Change::RemoveStaleFlows(flows.clone()),
            Change::RemoveStaleFlows(flows) => Change::PutStaleFlows(self.stale_flows.get(flows)?.clone()),
            Change::PutLastWords { id, .. } => match self.last_words.get(id) {
                Some(old) => Change::PutLastWords { id: id.clone(), lines: old.clone() },
                None => Change::RemoveLastWords(id.clone()),
            },
            Change::RemoveLastWords(id) => {
                Change::PutLastWords { id: id.clone(), lines: self.last_words.get(id)?.clone() }
            }
            Change::PutStack(new) => match self.stacks.get(&new.name) {
                Some(old) => Change::PutStack(Box::new(old.clone())),
                None => Change::RemoveStack(new.name.clone()),
            },
            Change::RemoveStack(name) => Change::PutStack(Box::new(self.stacks.get(name)?.clone())),
            // A number that was given is not given again.
            Change::Count(_) => return None,
            Change::PutLoopbackRoute(new) => match self.loopback_routes.get(&new.network) {
                Some(old) => Change::PutLoopbackRoute(old.clone()),
                None => Change::RemoveLoopbackRoute(new.network.clone()),
            },
            Change::RemoveLoopbackRoute(name) => Change::PutLoopbackRoute(self.loopback_routes.get(name)?.clone()),
        })
    }

    fn apply_one(&mut self, change: Change) {
        self.last_ordinal = change.ordinal().map_or(self.last_ordinal, |ordinal| ordinal.max(self.last_ordinal));
        match change {
            Change::Count(_) => {}
            Change::PutUnikernel(unikernel) => {
                self.members.entry(unikernel.id.service()).or_default().insert(unikernel.id.clone());
                match unikernel.check {
                    Some(_) => self.checked.insert(unikernel.id.clone()),
                    None => self.checked.remove(&unikernel.id),
                };
                self.unikernels.insert(unikernel.id.clone(), *unikernel);
            }
            Change::RemoveUnikernel(id) => {
                self.unikernels.remove(&id);
                self.checked.remove(&id);
                let service = id.service();
                if let Some(members) = self.members.get_mut(&service) {
                    members.remove(&id);
                    if members.is_empty() {
                        self.members.remove(&service);
                    }
                }
            }
            Change::PutService(service) => {
                self.forget_ports(&service.name);
                for (port, _) in service.publications().flat_map(|publication| publication.host_ports()) {
                    self.ports.insert(port, service.name.clone());
                }
                self.services.insert(service.name.clone(), *service);
            }
            Change::RemoveService(name) => {
                self.forget_ports(&name);
                self.services.remove(&name);
            }
            Change::PutLease(lease) => self.pool.insert(lease),
            Change::ReleaseLease { tag, at } => {
                self.pool.release(&tag, at);
            }
            Change::PutImage(image) => {
                self.images.insert(image.digest, image);
            }
            Change::RemoveImage(digest) => {
                self.images.remove(&digest);
            }
            Change::PutBuild(build) => {
                self.builds.insert(build.key, *build);
            }
            Change::RemoveBuild(key) => {
                self.builds.remove(&key);
            }
            Change::PutStaleFlows(flows) => {
                self.stale_flows.insert(flows);
            }
            Change::RemoveStaleFlows(flows) => {
                self.stale_flows.remove(&flows);
            }
            Change::PutLastWords { id, lines } => {
                self.last_words.insert(id, lines);
            }
            Change::RemoveLastWords(id) => {
                self.last_words.remove(&id);
            }
            Change::PutStack(stack) => {
                self.stacks.insert(stack.name.clone(), *stack);
            }
            Change::RemoveStack(name) => {
                self.stacks.remove(&name);
            }
            Change::PutLoopbackRoute(route) => {
                self.loopback_routes.insert(route.network.clone(), route);
            }
            Change::RemoveLoopbackRoute(name) => {
                self.loopback_routes.remove(&name);
            }
        }
    }

    fn forget_ports(&mut self, name: &ServiceName) {
        let Some(service) = self.services.get(name) else { return };
        for (port, _) in service.publications().flat_map(|publication| publication.host_ports()) {
            // In one list of changes a port can have gone to another service before it is taken from this one.
            if self.ports.get(&port) == Some(name) {
                self.ports.remove(&port);
            }
        }
    }

    /// Those that are shown otherwise after `changes`: a member that comes or goes shows in its stack too.
    fn touched_stacks(&self, changes: &[Change]) -> BTreeSet<StackName> {
        let touched = changes.iter().filter_map(|change| match change {
            Change::PutStack(stack) => Some(stack.name.clone()),
            Change::RemoveStack(name) => Some(name.clone()),
            Change::PutUnikernel(unikernel) if self.unikernels.contains_key(&unikernel.id) => None,
            Change::PutUnikernel(unikernel) => self.stack_with(&unikernel.id),
            Change::RemoveUnikernel(id) => self.stack_with(id),
            _ => None,
        });
        touched.collect()
    }

    fn stack_with(&self, id: &UnikernelId) -> Option<StackName> {
        self.stacks.values().find(|stack| stack.has(id)).map(|stack| stack.name.clone())
    }

    fn views(&self, services: &BTreeSet<ServiceName>, stacks: &BTreeSet<StackName>) -> Views {
        let unikernels = services
            .iter()
            .flat_map(|name| self.members.get(name).into_iter().flatten())
            .filter_map(|id| Some((id.clone(), Arc::new(self.unikernel_view(id)?))))
            .collect();
        let services =
            services.iter().filter_map(|name| Some((name.clone(), Arc::new(self.service_view(name)?)))).collect();
        let stacks = stacks.iter().filter_map(|name| Some((name.clone(), Arc::new(self.stack_view(name)?)))).collect();
        Views { unikernels, services, stacks }
    }
}

fn touched_service(change: &Change) -> Option<ServiceName> {
    match change {
        Change::PutUnikernel(unikernel) => Some(unikernel.id.service()),
        Change::RemoveUnikernel(id) => Some(id.service()),
        Change::PutService(service) => Some(service.name.clone()),
        Change::RemoveService(name) => Some(name.clone()),
        _ => None,
    }
}

struct Views {
    unikernels: BTreeMap<UnikernelId, Arc<UnikernelView>>,
    services: BTreeMap<ServiceName, Arc<ServiceView>>,
    stacks: BTreeMap<StackName, Arc<StackView>>,
}

/// Services before unikernels where things appear, and the switch itself after both.
fn differences(before: Views, after: Views) -> Vec<Event> {
    let mut events = Vec::new();
    let mut switches = Vec::new();
    for (name, before, after) in pairs(before.services, after.services) {
        let live = |view: &Option<Arc<ServiceView>>| view.as_ref().and_then(|view| view.live().cloned());
        let (from, to) = (live(&before), live(&after));
        if from != to {
            switches.push(Event::Switched { service: name, from, to });
        }
        events.push(Event::Service { before, after });
    }
    for (_, before, after) in pairs(before.unikernels, after.unikernels) {
        events.push(Event::Unikernel { before, after });
    }
    for (_, before, after) in pairs(before.stacks, after.stacks) {
        events.push(Event::Stack { before, after });
    }
    events.extend(switches);
    events
}

/// What differs between two maps, by key.
fn pairs<K: Ord + Clone, V: PartialEq>(
    mut before: BTreeMap<K, V>,
    mut after: BTreeMap<K, V>,
) -> Vec<(K, Option<V>, Option<V>)> {
    let keys = before.keys().chain(after.keys()).cloned().collect::<BTreeSet<_>>();
    keys.into_iter()
        .map(|key| {
            let (before, after) = (before.remove(&key), after.remove(&key));
            (key, before, after)
        })
        .filter(|(_, before, after)| before != after)
        .collect()
}
