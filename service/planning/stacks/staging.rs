//! Apply: from a manifest to a chain that is ready, and back where that fails.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::super::admission;
use super::super::error::Error;
use super::super::facts::Facts;
use super::super::order;
use super::super::reconcile;
use super::super::world::World;
use super::graph;
use super::moves::{self, Goal};
use super::placing::{self, Defaults};
use crate::domain::{
    Applied, Attempt, Chain, Change, ImageDigest, Manifest, Member, MemberPlan, Phase, ServiceName, Stack, StackName,
    Timestamp, Unikernel, UnikernelId,
};

/// What an Apply comes down to, once its images are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// All of it runs, and is where it is to be.
    Nothing,
    Staging,
}

/// Refuses what can never go live, before anything is read or started.
pub fn admit(world: &World, manifest: &Manifest) -> Result<(), Error> {
    graph::check(manifest)?;
    let name = &manifest.stack;
    if world.stack(name).is_some_and(|stack| stack.removing) {
        return Err(being_removed(name));
    }
    for service in manifest.members.keys() {
        if let Some(other) = world.stack_of(service).filter(|other| other.name != *name) {
            return Err(Error::InUse(format!(
                "service {service} belongs to stack {} already: give the member another name",
                other.name
            )));
        }
    }
    placing::check(world, manifest)
}

pub fn being_removed(stack: &StackName) -> Error {
    Error::InUse(format!("stack {stack} is being removed: apply it again after that"))
}

/// Decides whether anything is to be made, and writes down that it is about to be.
pub fn begin(
    world: &World,
    facts: &Facts,
    applied: &Arc<Applied>,
    goal: Goal,
    defaults: Defaults,
    now: Timestamp,
) -> Result<(Vec<Change>, Begun), Error> {
    let manifest = &applied.manifest;
    admit(world, manifest)?;
    let known = world.stack(&manifest.stack);
    let stack = known.cloned().unwrap_or_else(|| Stack::new(manifest.stack.clone()));
    if let Some(chain) = standing(world, facts, manifest, &applied.images).map(Arc::new)
        && let Some(after) = moves::unmoved(&stack, &chain, goal)
    {
        let failed = stack.attempt == Attempt::Failed;
        let last_result =
            if failed { moves::words(world, None, goal, after.staged.is_none()) } else { stack.last_result.clone() };
        let after = Stack { applied: Some(Arc::clone(applied)), last_result, ..after };
        let mut changes = placing::place(world, after, defaults, now)?;
        applied_again(world, facts, &chain, &mut changes);
        take_over_rules(world, &chain, &mut changes);
        return Ok((changes, Begun::Nothing));
    }
    Ok((working(stack), Begun::Staging))
}

/// Writes down that a chain is about to be made once more.
pub fn begin_again(world: &World, name: &StackName) -> Result<Vec<Change>, Error> {
    moves::known(world, name).cloned().map(working)
}

/// The readiness rules of `chain`'s plans become those of its members, also of members that were there before. `changes`:
/// what is written besides.
fn take_over_rules(world: &World, chain: &Chain, changes: &mut Vec<Change>) {
    for member in chain.members.values() {
        let wanted = &member.plan.configuration;
        let ruled = |there: &Unikernel| admission::ruled(there, &wanted.readiness, wanted.timeout, wanted.check);
        if let Some(there) = world.unikernel(&member.unikernel).filter(|there| ruled(there).is_some()) {
            order::alter(changes, there, |unikernel| {
                if let Some(ruled) = ruled(unikernel) {
                    *unikernel = ruled;
                }
            });
        }
    }
}

fn working(stack: Stack) -> Vec<Change> {
    vec![Change::PutStack(Box::new(Stack { attempt: Attempt::Working, ..stack }))]
}

/// Counts an Apply as a deployment of all members, also of those that it finds there.
fn applied_again(world: &World, facts: &Facts, chain: &Chain, changes: &mut Vec<Change>) {
    order::deployed_again(world, facts, chain.members.values().map(|member| &member.unikernel), changes);
}

/// The chain of `manifest`, where all of its unikernels are ready already.
fn standing(
    world: &World,
    facts: &Facts,
    manifest: &Manifest,
    images: &BTreeMap<ServiceName, ImageDigest>,
) -> Option<Chain> {
    let mut members = BTreeMap::new();
    let mut addresses = BTreeMap::<ServiceName, IpAddr>::new();
    let order = graph::dependents_first(&manifest.members);
    for name in order.into_iter().rev() {
        let (plan, &image) = (manifest.members.get(&name)?, images.get(&name)?);
        let configuration = graph::configuration(plan, &addresses).ok()?;
        let id = admission::specification(&configuration, image, facts).ok()?.id(&name);
        let unikernel = world.unikernel(&id).filter(|unikernel| is_whole(unikernel))?;
        addresses.insert(name.clone(), unikernel.address);
        members.insert(name, Member { plan: plan.clone(), image, unikernel: id });
    }
    Some(Chain { members })
}

/// Ready, and to stay.
pub fn is_whole(unikernel: &Unikernel) -> bool {
    unikernel.phase == Phase::Ready && !unikernel.removing
}

/// A chain that has been made.
#[derive(Debug)]
pub struct Done<'a> {
    pub chain: Chain,
    pub goal: Goal,
    /// The Apply that has made it.
    pub applied: Option<&'a Arc<Applied>>,
    /// In words, where nobody has called.
    pub because: String,
}

