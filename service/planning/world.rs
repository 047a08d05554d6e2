//! What the ledger says, in memory: looked up by every decision, changed only by the list of changes that was written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::address_pool::AddressPool;
use super::states::state;
use crate::domain::{
    Change, ConsoleLine, Event, HostPort, ImageDigest, ImageRecord, Lease, Phase, Publication, Service, ServiceName,
    ServiceView, StaleFlows, Timestamp, Transport, Unikernel, UnikernelId, UnikernelView,
};

/// Ordered so that all addresses of one port stand together.
type PortKey = (Transport, u16, Option<IpAddr>);

/// The ledger's contents with the indices that decisions need.
#[derive(Debug)]
pub struct World {
    unikernels: BTreeMap<UnikernelId, Unikernel>,
    members: BTreeMap<ServiceName, BTreeSet<UnikernelId>>,
    services: BTreeMap<ServiceName, Service>,
    ports: BTreeMap<PortKey, ServiceName>,
    pool: AddressPool,
    images: BTreeMap<ImageDigest, ImageRecord>,
    stale_flows: BTreeSet<StaleFlows>,
    last_words: BTreeMap<UnikernelId, Vec<ConsoleLine>>,
    /// Services that have a unikernel or a record; counted along, since a switch must not cost more with many.
    service_count: usize,
}

impl World {
    /// Of leases and of addresses released earlier; everything else comes by [`World::apply`].
    pub fn new(leases: Vec<Lease>, released: Vec<(IpAddr, Timestamp)>) -> Self {
        Self {
            unikernels: BTreeMap::new(),
            members: BTreeMap::new(),
            services: BTreeMap::new(),
            ports: BTreeMap::new(),
            pool: AddressPool::new(leases, released),
            images: BTreeMap::new(),
            stale_flows: BTreeSet::new(),
            last_words: BTreeMap::new(),
            service_count: 0,
        }
    }

    pub fn unikernel(&self, id: &UnikernelId) -> Option<&Unikernel> {
        self.unikernels.get(id)
    }

    pub fn unikernels(&self) -> impl Iterator<Item = &Unikernel> {
        self.unikernels.values()
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

    pub fn publications(&self) -> impl Iterator<Item = (&ServiceName, &Arc<Publication>)> {
        self.services.values().filter_map(|service| Some((&service.name, service.publication.as_ref()?)))
    }

    /// Whether the unikernel is what its service publishes.
    pub fn is_live(&self, id: &UnikernelId) -> bool {
        self.services
            .get(&id.service())
            .and_then(|service| service.publication.as_ref())
            .is_some_and(|publication| publication.unikernel == *id)
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

    pub fn stale_flows(&self) -> impl Iterator<Item = &StaleFlows> {
        self.stale_flows.iter()
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

    /// The other service that already takes `port`. One on all addresses and one on some conflict as well: the narrow
    /// one would silently take the wide one's clients.
    pub fn port_taken(&self, port: &HostPort, by_other_than: &ServiceName) -> Option<&ServiceName> {
        let all_addresses = (port.transport, port.port, None)..=(port.transport, port.port, Some(LAST_ADDRESS));
        self.ports
            .range(all_addresses)
            .filter(|((_, _, address), _)| address.is_none() || port.address.is_none() || *address == port.address)
            .map(|(_, service)| service)
            .find(|service| *service != by_other_than)
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
            created_at: unikernel.created_at,
            started_at: unikernel.started_at,
            restarts: unikernel.restarts,
            // The record keeps it until the rule holds, should that have to be undone.
            exit_reason: if unikernel.phase == Phase::Running { String::new() } else { unikernel.exit_reason.clone() },
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
        let before = self.views(&services);
        for change in changes {
            self.apply_one(change);
        }
        let after = self.views(&services);
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
                None => Change::ReleaseLease { tag: lease.tag.clone(), at: lease.since },
            },
            Change::ReleaseLease { tag, .. } => Change::PutLease(self.pool.lease(tag)?.clone()),
            Change::PutImage(image) => match self.images.get(&image.digest) {
                Some(old) => Change::PutImage(old.clone()),
                None => Change::RemoveImage(image.digest),
            },
            Change::RemoveImage(digest) => Change::PutImage(self.images.get(digest)?.clone()),
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
        })
    }

    fn apply_one(&mut self, change: Change) {
        match change {
            Change::PutUnikernel(unikernel) => {
                self.members.entry(unikernel.id.service()).or_default().insert(unikernel.id.clone());
                self.unikernels.insert(unikernel.id.clone(), *unikernel);
            }
            Change::RemoveUnikernel(id) => {
                self.unikernels.remove(&id);
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
                if let Some(publication) = &service.publication {
                    self.ports.extend(port_keys(publication).map(|key| (key, service.name.clone())));
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
        }
    }

    fn forget_ports(&mut self, name: &ServiceName) {
        if let Some(publication) = self.services.get(name).and_then(|service| service.publication.clone()) {
            for key in port_keys(&publication) {
                self.ports.remove(&key);
            }
        }
    }

    fn views(&self, services: &BTreeSet<ServiceName>) -> Views {
        let unikernels = services
            .iter()
            .flat_map(|name| self.members.get(name).into_iter().flatten())
            .filter_map(|id| Some((id.clone(), Arc::new(self.unikernel_view(id)?))))
            .collect();
        let services =
            services.iter().filter_map(|name| Some((name.clone(), Arc::new(self.service_view(name)?)))).collect();
        Views { unikernels, services }
    }
}

/// Above every other address in the order of `IpAddr`.
const LAST_ADDRESS: IpAddr = IpAddr::V6(std::net::Ipv6Addr::from_bits(u128::MAX));

fn port_keys(publication: &Publication) -> impl Iterator<Item = PortKey> + '_ {
    publication.host_ports().map(|(port, _)| (port.transport, port.port, port.address))
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
