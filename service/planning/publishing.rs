//! Publish, Unpublish and Rollback: which unikernel of a service is live, and on which ports.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::error::Error;
use super::facts::Facts;
use super::listing::listed;
use super::world::World;
use crate::domain::{
    Change, Deadline, HostPort, Phase, PortMapping, Publication, Service, ServiceName, Stack, StaleFlows, Timestamp,
    Transport, Unikernel, UnikernelId,
};

/// Where and for whom a service is to be reachable.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub ports: Vec<PortMapping>,
    /// `None`: of those that are ready the one that was deployed last.
    pub unikernel: Option<UnikernelId>,
    pub addresses: BTreeSet<IpAddr>,
    pub sources: Vec<IpNet>,
    pub drain: Duration,
}

impl Wanted {
    /// The publication of `unikernel` in this way.
    pub fn of(self, unikernel: &Unikernel) -> Publication {
        Publication {
            unikernel: unikernel.id.clone(),
            target: unikernel.address,
            ports: self.ports,
            addresses: self.addresses,
            sources: self.sources,
            drain: u64::try_from(self.drain.as_millis()).unwrap_or(u64::MAX),
            tolerates_until: None,
        }
    }
}

/// What a switch comes down to.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Now(Vec<Change>),
    After(Obstacle),
}

/// What has to happen before a switch can be decided on again.
#[derive(Debug, Clone, PartialEq)]
pub enum Obstacle {
    /// It runs, or is on its way there: its readiness rule is waited for.
    NotReadyYet(Box<Unikernel>),
    /// It has ended: it is deployed again under its lease.
    Ended(Box<Unikernel>),
}

impl From<Vec<Change>> for Decision {
    fn from(changes: Vec<Change>) -> Self {
        Self::Now(changes)
    }
}

/// Puts a unikernel of `service` live.
pub fn publish(world: &World, service: &ServiceName, wanted: &Wanted, now: Timestamp) -> Result<Decision, Error> {
    not_of_a_stack(world, service)?;
    let unikernel = chosen(world, service, wanted.unikernel.as_ref())?;
    if unikernel.phase != Phase::Ready {
        return Ok(Decision::After(Obstacle::NotReadyYet(Box::new(unikernel.clone()))));
    }
    let publication = wanted.clone().of(unikernel);
    for (port, _) in publication.host_ports() {
        if let Some(other) = world.port_taken(&port, service) {
            return Err(world.port_conflict(port, other));
        }
    }
    Ok(switch(world, service, Some(publication), now).into())
}

/// Takes a service's ports away. What was live drains.
pub fn unpublish(world: &World, service: &ServiceName, now: Timestamp) -> Result<Vec<Change>, Error> {
    known(world, service)?;
    not_of_a_stack(world, service)?;
    Ok(switch(world, service, None, now))
}

/// Puts the unikernel live that was live before, on the ports that are published now. Says which that is.
pub fn rollback(world: &World, service: &ServiceName, now: Timestamp) -> Result<(Decision, UnikernelId), Error> {
    known(world, service)?;
    not_of_a_stack(world, service)?;
    let nothing = || Error::NothingBefore(service.clone());
    let record = world.service(service).ok_or_else(nothing)?;
    // One that is not published has no ports to go back on: Publish says which.
    let publication = record.publication.as_ref().ok_or_else(nothing)?;
    let previous = record.previous.as_ref().and_then(|previous| world.unikernel(previous)).ok_or_else(nothing)?;
    settled(previous)?;
    let decision = match previous.phase {
        Phase::Ready => switch(world, service, Some(moved_to(publication, previous)), now).into(),
        Phase::Exited | Phase::Failed => Decision::After(Obstacle::Ended(Box::new(previous.clone()))),
        _ => Decision::After(Obstacle::NotReadyYet(Box::new(previous.clone()))),
    };
    Ok((decision, previous.id.clone()))
}

/// The live unikernel of every service by itself that has ended or fails its checks, and the one before, where that runs
/// and is ready.
pub fn fallen<'a>(world: &'a World, facts: &'a Facts) -> impl Iterator<Item = (&'a Unikernel, &'a Unikernel)> {
    let free = |unikernel: &&Unikernel| !unikernel.removing && !facts.busy.contains(&unikernel.id);
    let alone = world.services().filter(|service| not_of_a_stack(world, &service.name).is_ok());
    alone.filter_map(move |service| {
        let live = world.unikernel(&service.publication.as_ref()?.unikernel).filter(free)?;
        let previous = world.unikernel(service.previous.as_ref()?).filter(free)?;
        let fails = live.has_ended() || facts.checks.failing(live).is_some();
        let works = || previous.phase == Phase::Ready && facts.inventory.runs(&previous.id);
        (fails && works()).then_some((live, previous))
    })
}

