//! Collect: removes what nobody uses, in the order of one list that a dry run shows as well.

use std::sync::Arc;

use tracing::info;

use super::context::Context;
use super::error::Error;
use super::fault;
use super::jobs::Job;
use super::publish::{SWITCH, Switch, To};
use super::remove::{REMOVE, Remove};
use super::workflow;
use crate::domain::{Change, ImageDigest, UnikernelId};
use crate::planning::builds;
use crate::planning::collecting::{self, Keep, Removal};

/// What becomes of those that still have connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drains {
    /// They are waited for.
    Wait,
    /// They go as well.
    Go,
    /// They stay, and so does all that has not been replaced.
    Stay,
}

#[derive(Debug)]
pub struct Collect {
    pub keep: Keep,
    pub drains: Drains,
}

impl Collect {
    /// What it would remove now.
    pub async fn removals(&self, context: &Context) -> Result<Vec<Removal>, Error> {
        let (keep, drains) = (self.keep.clone(), self.drains);
        context
            .owner
            .look(move |state| {
                let removals = collecting::collect(&state.world, &state.facts, &keep);
                match drains {
                    Drains::Stay => collecting::drained_alone(removals, &state.world, &keep),
                    Drains::Wait | Drains::Go => removals,
                }
            })
            .await
    }

    /// What was removed.
    pub async fn run(&self, context: &Arc<Context>, job: &Job) -> Result<Vec<Removal>, Error> {
        job.step("deciding").await;
        let removals = self.removals(context).await?;
        let mut removed = Vec::with_capacity(removals.len());
        for removal in removals {
            if job.is_cancelled() {
                return Err(Error::Cancelled);
            }
            if self.remove(context, &removal, job).await? {
                let kind = removal.kind();
                info!(kind, name = %removal, "collected: {kind} {name}", name = removal);
                removed.push(removal);
            }
        }
        Ok(removed)
    }

    /// `false` when it came into use since the list was made.
    async fn remove(&self, context: &Arc<Context>, removal: &Removal, job: &Job) -> Result<bool, Error> {
        match removal {
            Removal::Publication(service) => {
                let mut switch = Switch::new(Arc::clone(context), service.clone(), To::Nothing);
                workflow::run(SWITCH, &mut switch, job).await?;
                Ok(true)
            }
            Removal::Unikernel(id) => {
                if self.drains == Drains::Wait {
                    self.wait_for_drain(context, id, job).await?;
                }
                if !self.is_still_unused(context, removal).await? {
                    return Ok(false);
                }
                let mut remove = Remove::new(Arc::clone(context), id.clone(), false);
                workflow::run(REMOVE, &mut remove, job).await?;
                Ok(true)
            }
            // Released with its unikernel, in the same transaction.
            Removal::Lease(tag) => {
                let tag = tag.clone();
                context.owner.look(move |state| state.world.pool().lease(&tag).is_none()).await
            }
            Removal::Image(digest) => drop_unused_image(context, *digest).await,
        }
    }

    async fn wait_for_drain(&self, context: &Context, id: &UnikernelId, job: &Job) -> Result<(), Error> {
        job.step("draining").await;
        let (draining, keep) = (id.clone(), self.keep.clone());
        let drained = context.owner.until(move |state| {
            let mut with = collecting::drain_with(&state.world, &keep, &draining).into_iter();
            (!with.any(|id| collecting::drains(&state.world, &id))).then_some(())
        });
        tokio::select! {
            drained = drained => drained,
            () = job.cancelled() => Err(Error::Cancelled),
        }
    }

    async fn is_still_unused(&self, context: &Context, removal: &Removal) -> Result<bool, Error> {
        Ok(self.removals(context).await?.contains(removal))
    }
}

/// Removes an image that no unikernel is made of and no call is about to use; says whether it did.
pub async fn drop_unused_image(context: &Context, digest: ImageDigest) -> Result<bool, Error> {
    let _gate = context.store_gate.lock().await;
    let dropped = context
        .owner
        .decide(move |state| {
            let used = state.world.images_in_use().contains(&digest);
            let free = !used && !state.facts.pinned.contains_key(&digest);
            if !free {
                return Ok((Vec::new(), None));
            }
            let record = state.world.image(digest).cloned();
            Ok((builds::forget_image(&state.world, digest), Some(record)))
        })
        .await?;
    let Some(record) = dropped else { return Ok(false) };
    // The record first: a file without one is removed at the next start, a record without a file would be a lie.
    let removed = match fault::at(fault::UNRECORDED) {
        Ok(()) => context.store.remove(digest).await.map_err(Error::from),
        Err(error) => Err(error),
    };
    if let (Err(_), Some(record)) = (&removed, record) {
        context.owner.decide(move |_| Ok((vec![Change::PutImage(record)], ()))).await?;
    }
    removed.map(|_| true)
}
