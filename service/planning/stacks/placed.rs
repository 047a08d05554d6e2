//! A move of a stack that was made, for who has to take it back.

use super::super::publishing::Switched;
use super::super::world::World;
use crate::domain::{Change, Provisional, Stack, Unikernel, UnikernelId};

#[derive(Debug)]
pub struct Placed {
    before: Option<Stack>,
    after: Stack,
    services: Vec<Switched>,
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
        let services = changes.iter().filter_map(|change| Switched::by(std::slice::from_ref(change), world));
        let made = changes.iter().filter_map(|change| match change {
            Change::PutUnikernel(unikernel) => {
                Some((unikernel.id.clone(), world.unikernel(&unikernel.id)?.provisional.clone()?))
            }
            _ => None,
        });
        Some(Self {
            before: world.stack(&after.name).cloned(),
            services: services.collect(),
            made: made.collect(),
            after,
        })
    }

    /// All is as it was before, but for what has happened to the unikernels since. Nothing where somebody has moved the
    /// stack or one of its services, or has taken one of the ports.
    pub fn take_back(&self, world: &World) -> Vec<Change> {
        let name = &self.after.name;
        let Some(stack) = world.stack(name).filter(|stack| is_the_same_move(stack, &self.after)) else {
            return Vec::new();
        };
        let mut changes = Switched::take_all_back(&self.services, world);
        if changes.is_empty() && !self.services.is_empty() {
            return Vec::new();
        }
        changes.push(match &self.before {
            Some(before) => {
                let former = stack.former.iter().filter(|id| !before.has(id)).cloned().collect();
                Change::PutStack(Box::new(Stack { former, last_check: stack.last_check, ..before.clone() }))
            }
            None => Change::RemoveStack(name.clone()),
        });
        changes.extend(self.made.iter().filter_map(|(id, made)| {
            let marked = Unikernel { provisional: Some(made.clone()), ..world.unikernel(id)?.clone() };
            Some(Change::PutUnikernel(Box::new(marked)))
        }));
        changes
    }
}

fn is_the_same_move(one: &Stack, other: &Stack) -> bool {
    one.live == other.live
        && one.staged == other.staged
        && one.previous == other.previous
        && one.removing == other.removing
}