/// Puts a chain whose members have all become ready where it is to be.
pub fn finish(
    world: &World,
    facts: &Facts,
    name: &StackName,
    done: Done<'_>,
    defaults: Defaults,
    now: Timestamp,
) -> Result<(Vec<Change>, String), Error> {
    let stack = moves::known(world, name)?;
    let Done { chain, goal, applied, .. } = done;
    if let Some((member, made)) = moves::first_unfit(world, &chain) {
        let id = &made.unikernel;
        return Err(Error::NotReady(format!(
            "member {member} of stack {name}: {id} did not stay ready: ReadConsole may say why"
        )));
    }
    if goal != Goal::RollBack {
        // Another stack may have come meanwhile.
        admit(world, &again(name, &chain).0)?;
    }
    let chain = Arc::new(chain);
    let after = moves::moved(stack, &chain, goal);
    let result = done.because + &moves::words(world, Some(&chain), goal, after.staged.is_none());
    let is_applied = applied.is_some();
    let applied = applied.cloned().or(after.applied);
    let fell_back_from = None;
    let after = Stack { applied, attempt: Attempt::Done, last_result: result.clone(), fell_back_from, ..after };
    let mut changes = placing::place(world, after, defaults, now)?;
    if is_applied {
        applied_again(world, facts, &chain, &mut changes);
    }
    take_over_rules(world, &chain, &mut changes);
    Ok((changes, result))
}

/// How an Apply ended that changed nothing.
#[derive(Debug, Clone)]
pub enum Ended {
    /// Nothing is to be remembered of it: it was cancelled, or was part of a call that has its own answer. `before`: the
    /// attempt before it, where there was one.
    AsBefore { before: Option<Attempt> },
    /// `applied`: what is not to be tried again by itself.
    Failed { why: String, applied: Option<Arc<Applied>> },
}

/// Writes down that an Apply came to nothing.
pub fn give_up(world: &World, name: &StackName, ended: Ended) -> Vec<Change> {
    let known = world.stack(name);
    let mut stack = known.cloned().unwrap_or_else(|| Stack::new(name.clone()));
    match ended {
        Ended::Failed { why, applied } => {
            (stack.attempt, stack.last_result) = (Attempt::Failed, why);
            stack.applied = applied.or(stack.applied);
        }
        Ended::AsBefore { before: Some(before) } => stack.attempt = before,
        Ended::AsBefore { before: None } => {
            return known.map(|_| Change::RemoveStack(name.clone())).into_iter().collect();
        }
    }
    if known == Some(&stack) { Vec::new() } else { vec![Change::PutStack(Box::new(stack))] }
}

/// Writes down that an Apply was not finished before the service ended.
pub fn give_up_lost(world: &World, name: &StackName) -> Vec<Change> {
    let lost = world.stack(name).is_some_and(|stack| stack.attempt == Attempt::Working);
    let why = "the service ended before all of a chain was ready: apply or move it again".to_string();
    if lost { give_up(world, name, Ended::Failed { why, applied: None }) } else { Vec::new() }
}

/// What becomes of a unikernel that was made for an Apply which came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undone {
    /// It was adopted meanwhile, or is gone.
    Stays,
    /// It was not there before: it goes, and so does its image where that came with it.
    Goes { brought: Option<ImageDigest> },
    /// It had ended, and ends again.
    EndsAgain,
}

/// Writes down that `id` is taken away again, before Albatross is asked to.
pub fn unmake(world: &World, id: &UnikernelId, stack: &StackName) -> (Vec<Change>, Undone) {
    let made = world.unikernel(id).and_then(|unikernel| {
        let provisional = unikernel.provisional.as_ref().filter(|provisional| provisional.stack == *stack)?;
        Some((unikernel, provisional))
    });
    let Some((unikernel, provisional)) = made else { return (Vec::new(), Undone::Stays) };
    // Of use to somebody: a member of what is live that had ended, and runs again.
    if reconcile::is_needed(world, id) {
        let kept = Unikernel { provisional: None, ..unikernel.clone() };
        return (vec![Change::PutUnikernel(Box::new(kept))], Undone::Stays);
    }
    let after = match &provisional.ended {
        None => Unikernel { removing: true, ..unikernel.clone() },
        Some(reason) => Unikernel {
            phase: Phase::Exited,
            exit_reason: reason.clone(),
            provisional: None,
            brought_image: false,
            ..unikernel.clone()
        },
    };
    let undone = match &provisional.ended {
        None => Undone::Goes { brought: unikernel.brought_image.then_some(unikernel.spec.image) },
        Some(_) => Undone::EndsAgain,
    };
    (vec![Change::PutUnikernel(Box::new(after))], undone)
}

/// The unikernels that an Apply of stack `name` has left, and that are to be taken away; images that came with them.
pub fn left_behind(world: &World, name: &StackName) -> (Vec<UnikernelId>, Vec<ImageDigest>) {
    let made = world.unikernels().filter(|unikernel| {
        let made = unikernel.provisional.as_ref().is_some_and(|made| made.stack == *name);
        made && !unikernel.removing && !reconcile::is_half_made(unikernel)
    });
    let made = made.collect::<Vec<_>>();
    let brought = made.iter().filter(|unikernel| unikernel.brought_image).map(|unikernel| unikernel.spec.image);
    (made.iter().map(|unikernel| unikernel.id.clone()).collect(), brought.collect())
}

/// The plans of a chain, to make it once more, and what their images were.
pub fn again(name: &StackName, chain: &Chain) -> (Manifest, BTreeMap<ServiceName, ImageDigest>) {
    let plans = chain.members.iter().map(|(name, member)| (name.clone(), member.plan.clone()));
    let images = chain.members.iter().map(|(name, member)| (name.clone(), member.image));
    let members: BTreeMap<ServiceName, MemberPlan> = plans.collect();
    (Manifest { stack: name.clone(), members }, images.collect())
}
