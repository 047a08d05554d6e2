//! Addresses at which nobody answers: who is redirected there is refused at once, and does not wait for ARP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::facts::Facts;
use super::world::World;
use crate::domain::{Change, UnikernelId};

/// The addresses of unikernels that have ended and that Albatross, asked since, does not run. Until it has answered, it may
/// be about to start one again: its clients are better served by waiting.
pub fn addresses(world: &World, facts: &Facts) -> BTreeSet<IpAddr> {
    let runs = |id: &UnikernelId| facts.inventory.unikernels.iter().any(|running| running.id == *id);
    let ended = world.unikernels().filter(|unikernel| unikernel.has_ended() && !facts.busy.contains(&unikernel.id));
    ended.filter(|unikernel| !runs(&unikernel.id)).map(|unikernel| unikernel.address).collect()
}

/// Those of `facts.gone` that `changes` bring back, or take away with their unikernel.
pub fn returning(world: &World, facts: &Facts, changes: &[Change]) -> BTreeSet<IpAddr> {
    let address = |change: &Change| match change {
        Change::PutUnikernel(unikernel) if !unikernel.has_ended() => Some(unikernel.address),
        Change::RemoveUnikernel(id) => world.unikernel(id).map(|unikernel| unikernel.address),
        _ => None,
    };
    changes.iter().filter_map(address).filter(|address| facts.gone.contains(address)).collect()
}
