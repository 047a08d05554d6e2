//! Where the members of a stack are reachable: a function of its chains, and so one list of changes whatever moves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::super::error::{Error, port_text};
use super::super::order;
use super::super::ports::Ports;
use super::super::publishing;
use super::super::world::World;
use crate::domain::{
    Chain, Change, HostPort, Manifest, Member, MemberPlan, PortMapping, Publication, ServiceName, Stack, StackName,
    Timestamp, UnikernelId, host_ports,
};

/// What a publication is made with where the manifest is silent.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub drain: Duration,
}

/// The changes from what `after.name` is now to `after`: its record, all ports of all members, and the marks of those
/// that were made for it.
pub fn place(world: &World, mut after: Stack, defaults: Defaults, now: Timestamp) -> Result<Vec<Change>, Error> {
    let before = world.stack(&after.name).cloned().unwrap_or_else(|| Stack::new(after.name.clone()));
    after.former = former(world, &before, &after);
    let wanted = wanted(world, &before, &after, defaults);
    check_ports(world, &wanted)?;
    let mut changes = wanted
        .into_iter()
        .flat_map(|(name, wanted)| publishing::move_to(world, &name, wanted.publication, wanted.staged, now))
        .collect::<Vec<_>>();
    keep_for_good(world, &after, &mut changes);
    if world.stack(&after.name) != Some(&after) {
        changes.push(Change::PutStack(Box::new(after)));
    }
    Ok(changes)
}

/// Whether all ports of a manifest are free: those that are in the kernel, and those that another stack's chains are to have.
///
/// The live ports may be those of the stack itself, which they replace; the staged ones are to be there beside those.
pub fn check(world: &World, manifest: &Manifest) -> Result<(), Error> {
    let own = |taker: &ServiceName| {
        manifest.members.contains_key(taker) || world.stack_of(taker).is_some_and(|stack| stack.name == manifest.stack)
    };
    let live = |taker: &ServiceName, port: &HostPort| {
        let publication = world.service(taker).and_then(|service| service.publication.as_ref());
        publication.is_some_and(|publication| publication.host_ports().any(|(other, _)| other.clashes(port)))
    };
    check_adopted(world, manifest)?;
    let promised = promised(world, manifest);
    for plan in manifest.members.values() {
        for (port, is_staged) in ports(plan) {
            let taken = world.port_takers(&port).find(|taker| !own(taker) || (is_staged && live(taker, &port)));
            if let Some(other) = taken.or_else(|| promised.takers(&port).copied().next()) {
                return Err(world.port_conflict(port, other));
            }
        }
    }
    Ok(())
}

/// A service that is published by hand may become a member where it keeps its ports: nobody else would give them back.
fn check_adopted(world: &World, manifest: &Manifest) -> Result<(), Error> {
    for (name, plan) in manifest.members.iter().filter(|(name, _)| world.stack_of(name).is_none()) {
        let published = world.service(name).and_then(|service| service.publication.as_deref());
        let mut ports = published.into_iter().flat_map(Publication::host_ports).map(|(port, _)| port);
        let kept = |port: &HostPort| host_ports(&plan.ports, &plan.addresses).any(|(own, _)| own == *port);
        if let Some(port) = ports.find(|port| !kept(port)) {
            let port = port_text(&port);
            return Err(Error::InUse(format!(
                "service {name} is published by hand on {port}, which member {name} does not have: unpublish it first, add \
                 the port, or give the member another name"
            )));
        }
    }
    Ok(())
}

/// Every host port of a member, and whether it has it while it is staged.
fn ports(plan: &MemberPlan) -> impl Iterator<Item = (HostPort, bool)> {
    let live = host_ports(&plan.ports, &plan.addresses).map(|(port, _)| (port, false));
    live.chain(host_ports(&plan.staged, &plan.addresses).map(|(port, _)| (port, true)))
}

/// Ports that other stacks have, or get when they are activated.
fn promised<'a>(world: &'a World, manifest: &Manifest) -> Ports<&'a ServiceName> {
    let others = world.stacks().filter(|stack| stack.name != manifest.stack);
    let chains = others.flat_map(|stack| stack.live.iter().chain(&stack.staged));
    let mut all = Ports::default();
    for (name, member) in chains.flat_map(|chain| &chain.members) {
        ports(&member.plan).for_each(|(port, _)| all.insert(port, name));
    }
    all
}

/// What one service of the stack publishes.
struct Wanted {
    publication: Option<Publication>,
    staged: Option<Publication>,
}

