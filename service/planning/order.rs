//! The order in which the unikernels of a service were deployed.

use super::world::World;
use crate::domain::{Change, Ordinal, Unikernel, UnikernelId};

/// `unikernel`, which a deployment has found there, as its last one: number `ordinal`. `None` where it is the next to be
/// published already.
pub fn deployed_again(world: &World, unikernel: &Unikernel, ordinal: Ordinal) -> Option<Unikernel> {
    let service = unikernel.id.service();
    let mut others = world.members(&service).filter(|other| other.id != unikernel.id);
    let is_next = unikernel.awaits_publication() && others.all(|other| other.deployed < unikernel.deployed);
    (!is_next).then(|| Unikernel { deployed: ordinal.max(unikernel.deployed), ..unikernel.clone() })
}

/// Each of `ids` as deployed once more, in `changes`.
pub fn all_deployed_again<'a>(world: &World, ids: impl Iterator<Item = &'a UnikernelId>, changes: &mut Vec<Change>) {
    let ordinal = world.next_ordinal();
    for id in ids {
        let again = world.unikernel(id).and_then(|unikernel| deployed_again(world, unikernel, ordinal));
        if let Some(again) = again {
            change(changes, again, |unikernel, again| unikernel.deployed = again.deployed);
        }
    }
}

/// Adds `new` to `changes`; where they change its record already, that is altered instead.
pub fn change(changes: &mut Vec<Change>, new: Unikernel, alter: impl FnOnce(&mut Unikernel, &Unikernel)) {
    let changed = changes.iter_mut().find_map(|change| match change {
        Change::PutUnikernel(unikernel) if unikernel.id == new.id => Some(unikernel),
        _ => None,
    });
    match changed {
        Some(unikernel) => alter(unikernel, &new),
        None => changes.push(Change::PutUnikernel(Box::new(new))),
    }
}
