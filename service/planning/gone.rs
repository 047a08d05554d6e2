//! Addresses at which nobody answers: who is redirected there is refused at once, and does not wait for ARP.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::facts::Facts;
use super::world::World;
use crate::domain::{Change, Unikernel, UnikernelId};

/// The addresses of unikernels that have ended and that Albatross, asked since, does not run. Until it has answered, it may
/// be about to start one again: its clients are better served by waiting.
pub fn addresses(world: &World, facts: &Facts) -> BTreeSet<IpAddr> {
    let is_down = down(world, facts);
    world.unikernels().filter(|unikernel| is_down(&unikernel.id)).map(|unikernel| unikernel.address).collect()
}

/// Tells which have ended for good, as far as is known: no call works on them, and Albatross, which starts some again at
/// once, was asked since and does not run them.
pub(super) fn down<'a>(world: &'a World, facts: &'a Facts) -> impl Fn(&UnikernelId) -> bool + 'a {
    let runs = facts.inventory.unikernels.iter().map(|running| &running.id).collect::<BTreeSet<_>>();
    move |id| {
        let ended = world.unikernel(id).is_none_or(Unikernel::has_ended);
        ended && !facts.busy.contains(id) && !runs.contains(id)
    }
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
