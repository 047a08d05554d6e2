//! After a start, or when Albatross answers again: finishes or undoes what was under way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tracing::{info, warn};

use super::collect;
use super::context::Context;
use super::error::Error;
use super::owner::State;
use super::remove::{REMOVE, Remove};
use super::stacks;
use super::workflow;
use crate::domain::{Inventory, JobKind, Unikernel, UnikernelId};
use crate::planning::builds;
use crate::planning::reconcile::{self, HalfDone};

/// Between two attempts at what could not be finished: from the first to the second, and at once after a look at Albatross.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Finishes what is half-done whenever Albatross was looked at. Never ends.
///
/// Apart from the looks: what Albatross does not do holds an attempt up until its deadline.
pub async fn follow(context: Arc<Context>) {
    loop {
        context.looked.notified().await;
        let mut pause = PAUSES.0;
        while !finish_half_done(&context).await {
            let _ = timeout(pause, context.looked.notified()).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// What is left after as many rounds hangs on something else: it waits for the next look.
const ROUNDS: usize = 4;

/// Everything that no call works on and that is not at rest. Whether nothing of it is left. Some of it shows only once
/// the rest is done: a stack after its members.
async fn finish_half_done(context: &Arc<Context>) -> bool {
    for _ in 0..ROUNDS {
        let found = context.owner.look(|state| reconcile::half_done(&state.world, &state.facts)).await;
        let found = found.unwrap_or_default();
        if found.is_empty() {
            return true;
        }
        let attempts = found.into_iter().map(|half_done| finish(context, half_done));
        if !join_all(attempts).await.into_iter().all(|finished| finished) {
            return false;
        }
    }
    true
}

async fn finish(context: &Arc<Context>, half_done: HalfDone) -> bool {
    info!(%half_done, "{half_done} is unfinished: it is undone, or brought to its end");
    let outcome = match &half_done {
        HalfDone::Deploy(id) => undo_deploy(context, id).await,
        HalfDone::Removal(id) => finish_removal(context, id).await,
        HalfDone::Apply(stack) => stacks::give_up_lost(context, stack).await,
        HalfDone::StackRemoval(stack) => stacks::finish_removal(context, stack).await,
    };
    if let Err(error) = &outcome {
        warn!(%half_done, %error, "{half_done} stays unfinished for now: {error}", error = error.line());
    }
    outcome.is_ok()
}

/// Ends those that Albatross has created after their deployment was undone: nobody waits for them, and their address may
/// be another's by now. Those that are ended leave the inventory.
pub async fn end_late_ones(context: &Context, inventory: &mut Inventory) {
    let late = context.claims.late();
    let came = inventory.unikernels.iter().map(|running| running.id.clone()).filter(|id| late.contains(id));
    for id in &came.collect::<Vec<_>>() {
        let Some(_claim) = context.claims.claim(id) else { continue };
        let wanted = id.clone();
        let known = context.owner.look(move |state| state.world.unikernel(&wanted).is_some()).await;
        let wanted = known.unwrap_or(true);
        let ended = if wanted { Ok(()) } else { context.albatross.destroy(id).await };
        match ended {
            Ok(()) => {
                context.claims.not_late(id);
                inventory.unikernels.retain(|running| wanted || running.id != *id);
            }
            Err(error) => {
                warn!(%id, %error, "{id} came after its deployment was undone, and cannot be ended yet: {error}")
            }
        }
    }
}

async fn undo_deploy(context: &Arc<Context>, id: &UnikernelId) -> Result<(), Error> {
    let Some(_claim) = context.claims.claim(id) else { return Ok(()) };
    // Only now nobody else works on it: a call may have made it whole since it was found.
    let wanted = id.clone();
    let look = move |state: &State| {
        let half_made = state.world.unikernel(&wanted).is_some_and(reconcile::is_half_made);
        (half_made, reconcile::is_needed(&state.world, &wanted))
    };
    let (half_made, needed) = context.owner.look(look).await?;
    if !half_made || (needed && takes_up_again(context, id).await?) {
        return Ok(());
    }
    context.albatross.destroy(id).await?;
    // The service may have ended while Albatross was reading the create.
    context.claims.may_come_late(id);
    let (id, consoles) = (id.clone(), context.last_words(id).await);
    let brought = context
        .owner
        .decide(move |state| {
            let Some(unikernel) = state.world.unikernel(&id) else { return Ok((Vec::new(), None)) };
            let brought = unikernel.brought_image.then_some(unikernel.spec.image);
            let mut changes = reconcile::undo_deploy(&state.world, &id, &unikernel.exit_reason);
            changes.extend(reconcile::last_words(&changes, consoles));
            Ok((changes, brought))
        })
        .await?;
    if let Some(digest) = brought {
        collect::drop_unused_image(context, digest).await?;
    }
    Ok(())
}

/// Whether Albatross runs one that is live, and so is to go on: it starts its unikernels by itself when it comes back.
async fn takes_up_again(context: &Context, id: &UnikernelId) -> Result<bool, Error> {
    let Some(running) = context.albatross.unikernel(id).await?.and_then(|running| running.seen()) else {
        return Ok(false);
    };
    context.claims.not_late(id);
    let returned = move |state: &State| {
        let changes = reconcile::taken_up_again(&state.world, &running);
        let returned = !changes.is_empty();
        Ok((changes, returned))
    };
    let returned = context.owner.decide(returned).await?;
    if returned {
        info!(%id, "{id} runs, although the call that was to start it failed");
        context.returns.notify_one();
    }
    Ok(returned)
}

async fn finish_removal(context: &Arc<Context>, id: &UnikernelId) -> Result<(), Error> {
    let wanted = id.clone();
    let brought = context.owner.look(move |state| {
        // One that became ready is being destroyed; the image of one that did not goes as its deployment does.
        let made_for_nothing =
            |unikernel: &&Unikernel| reconcile::is_half_made(unikernel) || unikernel.provisional.is_some();
        let undone = state.world.unikernel(&wanted).filter(made_for_nothing)?;
        undone.brought_image.then_some(undone.spec.image)
    });
    let brought = brought.await?;
    let job = context.jobs.begin(JobKind::Destroy, id.to_string()).await;
    let mut remove = Remove::half_done(Arc::clone(context), id.clone());
    let outcome = workflow::run(REMOVE, &mut remove, &job).await;
    job.end(outcome.as_ref().err()).await;
    drop(remove);
    outcome?;
    if let Some(digest) = brought {
        collect::drop_unused_image(context, digest).await?;
    }
    Ok(())
}

/// The store and the ledger hold the same images: a file without a record was half-stored or half-removed, and a record
/// that has lost its file is of no use to anybody.
pub async fn match_images(context: &Context) -> Result<(), Error> {
    let _gate = context.store_gate.lock().await;
    let stored = context.store.list().await?.into_iter().collect::<BTreeSet<_>>();
    let stored_now = stored.clone();
    let (recorded, used, fetchable) = context
        .owner
        .look(move |state| {
            let used = state.world.images_in_use();
            let mut recorded = state.world.images().map(|image| image.digest).collect::<BTreeSet<_>>();
            // A call that came early has stored it, and is about to write its record.
            recorded.extend(state.facts.pinned.keys().filter(|digest| stored_now.contains(digest)));
            // The first call that needs it gets it from where it came from.
            let fetchable = state.world.images().filter(|image| image.origin.is_some() && used.contains(&image.digest));
            let fetchable = fetchable.map(|image| image.digest).collect::<BTreeSet<_>>();
            (recorded, used, fetchable)
        })
        .await?;
    for digest in stored.difference(&recorded) {
        info!(%digest, "removing image {digest}: a file of the store that is in no record");
        context.store.remove(*digest).await?;
    }
    let lost = recorded.difference(&stored).copied().filter(|digest| !fetchable.contains(digest)).collect::<Vec<_>>();
    for digest in lost.iter().filter(|digest| used.contains(digest)) {
        warn!(%digest, "the file of image {digest} is gone: its unikernels cannot be started again");
    }
    let forget = move |state: &State| {
        let lost = lost.into_iter().flat_map(|digest| builds::forget_image(&state.world, digest));
        Ok((lost.chain(builds::forget_lost(&state.world, &state.facts)).collect(), ()))
    };
    context.owner.decide(forget).await
}
