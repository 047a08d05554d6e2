//! Which chain of a stack is live: Activate, RollbackStack, RemoveStack, and where a new chain goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::error::Error;
use super::super::facts::Facts;
use super::super::world::World;
use super::graph;
use super::placing::{self, Defaults};
use super::staging::{being_removed, is_whole};
use crate::domain::{
    Attempt, Chain, Change, Member, MemberPlan, ServiceName, Stack, StackName, Timestamp, Unikernel, UnikernelId,
};

/// Where a chain goes once its members are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Stage,
    /// What is live becomes the previous one.
    Activate,
    /// As [`Goal::Activate`], and what is staged stays.
    RollBack,
}

/// What a move comes down to.
#[derive(Debug, Clone, PartialEq)]
pub enum Move {
    Now(Vec<Change>),
    /// Some of its members have to be deployed again before.
    Raise(Arc<Chain>),
}

/// Makes the staged chain live. Nothing where none is, and one is live.
pub fn activate(world: &World, name: &StackName, defaults: Defaults, now: Timestamp) -> Result<Move, Error> {
    let stack = known(world, name)?;
    match &stack.staged {
        Some(chain) => go(world, stack, chain, Goal::Activate, defaults, now),
        None if stack.live.is_some() => Ok(Move::Now(Vec::new())),
        None => Err(Error::NotReady(format!(
            "nothing of stack {name} is staged: Apply its manifest first, and look at LastResult where that has failed"
        ))),
    }
}

/// Makes the chain live that was live before.
pub fn roll_back(world: &World, name: &StackName, defaults: Defaults, now: Timestamp) -> Result<Move, Error> {
    let stack = known(world, name)?;
    let previous = stack.previous.as_ref().ok_or_else(|| Error::NoChainBefore(name.clone()))?;
    go(world, stack, previous, Goal::RollBack, defaults, now)
}

/// A stack of whose live chain a member has ended or fails its checks, while all of the chain before runs.
#[derive(Debug)]
struct Fallen<'a> {
    stack: &'a Stack,
    member: &'a Unikernel,
    /// The members of the chain before that are not of the live one as well.
    previous: Vec<&'a Unikernel>,
}

fn fallen<'a>(world: &'a World, facts: &'a Facts) -> impl Iterator<Item = Fallen<'a>> {
    let free = |id: &UnikernelId| !facts.busy.contains(id);
    let fails = |unikernel: &Unikernel| unikernel.has_ended() || facts.checks.failing(unikernel).is_some();
    let free_stacks = world.stacks().filter(|stack| !facts.busy_stacks.contains(&stack.name));
    free_stacks.filter_map(move |stack| {
        let (live, previous) = (stack.live.as_ref()?, stack.previous.as_ref()?);
        let mut members = live.members.values().filter_map(|member| world.unikernel(&member.unikernel));
        let member = members.find(|unikernel| fails(unikernel) && !unikernel.removing && free(&unikernel.id))?;
        let previous = previous.members.values().map(|member| world.unikernel(&member.unikernel));
        let mut previous = previous.collect::<Option<Vec<_>>>()?;
        let works = |unikernel: &&Unikernel| {
            facts.inventory.runs(&unikernel.id) && free(&unikernel.id) && !(live.has(&unikernel.id) && fails(unikernel))
        };
        let all_work = previous.iter().all(works);
        previous.retain(|unikernel| !live.has(&unikernel.id));
        all_work.then_some(Fallen { stack, member, previous })
    })
}

/// The members that have ended or fail, each with those that would take over.
pub fn fallen_members<'a>(world: &'a World, facts: &'a Facts) -> impl Iterator<Item = (&'a Unikernel, &'a Unikernel)> {
    fallen(world, facts).flat_map(|fallen| fallen.previous.into_iter().map(move |previous| (fallen.member, previous)))
}

/// Goes back to the chain before, in every stack of whose live chain a member has ended or fails while that one works.
pub fn fall_back(world: &World, facts: &Facts, defaults: Defaults, now: Timestamp) -> Vec<(StackName, Vec<Change>)> {
    let moved = fallen(world, facts).filter_map(|Fallen { stack, member, previous }| {
        let mut previous = previous.into_iter();
        if !previous.all(|previous| facts.checks.may_take_over(member, previous)) {
            return None;
        }
        let Ok(Move::Now(mut changes)) = roll_back(world, &stack.name, defaults, now) else { return None };
        let what = if member.has_ended() { "has ended" } else { "does not answer any more" };
        for change in &mut changes {
            if let Change::PutStack(after) = change {
                after.attempt = Attempt::Failed;
                after.last_result = format!("{} {what}: the chain before is live again", member.id);
                after.fell_back_from = Some(member.id.clone());
            }
        }
        Some((stack.name.clone(), changes))
    });
    moved.collect()
}

