//! Restart of a unikernel that runs. One that has ended is deployed again from its record.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::claims::Claim;
use super::context::Context;
use super::deploy::running_now;
use super::error::Error;
use super::jobs::Job;
use super::remove::in_use;
use super::request::DeployRequest;
use super::returns;
use super::workflow::{Flow, Step, nothing};
use crate::domain::{Change, Phase, Unikernel, UnikernelId};
use crate::planning;

/// The way of a restart. There is nothing to undo: what did not come up again is seen at the next look at Albatross.
pub const RESTART: &[Step<Restart>] = &[
    Step { name: "restarting", perform: Restart::restart, undo: nothing, cancellable: false },
    Step { name: "waiting", perform: Restart::wait_until_ready, undo: nothing, cancellable: true },
];

#[derive(Debug)]
pub struct Restart {
    context: Arc<Context>,
    unikernel: Unikernel,
    claim: Option<Claim>,
}

/// What a Restart comes down to.
pub enum Way {
    Restart(Box<Unikernel>),
    Deploy(Box<DeployRequest>),
}

/// Looks which it is.
pub async fn way(context: &Context, id: &UnikernelId) -> Result<Way, Error> {
    let wanted = id.clone();
    let unikernel = context.owner.look(move |state| state.world.unikernel(&wanted).cloned()).await?;
    let unikernel = unikernel.ok_or_else(|| planning::Error::NoSuchUnikernel(id.clone()))?;
    Ok(match unikernel.phase {
        Phase::Exited | Phase::Failed => Way::Deploy(Box::new(DeployRequest::again(unikernel))),
        _ => Way::Restart(Box::new(unikernel)),
    })
}

impl Restart {
    pub fn new(context: Arc<Context>, unikernel: Unikernel) -> Self {
        Self { context, unikernel, claim: None }
    }

    fn restart<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            let id = self.unikernel.id.clone();
            self.claim = Some(self.context.claims.claim(&id).ok_or_else(|| in_use(&id))?);
            self.context.consoles.begin(&id);
            // Albatross says "success" also where it started nothing; what it runs afterwards is what counts.
            let Some(running) = self.context.albatross.restart(&id).await? else {
                return Err(self.context.not_ready(&self.unikernel, "it did not come up again".into()).await);
            };
            self.unikernel = running_now(self.unikernel.clone(), &running);
            let started = self.unikernel.started_at;
            self.context
                .owner
                .decide(move |state| {
                    // The record as it is now: it may have been published meanwhile.
                    let record = state.world.unikernel(&id).cloned();
                    let put = record.map(|record| Unikernel {
                        phase: Phase::Returned,
                        started_at: started,
                        exit_reason: String::new(),
                        ..record
                    });
                    Ok((put.map(|put| Change::PutUnikernel(Box::new(put))).into_iter().collect(), ()))
                })
                .await?;
            Ok(Flow::Next)
        }
        .boxed()
    }

    fn wait_until_ready<'a>(&'a mut self, _: &'a Job) -> BoxFuture<'a, Result<Flow, Error>> {
        async move {
            returns::confirm(&self.context, &self.unikernel).await?;
            Ok(Flow::Next)
        }
        .boxed()
    }
}
