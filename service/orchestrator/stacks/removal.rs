//! RemoveStack: off its ports in one batch, then each of its unikernels away, once what is connected has finished.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tracing::info;

use super::super::claims::StackClaim;
use super::super::collect::drop_unused_image;
use super::super::context::Context;
use super::super::error::Error;
use super::super::jobs::Job;
use super::super::remove::{REMOVE, Remove};
use super::super::workflow::{self, Flow, Step, nothing};
use crate::domain::{Change, ImageDigest, JobKind, StackName, Timestamp, UnikernelId};
use crate::planning::collecting;
use crate::planning::stacks::moves;
use crate::planning::stacks::placed::Placed;
use crate::planning::stacks::placing;

/// The way of a removal. Once the first of its unikernels is gone there is no way back: the intent is in the ledger, and
/// the next start finishes it.
pub const REMOVE_STACK: &[Step<RemoveStack>] = &[
    Step { name: "unpublishing", perform: RemoveStack::unpublish, undo: RemoveStack::take_back, cancellable: false },
    Step { name: "draining", perform: RemoveStack::drain, undo: nothing, cancellable: true },
    Step { name: "removing-members", perform: RemoveStack::remove_members, undo: nothing, cancellable: false },
    Step { name: "forgetting-stack", perform: RemoveStack::forget, undo: nothing, cancellable: false },
];

#[derive(Debug)]
pub struct RemoveStack {
    context: Arc<Context>,
    name: StackName,
    claim: Option<StackClaim>,
    placed: Option<Placed>,
}

impl RemoveStack {
    pub fn new(context: Arc<Context>, name: StackName) -> Self {
        Self { context, name, claim: None, placed: None }
    }

    fn unpublish<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let claim = self.context.claims.claim_stack(&self.name);
            self.claim = Some(claim.ok_or_else(|| super::in_use(&self.name))?);
            let (name, defaults) = (self.name.clone(), self.context.limits().defaults());
            self.placed = self
                .context
                .owner
                .decide(move |state| {
                    let changes = moves::remove(&state.world, &name, defaults, Timestamp::now())?;
                    let placed = Placed::by(&changes, &state.world);
                    Ok((changes, placed))
                })
                .await?;
            super::after_a_move(&self.context, &self.name).await;
            Ok(Flow::Next)
        }
        .boxed()
    }

    /// All is as it was, where nothing of it is gone yet.
    fn take_back(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        async move {
            super::take_back(&self.context, self.placed.take()).await?;
            super::after_a_move(&self.context, &self.name).await;
            Ok(())
        }
        .boxed()
    }

    /// What nobody else uses meanwhile.
    async fn members(&self) -> Result<Vec<UnikernelId>, Error> {
        let name = self.name.clone();
        let members = self.context.owner.look(move |state| {
            let former = state.world.stack(&name).map(|stack| stack.former.clone()).unwrap_or_default();
            former.into_iter().filter(|id| !placing::is_used_otherwise(&state.world, &name, id)).collect()
        });
        members.await
    }

    /// Of what they were made.
    async fn leaving(&self) -> Result<Vec<ImageDigest>, Error> {
        let name = self.name.clone();
        let leaving = self.context.owner.look(move |state| state.world.stack(&name).map(|stack| stack.leaving.clone()));
        Ok(leaving.await?.into_iter().flatten().collect())
    }

    fn drain<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let members = self.members().await?;
            let drained = self
                .context
                .owner
                .until(move |state| (!members.iter().any(|id| collecting::drains(&state.world, id))).then_some(()));
            drained.await?;
            Ok(Flow::Next)
        }
        .boxed()
    }

    fn remove_members<'a>(&'a mut self, job: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let job = job.beyond_recall();
            for id in self.members().await? {
                // From here on there is no way back.
                self.placed = None;
                let mut remove = Remove::new(Arc::clone(&self.context), id, false);
                let removed = workflow::run(REMOVE, &mut remove, &job).await;
                removed.map_err(|error| Error::Leaving { stack: self.name.clone(), source: Box::new(error) })?;
            }
            Ok(Flow::Next)
        }
        .boxed()
    }

    fn forget<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            self.placed = None;
            let name = self.name.clone();
            // Before the record, which alone names them.
            for image in self.leaving().await? {
                drop_unused_image(&self.context, image).await?;
            }
            self.context.owner.decide(move |_| Ok((vec![Change::RemoveStack(name)], ()))).await?;
            let stack = &self.name;
            info!(%stack, "stack {stack} is removed");
            Ok(Flow::Next)
        }
        .boxed()
    }
}

/// Finishes a removal whose intent is in the ledger.
pub async fn finish(context: &Arc<Context>, name: &StackName) -> Result<(), Error> {
    let job = context.jobs.begin(JobKind::RemoveStack, name.to_string()).await;
    let mut remove = RemoveStack::new(Arc::clone(context), name.clone());
    let outcome = workflow::run(REMOVE_STACK, &mut remove, &job).await;
    job.end(outcome.as_ref().err()).await;
    outcome
}