impl Wanted {
    fn publications(&self) -> impl Iterator<Item = &Publication> {
        self.publication.iter().chain(&self.staged)
    }
}

fn wanted(world: &World, before: &Stack, after: &Stack, defaults: Defaults) -> BTreeMap<ServiceName, Wanted> {
    let names = before.chains().chain(after.chains()).flat_map(|chain| chain.members.keys()).collect::<BTreeSet<_>>();
    fn member<'a>(chain: Option<&'a Chain>, name: &ServiceName) -> Option<&'a Member> {
        chain.and_then(|chain| chain.members.get(name))
    }
    let is_live =
        |stack: &Stack, name: &ServiceName| stack.live.as_ref().is_some_and(|chain| chain.members.contains_key(name));
    // To stage another chain does nothing to the live one, whatever has become of that.
    let same_live = matches!((&before.live, &after.live), (Some(before), Some(after)) if Arc::ptr_eq(before, after));
    let wanted = names.into_iter().map(|name| {
        let live = member(after.live.as_deref(), name);
        let staged = member(after.staged.as_deref(), name);
        // What was published by hand before the stack had the service stays so until the stack goes live.
        let by_hand = !is_live(before, name) && !is_live(after, name);
        let publication = match live {
            _ if by_hand || same_live => {
                world.service(name).and_then(|service| service.publication.as_deref()).cloned()
            }
            Some(live) => on_ports(world, live, &live.plan.ports, defaults),
            None => None,
        };
        let staged = staged.and_then(|staged| on_ports(world, staged, &staged.plan.staged, defaults));
        (name.clone(), Wanted { publication, staged })
    });
    wanted.collect()
}

/// A member on its ports; `None` without any, or where its unikernel is gone.
fn on_ports(world: &World, member: &Member, ports: &[PortMapping], defaults: Defaults) -> Option<Publication> {
    let unikernel = world.unikernel(&member.unikernel).filter(|_| !ports.is_empty())?;
    let wanted = publishing::Wanted {
        ports: ports.to_vec(),
        unikernel: None,
        addresses: member.plan.addresses.clone(),
        sources: member.plan.sources.clone(),
        drain: member.plan.drain.unwrap_or(defaults.drain),
    };
    Some(wanted.of(unikernel))
}

/// No port is anybody's besides the stack's, and none is two members'.
fn check_ports(world: &World, all: &BTreeMap<ServiceName, Wanted>) -> Result<(), Error> {
    let mut ours = Ports::<&ServiceName>::default();
    for (name, wanted) in all {
        for (port, _) in wanted.publications().flat_map(Publication::host_ports) {
            let taken = world.port_takers(&port).find(|taker| !all.contains_key(*taker));
            if let Some(other) = taken.or_else(|| ours.takers(&port).copied().next()) {
                return Err(world.port_conflict(port, other));
            }
            ours.insert(port, name);
        }
    }
    Ok(())
}

/// Whether somebody besides stack `name` uses a unikernel: another stack, or who has published it by hand.
pub fn is_used_otherwise(world: &World, name: &StackName, id: &UnikernelId) -> bool {
    let elsewhere = world.stacks().any(|stack| stack.name != *name && stack.has(id));
    // What the stack itself has live is taken off its ports before it leaves.
    let own = world.stack(name).and_then(|stack| stack.live.as_ref()).is_some_and(|chain| chain.has(id));
    elsewhere || (world.is_live(id) && !own)
}

/// What was of one of its chains and is of none any more, and is still there.
fn former(world: &World, before: &Stack, after: &Stack) -> BTreeSet<UnikernelId> {
    let members = before.chains().flat_map(|chain| chain.members.values()).map(|member| &member.unikernel);
    let all = members.chain(&before.former).chain(&after.former);
    let there = |id: &UnikernelId| world.unikernel(id).is_some() && !is_used_otherwise(world, &after.name, id);
    all.filter(|id| !after.has(id) && there(id)).cloned().collect()
}

/// Those that were made for the chains of `after` belong to them from now on.
fn keep_for_good(world: &World, after: &Stack, changes: &mut Vec<Change>) {
    let members = after.chains().flat_map(|chain| chain.members.values()).map(|member| &member.unikernel);
    for id in members.collect::<BTreeSet<_>>() {
        if let Some(unikernel) = world.unikernel(id).filter(|unikernel| unikernel.provisional.is_some()) {
            order::alter(changes, unikernel, |unikernel| unikernel.provisional = None);
        }
    }
}
