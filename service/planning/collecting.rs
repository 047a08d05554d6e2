//! What nobody uses any more.

use std::collections::BTreeSet;
use std::fmt;

use super::facts::Facts;
use super::world::World;
use crate::domain::{ImageDigest, LeaseTag, Phase, ServiceName, Stack, Unikernel, UnikernelId};

/// One thing to remove, in the order in which it is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    Publication(ServiceName),
    Unikernel(UnikernelId),
    /// Goes with its unikernel.
    Lease(LeaseTag),
    Image(ImageDigest),
}

impl Removal {
    /// The word of the contract.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Publication(_) => "publication",
            Self::Unikernel(_) => "unikernel",
            Self::Lease(_) => "lease",
            Self::Image(_) => "image",
        }
    }
}

impl fmt::Display for Removal {
    /// The name of what is removed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publication(service) => service.fmt(f),
            Self::Unikernel(id) => id.fmt(f),
            Self::Lease(tag) => tag.fmt(f),
            Self::Image(digest) => digest.fmt(f),
        }
    }
}

/// What stays.
#[derive(Debug, Clone)]
pub struct Keep {
    /// `None`: every publication.
    pub services: Option<BTreeSet<ServiceName>>,
    /// Earlier unikernels of a published service, for a rollback.
    pub previous: u32,
}

/// What a Collect removes; a dry run says the same list.
///
/// - of a published service: what was live before, beyond the last `previous` ones; what has ended; what was deployed
///   before the live one and not published since. A newer one is the next to be published, and stays.
/// - of a service that was published once: all of it that has been live since it was deployed, or has ended.
/// - of a service that was never published: what has ended. The rest runs for other unikernels, and stays.
/// - of a service that `services` leaves out: everything.
/// - of a stack: what was of one of its chains and is of none any more; with `previous` 0 also those of the previous
///   chain. All others of its chains stay, with their ports.
/// - images that none of the remaining unikernels was made of, nor a chain of a stack.
pub fn collect(world: &World, facts: &Facts, keep: &Keep) -> Vec<Removal> {
    let unnamed = |name: &ServiceName| keep.services.as_ref().is_some_and(|kept| !kept.contains(name));
    let dropped = |name: &ServiceName| unnamed(name) && world.stack_of(name).is_none();
    let needed = needed_by_stacks(world, keep);
    let mut removals = world
        .publications()
        .filter(|(name, _)| dropped(name))
        .map(|(name, _)| Removal::Publication(name.clone()))
        .collect::<Vec<_>>();
    let left = world.stacks().flat_map(left_by);
    let left = left.filter_map(|id| world.unikernel(id)).filter(|unikernel| is_free(unikernel, facts));
    let left = left.filter(|unikernel| !world.is_live(&unikernel.id));
    let mut removed =
        left.map(|unikernel| unikernel.id.clone()).filter(|id| !needed.contains(id)).collect::<BTreeSet<_>>();
    for name in world.service_names() {
        let members = world.members(name).filter(|unikernel| is_free(unikernel, facts));
        let members = members.filter(|unikernel| !needed.contains(&unikernel.id) || unikernel.removing);
        if dropped(name) {
            removed.extend(members.map(|unikernel| unikernel.id.clone()));
        } else {
            let unused = unused(world, name, members.collect(), keep.previous);
            removed.extend(unused.into_iter().map(|unikernel| unikernel.id.clone()));
        }
    }
    for id in &removed {
        removals.push(Removal::Unikernel(id.clone()));
        if world.pool().lease(&id.tag()).is_some() {
            removals.push(Removal::Lease(id.tag()));
        }
    }
    removals.extend(unused_images(world, facts, &removed));
    removals
}

/// The unikernels that chains of stacks are made of.
fn needed_by_stacks(world: &World, keep: &Keep) -> BTreeSet<UnikernelId> {
    let previous = |stack: &Stack| stack.previous.clone().filter(|_| keep.previous > 0);
    let chains = world.stacks().flat_map(|stack| [stack.live.clone(), stack.staged.clone(), previous(stack)]);
    chains
        .flatten()
        .flat_map(|chain| chain.members.values().map(|member| member.unikernel.clone()).collect::<Vec<_>>())
        .collect()
}

/// The unikernels that a stack may let go.
fn left_by(stack: &Stack) -> impl Iterator<Item = &UnikernelId> {
    let previous = stack.previous.iter().flat_map(|chain| chain.members.values()).map(|member| &member.unikernel);
    stack.former.iter().chain(previous)
}