/// Goes back to the unikernel before, in every service whose live one has ended or fails while that one works.
pub fn fall_back(world: &World, facts: &Facts, now: Timestamp) -> Vec<Change> {
    let fallen = fallen(world, facts).filter(|(live, previous)| facts.checks.may_take_over(live, previous));
    let switched = fallen.filter_map(|(live, previous)| {
        let service = live.id.service();
        let publication = world.service(&service)?.publication.as_ref()?;
        Some((live, switch(world, &service, Some(moved_to(publication, previous)), now)))
    });
    let marked = switched.flat_map(|(live, mut changes)| {
        for change in &mut changes {
            if let Change::PutService(service) = change {
                service.fell_back_from = Some(live.id.clone());
            }
        }
        changes
    });
    marked.collect()
}

/// The ports of `publication`, redirected to `unikernel`.
fn moved_to(publication: &Publication, unikernel: &Unikernel) -> Publication {
    Publication { unikernel: unikernel.id.clone(), target: unikernel.address, ..publication.clone() }
}

/// The members of a stack move together. What was published by hand before stays in hand until the stack goes live.
fn not_of_a_stack(world: &World, service: &ServiceName) -> Result<(), Error> {
    let by_hand = world.service(service).is_some_and(|service| service.publication.is_some());
    let moves = |stack: &&Stack| {
        let mut moved = stack.live.iter().chain(&stack.previous);
        stack.removing || !by_hand || moved.any(|chain| chain.members.contains_key(service))
    };
    match world.stack_of(service).filter(moves) {
        None => Ok(()),
        Some(stack) => Err(Error::InUse(format!(
            "service {service} is a member of stack {}: change its manifest and Apply it, or call Activate, RollbackStack \
             or RemoveStack",
            stack.name
        ))),
    }
}

fn known(world: &World, service: &ServiceName) -> Result<(), Error> {
    let known = world.service(service).is_some() || world.members(service).next().is_some();
    if known { Ok(()) } else { Err(Error::NoSuchService(service.clone())) }
}

/// The unikernel that is meant: ready, or on its way there.
fn chosen<'a>(world: &'a World, service: &ServiceName, id: Option<&UnikernelId>) -> Result<&'a Unikernel, Error> {
    known(world, service)?;
    if let Some(id) = id {
        if id.service() != *service {
            return Err(Error::InvalidArgument(format!("{id} is not a unikernel of service {service}")));
        }
        return runs(world.unikernel(id).ok_or_else(|| Error::NoSuchUnikernel(id.clone()))?);
    }
    // The newest that has been ready, whatever the clock says: one that is started again at this moment must not give way to
    // an older one.
    let been_ready = |unikernel: &Unikernel| matches!(unikernel.phase, Phase::Ready | Phase::Returned);
    let running = world.members(service).filter(|unikernel| runs(unikernel).is_ok());
    running.max_by_key(|unikernel| (been_ready(unikernel), unikernel.deployed)).ok_or_else(|| {
        Error::NotReady(format!(
            "no unikernel of service {service} is ready: deploy one, or look at its state and console"
        ))
    })
}

fn runs(unikernel: &Unikernel) -> Result<&Unikernel, Error> {
    settled(unikernel)?;
    match unikernel.phase {
        Phase::Exited | Phase::Failed => Err(Error::NotReady(format!(
            "{} does not run: {}; Restart starts it again",
            unikernel.id, unikernel.exit_reason
        ))),
        _ => Ok(unikernel),
    }
}

/// Whether it is here to stay.
fn settled(unikernel: &Unikernel) -> Result<(), Error> {
    let id = &unikernel.id;
    if unikernel.removing {
        return Err(Error::NotReady(format!("{id} is being destroyed: deploy it again after that")));
    }
    match &unikernel.provisional {
        None => Ok(()),
        Some(made) => Err(Error::InUse(format!("{id} is made for stack {}, whose Apply still works", made.stack))),
    }
}

/// The changes from what `service` publishes now to `publication`, with all that hangs on them: what was live becomes
/// the previous one and drains, and its UDP flows are to be deleted.
pub fn switch(world: &World, service: &ServiceName, publication: Option<Publication>, now: Timestamp) -> Vec<Change> {
    let staged = world.service(service).and_then(|service| service.staged.as_deref()).cloned();
    move_to(world, service, publication, staged, now)
}

