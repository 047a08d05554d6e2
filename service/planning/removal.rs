//! Taking a unikernel away: the intent first, and what is left to write once Albatross has destroyed it.

use super::error::Error;
use super::publishing::{self, Switched};
use super::world::World;
use crate::domain::{Change, Phase, Service, Stack, StackName, Timestamp, Unikernel, UnikernelId};

/// Marks `id` as to be removed. One that is live is refused, unless `force` takes its ports away with it.
pub fn intend(world: &World, id: &UnikernelId, force: bool, now: Timestamp) -> Result<Vec<Change>, Error> {
    let unikernel = world.unikernel(id).ok_or_else(|| Error::NoSuchUnikernel(id.clone()))?;
    if unikernel.phase == Phase::Creating {
        return Err(Error::InUse(format!("{id} is being deployed: cancel that job, or wait for it")));
    }
    if let Some(provisional) = &unikernel.provisional {
        return Err(Error::InUse(format!(
            "{id} is made for stack {}: cancel that job, or wait for it",
            provisional.stack
        )));
    }
    if let Some(stack) = needing(world, id).filter(|_| !force) {
        return Err(Error::InUse(format!("{id} is a member of stack {stack}: change its manifest, or use force")));
    }
    let mut changes = Vec::new();
    if world.is_live(id) {
        if !force {
            return Err(Error::InUse(format!(
                "{id} is live: publish another unikernel of its service first, unpublish it, or use force"
            )));
        }
        changes = publishing::switch(world, &id.service(), None, now);
        changes.retain(|change| !matches!(change, Change::PutUnikernel(changed) if changed.id == *id));
    }
    changes.push(Change::PutUnikernel(Box::new(Unikernel { removing: true, ..unikernel.clone() })));
    Ok(changes)
}

/// The stack whose live or staged chain has `id`.
fn needing<'a>(world: &'a World, id: &UnikernelId) -> Option<&'a StackName> {
    let needs = |stack: &&Stack| stack.live.iter().chain(&stack.staged).any(|chain| chain.has(id));
    world.stacks().find(needs).map(|stack| &stack.name)
}

/// Takes the intent back: `id` is as it was, and live again where it was `unpublished`.
pub fn withdraw(world: &World, id: &UnikernelId, unpublished: Option<&Switched>) -> Vec<Change> {
    let Some(unikernel) = world.unikernel(id) else { return Vec::new() };
    let mut changes = unpublished.map(|switched| switched.take_back(world)).unwrap_or_default();
    changes.push(Change::PutUnikernel(Box::new(Unikernel { removing: false, ..unikernel.clone() })));
    changes
}

/// What is written when Albatross does not have `id` any more: the record goes and the lease becomes free.
pub fn forget(world: &World, id: &UnikernelId, now: Timestamp) -> Vec<Change> {
    let mut changes = Vec::new();
    if world.unikernel(id).is_some() {
        changes.push(Change::RemoveUnikernel(id.clone()));
    }
    if world.last_words(id).is_some() {
        changes.push(Change::RemoveLastWords(id.clone()));
    }
    if world.pool().lease(&id.tag()).is_some() {
        changes.push(Change::ReleaseLease { tag: id.tag(), at: now });
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
