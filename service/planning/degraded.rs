//! The lines of Degraded about unikernels: what does not work now, and what to do about it.

use super::facts::Facts;
use super::gone::down;
use super::listing::listed;
use super::reconcile;
use super::world::World;
use crate::domain::{Unikernel, UnikernelId};

/// At most so many are named in one note.
const NAMED: usize = 8;

/// Characters of a reason in a note.
const REASON: usize = 160;

/// The note that albatrossd has lost its console daemon, and connects to that only when it starts.
pub const CONSOLE_LOST: &str = "Albatross creates nothing any more, and nobody hears what its unikernels print: albatross-console has ended, and \
     albatrossd does not know the next one. See that it runs, and restart albatrossd, which restarts all unikernels";

/// Those that Albatross starts again and again.
pub fn loops(world: &World, facts: &Facts) -> Option<String> {
    let names = listed(reconcile::looping(world, facts).map(|unikernel| &unikernel.id), NAMED)?;
    Some(format!(
        "{names}: ends again and again, and Albatross starts it each time at once. ReadConsole shows why; Destroy ends it"
    ))
}

/// What runs under names in our namespace without a record.
pub fn strangers(world: &World, facts: &Facts) -> Option<String> {
    let strangers = facts.strangers(world).filter(|stranger| !facts.busy.contains(&stranger.id));
    let names = listed(strangers.map(|stranger| &stranger.id), NAMED)?;
    Some(format!(
        "{names}: Albatross runs it and this service has no record of it, so its address is leased to nobody. \
         Albatross's own client destroys it"
    ))
}

/// Live unikernels of services by themselves that have ended: nobody answers on their ports.
pub fn ended(world: &World, facts: &Facts) -> Option<String> {
    let live = world.services().filter_map(|service| service.publication.as_ref());
    let alone = live.map(|publication| &publication.unikernel).filter(|id| !world.is_in_live_chain(id));
    let is_down = down(world, facts);
    // Those that loop are named by a note of their own.
    let ended = alone.filter(|id| is_down(id) && !facts.starts.is_loop(id));
    let names = listed(
        ended.map(|id| {
            let reason = world.unikernel(id).map_or("", |unikernel| unikernel.exit_reason.as_str());
            with_reason(id, reason)
        }),
        NAMED,
    )?;
    Some(format!(
        "{names}: is live and has ended, so nobody answers on its ports. Restart starts it again, Rollback goes back to the \
         one before, or Deploy and Publish another"
    ))
}

/// Members of what is live of a stack that nobody can reach.
pub fn broken_stacks(world: &World, facts: &Facts) -> Option<String> {
    let is_down = down(world, facts);
    let members = world.stacks().flat_map(|stack| {
        let members = stack.live.iter().flat_map(|chain| &chain.members);
        let broken = members.filter(|(_, member)| is_down(&member.unikernel));
        broken.map(|(name, _)| format!("{name} of stack {}", stack.name)).collect::<Vec<_>>()
    });
    let names = listed(members, NAMED)?;
    Some(format!("{names}: has ended or is gone. Apply the stack's manifest again, Restart it, or RollbackStack"))
}

/// What is live, runs, and does not meet its readiness rule any more.
pub fn unanswering(world: &World, facts: &Facts) -> Option<String> {
    let live = |unikernel: &&Unikernel| world.serves(&unikernel.id);
    let idle = |unikernel: &&Unikernel| !unikernel.has_ended() && !facts.busy.contains(&unikernel.id);
    let failing = world.checked().filter(idle).filter(live).filter_map(|unikernel| {
        let failing = facts.checks.failing(unikernel)?;
        Some(with_reason(&unikernel.id, &failing.reason))
    });
    let names = listed(failing, NAMED)?;
    Some(format!(
        "{names}: is live and runs, and its readiness rule does not hold any more. ReadConsole may show why; Restart it, go \
         back by Rollback or RollbackStack, or deploy another"
    ))
}

/// Services that went back to the unikernel before.
pub fn fell_back(world: &World, _: &Facts) -> Option<String> {
    let services = world.services().filter_map(|service| service.fell_back_from.as_ref());
    let stacks = world.stacks().filter_map(|stack| stack.fell_back_from.as_ref());
    let names = listed(services.chain(stacks), NAMED)?;
    Some(format!(
        "{names}: was live and has ended or stopped answering, so its service or stack went back to the one before. Deploy \
         and publish, or Apply, one that stays up"
    ))
}

fn with_reason(id: &UnikernelId, reason: &str) -> String {
    match reason.chars().take(REASON).collect::<String>() {
        reason if reason.is_empty() => id.to_string(),
        reason => format!("{id} ({reason})"),
    }
}

#[cfg(test)]
mod tests;
