//! A move of a stack that was made, for who has to take it back.

use super::super::error::Error;
use super::super::publishing::Switched;
use super::super::world::World;
use super::placing::{self, Defaults};
use crate::domain::{Change, Provisional, Service, Stack, Timestamp, Unikernel, UnikernelId};

#[derive(Debug)]
pub struct Placed {
    before: Option<Stack>,
    after: Stack,
    /// Services that had been published by hand.
    by_hand: Vec<Switched>,
    /// Unikernels that were made for it.
    made: Vec<(UnikernelId, Provisional)>,
}

impl Placed {
    /// The move in `changes`, where there is one; `world` is that before them.
    pub fn by(changes: &[Change], world: &World) -> Option<Self> {
        let after = changes.iter().find_map(|change| match change {
            Change::PutStack(stack) => Some(stack.as_ref().clone()),
            _ => None,
        })?;
        let before = world.stack(&after.name).cloned();
        let had_live = |service: &Service| {
            let live = before.as_ref().and_then(|stack| stack.live.as_ref());
            live.is_some_and(|chain| chain.members.contains_key(&service.name))
        };
        let by_hand = changes.iter().filter_map(|change| match change {
            Change::PutService(service) if !had_live(service) => Switched::by(std::slice::from_ref(change), world),
            _ => None,
        });
        let made = changes.iter().filter_map(|change| match change {
            Change::PutUnikernel(unikernel) => {
                Some((unikernel.id.clone(), world.unikernel(&unikernel.id)?.provisional.clone()?))
            }
            _ => None,
        });
        Some(Self { by_hand: by_hand.collect(), made: made.collect(), before, after })
    }

    /// All is as it was before, but for what has happened to the unikernels since; nothing where somebody has moved the
    /// stack.
    pub fn take_back(&self, world: &World, defaults: Defaults, now: Timestamp) -> Result<Vec<Change>, Error> {
        let name = &self.after.name;
        let Some(stack) = world.stack(name).filter(|stack| is_the_same_move(stack, &self.after)) else {
            return Ok(Vec::new());
        };
        let before = self.before.clone().unwrap_or_else(|| Stack::new(name.clone()));
        let back = Stack { former: stack.former.clone(), last_check: stack.last_check, ..before };
        let mut changes = placing::place(world, back, defaults, now)?;
        for switched in &self.by_hand {
            changes
                .retain(|change| !matches!(change, Change::PutService(service) if service.name == *switched.service()));
            changes.extend(switched.take_back(world));
        }
        for (id, made) in &self.made {
            let there = world.unikernel(id).cloned();
            let marked = there.map(|unikernel| Unikernel { provisional: Some(made.clone()), ..unikernel });
            changes.extend(marked.map(|unikernel| Change::PutUnikernel(Box::new(unikernel))));
        }
        if self.before.is_none() {
            changes.retain(|change| !matches!(change, Change::PutStack(_)));
            changes.push(Change::RemoveStack(name.clone()));
        }
        Ok(changes)
    }
}

fn is_the_same_move(one: &Stack, other: &Stack) -> bool {
    one.live == other.live
        && one.staged == other.staged
        && one.previous == other.previous
        && one.removing == other.removing
}