/// Those that have to have drained before `id` is taken away: a chain goes when all of it has, for its members talk to
/// each other for the clients of one.
pub fn drain_with(world: &World, keep: &Keep, id: &UnikernelId) -> Vec<UnikernelId> {
    let goes = |stack: &'_ Stack| {
        let goes = left_by(stack).filter(|left| keep.previous == 0 || stack.former.contains(*left));
        goes.cloned().collect::<Vec<_>>()
    };
    let chains = world.stacks().map(goes).filter(|chain| chain.contains(id));
    chains.flatten().chain([id.clone()]).collect()
}

/// Whether `id` still has connections that it may finish.
pub fn drains(world: &World, id: &UnikernelId) -> bool {
    let service = world.service(&id.service());
    let drains = service.is_some_and(|service| service.draining.iter().any(|(other, _)| other == id));
    // Connections to one that has ended do not end: nobody answers them.
    drains && !world.unikernel(id).is_some_and(Unikernel::has_ended)
}

/// What of `removals` goes without anybody having asked for it: what was live, has drained, and has been replaced. What has
/// ended stays, for Albatross may be about to start it again and somebody may want to know why it has; so does what no
/// other has replaced.
pub fn drained_alone(mut removals: Vec<Removal>, world: &World, keep: &Keep) -> Vec<Removal> {
    let has_drained = |unikernel: &Unikernel| {
        let service = world.service(&unikernel.id.service());
        let replaced = service.is_some_and(|service| service.publication.is_some());
        let of_a_chain = world.stacks().any(|stack| left_by(stack).any(|id| *id == unikernel.id));
        let drains = drain_with(world, keep, &unikernel.id).iter().any(|id| drains(world, id));
        let was_live = unikernel.last_live.is_some() && replaced;
        unikernel.removing || ((was_live || of_a_chain) && !unikernel.has_ended() && !drains)
    };
    let kept = removals.iter().filter_map(|removal| match removal {
        Removal::Unikernel(id) => world.unikernel(id).filter(|unikernel| !has_drained(unikernel)),
        _ => None,
    });
    let kept = kept.map(|unikernel| (unikernel.id.clone(), unikernel.spec.image)).collect::<Vec<_>>();
    removals.retain(|removal| match removal {
        Removal::Publication(_) => true,
        Removal::Unikernel(id) => kept.iter().all(|(other, _)| other != id),
        Removal::Lease(tag) => kept.iter().all(|(other, _)| other.tag() != *tag),
        Removal::Image(digest) => kept.iter().all(|(_, image)| image != digest),
    });
    removals
}

/// Whether no call is working on it, but to destroy it: that is waited for, and what hangs on it goes too.
fn is_free(unikernel: &Unikernel, facts: &Facts) -> bool {
    let at_rest = unikernel.phase != Phase::Creating && unikernel.provisional.is_none();
    unikernel.removing || (at_rest && !facts.busy.contains(&unikernel.id) && !facts.held.contains(&unikernel.id))
}

fn unused<'a>(world: &World, name: &ServiceName, members: Vec<&'a Unikernel>, previous: u32) -> Vec<&'a Unikernel> {
    let service = world.service(name);
    let live = service.and_then(|service| service.publication.as_ref());
    let live = live.and_then(|publication| world.unikernel(&publication.unikernel));
    let mut earlier =
        members.iter().copied().filter(|u| u.last_live.is_some() && !u.removing && !is(live, u)).collect::<Vec<_>>();
    // The previous one first; then by when they were live.
    earlier.sort_by_key(|u| {
        let is_previous = service.and_then(|service| service.previous.as_ref()) == Some(&u.id);
        (std::cmp::Reverse(is_previous), std::cmp::Reverse(u.last_live))
    });
    let kept = if live.is_some() { usize::try_from(previous).unwrap_or(usize::MAX) } else { 0 };
    let kept = earlier.into_iter().take(kept).map(|u| &u.id).collect::<BTreeSet<_>>();
    members
        .into_iter()
        .filter(|u| !is(live, u) && !kept.contains(&u.id))
        .filter(|u| {
            let superseded = live.is_some_and(|live| u.deployed < live.deployed);
            u.removing || u.has_ended() || superseded || !u.awaits_publication()
        })
        .collect()
}

fn is(live: Option<&Unikernel>, unikernel: &Unikernel) -> bool {
    live.is_some_and(|live| live.id == unikernel.id)
}

fn unused_images<'a>(
    world: &'a World,
    facts: &'a Facts,
    removed: &BTreeSet<UnikernelId>,
) -> impl Iterator<Item = Removal> + 'a {
    let used = world.images_in_use_without(removed);
    let free = move |digest: &ImageDigest| !used.contains(digest) && !facts.pinned.contains_key(digest);
    world.images().map(|image| image.digest).filter(free).map(Removal::Image)
}