/// Takes all of a stack off its ports, and writes down that it goes, with its images: once its unikernels are gone
/// nothing else names them.
pub fn remove(world: &World, name: &StackName, defaults: Defaults, now: Timestamp) -> Result<Vec<Change>, Error> {
    let stack = world.stack(name).ok_or_else(|| Error::NoSuchStack(name.clone()))?;
    let members = stack.chains().flat_map(|chain| chain.members.values()).map(|member| member.image);
    let former = stack.former.iter().filter_map(|id| Some(world.unikernel(id)?.spec.image));
    let leaving = stack.leaving.iter().copied().chain(members).chain(former).collect();
    let (live, staged, previous, applied) = Default::default();
    let after = Stack { removing: true, leaving, live, staged, previous, applied, ..stack.clone() };
    placing::place(world, after, defaults, now)
}

pub fn known<'a>(world: &'a World, name: &StackName) -> Result<&'a Stack, Error> {
    let stack = world.stack(name).ok_or_else(|| Error::NoSuchStack(name.clone()))?;
    if stack.removing { Err(being_removed(name)) } else { Ok(stack) }
}

fn go(
    world: &World,
    stack: &Stack,
    chain: &Arc<Chain>,
    goal: Goal,
    defaults: Defaults,
    now: Timestamp,
) -> Result<Move, Error> {
    if first_unfit(world, chain).is_some() {
        return Ok(Move::Raise(Arc::clone(chain)));
    }
    let after = moved(stack, chain, goal);
    // An Apply that works meanwhile goes on, and puts its chain beside this one.
    let attempt = if stack.attempt == Attempt::Working { Attempt::Working } else { Attempt::Done };
    let fell_back_from = None;
    let after = Stack { attempt, last_result: words(world, Some(chain), goal, false), fell_back_from, ..after };
    Ok(Move::Now(placing::place(world, after, defaults, now)?))
}

/// The member that keeps a chain from being put live: it is not ready, or it was made for another address of one that it
/// names. One that is deployed again after it was destroyed is the same unikernel on another address.
pub fn first_unfit<'a>(world: &World, chain: &'a Chain) -> Option<(&'a ServiceName, &'a Member)> {
    let unikernel = |member: &Member| world.unikernel(&member.unikernel);
    let address = |(name, member): (&ServiceName, &Member)| Some((name.clone(), unikernel(member)?.address));
    let addresses = chain.members.iter().filter_map(address).collect::<BTreeMap<_, _>>();
    let fits = |member: &Member| {
        let wanted = graph::configuration(&member.plan, &addresses);
        let made = unikernel(member).filter(|made| is_whole(made));
        made.is_some_and(|made| wanted.is_ok_and(|wanted| wanted.arguments == made.spec.arguments))
    };
    chain.members.iter().find(|(_, member)| !fits(member))
}

/// `stack` with `chain` where it is to be.
pub fn moved(stack: &Stack, chain: &Arc<Chain>, goal: Goal) -> Stack {
    if let Some(after) = unmoved(stack, chain, goal) {
        return after;
    }
    let chain = Arc::clone(chain);
    let previous = stack.live.clone().or_else(|| stack.previous.clone());
    match goal {
        Goal::Stage => Stack { staged: Some(chain), ..stack.clone() },
        Goal::Activate => Stack { live: Some(chain), previous, staged: None, ..stack.clone() },
        Goal::RollBack => Stack { live: Some(chain), previous, ..stack.clone() },
    }
}

/// `stack` where `chain` is already where it is to be. What does not show outside is taken over, such as how often an
/// image is looked at; what is live needs no stage.
pub fn unmoved(stack: &Stack, chain: &Arc<Chain>, goal: Goal) -> Option<Stack> {
    let is = |there: &Option<Arc<Chain>>| there.as_ref().is_some_and(|there| shows_the_same(there, chain));
    let attempt = Attempt::Done;
    if is(&stack.live) {
        let staged = stack.staged.clone().filter(|_| goal == Goal::RollBack);
        return Some(Stack { live: Some(Arc::clone(chain)), staged, attempt, ..stack.clone() });
    }
    let staged = goal == Goal::Stage && is(&stack.staged);
    staged.then(|| Stack { staged: Some(Arc::clone(chain)), attempt, ..stack.clone() })
}

/// The same unikernels, reachable in the same way.
fn shows_the_same(one: &Chain, other: &Chain) -> bool {
    fn reachable(plan: &MemberPlan) -> impl PartialEq + '_ {
        (&plan.ports, &plan.staged, &plan.addresses, &plan.sources, plan.drain)
    }
    one.members.len() == other.members.len()
        && one.members.iter().zip(&other.members).all(|((name, one), (other_name, other))| {
            name == other_name && one.unikernel == other.unikernel && reachable(&one.plan) == reachable(&other.plan)
        })
}

/// What has come of a move, for the person who looks later.
pub fn words(world: &World, chain: Option<&Chain>, goal: Goal, is_live: bool) -> String {
    let what = match goal {
        Goal::Stage if is_live => "live, as it was",
        Goal::Stage => "staged",
        Goal::Activate => "live",
        Goal::RollBack => "rolled back",
    };
    let made = |id: &UnikernelId| world.unikernel(id).is_some_and(|unikernel| unikernel.provisional.is_some());
    let members = chain.iter().flat_map(|chain| &chain.members);
    let new = members.filter(|(_, member)| made(&member.unikernel)).map(|(name, _)| name.as_str());
    let new = new.collect::<Vec<_>>();
    if new.is_empty() { what.into() } else { format!("{what}; new: {}", new.join(", ")) }
}
