//! A move of a stack that was made, for who has to take it back.

use super::super::context::Context;
use super::super::error::Error;
use super::super::publish;
use crate::domain::{Change, Stack, StackName};
use crate::planning::world::World;

#[derive(Debug)]
pub struct Placed {
    name: StackName,
    /// The record that the move has made; `None`: it has taken it away.
    after: Option<Stack>,
    back: Vec<Change>,
}

impl Placed {
    /// The move in `changes`, where there is one; `world` is that before them.
    pub fn by(changes: &[Change], world: &World) -> Option<Self> {
        let (name, after) = changes.iter().find_map(|change| match change {
            Change::PutStack(stack) => Some((stack.name.clone(), Some(stack.as_ref().clone()))),
            Change::RemoveStack(name) => Some((name.clone(), None)),
            _ => None,
        })?;
        Some(Self { name, after, back: world.inverse(changes) })
    }

    /// All is as it was before, unless somebody has moved the stack since.
    pub async fn take_back(self, context: &Context) -> Result<(), Error> {
        let back = context.owner.decide(move |state| {
            let same = state.world.stack(&self.name) == self.after.as_ref();
            Ok((if same { self.back } else { Vec::new() }, ()))
        });
        back.await?;
        publish::delete_stale_flows(context).await
    }
}
