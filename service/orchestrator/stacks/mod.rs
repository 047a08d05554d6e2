//! Stacks: chains of services that are made, moved and taken away together.

mod apply;
mod making;
mod moving;
mod placed;
mod removal;
pub mod watching;

use std::sync::Arc;

use tracing::warn;

use super::collect;
use super::context::Context;
use super::error::Error;
use super::publish;
use crate::domain::{StackName, Timestamp, UnikernelId};
use crate::planning;
use crate::planning::removal as removing;
use crate::planning::stacks::staging::{self, Ended, Undone};

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

/// Takes a unikernel away that was made for an Apply which came to nothing.
pub async fn unmake(context: &Context, id: &UnikernelId, stack: &StackName) -> Result<(), Error> {
    let _claim = context.claims.claim_in_turn(id).await;
    let (wanted, stack) = (id.clone(), stack.clone());
    let undone = context.owner.decide(move |state| Ok(staging::unmake(&state.world, &wanted, &stack))).await?;
    if undone == Undone::Stays {
        return Ok(());
    }
    context.albatross.destroy(id).await?;
    let Undone::Goes { brought } = undone else { return Ok(()) };
    let gone = id.clone();
    context.owner.decide(move |state| Ok((removing::forget(&state.world, &gone, Timestamp::now()), ()))).await?;
    if let Some(digest) = brought {
        collect::drop_unused_image(context, digest).await?;
    }
    Ok(())
}

/// Writes down that an Apply was not finished before the service ended.
pub async fn give_up_lost(context: &Context, name: &StackName) -> Result<(), Error> {
    let Some(_claim) = context.claims.claim_stack(name) else { return Ok(()) };
    let (name, ended) = (name.clone(), Ended::Failed("the service ended before all was ready: Apply it again".into()));
    context.owner.decide(move |state| Ok((staging::give_up(&state.world, &name, None, ended), ()))).await
}

/// What follows a move: none of it can fail it.
async fn after_a_move(context: &Arc<Context>, name: &StackName) {
    context.drains.notify_one();
    context.stacks.notify_one();
    // They stand in the ledger: the move holds without them, and the next look at Albatross tries again.
    if let Err(error) = publish::delete_stale_flows(context).await {
        warn!(%error, stack = %name, "UDP flows to the chain before stay for now");
    }
}