/// [`switch`], of what is staged as well.
pub fn move_to(
    world: &World,
    service: &ServiceName,
    publication: Option<Publication>,
    staged: Option<Publication>,
    now: Timestamp,
) -> Vec<Change> {
    let before = world.service(service).cloned().unwrap_or_else(|| Service::new(service.clone()));
    let publication = publication.map(|new| sources::tolerant(world, before.publication.as_deref(), new, now));
    let staged = staged.map(|new| sources::tolerant(world, before.staged.as_deref(), new, now));
    let mut changes = Vec::new();
    if before.staged.as_deref() != staged.as_ref() {
        let stale = stale_flows(service, before.staged.as_deref(), staged.as_ref());
        changes.extend(stale.into_iter().map(Change::PutStaleFlows));
    } else if before.publication.as_deref() == publication.as_ref() {
        return Vec::new();
    }
    let mut after = Service { staged: staged.map(Arc::new), ..before.clone() };
    if before.publication.as_deref() != publication.as_ref() {
        changes.extend(make_live(world, &before, &mut after, publication, now));
    }
    changes.push(Change::PutService(Box::new(after)));
    changes
}

/// Puts `publication` into `after`; what hangs on it besides.
fn make_live(
    world: &World,
    before: &Service,
    after: &mut Service,
    publication: Option<Publication>,
    now: Timestamp,
) -> Vec<Change> {
    let mut changes = Vec::new();
    after.fell_back_from = None;
    let live = publication.as_ref().map(|publication| publication.unikernel.clone());
    if let Some(old) = before.publication.as_deref().filter(|old| live.as_ref() != Some(&old.unikernel)) {
        let drain = publication.as_ref().map_or(old.drain, |publication| publication.drain);
        after.draining.retain(|(id, _)| *id != old.unikernel);
        after.draining.push((old.unikernel.clone(), Deadline::new(now, Duration::from_millis(drain))));
        after.previous = live.is_some().then(|| old.unikernel.clone());
        if let Some(unikernel) = world.unikernel(&old.unikernel) {
            let last_live = Some(world.next_ordinal());
            changes.push(Change::PutUnikernel(Box::new(Unikernel { last_live, ..unikernel.clone() })));
        }
    }
    if let Some(live) = &live {
        after.draining.retain(|(id, _)| id != live);
    }
    let mut stale = stale_flows(&before.name, before.publication.as_deref(), publication.as_ref());
    after.publication = publication.map(Arc::new);
    let draining = after.draining.iter().filter_map(|(id, _)| world.unikernel(id));
    let ended = draining.filter_map(|unikernel| half_open(after, unikernel));
    stale.extend(
        ended
            .filter(|flows| !stale.iter().any(|other| other.target == flows.target && other.half_open))
            .collect::<Vec<_>>(),
    );
    changes.extend(stale.into_iter().map(Change::PutStaleFlows));
    changes
}

/// Host ports that a line of the log names at most.
const NAMED_PORTS: usize = 8;

impl fmt::Display for Switched {
    /// The switch as a line of the log has it, without the service's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.live_before(), self.after.publication.as_deref()) {
            (None, None) => f.write_str("nothing is published"),
            (Some(before), None) => write!(f, "{before} is not published any more"),
            (before, Some(publication)) => {
                let live = &publication.unikernel;
                write!(f, "{live} is live on {}", ports_text(&publication.ports))?;
                before.filter(|before| *before != live).map_or(Ok(()), |before| write!(f, ", and {before} was before"))
            }
        }
    }
}

fn ports_text(ports: &[PortMapping]) -> String {
    let named = ports.iter().map(|port| format!("port {}/{}", port.host, port.protocol));
    listed(named, NAMED_PORTS).unwrap_or_default()
}

/// A switch that was made, for who has to take it back.
#[derive(Debug, Clone)]
pub struct Switched {
    before: Option<Service>,
    after: Service,
}

impl Switched {
    /// The switch in `changes`, where there is one; `world` is that before them.
    pub fn by(changes: &[Change], world: &World) -> Option<Self> {
        changes.iter().find_map(|change| match change {
            Change::PutService(after) => {
                Some(Self { before: world.service(&after.name).cloned(), after: after.as_ref().clone() })
            }
            _ => None,
        })
    }

    /// What was live before.
    pub fn live_before(&self) -> Option<&UnikernelId> {
        self.before.as_ref()?.publication.as_deref().map(|publication| &publication.unikernel)
    }

    /// What is live since then.
    pub fn live(&self) -> Option<&UnikernelId> {
        self.after.publication.as_deref().map(|publication| &publication.unikernel)
    }

