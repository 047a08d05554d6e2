//! The order in which the unikernels of a service were deployed.

use super::facts::Facts;
use super::world::World;
use crate::domain::{Change, Ordinal, Unikernel, UnikernelId};

/// Each of `ids`, that a deployment has found there, as deployed last, in `changes`. What is the next to be published
/// already is so without a change.
pub fn deployed_again<'a>(
    world: &World,
    facts: &Facts,
    ids: impl IntoIterator<Item = &'a UnikernelId>,
    changes: &mut Vec<Change>,
) {
    let ordinal = world.next_ordinal();
    for unikernel in ids.into_iter().filter_map(|id| world.unikernel(id)).filter(|one| !is_next(world, facts, one)) {
        alter(changes, unikernel, |unikernel| unikernel.deployed = ordinal);
    }
}

/// Whether no other of its service was deployed after it, nor is at this moment: that has its number only when it is ready.
fn is_next(world: &World, facts: &Facts, unikernel: &Unikernel) -> bool {
    let service = unikernel.id.service();
    let mut others = world.members(&service).filter(|other| other.id != unikernel.id);
    let is_newest = others.all(|other| other.deployed < unikernel.deployed && !facts.busy.contains(&other.id));
    is_newest && unikernel.awaits_publication()
}

/// `id` as deployed with the number `ordinal`, which was drawn before it was ready, unless it was deployed later still.
pub fn deployed_as(world: &World, id: &UnikernelId, ordinal: Ordinal) -> Vec<Change> {
    let older = world.unikernel(id).filter(|unikernel| unikernel.deployed < ordinal);
    let changed = older.map(|unikernel| Unikernel { deployed: ordinal, ..unikernel.clone() });
    changed.map(|unikernel| Change::PutUnikernel(Box::new(unikernel))).into_iter().collect()
}

/// Alters what `changes` make of `unikernel`, be it nothing yet.
pub fn alter(changes: &mut Vec<Change>, unikernel: &Unikernel, alter: impl FnOnce(&mut Unikernel)) {
    let changed = changes.iter_mut().find_map(|change| match change {
        Change::PutUnikernel(changed) if changed.id == unikernel.id => Some(changed),
        _ => None,
    });
    match changed {
        Some(changed) => alter(changed),
        None => {
            let mut changed = unikernel.clone();
            alter(&mut changed);
            changes.push(Change::PutUnikernel(Box::new(changed)));
        }
    }
}

#[cfg(test)]
mod tests;
