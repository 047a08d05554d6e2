//! Taking a unikernel away: the intent first, and what is left to write once Albatross has destroyed it.

use std::sync::Arc;

use super::error::Error;
use super::facts::Facts;
use super::publishing::{self, Switched};
use super::world::World;
use crate::domain::{Change, Phase, Publication, Service, StaleFlows, Timestamp, Unikernel, UnikernelId};

/// Marks `id` as to be removed. One that is live is refused, unless `force` takes its ports away with it.
pub fn intend(
    world: &World,
    facts: &Facts,
    id: &UnikernelId,
    force: bool,
    now: Timestamp,
) -> Result<Vec<Change>, Error> {
    let unikernel = world.unikernel(id).ok_or_else(|| Error::NoSuchUnikernel(id.clone()))?;
    if unikernel.phase == Phase::Creating {
        return Err(Error::InUse(format!("{id} is being deployed: cancel that job, or wait for it")));
    }
    if let Some(provisional) = &unikernel.provisional {
        let stack = &provisional.stack;
        return Err(Error::InUse(format!("{id} is made for stack {stack}: cancel that job, or wait for it")));
    }
    if facts.held.contains(id) {
        return Err(Error::InUse(format!("{id} is about to be a member of a stack: cancel that job, or wait for it")));
    }
    if let Some(stack) = world.stack_needing(id).filter(|_| !force) {
        let stack = &stack.name;
        return Err(Error::InUse(format!("{id} is a member of stack {stack}: change its manifest, or use force")));
    }
    if !force && world.is_live(id) {
        return Err(Error::InUse(format!(
            "{id} is live: publish another unikernel of its service first, unpublish it, or use force"
        )));
    }
    let mut changes = off_its_ports(world, id, now);
    changes.push(Change::PutUnikernel(Box::new(Unikernel { removing: true, ..unikernel.clone() })));
    Ok(changes)
}

/// Takes away what leads to `id`, live or staged.
fn off_its_ports(world: &World, id: &UnikernelId, now: Timestamp) -> Vec<Change> {
    let Some(service) = world.service(&id.service()) else { return Vec::new() };
    let kept =
        |publication: &Option<Arc<Publication>>| publication.as_deref().filter(|one| one.unikernel != *id).cloned();
    let (publication, staged) = (kept(&service.publication), kept(&service.staged));
    let mut changes = publishing::move_to(world, &service.name, publication, staged, now);
    changes.retain(|change| !matches!(change, Change::PutUnikernel(changed) if changed.id == *id));
    changes
}

/// Takes the intent back: `id` is as it was, and live again where it was `unpublished`.
pub fn withdraw(world: &World, id: &UnikernelId, unpublished: Option<&Switched>) -> Vec<Change> {
    let Some(unikernel) = world.unikernel(id) else { return Vec::new() };
    let mut changes = unpublished.map(|switched| switched.take_back(world)).unwrap_or_default();
    changes.push(Change::PutUnikernel(Box::new(Unikernel { removing: false, ..unikernel.clone() })));
    changes
}

/// What is written when Albatross does not have `id` any more: the record goes and the lease becomes free.
///
/// Whoever is still connected to it would wait for an answer for minutes. Without its flow the next segment comes to
/// whoever has the port by then, and is answered with a reset.
pub fn forget(world: &World, id: &UnikernelId) -> Vec<Change> {
    let flows = |unikernel: &Unikernel| StaleFlows { gone: true, ..StaleFlows::none(id.service(), unikernel.address) };
    let flows = world.unikernel(id).map(flows).map(Change::PutStaleFlows);
    flows.into_iter().chain(forget_record(world, id)).collect()
}

/// [`forget`] of one that nobody can have been connected to.
pub fn forget_record(world: &World, id: &UnikernelId) -> Vec<Change> {
    let mut changes = Vec::new();
    if world.unikernel(id).is_some() {
        changes.push(Change::RemoveUnikernel(id.clone()));
    }
    if world.last_words(id).is_some() {
        changes.push(Change::RemoveLastWords(id.clone()));
    }
    if world.pool().lease(&id.tag()).is_some() {
        changes.push(Change::ReleaseLease { tag: id.tag(), at: world.next_ordinal() });
    }
    changes.extend(service_without(world, id));
    let former = world.stacks().filter(|stack| stack.former.contains(id)).cloned();
    changes.extend(former.map(|mut stack| {
        stack.former.remove(id);
        Change::PutStack(Box::new(stack))
    }));
    changes
}

/// The service's record without a unikernel; none is kept of a service that has neither unikernels nor ports.
fn service_without(world: &World, id: &UnikernelId) -> Option<Change> {
    let service = world.service(&id.service())?;
    let alone = !world.members(&service.name).any(|other| other.id != *id);
    if alone && service.publications().next().is_none() {
        return Some(Change::RemoveService(service.name.clone()));
    }
    let mut after = Service { previous: service.previous.clone().filter(|previous| previous != id), ..service.clone() };
    after.draining.retain(|(other, _)| other != id);
    (after != *service).then(|| Change::PutService(Box::new(after)))
}
