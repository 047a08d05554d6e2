//! What Degraded says of unikernels: what does not work now, and what to do about it.

use super::owner::{State, Trouble};
use crate::domain::UnikernelId;
use crate::planning::listing::listed;
use crate::planning::{host_health, reconcile};

/// At most so many are named in one note.
const NAMED: usize = 8;

/// albatrossd has lost its console daemon, and connects to that only when it starts.
pub const CONSOLE_LOST: &str = "Albatross creates nothing any more, and nobody hears what its unikernels print: albatross-console has ended, and \
     albatrossd does not know the next one. See that it runs, and restart albatrossd, which restarts all unikernels";

/// What of the host keeps unikernels from being reached.
pub fn host(State { world, facts }: &State) -> [(Trouble, Option<String>); 4] {
    [
        (Trouble::Bridges, host_health::bridges(world, facts)),
        (Trouble::Forwarding, host_health::forwarding(world, facts)),
        (Trouble::LegacyTables, host_health::legacy_tables(world, facts)),
        (Trouble::Conntrack, host_health::conntrack(facts)),
    ]
}

/// Those that Albatross starts again and again.
pub fn loops(state: &State) -> Option<String> {
    let names = listed(reconcile::looping(&state.world, &state.facts).map(|unikernel| &unikernel.id), NAMED)?;
    Some(format!(
        "{names}: ends again and again, and Albatross starts it each time at once. ReadConsole shows why; Destroy ends it"
    ))
}

/// What runs under names as ours are without our doing.
pub fn strangers(state: &State) -> Option<String> {
    let strangers = state.facts.strangers(&state.world).filter(|stranger| !state.facts.busy.contains(&stranger.id));
    let names = listed(strangers.map(|stranger| &stranger.id), NAMED)?;
    Some(format!(
        "{names}: Albatross runs it and this service has no record of it, so its address is leased to nobody. \
         Albatross's own client destroys it"
    ))
}

/// Members of what is live of a stack that nobody can reach.
pub fn broken_stacks(state: &State) -> Option<String> {
    let members = state.world.stacks().flat_map(|stack| {
        let members = stack.live.iter().flat_map(|chain| &chain.members);
        let ended = |id: &UnikernelId| state.world.unikernel(id).is_none_or(|unikernel| unikernel.has_ended());
        let busy = |id: &UnikernelId| state.facts.busy.contains(id);
        let broken = members.filter(move |(_, member)| ended(&member.unikernel) && !busy(&member.unikernel));
        broken.map(|(name, _)| format!("{name} of stack {}", stack.name)).collect::<Vec<_>>()
    });
    let names = listed(members, NAMED)?;
    Some(format!("{names}: has ended or is gone. Apply the stack's manifest again, Restart it, or RollbackStack"))
}

/// Services that went back to the unikernel before.
pub fn fell_back(state: &State) -> Option<String> {
    let services = state.world.services().filter_map(|service| service.fell_back_from.as_ref());
    let stacks = state.world.stacks().filter_map(|stack| stack.fell_back_from.as_ref());
    let names = listed(services.chain(stacks), NAMED)?;
    Some(format!(
        "{names}: was live and has ended, so its service or stack went back to the one before. Deploy and publish, or Apply, \
         one that stays up"
    ))
}
