//! Destroy: a unikernel, its lease and its record.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::info;

use super::claims::Claim;
use super::context::Context;
use super::error::Error;
use super::jobs::Job;
use super::stale_flows;
use super::workflow::{Flow, Step, nothing};
use crate::domain::{Timestamp, UnikernelId};
use crate::planning::publishing::Switched;
use crate::planning::{self, removal};

/// The way of a removal. Once Albatross has destroyed it there is no way back, and none is needed: a record whose
/// intent stands is finished at the next start.
pub const REMOVE: &[Step<Remove>] = &[
    Step { name: "intending", perform: Remove::intend, undo: Remove::withdraw, cancellable: false },
    Step { name: "destroying", perform: Remove::destroy, undo: nothing, cancellable: false },
    Step { name: "forgetting", perform: Remove::forget, undo: nothing, cancellable: false },
];

#[derive(Debug)]
pub struct Remove {
    context: Arc<Context>,
    id: UnikernelId,
    force: bool,
    claim: Option<Claim>,
    intended: bool,
    /// Taken up from the ledger: then it is finished, however often that takes, and never withdrawn.
    resumed: bool,
    /// Taken up by nobody's call, after a start.
    from_ledger: bool,
    /// What force has unpublished.
    unpublished: Option<Switched>,
    destroyed: bool,
}

impl Remove {
    pub fn new(context: Arc<Context>, id: UnikernelId, force: bool) -> Self {
        Self {
            context,
            id,
            force,
            claim: None,
            intended: false,
            resumed: false,
            from_ledger: false,
            unpublished: None,
            destroyed: false,
        }
    }

    /// One whose intent is in the ledger already.
    pub fn half_done(context: Arc<Context>, id: UnikernelId) -> Self {
        Self { resumed: true, from_ledger: true, ..Self::new(context, id, true) }
    }

    fn intend<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            // What is being destroyed already, by another call or since the start, is waited for and then found destroyed:
            // for as long as Albatross may take. Any other call is not.
            self.resumed |= self.is_intended().await?;
            self.claim = Some(match self.context.claims.claim(&self.id) {
                Some(claim) => claim,
                None if self.resumed => self.context.claims.claim_in_turn(&self.id).await,
                None => return Err(in_use(&self.id)),
            });
            if self.resumed && !self.is_intended().await? {
                let id = self.id.clone();
                let stays = self.context.owner.look(move |state| state.world.unikernel(&id).is_some()).await?;
                // Gone is done. One that stays was not destroyed after all, or is a new one with the same id: the call
                // that was waited for has its own error, and this one is told that there is somebody to ask again.
                return if stays && !self.from_ledger { Err(in_use(&self.id)) } else { Ok(Flow::Done) };
            }
            if self.resumed {
                return Ok(Flow::Next);
            }
            let (id, force) = (self.id.clone(), self.force);
            self.unpublished = self
                .context
                .owner
                .decide(move |state| {
                    let changes = removal::intend(&state.world, &state.facts, &id, force, Timestamp::now())?;
                    let unpublished = Switched::by(&changes, &state.world);
                    Ok((changes, unpublished))
                })
                .await?;
            self.intended = true;
            stale_flows::delete(&self.context).await?;
            Ok(Flow::Next)
        }
        .boxed()
    }

    /// Whether the intent still stands: another call may have finished it, and a new unikernel have the id.
    async fn is_intended(&self) -> Result<bool, Error> {
        let id = self.id.clone();
        self.context.owner.look(move |state| state.world.unikernel(&id).is_some_and(|u| u.removing)).await
    }

    /// It is as it was, and live again if it was.
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            if !self.intended || self.resumed || self.destroyed {
                return Ok(());
            }
            let (id, unpublished) = (self.id.clone(), self.unpublished.take());
            self.context
                .owner
                .take_back(move |state| Ok((removal::withdraw(&state.world, &id, unpublished.as_ref()), ())))
                .await?;
            self.context.drains.notify_one();
            Ok(())
        }
        .boxed()
    }

    fn destroy<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            self.context.albatross.destroy(&self.id).await?;
            self.destroyed = true;
            Ok(Flow::Next)
        }
        .boxed()
    }

    fn forget<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let id = self.id.clone();
            self.context.owner.decide(move |state| Ok((removal::forget(&state.world, &id), ()))).await?;
            // There is nothing left to work on. Who asks for it now is told that it is gone, and not that it is in use.
            self.claim = None;
            stale_flows::delete(&self.context).await?;
            let id = &self.id;
            info!(%id, "{id} is destroyed");
            Ok(Flow::Next)
        }
        .boxed()
    }
}

/// What is said of a unikernel that another call works on.
pub fn in_use(id: &UnikernelId) -> Error {
    planning::Error::InUse(format!("another call works on {id}: ListJobs shows it, Cancel of its job ends it")).into()
}
