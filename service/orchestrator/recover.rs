//! After a start, or when Albatross answers again: finishes or undoes what was under way.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::{info, warn};

use super::collect;
use super::context::Context;
use super::error::Error;
use super::remove::{REMOVE, Remove};
use super::workflow;
use crate::domain::{Change, Inventory, JobKind, Phase, Timestamp, UnikernelId};
use crate::planning::reconcile::{self, HalfDone};

/// Everything that no call works on and that is not at rest. What fails is tried again at the next look.
pub async fn finish_half_done(context: &Arc<Context>) {
    let found = context.owner.look(|state| reconcile::half_done(&state.world, &state.facts)).await;
    for half_done in found.unwrap_or_default() {
        info!(?half_done, "was under way when the service ended");
        let outcome = match &half_done {
            HalfDone::Deploy(id) => undo_deploy(context, id).await,
            HalfDone::Removal(id) => finish_removal(context, id).await,
        };
        if let Err(error) = outcome {
            warn!(?half_done, %error, "not yet");
        }
    }
}

/// Ends those that Albatross has created after their deployment was undone: nobody waits for them, and their address may
/// be another's by now.
pub async fn end_late_ones(context: &Context, inventory: &Inventory) {
    let late = context.claims.late();
    for running in inventory.unikernels.iter().filter(|running| late.contains(&running.id)) {
        let id = &running.id;
        let Some(_claim) = context.claims.claim(id) else { continue };
        let wanted = id.clone();
        let known = context.owner.look(move |state| state.world.unikernel(&wanted).is_some()).await;
        let ended = match known {
            Ok(false) => context.albatross.destroy(id).await,
            _ => Ok(()),
        };
        match ended {
            Ok(()) => context.claims.not_late(id),
            Err(error) => warn!(%id, %error, "came after its deployment was undone, and cannot be ended yet"),
        }
    }
}

async fn undo_deploy(context: &Arc<Context>, id: &UnikernelId) -> Result<(), Error> {
    let Some(_claim) = context.claims.claim(id) else { return Ok(()) };
    context.albatross.destroy(id).await?;
    // The service may have ended while Albatross was reading the create.
    context.claims.may_come_late(id);
    let id = id.clone();
    let brought = context
        .owner
        .decide(move |state| {
            let brought = state.world.unikernel(&id).filter(|unikernel| unikernel.brought_image);
            let brought = brought.map(|unikernel| unikernel.spec.image);
            Ok((reconcile::undo_deploy(&state.world, &id, false, false, Timestamp::now()), brought))
        })
        .await?;
    if let Some(digest) = brought {
        collect::drop_unused_image(context, digest).await?;
    }
    Ok(())
}

async fn finish_removal(context: &Arc<Context>, id: &UnikernelId) -> Result<(), Error> {
    let wanted = id.clone();
    let brought = context.owner.look(move |state| {
        // One that became ready is being destroyed; the image of one that did not goes as its deployment does.
        let undone = state.world.unikernel(&wanted).filter(|unikernel| is_half_made(unikernel.phase))?;
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

fn is_half_made(phase: Phase) -> bool {
    matches!(phase, Phase::Creating | Phase::Starting | Phase::Running)
}

/// The store and the ledger hold the same images: a file without a record was half-stored or half-removed, and a record
/// that has lost its file is of no use to anybody.
pub async fn match_images(context: &Context) -> Result<(), Error> {
    let _gate = context.store_gate.lock().await;
    let stored = context.store.list().await?.into_iter().collect::<BTreeSet<_>>();
    let recorded = context
        .owner
        .look(|state| {
            let used = state.world.unikernels().map(|unikernel| unikernel.spec.image).collect::<BTreeSet<_>>();
            let recorded = state.world.images().map(|image| image.digest).collect::<BTreeSet<_>>();
            (recorded, used)
        })
        .await?;
    let (recorded, used) = recorded;
    for digest in stored.difference(&recorded) {
        info!(%digest, "removing a file that is in no record");
        context.store.remove(*digest).await?;
    }
    let lost = recorded.difference(&stored).copied().collect::<Vec<_>>();
    for digest in lost.iter().filter(|digest| used.contains(digest)) {
        warn!(%digest, "the file of an image is gone: its unikernels cannot be started again");
    }
    context.owner.decide(move |_| Ok((lost.into_iter().map(Change::RemoveImage).collect(), ()))).await
}
