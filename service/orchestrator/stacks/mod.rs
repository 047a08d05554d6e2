//! Stacks: chains of services that are made, moved and taken away together.

mod apply;
mod making;
mod moving;
mod removal;
pub mod watching;

use std::sync::Arc;

use tracing::warn;

use super::collect;
use super::context::Context;
use super::error::Error;
use super::stale_flows;
use crate::domain::{StackName, UnikernelId};
use crate::planning;
use crate::planning::removal as removing;
use crate::planning::stacks::placed::Placed;
use crate::planning::stacks::staging::{self, Undone};

#[cfg(feature = "fault-injection")]
pub use apply::APPLY;
pub use apply::Apply;
pub use moving::{MOVE, MoveStack, Way};
pub use removal::{REMOVE_STACK, RemoveStack, finish as finish_removal};

/// What is said of a stack that another call works on.
fn in_use(name: &StackName) -> Error {
    planning::Error::InUse(format!("another call works on stack {name}: ListJobs shows it, Cancel of its job ends it"))
        .into()
}

/// Whether Albatross is asked at once for what has to be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asking {
    AtOnce,
    /// It does not answer: the intent is written, and it is asked when it does.
    Later,
}

/// Takes a unikernel away that was made for an Apply which came to nothing.
async fn unmake(context: &Context, id: &UnikernelId, stack: &StackName, asking: Asking) -> Result<(), Error> {
    let _claim = context.claims.claim_in_turn(id).await;
    let (wanted, stack) = (id.clone(), stack.clone());
    let undone = context.owner.decide(move |state| Ok(staging::unmake(&state.world, &wanted, &stack))).await?;
    if undone == Undone::Stays || asking == Asking::Later {
        return Ok(());
    }
    context.albatross.destroy(id).await?;
    let Undone::Goes { brought } = undone else { return Ok(()) };
    let gone = id.clone();
    context.owner.decide(move |state| Ok((removing::forget(&state.world, &gone), ()))).await?;
    if let Some(digest) = brought {
        collect::drop_unused_image(context, digest).await?;
    }
    Ok(())
}

/// Takes away what an Apply has left that was not finished before the service ended, and writes down that it failed.
pub async fn give_up_lost(context: &Context, name: &StackName) -> Result<(), Error> {
    let Some(_claim) = context.claims.claim_stack(name) else { return Ok(()) };
    let stack = name.clone();
    let (made, brought) = context.owner.look(move |state| staging::left_behind(&state.world, &stack)).await?;
    for id in made {
        unmake(context, &id, name, Asking::AtOnce).await?;
    }
    // Of several that were made of one image, the one that had brought it may have gone first.
    for digest in brought {
        collect::drop_unused_image(context, digest).await?;
    }
    let stack = name.clone();
    context.owner.decide(move |state| Ok((staging::give_up_lost(&state.world, &stack), ()))).await
}

/// All is as it was before a move, where one was made.
async fn take_back(context: &Context, placed: Option<Placed>) -> Result<(), Error> {
    let Some(placed) = placed else { return Ok(()) };
    context.owner.take_back(move |state| Ok((placed.take_back(&state.world), ()))).await?;
    stale_flows::delete(context).await
}

/// What follows a move: none of it can fail it.
async fn after_a_move(context: &Arc<Context>, name: &StackName) {
    context.drains.notify_one();
    context.stacks.notify_one();
    // They stand in the ledger: the move holds without them, and they are tried again.
    if let Err(error) = stale_flows::delete(context).await {
        warn!(%error, stack = %name, "stack {stack}: flows to the chain before stay for now: {error}", stack = name);
    }
}