    /// Back to what was published before; nothing where somebody has switched since, or has taken one of the ports.
    pub fn take_back(&self, world: &World) -> Vec<Change> {
        Self::take_all_back(std::slice::from_ref(self), world)
    }

    /// [`Switched::take_back`] of several: all or none.
    pub fn take_all_back(all: &[Self], world: &World) -> Vec<Change> {
        let names = all.iter().map(|switched| &switched.after.name).collect::<BTreeSet<_>>();
        if all.iter().all(|switched| switched.can_be_taken_back(world, &names)) {
            all.iter().flat_map(|switched| switched.back(world)).collect()
        } else {
            Vec::new()
        }
    }

    fn can_be_taken_back(&self, world: &World, with: &BTreeSet<&ServiceName>) -> bool {
        let now = world.service(&self.after.name);
        let same = now.is_some_and(|now| now.publication == self.after.publication && now.staged == self.after.staged);
        let mut back = self.before.iter().flat_map(Service::publications).flat_map(|back| back.host_ports());
        same && !back.any(|(port, _)| world.port_takers(&port).any(|taker| !with.contains(taker)))
    }

    fn back(&self, world: &World) -> Vec<Change> {
        let name = &self.after.name;
        let before = self.before.as_ref().and_then(|service| service.publication.as_deref());
        let mut changes = world
            .stale_flows()
            .filter(|flows| flows.service == *name && before.is_some_and(|back| back.target == flows.target))
            .map(|flows| Change::RemoveStaleFlows(flows.clone()))
            .collect::<Vec<_>>();
        let stale = stale_flows(name, self.after.publication.as_deref(), before);
        changes.extend(stale.into_iter().map(Change::PutStaleFlows));
        changes.push(match &self.before {
            Some(before) => Change::PutService(Box::new(before.clone())),
            None => Change::RemoveService(name.clone()),
        });
        changes
    }
}

/// Flows that do not lead where their packets should go once `after` has taken the place of `before`.
///
/// - UDP has no connections: conntrack would keep a client on the old unikernel for as long as it sends, and one that may
///   not connect any more as well.
/// - A TCP connection that the unikernel before has not answered begins anew with the client's next SYN, also where nobody is
///   live now: whoever is live by then has it, and else it is refused.
/// - What came to a port before it was published was not redirected, and would not be for as long as the client sends.
fn stale_flows(service: &ServiceName, before: Option<&Publication>, after: Option<&Publication>) -> Vec<StaleFlows> {
    let replaced = before.map(|before| {
        let ports = udp_ports_left(before, after);
        let half_open = after.is_none_or(|after| after.target != before.target);
        StaleFlows { ports, half_open, ..StaleFlows::none(service.clone(), before.target) }
    });
    let opened = after.map(|after| {
        let opened = opened_ports(before, after);
        StaleFlows { opened, ..StaleFlows::none(service.clone(), after.target) }
    });
    replaced.into_iter().chain(opened).filter(|flows| !flows.is_empty()).collect()
}

/// The UDP ports of `before` whose flows to its unikernel are not those that `after` would make.
fn udp_ports_left(before: &Publication, after: Option<&Publication>) -> BTreeSet<u16> {
    let udp = |publication: &Publication| {
        let ports = publication.host_ports().filter(|(port, _)| port.transport == Transport::Udp);
        ports.map(|(port, behind)| (port, behind, publication.target)).collect::<BTreeSet<_>>()
    };
    let kept = after.filter(|after| sources::admits_all(&after.sources, &before.sources)).map(udp).unwrap_or_default();
    udp(before).difference(&kept).map(|(port, _, _)| port.port).collect()
}

/// The ports that somebody gets in by who did not before.
fn opened_ports(before: Option<&Publication>, after: &Publication) -> BTreeSet<HostPort> {
    let ports = |publication: &Publication| publication.host_ports().map(|(port, _)| port).collect::<BTreeSet<_>>();
    let open = before.filter(|before| sources::admits_all(&before.sources, &after.sources)).map(ports);
    ports(after).difference(&open.unwrap_or_default()).copied().collect()
}

/// A client's first packet that went to one that has ended binds its next ones to that address: they would go there
/// although another of `service` is live by now.
pub fn half_open(service: &Service, unikernel: &Unikernel) -> Option<StaleFlows> {
    let live = &service.publication.as_ref()?.unikernel;
    let stale = StaleFlows { half_open: true, ..StaleFlows::none(service.name.clone(), unikernel.address) };
    (unikernel.has_ended() && unikernel.id != *live).then_some(stale)
}

mod sources;

pub use sources::{end_tolerance, tolerances};

#[cfg(test)]
mod tests;
